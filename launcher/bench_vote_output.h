// How a vote's benchmark is written: a table in the spirit of nccl-tests, or JSON lines.
#pragma once

#include "launcher/bench_vote.h"

namespace ballot {

void print_vote_table(const Transport& transport, const VoteBench& bench,
                      const VoteBenchReport& report);
void print_vote_lines(const Transport& transport, const VoteBench& bench,
                      const VoteBenchReport& report);

}  // namespace ballot

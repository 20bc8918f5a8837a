// The subcommands of `ballot bench`.
#pragma once

#include "launcher/commands.h"

namespace ballot {

void add_bench_model(CLI::App& bench, Action& action);
void add_bench_link(CLI::App& bench, Action& action);
void add_bench_vote(CLI::App& bench, Action& action);

}  // namespace ballot

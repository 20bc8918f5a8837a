// `ballot bench`: what there is to measure.
#include <CLI/CLI.hpp>

#include "launcher/bench_commands.h"

namespace ballot {

void add_bench(CLI::App& app, Action& action) {
  CLI::App* bench = app.add_subcommand("bench", "benchmarks: verified first, then timed");
  bench->require_subcommand(1);
  add_bench_model(*bench, action);
  add_bench_link(*bench, action);
  add_bench_vote(*bench, action);
}

}  // namespace ballot

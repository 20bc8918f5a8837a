// `ballot replay`: the parameters of any step that a run's journal reaches, rebuilt and proved.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/clock.h"
#include "core/log.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "runtime/replay_run.h"

namespace ballot {
namespace {

struct ReplayFlags {
  std::string run, output;
  std::optional<std::int64_t> to_step;
  int threads = 0;
  bool json = false;
};

int replay_steps(const ReplayFlags& flags) {
  set_thread_count(flags.threads > 0 ? flags.threads : default_threads(1));
  const Stopwatch watch;
  const ReplayedRun run = replay_run(flags.run, flags.to_step, flags.output);
  if (flags.json) {
    const nlohmann::ordered_json result = {{"run", flags.run},
                                           {"base", run.base},
                                           {"from_step", run.from_step},
                                           {"to_step", run.to_step},
                                           {"steps", run.report.steps},
                                           {"proved", run.report.proved},
                                           {"last_proved", run.last_proved},
                                           {"parameters", fmt::format("{:016x}", run.parameters)},
                                           {"chain", to_string(run.chain)},
                                           {"bytes", run.report.bytes},
                                           {"whole_until", run.whole_until},
                                           {"gap", run.gap},
                                           {"seconds", watch.elapsed()}};
    fmt::print("{}\n",
               result.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    fmt::print("step {}: parameters {:016x}, {}\n", run.to_step, run.parameters,
               run.last_proved ? "as the run had them"
                               : "which no digest of the run proves (it ended there)");
    fmt::print("from {} (step {}) by {} records of {} bytes, {} of them proved, in {:.2f} s\n",
               run.base, run.from_step, run.report.steps, run.report.bytes, run.report.proved,
               watch.elapsed());
    if (!flags.output.empty()) fmt::print("written to {}\n", flags.output);
  }
  if (!run.gap.empty())
    log_warning("no step after {} can be rebuilt: {}", run.whole_until, run.gap);
  return 0;
}

}  // namespace

void add_replay(CLI::App& app, Action& action) {
  auto flags = std::make_shared<ReplayFlags>();
  CLI::App* command = app.add_subcommand(
      "replay", "rebuild the parameters of a step from a run's journal, and prove them");
  command->add_option("run", flags->run, "the run's folder")->required();
  command
      ->add_option("--to-step", flags->to_step,
                   "the step to rebuild (default: the last that the journal holds)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--output", flags->output, "write it there, as a Hugging Face folder");
  command->add_option("--threads", flags->threads, "0: all cores")->check(CLI::Range(0, 4096));
  command->add_flag("--json", flags->json, "one JSON object with what was done");
  command->footer(
      "It starts from the newest whole checkpoint before the step, or from the run's starting\n"
      "model, and applies the recorded verdicts and means. After each record the digest of all\n"
      "parameters is compared with the one that the run left; a wrong one ends it with exit code\n"
      "3, naming the step and the first tensor. A running job may be replayed.");
  command->callback([&action, flags] { action = [flags] { return replay_steps(*flags); }; });
}

}  // namespace ballot

// `ballot train RUN.toml`: one worker. Alone it trains alone; under mpirun it is one of many.
#include <csignal>

#include <CLI/CLI.hpp>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "collectives/transport/loopback_transport.h"
#include "collectives/transport/mpi_transport.h"
#include "core/error.h"
#include "core/log.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "runtime/run_config.h"
#include "runtime/trainer.h"

namespace ballot {
namespace {

struct TrainFlags {
  std::string run_file;
  std::vector<std::string> settings;
  bool resume = false;
};

std::atomic<bool> stop_asked{false};
// The first signal asks, the second ends the process as if nobody had listened.
void ask_to_stop(int signal) {
  if (stop_asked.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

int run_worker(const TrainFlags& flags) {
  const WorkerPlace place = find_place();
  // The launcher puts the worker's name before its lines itself.
  if (place.size > 1 && !process_environment("BALLOT_LAUNCHER"))
    set_log_name(fmt::format("worker {}", place.rank));
  if (place.size > 1 && !place.under_mpi)
    throw Unavailable(
        "this worker is {} of {}, but was not started by mpirun; MPI is the only transport between "
        "processes so far: use `ballot launch` or mpirun",
        place.rank, place.size);
  RunConfig config = read_run_config(flags.run_file, flags.settings);
  if (config.threads == 0)
    config.threads = asked_threads().value_or(default_threads(place.local_size));
  // A first signal asks all workers to finish the step, save and leave; SIGUSR1 is what the
  // launcher can send through mpirun, which would follow a SIGTERM with a SIGKILL one second later.
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) std::signal(signal, ask_to_stop);
  TrainingHooks hooks;
  hooks.resume = flags.resume;
  hooks.should_stop = [] { return stop_asked.load(); };
  TrainingResult result;
  if (place.under_mpi) {
    const MpiSession session;
    const std::unique_ptr<Transport> world = session.world();
    try {
      result = train(config, *world, hooks);
    } catch (const std::exception& failure) {
      // The other workers wait for this one: end the job rather than let them run into their
      // deadlines.
      const Failure described = describe_failure(failure);
      log_error("{}", described.message);
      session.abort(static_cast<int>(described.exit_code));
    }
  } else {
    result = train(config, *make_loopback(1).front(), hooks);
  }
  return static_cast<int>(result.stopped ? ExitCode::retry : ExitCode::done);
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command =
      app.add_subcommand("train", "train as one worker (alone, or one of mpirun's)");
  command->add_option("run", flags->run_file, "the run file (TOML)")->required();
  command->add_option("--set", flags->settings, "key=value, over the run file")
      ->type_name("KEY=VALUE");
  command->add_flag("--resume", flags->resume,
                    "go on from the newest whole checkpoint of output.folder");
  command->footer("Keys of the run file, with their defaults:\n\n" + run_config_reference());
  command->callback([&action, flags] { action = [flags] { return run_worker(*flags); }; });
}

}  // namespace ballot

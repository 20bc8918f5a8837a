// `ballot train RUN.toml`: one worker. Alone it trains alone; under mpirun, or with RANK,
// WORLD_SIZE and MASTER_ADDR set, it is one of many; with --coordinator one of many that come and
// go.
#include <sys/prctl.h>

#include <csignal>
#include <ctime>

#include <CLI/CLI.hpp>
#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "launcher/worker_transport.h"
#include "runtime/elastic/elastic_trainer.h"
#include "runtime/run_config.h"
#include "runtime/trainer.h"

namespace ballot {
namespace {

struct TrainFlags {
  std::string run_file;
  std::vector<std::string> settings;
  std::string resume;  // "journal", "checkpoint"; empty: a new run
  TransportChoice transport;
  ElasticOptions elastic;
};

std::atomic<bool> stop_asked{false};
std::int64_t first_asked_ms = 0;  // written before stop_asked is true

std::int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);  // may be called by a signal's handler
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

// The first signal asks, the second ends the process as if nobody had listened. One that is told
// twice at once (scancel tells everybody, and the launcher passes it on) is one.
void ask_to_stop(int signal) {
  constexpr std::int64_t kSameMs = 1000;
  if (!stop_asked) {
    first_asked_ms = now_ms();
    stop_asked = true;
  } else if (now_ms() - first_asked_ms > kSameMs) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

int run_elastic(const RunConfig& config, const TrainFlags& flags, const TrainingHooks& hooks) {
  if (flags.transport.name != "auto" && config.members == 1)
    throw ConfigError(
        "--transport {}: with --coordinator workers reach each other over gRPC links; it is for "
        "the "
        "members of a voter (vote.members)",
        flags.transport.name);
  if (!flags.resume.empty())
    throw ConfigError(
        "--resume: a worker with --coordinator always goes on where its journal ends; the flag is "
        "for jobs without one");
  ElasticOptions options = flags.elastic;
  options.access.secret = process_environment("BALLOT_TOKEN").value_or("");
  options.access.tls = flags.transport.tls;
  options.access.insecure = flags.transport.insecure;
  if (options.run.empty())
    options.run = std::filesystem::weakly_canonical(config.output_folder).filename().string();
  const auto train = [&](Transport* members) {
    const TrainingResult result = train_elastic(config, options, hooks, members);
    return static_cast<int>(result.stopped ? ExitCode::retry : ExitCode::done);
  };
  if (config.members == 1) return train(nullptr);
  TransportChoice inside = flags.transport;
  if (find_place().under_mpi) {
    // An mpirun that is killed would leave its voter alive, and in the way of the next.
    if (process_environment("BALLOT_LAUNCHER")) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // TLS is for the links to others.
    inside.tls = {};
    inside.insecure = false;
  }
  if (inside.name == "auto" && find_place().size == 1) return train(nullptr);  // who refuses it
  return run_on_transport(inside, [&](Transport& members) { return train(&members); });
}

int run_worker(const TrainFlags& flags) {
  RunConfig config = read_run_config(flags.run_file, flags.settings);
  if (config.threads == 0)
    config.threads = asked_threads().value_or(default_threads(find_place().local_size));
  // A first signal asks all workers to finish the step, save and leave; SIGUSR1 is what the
  // launcher can send through mpirun, which would follow a SIGTERM with a SIGKILL one second later.
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) std::signal(signal, ask_to_stop);
  TrainingHooks hooks;
  hooks.resume = !flags.resume.empty();
  hooks.resume_from = flags.resume == "checkpoint" ? ResumeFrom::checkpoint : ResumeFrom::journal;
  hooks.should_stop = [] { return stop_asked.load(); };
  const bool elastic = !flags.elastic.coordinator.empty();
  hooks.local_rank = find_local_rank().value_or(elastic ? flags.elastic.worker : find_place().rank);
  if (elastic) return run_elastic(config, flags, hooks);
  TransportChoice choice = flags.transport;
  choice.device = config.device;
  return run_on_transport(choice, [&](Transport& transport) {
    const TrainingResult result = train(config, transport, hooks);
    return static_cast<int>(result.stopped ? ExitCode::retry : ExitCode::done);
  });
}

}  // namespace

void add_resume_flag(CLI::App& command, std::string& from) {
  command
      .add_flag("--resume{journal}", from,
                "go on from the newest whole checkpoint of output.folder and the steps that the "
                "journal holds after it, so that no step it holds is lost; --resume=checkpoint: "
                "repeat those steps instead, to the same bits as never having stopped")
      ->check(CLI::IsMember({"journal", "checkpoint"}));
}

void add_train(CLI::App& app, Action& action) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", "train as one worker: alone, or one of many");
  command->add_option("run", flags->run_file, "the run file (TOML)")->required();
  command->add_option("--set", flags->settings, "key=value, over the run file")
      ->type_name("KEY=VALUE");
  flags->transport.default_workers = 1;
  add_transport_flags(*command, flags->transport, true);
  add_resume_flag(*command, flags->resume);
  ElasticOptions& elastic = flags->elastic;
  CLI::Option* coordinator =
      command
          ->add_option("--coordinator", elastic.coordinator,
                       "elastic: workers may die and join at any time; this is where `ballot "
                       "coordinator` listens. A worker started again goes on where it was")
          ->type_name("HOST:PORT");
  command
      ->add_option("--worker", elastic.worker,
                   "elastic: this worker's number, its own for the whole run")
      ->needs(coordinator)
      ->check(CLI::Range(0, 1023));
  command
      ->add_option("--listen", elastic.listen,
                   "elastic: where its peers reach this worker; port 0: any")
      ->needs(coordinator)
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command
      ->add_option("--run", elastic.run,
                   "elastic: the run's name at the coordinator (default: that of output.folder)")
      ->needs(coordinator);
  command->footer("Keys of the run file, with their defaults:\n\n" + run_config_reference());
  command->callback([&action, flags] { action = [flags] { return run_worker(*flags); }; });
}

}  // namespace ballot

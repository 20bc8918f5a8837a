// `ballot launch RUN.toml --workers N`: a job of N workers on this machine, checked before any of
// them starts.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "launcher/free_port.h"
#include "launcher/local_job.h"
#include "launcher/worker_transport.h"
#include "models/llama/llama_model.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"
#include "runtime/checkpoint.h"
#include "runtime/run_config.h"
#include "runtime/run_folder.h"
#include "runtime/sampler.h"
#include "runtime/token_source.h"

namespace ballot {
namespace {

struct LaunchFlags {
  std::string run_file;
  std::vector<std::string> settings;
  int workers = 1;
  bool resume = false;
  TransportChoice transport;
};

// Workers over gRPC meet at a port of this machine's loopback; mpirun only starts them.
void prepare_grpc(LocalJob& job, const TransportChoice& transport) {
  const auto add = [&job](const char* flag, const std::string& value) {
    if (!value.empty()) job.command.insert(job.command.end(), {flag, value});
  };
  add("--tls-ca", transport.tls.ca);
  add("--tls-certificate", transport.tls.certificate);
  add("--tls-key", transport.tls.key);
  add("--tls-name", transport.tls.name);
  if (transport.insecure) job.command.push_back("--insecure");
  if (!process_environment("MASTER_ADDR")) setenv("MASTER_ADDR", "127.0.0.1", 1);
  if (!process_environment("MASTER_PORT"))
    setenv("MASTER_PORT", std::to_string(find_free_port()).c_str(), 1);
  if (!process_environment("BALLOT_TOKEN")) {
    std::random_device random;
    setenv("BALLOT_TOKEN",
           fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random()).c_str(),
           1);
  }
}

// What would fail on every worker fails here once, with one message.
void check_before_start(const RunConfig& config, bool resume) {
  if (!resume)
    require_unused_folder(config.output_folder);
  else if (!has_checkpoints(config.output_folder))
    throw ConfigError("--resume: {} holds no whole checkpoint",
                      config.output_folder + "/checkpoints");
  else
    require_same_run(config);
  const LlamaConfig llama = read_model_config(config.model_folder);
  if (!resume)
    load_parameters(config.model_folder, ParameterArena(llama_parameter_shapes(llama), DType::f32));
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(config.model_folder);
  const std::vector<std::int32_t> tokens = read_tokens(config.train_data, *tokenizer);
  const Sampler sampler(tokens, config.sequence_length, config.seed, "data.train");
  std::vector<std::int32_t> held_out;
  if (!config.validation_data.path.empty()) {
    held_out = read_tokens(config.validation_data, *tokenizer);
    const EvaluationWindows windows(held_out, config.sequence_length, config.validation_windows,
                                    "data.validation");
  }
  check_data(config, llama, tokens, held_out);
}

int launch(const LaunchFlags& flags) {
  const RunConfig config = read_run_config(flags.run_file, flags.settings);
  set_thread_count(1);  // run_local_job takes signals, which a second thread would get in its stead
  check_before_start(config, flags.resume);
  LocalJob job;
  job.command = {std::filesystem::read_symlink("/proc/self/exe").string(), "train", flags.run_file};
  for (const std::string& setting : flags.settings)
    job.command.insert(job.command.end(), {"--set", setting});
  if (flags.resume) job.command.push_back("--resume");
  if (flags.transport.name == "loopback")
    throw ConfigError(
        "--transport loopback: it reaches threads of one process only; expected mpi or grpc");
  if (flags.transport.name == "grpc" && flags.workers > 1) {
    job.command.insert(job.command.end(), {"--transport", "grpc"});
    prepare_grpc(job, flags.transport);
  } else if (flags.transport.tls.given() || flags.transport.insecure) {
    throw ConfigError("--{}: needs --transport grpc and more than one worker",
                      flags.transport.insecure ? "insecure" : "tls-...");
  }
  job.workers = flags.workers;
  job.threads_per_worker =
      config.threads > 0 ? static_cast<int>(config.threads) : default_threads(flags.workers);
  job.log_folder = config.output_folder + "/logs";
  job.drain_signal = SIGUSR1;
  std::filesystem::create_directories(job.log_folder);
  const JobResult result = run_local_job(job);
  const std::string latest = config.output_folder + "/checkpoints/latest";
  if (result.exit_code != 0) {
    const std::string resume =
        std::filesystem::exists(latest)
            ? fmt::format("the newest checkpoint is {}/checkpoints/{}; go on from it with --resume",
                          config.output_folder, std::filesystem::read_symlink(latest).string())
            : "there is no checkpoint yet";
    if (result.lost)
      log_error("worker {} was lost to signal {}; {}", result.lost->rank, result.lost->signal,
                resume);
    else
      log_error("the job ended with exit code {}; {}", result.exit_code, resume);
  }
  return result.exit_code;
}

}  // namespace

void add_launch(CLI::App& app, Action& action) {
  auto flags = std::make_shared<LaunchFlags>();
  CLI::App* command =
      app.add_subcommand("launch", "start a job of several workers on this machine");
  command->add_option("run", flags->run_file, "the run file (TOML)")->required();
  command->add_option("--workers", flags->workers, "number of workers")
      ->required()
      ->check(CLI::Range(1, 1024));
  command->add_option("--set", flags->settings, "key=value, over the run file")
      ->type_name("KEY=VALUE");
  add_transport_flags(*command, flags->transport);
  command->add_flag("--resume", flags->resume,
                    "go on from the newest whole checkpoint of output.folder");
  command->callback([&action, flags] { action = [flags] { return launch(*flags); }; });
}

}  // namespace ballot

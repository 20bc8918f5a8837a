// `ballot launch --on slurm`: a batch script, submitted; and followed, where it is not left alone.
#include <filesystem>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "launcher/environment.h"
#include "launcher/launch_checks.h"
#include "launcher/launch_flags.h"
#include "launcher/launch_job.h"
#include "launcher/launch_preflight.h"  // needs_gpus
#include "launcher/log_view.h"
#include "launcher/shell_words.h"
#include "runtime/run_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

// What the batch script becomes on the first node: the same job, inside.
std::vector<std::string> inner_command(const LaunchFlags& flags) {
  const std::string program =
      flags.program.empty() ? fs::read_symlink("/proc/self/exe").string() : flags.program;
  std::vector<std::string> words = {
      program, "launch",   flags.run_file, "--on",
      "slurm", "--inside", "--workers",    std::to_string(flags.workers)};
  const auto add = [&words](const char* flag, const std::string& value) {
    if (!value.empty()) words.insert(words.end(), {flag, value});
  };
  if (flags.elastic) words.push_back("--elastic");
  if (flags.min_workers) add("--min-workers", std::to_string(*flags.min_workers));
  if (flags.restarts > 0) add("--max-restarts", std::to_string(flags.restarts));
  if (flags.retries > 0) add("--retries", std::to_string(flags.retries));
  if (!flags.resume.empty()) words.push_back("--resume=" + flags.resume);
  add("--name", flags.name);
  add("--program", flags.program);
  add("--interface", flags.interface);
  if (flags.transport.name != "auto") add("--transport", flags.transport.name);
  add("--tls-ca", flags.transport.tls.ca);
  add("--tls-certificate", flags.transport.tls.certificate);
  add("--tls-key", flags.transport.tls.key);
  add("--tls-name", flags.transport.tls.name);
  if (flags.transport.insecure) words.push_back("--insecure");
  for (const std::string& setting : flags.settings) add("--set", setting);
  return words;
}

SlurmJob make_slurm_job(const RunConfig& config, const LaunchFlags& flags,
                        const std::string& name) {
  SlurmJob job = flags.slurm;
  if (job.nodes == 0) job.nodes = flags.workers;  // one worker on each
  if (!flags.elastic && flags.workers % job.nodes != 0)
    throw ConfigError("--nodes {}: {} workers are not the same number on each of them", job.nodes,
                      flags.workers);
  const bool private_links = flags.transport.tls.given() || flags.transport.insecure;
  if (!flags.elastic && job.nodes > 1 && !private_links)
    throw ConfigError(
        "the workers of a fixed job speak gRPC between {} nodes; expected --tls-ca, "
        "--tls-certificate and --tls-key, or the explicit choice --insecure (an elastic job has a "
        "token of its own)",
        job.nodes);
  job.name = name;
  // Those of an elastic job beyond its workers stand by.
  job.workers_per_node = (flags.workers + job.nodes - 1) / job.nodes;
  if (job.cpus_per_worker == 0 && config.threads > 0)
    job.cpus_per_worker = static_cast<int>(config.threads);
  if (job.gpus_per_node == 0 && needs_gpus(config, flags)) job.gpus_per_node = job.workers_per_node;
  job.retries = flags.retries;
  job.folder = fs::current_path().string();
  job.log = fs::absolute(config.output_folder).lexically_normal().string() + "/logs/launch.log";
  job.command = inner_command(flags);
  return job;
}

}  // namespace

int launch_on_slurm(const RunConfig& config, const LaunchFlags& flags) {
  if (const auto inside = process_environment("SLURM_JOB_ID"))
    throw ConfigError(
        "--on slurm: this shell is inside Slurm job {} (SLURM_JOB_ID); run in that "
        "allocation with --inside, or submit from a shell outside of it",
        *inside);
  check_hosts_flags(config, flags);
  if (flags.elastic) {
    if (fs::exists(config.output_folder + "/run.toml")) require_same_run(config);
  } else {
    check_folder(config, flags.resume);
  }
  check_inputs(config, !flags.resume.empty(), machines_of(flags));
  LaunchedJob job(config, flags);
  const std::string script = render_batch_script(make_slurm_job(config, flags, job.record().name));
  if (flags.dry_run) {
    fmt::print("{}", script);
    return 0;
  }
  job.require_free_folder();
  const std::string folder = job.record().run_folder, path = folder + "/job.sbatch";
  fs::create_directories(folder + "/logs");
  replace_file_atomically(path, script);
  list_job(job.record());
  job.record().started = 0;
  write_job(job.record());
  try {
    job.record().id = submit_batch_script(path);
  } catch (const std::exception& failure) {
    end_job(job.record(), static_cast<int>(describe_failure(failure).exit_code));
    throw;
  }
  // The script may have begun already, and written more.
  if (auto begun = read_job(folder); begun && begun->launcher != 0) {
    begun->id = job.record().id;
    write_job(*begun);
  } else {
    write_job(job.record());
  }
  const std::string& name = job.record().name;
  fmt::print(
      "Slurm job {1} is submitted ({2}): ballot logs {0} --follow, ballot jobs, ballot stop "
      "{0}\n",
      name, job.record().id, path);
  if (!flags.attach) return 0;
  std::fflush(stdout);
  const auto over = [&] {
    const auto now = read_job(folder);
    const JobState state = now ? state_of(*now) : JobState{};
    return state.kind == JobState::Kind::ended || state.kind == JobState::Kind::lost;
  };
  if (!follow_logs({folder + "/logs", "", -1}, over)) {
    log_warning("asking Slurm job {} to end", job.record().id);
    cancel_slurm_job(job.record().id, false);
    follow_logs({folder + "/logs", "", 0}, over);
  }
  const auto ended = read_job(folder);
  return ended && ended->exit_code ? *ended->exit_code : static_cast<int>(ExitCode::retry);
}

}  // namespace ballot

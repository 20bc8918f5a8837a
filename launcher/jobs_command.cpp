// `ballot jobs`, `ballot logs JOB`, `ballot stop JOB`: jobs that were launched, wherever they run.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "launcher/cluster/job_record.h"
#include "launcher/cluster/slurm.h"
#include "launcher/commands.h"
#include "launcher/kubernetes/recorded_job.h"
#include "launcher/log_view.h"
#include "launcher/units.h"

namespace ballot {
namespace {

struct JobsFlags {
  std::string job, worker, wait = "180s";
  bool json = false, follow = false, now = false;
  int lines = -1;
};

std::string time_text(double seconds) {
  return seconds <= 0
             ? "-"
             : fmt::format("{:%m-%d %H:%M}", fmt::localtime(static_cast<std::time_t>(seconds)));
}

int list_jobs(const JobsFlags& flags) {
  std::vector<std::string> problems;
  const std::vector<JobRecord> jobs = listed_jobs(problems);
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  std::size_t widest = 3;
  for (const JobRecord& job : jobs) widest = std::max(widest, job.name.size());
  if (!flags.json)
    fmt::print("{:<{}}  {:<10} {:>7}  {:<11} {:<44} {}\n", "job", widest, "on", "workers",
               "started", "state", "run folder");
  for (const JobRecord& job : jobs) {
    JobState state;
    try {
      state = state_of(job);
    } catch (const Error& failure) {  // whoever knows is not here, or does not answer
      state.text = failure.what();
    }
    if (flags.json)
      all.push_back({{"name", job.name},
                     {"on", job.on},
                     {"id", job.id},
                     {"workers", job.workers},
                     {"elastic", job.elastic},
                     {"started", job.started},
                     {"state", to_string(state.kind)},
                     {"exit_code", job.exit_code ? nlohmann::ordered_json(*job.exit_code)
                                                 : nlohmann::ordered_json()},
                     {"text", state.text},
                     {"run_folder", job.run_folder}});
    else
      fmt::print("{:<{}}  {:<10} {:>7}  {:<11} {:<44} {}\n", job.name, widest, job.on, job.workers,
                 time_text(job.started), state.text, job.run_folder);
  }
  if (flags.json) fmt::print("{}\n", all.dump(2));
  for (const std::string& problem : problems) fmt::print(stderr, "ballot: {}\n", problem);
  return 0;
}

bool is_over(const std::string& run_folder) {
  const auto job = read_job(run_folder);
  if (!job) return true;
  const JobState::Kind kind = state_of(*job).kind;
  return kind == JobState::Kind::ended || kind == JobState::Kind::lost;
}

int show_logs(const JobsFlags& flags) {
  const JobRecord job = find_job(flags.job);
  if (job.on == "kubernetes") {
    print_kubernetes_logs(parse_kubernetes_id(job.id), job.workers, flags.worker, flags.lines,
                          flags.follow);
    return 0;
  }
  const bool number =
      !flags.worker.empty() && flags.worker.find_first_not_of("0123456789") == std::string::npos;
  const LogView view{job.run_folder + "/logs", number ? "worker-" + flags.worker : flags.worker,
                     flags.lines};
  if (flags.follow)
    follow_logs(view, [&] { return is_over(job.run_folder); });
  else
    print_logs(view);
  return 0;
}

void ask_to_stop(const JobRecord& job, const JobState& state, bool now) {
  // In an allocation that somebody holds (salloc) there is no batch script to be told.
  if (job.on == "slurm" && !launcher_runs_here(job)) return cancel_slurm_job(job.id, now);
  if (state.kind == JobState::Kind::unknown)
    throw ConfigError("{}: {}; stop it there", job.name, state.text);
  // Twice ends the workers at once.
  for (int times = 0; times < (now ? 2 : 1); ++times)
    if (::kill(job.launcher, now ? SIGINT : SIGTERM) != 0)
      throw_file_error("send a signal to", fmt::format("process {}", job.launcher));
}

// Workers leave in order, then everything of the job but its volume is deleted.
int stop_in_cluster(JobRecord job, const JobsFlags& flags) {
  const RecordedKubernetesJob recorded = parse_kubernetes_id(job.id);
  const Kubectl kubectl(recorded.options);
  if (flags.now)
    kubectl.remove(recorded.name, recorded.controller, false);
  else
    kubectl.stop(recorded.name, recorded.controller,
                 std::chrono::milliseconds(
                     static_cast<std::int64_t>(1e3 * parse_duration("--wait", flags.wait))));
  end_job(job, static_cast<int>(ExitCode::retry));
  fmt::print("{}: {}\n", job.name, state_of(job).text);
  return 0;
}

int stop_job(const JobsFlags& flags) {
  const JobRecord job = find_job(flags.job);
  const JobState state = state_of(job);
  if (state.kind == JobState::Kind::ended || state.kind == JobState::Kind::lost)
    throw ConfigError("{}: there is nothing to stop: {}", job.name, state.text);
  if (job.on == "kubernetes") return stop_in_cluster(job, flags);
  ask_to_stop(job, state, flags.now);
  const Deadline deadline = Deadline::in(std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(parse_duration("--wait", flags.wait))));
  while (!is_over(job.run_folder)) {
    if (deadline.passed())
      throw Timeout(
          "{}: waited {} for it to end; it may still be writing its checkpoint (ballot "
          "logs {} --follow), --now ends it at once",
          job.name, flags.wait, job.name);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  const auto ended = read_job(job.run_folder);
  fmt::print("{}: {}\n", job.name, ended ? state_of(*ended).text : "ended");
  return 0;
}

}  // namespace

void add_jobs(CLI::App& app, Action& action) {
  auto flags = std::make_shared<JobsFlags>();
  const auto set = [&action, flags](CLI::App* command, int (*run)(const JobsFlags&)) {
    command->callback([&action, flags, run] { action = [flags, run] { return run(*flags); }; });
  };
  CLI::App* jobs = app.add_subcommand("jobs", "the jobs that were launched, and how they are");
  jobs->add_flag("--json", flags->json, "for programs");
  set(jobs, list_jobs);

  CLI::App* logs = app.add_subcommand("logs", "what a job's workers said");
  logs->add_option("job", flags->job, "its name, or its run folder")->required();
  logs->add_flag("--follow", flags->follow, "and what they say, until the job ends");
  logs->add_option("--worker", flags->worker, "of one only: a number, or `coordinator`");
  logs->add_option("--lines", flags->lines, "the last so many")->check(CLI::Range(0, 1000000000));
  set(logs, show_logs);

  CLI::App* stop = app.add_subcommand(
      "stop", "ask a job to end: its workers finish the step, write a checkpoint and leave");
  stop->add_option("job", flags->job, "its name, or its run folder")->required();
  stop->add_flag("--now", flags->now, "without waiting for their checkpoint");
  stop->add_option("--wait", flags->wait, "how long to wait for its end")
      ->type_name("TIME")
      ->capture_default_str();
  set(stop, stop_job);
}

}  // namespace ballot

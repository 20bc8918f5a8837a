#include "launcher/launch_job.h"

#include <fmt/format.h>

#include <unistd.h>

#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "launcher/detach.h"
#include "launcher/environment.h"

namespace ballot {

namespace {

// Two jobs in one folder would write one run.
void require_nobody_there(const JobRecord& mine) {
  std::optional<JobRecord> there;
  try {
    there = read_job(mine.run_folder);
  } catch (const DataError& damaged) {
    log_warning("{}; writing it anew", damaged.what());
  }
  if (!there || there->launcher == ::getpid()) return;
  const JobState state = state_of(*there);
  if (state.kind == JobState::Kind::running || state.kind == JobState::Kind::queued)
    throw ConfigError("output.folder {}: job {} there is {}; stop it first (ballot stop {})",
                      mine.run_folder, there->name, state.text, there->name);
}

}  // namespace

LaunchedJob::LaunchedJob(const RunConfig& config, const LaunchFlags& flags) {
  record_.on = flags.on;
  record_.run_folder = std::filesystem::absolute(config.output_folder).lexically_normal().string();
  record_.name = flags.name.empty() ? name_of_run(config.output_folder) : flags.name;
  record_.workers = flags.workers;
  record_.elastic = flags.elastic;
  inside_ = flags.inside;
  if (!inside_) return;
  // A batch script goes on with the record that its submission made; in another allocation (salloc)
  // it makes one.
  record_.id = process_environment("SLURM_ARRAY_JOB_ID")
                   .value_or(process_environment("SLURM_JOB_ID").value_or(""));
  try {
    if (const auto submitted = read_job(record_.run_folder);
        submitted && submitted->on == "slurm" && submitted->id == record_.id)
      record_ = *submitted;
  } catch (const DataError& damaged) {
    log_warning("{}; writing it anew", damaged.what());
  }
}

void LaunchedJob::require_free_folder() const {
  require_nobody_there(record_);
}

bool LaunchedJob::detach() {
  if (!inside_) require_free_folder();
  list_job(record_);
  std::filesystem::create_directories(record_.run_folder + "/logs");
  if (!ballot::detach(record_.run_folder + "/logs/launch.log")) return false;
  fmt::print(
      "job {0} goes on in the background: ballot logs {0} --follow, ballot jobs, ballot stop "
      "{0}\n",
      record_.name);
  return true;
}

void LaunchedJob::begin() {
  if (!inside_) require_free_folder();
  begun_ = true;
  try {
    list_job(record_);
  } catch (const FileError& failure) {  // a home that cannot be written is no reason not to train
    log_warning("the job is in no list of jobs: {}", failure.what());
  } catch (const std::filesystem::filesystem_error& failure) {
    log_warning("the job is in no list of jobs: {}", failure.what());
  }
  take_over(record_);
}

void LaunchedJob::end(int exit_code) {
  try {
    end_job(record_, exit_code);
  } catch (const std::exception& failure) {  // the disk may be full; the exit code says the rest
    log_error("{}", failure.what());
  }
}

}  // namespace ballot

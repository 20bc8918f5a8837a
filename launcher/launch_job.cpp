#include "launcher/launch_job.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "launcher/detach.h"

namespace ballot {

LaunchedJob::LaunchedJob(const RunConfig& config, const LaunchFlags& flags) {
  record_.on = flags.on;
  record_.run_folder = std::filesystem::absolute(config.output_folder).lexically_normal().string();
  record_.name = flags.name.empty() ? name_of_run(config.output_folder) : flags.name;
  record_.workers = flags.workers;
  record_.elastic = flags.elastic;
  // A batch script goes on with the record that its submission made.
  if (flags.inside)
    if (const auto submitted = read_job(record_.run_folder)) record_ = *submitted;
}

bool LaunchedJob::detach() {
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

#include "launcher/slurm_retries.h"

#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "launcher/cluster/job_record.h"
#include "launcher/cluster/slurm.h"
#include "launcher/environment.h"

namespace ballot {
namespace {

int number_of(const char* variable, int otherwise) {
  const auto text = process_environment(variable);
  return text ? std::atoi(text->c_str()) : otherwise;
}

}  // namespace

bool is_retry_of_queue() {
  return number_of("SLURM_RESTART_COUNT", 0) > 0 || number_of("SLURM_ARRAY_TASK_ID", 0) > 0;
}

std::optional<int> end_of_earlier_task(const RunConfig& config) {
  if (number_of("SLURM_ARRAY_TASK_ID", 0) == 0) return std::nullopt;
  const auto job = read_job(std::filesystem::absolute(config.output_folder).string());
  if (!job || !job->exit_code || *job->exit_code == static_cast<int>(ExitCode::retry) ||
      *job->exit_code >= 128)
    return std::nullopt;
  return job->exit_code;
}

bool try_again_by_queue(int retries) {
  if (const int task = number_of("SLURM_ARRAY_TASK_ID", -1); task >= 0) {
    const int last = number_of("SLURM_ARRAY_TASK_MAX", task);
    if (task < last)
      log_warning("the array's next task goes on ({} of {} retries)", task + 1, last);
    return task < last;
  }
  const auto id = process_environment("SLURM_JOB_ID");
  const int before = number_of("SLURM_RESTART_COUNT", 0);
  if (!id || before >= retries) return false;
  try {
    log_warning("putting Slurm job {} back into the queue ({} of {} retries)", *id, before + 1,
                retries);
    requeue_slurm_job(*id);
    return true;
  } catch (const Error& failure) {
    log_error("it cannot be put back: {}", failure.what());
    return false;
  }
}

}  // namespace ballot

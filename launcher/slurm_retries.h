// How a job that Slurm started is tried again by Slurm: put back into the queue, or by the later
// tasks of an array. Of the process that the batch script became.
#pragma once

#include <optional>

#include "runtime/run_config.h"

namespace ballot {

// This process is a second or later attempt.
bool is_retry_of_queue();

// Of an array the later tasks are for what an earlier one could not finish: how that ended the job
// for good, if it did.
std::optional<int> end_of_earlier_task(const RunConfig& config);

// Puts the job back into the queue, unless that has been done `retries` times, or leaves it to the
// array's next task. False where it will not be tried again.
bool try_again_by_queue(int retries);

}  // namespace ballot

// What a launcher does before it starts anything, whatever on: one message here instead of one from
// every worker.
#pragma once

#include <string>

#include "runtime/run_config.h"

namespace ballot {

// A secret that only this job's processes know, unless somebody gave one: BALLOT_TOKEN of this
// process from now on, which it returns.
std::string ensure_token();

// Whether there is something a job can be resumed from: "journal" or "checkpoint".
bool has_state(const RunConfig& config, const std::string& resume_from);

// The run's folder is unused, or holds what `resume_from` needs and the same run.
void check_folder(const RunConfig& config, const std::string& resume_from);

// Model, device, tokenizer and data can be read and fit each other. The device of other machines
// is for the preflight to see, but for what the model may run on.
void check_inputs(const RunConfig& config, bool resume, Machines machines);

// What --transport nccl refuses of a run once all workers have met. How many GPUs there are is not
// looked at, nor of other machines whether.
void check_nccl(const RunConfig& config, Machines machines);

}  // namespace ballot

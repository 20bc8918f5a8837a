// Trains: the loop that turns batches into gradients, ballots, verdicts and parameters, and keeps
// its record.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "collectives/transport/transport.h"
#include "core/disk.h"
#include "models/model.h"
#include "runtime/run_config.h"

namespace ballot {

struct TrainingResult {
  std::int64_t steps = 0;
  double first_loss = 0, last_loss = 0;  // on held-out data; NaN without it
  std::uint64_t digest = 0;              // of the final parameters
  bool stopped = false;                  // asked to leave before the last step
  bool stopped_early = false;            // the held-out loss fell no more
  std::int64_t best_step = -1;           // of the lowest held-out loss; -1: without it
  double best_loss = 0;
  std::string checkpoint;
};

// What a resumed run does with the steps that were finished after its newest whole checkpoint:
// replays them from the journal, so that none is lost (momentum stays the checkpoint's, so the bits
// of later steps differ from those of an uninterrupted run), or drops and repeats them, to the same
// bits.
enum class ResumeFrom { journal, checkpoint };

struct TrainingHooks {
  bool resume = false;
  ResumeFrom resume_from = ResumeFrom::journal;
  // Which of the workers on its machine this is: they take its GPUs in turn.
  int local_rank = 0;
  // Polled once a step; true on any worker stops all after the step, with a checkpoint.
  std::function<bool()> should_stop;
  // Wraps the model (tests put faults here).
  std::function<std::unique_ptr<Model>(std::unique_ptr<Model>, const ParameterArena&)> wrap_model;
  // Where shares of checkpoints are written; null: the machine's (tests break it).
  Disk* disk = nullptr;
  // After each step, with its number (tests look, kill and wait here).
  std::function<void(std::int64_t step, const ParameterArena&)> after_step;
};

// Collective over `transport`; every worker calls it with the same configuration (checked). Worker
// 0 writes the record.
TrainingResult train(const RunConfig& config, Transport& transport,
                     const TrainingHooks& hooks = {});

}  // namespace ballot

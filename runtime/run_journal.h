// The journal of a job whose workers are fixed and see one run folder: worker w writes the shard
// RUN/journal/worker-<w>, and a resumed job goes on where all shards together end.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "runtime/checkpoint.h"  // JournalPlace
#include "runtime/journal/journal_writer.h"
#include "runtime/journal/shards.h"
#include "runtime/run_config.h"
#include "runtime/step_layout.h"
#include "runtime/step_update.h"

namespace ballot {

class RunJournal {
 public:
  struct Worker {
    int rank = 0, count = 1, voters = 1;
  };
  // Collective. Opens this worker's shard so that it ends where `training` stands: what it lacks
  // is added from the other `shards` (null: a new run), what goes beyond is cut, durably, and a
  // shard that is damaged or of another history is set aside under another name. Worker 0 does the
  // same for shards of workers that the job no longer has. `layout` must outlive it.
  RunJournal(const RunConfig& config, const StepLayout& layout, const TrainingState& training,
             const JournalShards* shards, Transport& transport, Duration patience);

  // Worker r's sample ids in the step under way begin at first + r * samples_per_worker; a voter's
  // are those of its workers, which follow each other.
  void drawn(std::int64_t first_sample, std::int64_t samples_per_worker);
  // When the verdict and the means are in hand; before anything is applied.
  void held(std::int64_t step, const StepDecision& decision,
            std::span<const TensorFactors> factors);
  // When all workers have said that their parameters have this digest.
  void applied(const TrainingState& training, std::span<const std::uint64_t> tensors);

  void flush() { writer_->flush(); }
  // No checkpoint is published that is ahead of the journal's durable end.
  std::int64_t durable_step() const { return writer_->durable().step; }
  // Where a checkpoint begins: what is before it is in other files than what follows.
  void start_segment() { writer_->start_segment(); }
  // After it was published: forgets what is before the older of the last two, as far as whole
  // segments are.
  void checkpointed(const std::string& run_folder, std::int64_t keep);

  JournalPlace place() const { return {run_, position_.digest}; }
  // Of this worker since the last call.
  struct Cost {
    std::uint64_t written_bytes = 0;
    double seconds = 0;             // of the step's own thread, waiting included
    double waited_seconds = 0;      // for room in the queue
    std::int64_t behind_steps = 0;  // not durable yet
  };
  Cost take_cost();

 private:
  void fill_up(const JournalShards& shards, const std::string& folder,
               const JournalOptions& options) const;
  void forget_departed(std::int64_t step);

  const StepLayout& layout_;
  const Worker worker_;
  const int voters_;
  const int copies_;
  Digest run_;
  Position position_;
  Record record_;  // its memory is used again in each step
  std::vector<VoterRange> ranges_;
  std::unique_ptr<JournalWriter> writer_;
  struct Departed {
    std::string folder;
    std::int64_t end_step = 0;
  };
  std::vector<Departed> departed_;
  double seconds_ = 0, waited_seconds_ = 0;
  std::uint64_t seen_bytes_ = 0;
};

}  // namespace ballot

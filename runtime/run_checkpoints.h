// The checkpoints of a job whose workers are fixed and see one run folder: worker r writes share r
// while steps go on, worker 0 publishes what all have written.
//
// That a share is written travels in the report that workers exchange every step, so saving costs
// no exchange of its own; only finish(), at the end of a run, waits for the others. A checkpoint is
// published when it is no further than every worker's durable journal. One that a worker could not
// write is given up by all, named in the log, and the next is tried.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "runtime/checkpoint_publish.h"
#include "runtime/checkpoint_writer.h"
#include "runtime/replica_audit.h"
#include "runtime/run_config.h"
#include "runtime/run_journal.h"

namespace ballot {

// [checkpoint] of the run file.
CheckpointOptions checkpoint_options(const RunConfig& config, Duration patience);

class RunCheckpoints {
 public:
  // All of these must outlive it; `journal` is null where the run keeps none.
  RunCheckpoints(const RunConfig& config, const ParameterArena& arena, const OptimizerState& state,
                 RunJournal* journal, Transport& transport, Duration patience,
                 Disk& disk = system_disk());
  ~RunCheckpoints();

  BeforeChange hook() { return writer_.hook(); }
  // After a step, on every worker, before anything changes again. Waits only for this worker's
  // share of the one before.
  // `digests`: as CheckpointWriter::begin().
  void begin(const TrainingState& training, const std::vector<std::uint64_t>& digests);
  // Before and after the exchange of a step's reports.
  void report(WorkerReport& mine);
  void heard(std::span<const WorkerReport> reports);
  // Collective. Returns when everything that was begun is published or given up; Timeout names who
  // is waited for. `must`: FileError on every worker when the last one could not be saved, naming
  // who failed; DamagedMemory where that worker's parameters were not what the last step made.
  void finish(bool must);

  // What worker 0 has to write down: since the last call.
  struct Event {
    std::int64_t step = 0;
    std::string path;          // published; empty: given up
    double seconds = 0;        // from its beginning until it was published
    double write_seconds = 0;  // from its beginning until worker 0's share was durable
    std::uint64_t bytes = 0;   // of all shares
    int worker = 0;            // that failed
    std::string error;
  };
  std::vector<Event> take_events();
  double take_wait_seconds() { return writer_.take_wait_seconds(); }
  std::string newest_path() const;  // of what was begun last

 private:
  struct Pending {
    std::int64_t step = 0;
    std::optional<Digest> chain;
    std::optional<std::int64_t> best_step;  // of all until then
    std::string folder;
    Stopwatch watch;
    enum class Share : std::uint8_t { under_way, written, failed };
    std::vector<Share> shares;  // by worker
    double write_seconds = 0;   // of this worker's
    std::uint64_t bytes = 0;
  };
  struct Own {
    std::int64_t step = 0;
    bool written = false;
    std::uint64_t bytes = 0;
    double write_seconds = 0;
    std::string error;
    bool damaged = false;
  };
  void collect();
  void note(int worker, std::int64_t step, bool written, std::uint64_t bytes);
  void settle();
  void publish_durable(std::int64_t durable);
  void publish(const Pending& one);
  void add_event(Event event);
  void forget();

  const RunConfig& config_;
  const ParameterArena& arena_;
  const OptimizerState& state_;
  RunJournal* const journal_;
  Transport& transport_;
  const Duration patience_;
  const CheckpointShare share_;

  std::deque<Pending> pending_;     // begun, not written by all: the same on every worker
  std::vector<Own> own_;            // of this worker's shares: those of pending_
  std::deque<Own> untold_;          // not yet in a report
  std::deque<Pending> to_publish_;  // worker 0
  std::int64_t last_step_ = -1;     // begun last
  int last_failed_ = 0;             // the worker that could not write its share of it
  std::string last_error_;          // of this worker, at it
  std::int64_t seen_published_ = -1;

  mutable std::mutex mutex_;  // of what the writer's thread tells
  std::int64_t published_ = -1;
  std::string publish_error_;  // of the last step
  std::vector<Event> events_;

  CheckpointWriter writer_;  // its thread goes first
};

// Collective. The newest checkpoint that its manifest proves whole: worker 0 looks. `patience` is
// how long a worker waits for the others, from when its own part is done.
std::optional<std::string> find_checkpoint(const std::string& run_folder, Transport& transport,
                                           Duration patience);

}  // namespace ballot

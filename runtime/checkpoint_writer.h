// A thread that writes one worker's share of a checkpoint while steps go on.
//
//   begin()          at a step's end: nothing is copied yet
//   before_change()  before momentum and parameters change: the step waits for a copy in memory at
//                    most, and only for that of the tensor that it is about to change
//   finished()       the share's files are durable, and its part manifest after them, in a folder
//                    with a temporary name
//
// Publishing (checkpoint_publish.h) is somebody's who knows that all shares are finished. An error
// ends the share, not the run: it is told by finished() and the share's files are deleted.
//
// begin(), before_change() and waits are the step's thread's; the rest may be called from any.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "core/disk.h"
#include "runtime/checkpoint_share.h"
#include "runtime/checkpoint_staging.h"
#include "runtime/checkpoint_state.h"

namespace ballot {

struct CheckpointOptions {
  std::uint64_t staging_bytes = std::uint64_t{256} << 20;
  std::uint64_t shard_bytes = std::uint64_t{64} << 20;  // see files_of()
  Duration patience = std::chrono::seconds(600);        // with a disk that takes nothing
};

// Where a share's files come from besides tensors, and where they go.
struct CheckpointPlace {
  std::string run_folder;
  std::string side_files_from;  // a model folder: config.json, tokenizer files; empty: none
};

struct WrittenShare {
  std::string folder;              // with its temporary name
  std::vector<std::string> files;  // in the folder, the part manifest last
  std::uint64_t bytes = 0;
  double write_seconds = 0;  // from begin() until all is durable
};

// How a share ended.
struct ShareOutcome {
  TrainingState training;  // what was given to begin()
  CheckpointShare share;
  std::optional<WrittenShare> written;
  std::string error;     // where it was not; names the file
  bool damaged = false;  // because of what this worker has in memory (share_check.h)
};

class CheckpointWriter {
 public:
  explicit CheckpointWriter(CheckpointOptions options, Disk& disk = system_disk());
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter();  // gives up what is not finished; waits for one write at most

  // Takes the memory that begin() with the same will need.
  void reserve(const CheckpointShare& share, const ParameterArena& arena,
               const OptimizerState& state);
  // What `arena` and `state` hold now is the checkpoint of `training.step`; both must outlive it.
  // `digests`: what the last update made of each parameter, by its index; a share with another
  // value fails. Waits for the share before, if that is under way: `patience` at most, then this
  // one fails.
  void begin(const CheckpointShare& share, const TrainingState& training,
             std::vector<std::uint64_t> digests, const ParameterArena& arena,
             const OptimizerState& state, const CheckpointPlace& place);
  void before_change(const Parameter& parameter, Changing what);
  BeforeChange hook();

  bool busy() const;  // a share is under way
  // The oldest outcome that was not taken yet.
  std::optional<ShareOutcome> finished();
  // Until no share is under way; false: the deadline passed.
  bool wait(Deadline deadline);
  // Ends the share that is under way, unfinished: finished() will tell `reason`.
  void give_up(const std::string& reason);

  // Runs in turn on the writer's thread, also between two pieces of a share. What it throws is
  // logged.
  void enqueue(std::function<void()> task);

  // Of the step's thread, in begin() and before_change(), since the last call.
  double take_wait_seconds();
  std::uint64_t staging_bytes() const { return staging_.size_bytes(); }

 private:
  struct Job {
    CheckpointShare share;
    TrainingState training;
    std::vector<std::uint64_t> digests;  // by parameter
    CheckpointPlace place;
    std::vector<CheckpointFile> files;
    std::string index_json;
    Stopwatch watch;
  };
  void run();
  void run_tasks();
  WrittenShare write(const Job& job);

  const CheckpointOptions options_;
  Disk& disk_;
  CheckpointStaging staging_;
  double wait_seconds_ = 0;

  mutable std::mutex mutex_;  // of everything below
  std::condition_variable work_, done_;
  std::unique_ptr<Job> job_;  // under way
  std::deque<std::function<void()>> tasks_;
  std::deque<ShareOutcome> outcomes_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace ballot

// From finished shares to a checkpoint: manifest, rename, `latest` and `best`, and what is kept.
//
// A folder has its final name only when all of it is durable, so a kill at any instant leaves the
// checkpoint before. Several may publish the same one at once, and again later: that does no harm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/disk.h"
#include "runtime/checkpoint_state.h"

namespace ballot {

// RUN/checkpoints/.step-00000150-1a2b3c4d.partial: where the shares of one state are gathered. The
// name holds the position, so that shares of another history, or of another number of workers,
// never meet.
std::string partial_folder(const std::string& run_folder, const TrainingState& training,
                           int shares);

struct PublishPolicy {
  std::int64_t keep = 2;        // the newest so many
  std::int64_t keep_every = 0;  // those of steps that are multiples of it stay for ever; 0: none
  // Checkpoints of later steps are of a run that was resumed from before them, and go. Otherwise
  // they are newer ones, and `latest` does not move back.
  bool replaces_later = false;
  // Of all so far the one with the lowest held-out loss: stays while it is, and `best` points at it
  // once it is there. What `best` points at stays in any case.
  std::optional<std::int64_t> best_step;
};

// Returns the checkpoint's path. `chain` of the state's place in the journal tells one history from
// another; none: any. FileError, CorruptFile name what is missing or does not fit; the shares stay.
std::string publish_checkpoint(const std::string& run_folder, std::int64_t step,
                               std::optional<Digest> chain, const PublishPolicy& policy);

// The step that `best` points at; -1: there is no such link, or no such checkpoint.
std::int64_t best_checkpoint(const std::string& run_folder, Disk& disk = system_disk());

// The part of it that makes the folder final; `latest` and older checkpoints are left alone.
std::string publish_shares(const std::string& run_folder, std::int64_t step,
                           std::optional<Digest> chain, Disk& disk);

// Deletes shares that were never published, of steps before `step`: of a run that was killed, or
// whose shares failed. Not while somebody writes such a share.
void remove_partial_checkpoints(const std::string& run_folder, std::int64_t before_step,
                                Disk& disk = system_disk());

}  // namespace ballot

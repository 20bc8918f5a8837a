#include "runtime/elastic/recovery.h"

#include <filesystem>
#include <limits>
#include <utility>

#include "core/error.h"
#include "core/log.h"

namespace ballot {

Digest wide(std::uint64_t parameters) {
  return {0, parameters};
}

Recovery::Recovery(Replica& replica, ElasticJournal& journal, std::string run_folder, int voter)
    : replica_(replica), journal_(journal), run_folder_(std::move(run_folder)), voter_(voter) {}

std::optional<Position> Recovery::position_of(const std::string& checkpoint) const {
  const TrainingState training = read_training_state(checkpoint);
  if (!training.journal || training.journal->run != replica_.genesis().digest) return std::nullopt;
  return Position{training.step, training.journal->chain};
}

std::optional<std::string> Recovery::find_base(std::int64_t most_step) {
  while (const auto found = find_newest_checkpoint(run_folder_, most_step)) {
    const std::optional<Position> position = position_of(found->path);
    if (position && journal_.contains(*position)) return found->path;
    if (found->step == 0) break;
    most_step = found->step - 1;
  }
  return std::nullopt;
}

Recovered Recovery::follow_journal(std::int64_t to_step, bool rebuild) {
  History history(replica_.position(), replica_.term());
  std::int64_t proved = 0, wrong_from = 0;
  const std::int64_t from = replica_.position().step;
  for (std::int64_t step = from + 1; step <= to_step; ++step) {
    const Record record = journal_.read(step);
    if (!record.whole())
      throw DataError(
          "the own journal holds only some chunks of step {} (journal.copies of a run that was not "
          "elastic): this run can go on elastically from a checkpoint, in a folder of its own",
          step);
    const AppliedRecord applied = replica_.apply(record);
    const std::optional<AppliedRecord> before = journal_.applied(step);
    if (before && rebuild && before->parameters != applied.parameters) {
      if (wrong_from == 0) {
        wrong_from = step;
        log_warning("the parameters were wrong from step {} on: {}", step,
                    describe_difference(*before, applied.tensors, replica_.arena()));
      }
      journal_.append(applied);
    } else if (before) {
      require_digests(*before, applied.tensors, replica_.arena());
      ++proved;
    }
    history.append(replica_.position(), record.term);
  }
  if (to_step > from)
    log_info("replayed steps {} to {} from the journal, {} of {} proved by digest", from + 1,
             to_step, proved, to_step - from);
  return {std::move(history), replica_.ledger(), wide(replica_.digest()), wrong_from};
}

Recovered Recovery::start() {
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  const std::optional<CheckpointName> newest = find_newest_checkpoint(run_folder_);
  if (const auto base = find_base(kAny)) {
    replica_.load(*base, voter_, false);
    log_info("goes on from {}", *base);
    return follow_journal(journal_.end().step, true);
  }
  if (newest && position_of(newest->path)) {
    // The journal ends before it, or is of a history that was given up: a published checkpoint is
    // committed.
    log_info("goes on from {}; the own journal, steps {} to {}, does not lead on from it",
             newest->path, journal_.begin().step + 1, journal_.end().step);
    return load(newest->path);
  }
  if (newest)
    throw DataError("{} is of another run: its history did not begin at {}", newest->path,
                    to_string(replica_.genesis().digest));
  if (!journal_.contains(replica_.genesis())) {
    log_warning("the journal begins at step {} and there is no checkpoint: begins at step 0",
                journal_.begin().step);
    journal_.restart_at(replica_.genesis());
  }
  return follow_journal(journal_.end().step, true);
}

Recovered Recovery::rewind(const Position& to, bool rebuild) {
  require(journal_.contains(to), "going back to step {} with {}, which the journal does not hold",
          to.step, to_string(to.digest));
  journal_.cut_after(to);
  const bool ahead = replica_.position().step > to.step || !journal_.contains(replica_.position());
  if (ahead || rebuild) {
    if (const auto base = find_base(to.step)) {
      replica_.load(*base, voter_, true);
    } else if (journal_.contains(replica_.genesis())) {
      replica_.load_start(true);
    } else {
      const auto newest = find_newest_checkpoint(run_folder_);
      if (!newest) throw DataError("{}: no whole checkpoint to go back to", run_folder_);
      return load(newest->path);
    }
  }
  Recovered state = follow_journal(to.step, rebuild);
  journal_.flush();
  return state;
}

std::optional<Recovered> Recovery::load_newest(const History& history) {
  const auto newest = find_newest_checkpoint(run_folder_);
  if (!newest) return std::nullopt;
  const std::optional<Position> position = position_of(newest->path);
  if (!position || (position->step <= history.last().step && history.contains(*position)))
    return std::nullopt;
  return load(newest->path);
}

Recovered Recovery::load(const std::string& checkpoint) {
  replica_.load(checkpoint, voter_, true);
  journal_.restart_at(replica_.position());
  return {History(replica_.position(), replica_.term()), replica_.ledger(),
          wide(replica_.digest())};
}

Recovered Recovery::adopt(const std::string& folder) {
  const std::int64_t step = read_training_state(folder).step;
  const std::string path = fmt::format("{}/checkpoints/step-{:08}", run_folder_, step);
  Disk& disk = system_disk();
  if (std::filesystem::exists(path)) {
    disk.remove(folder);
  } else {
    disk.rename(folder, path);
    disk.sync_folder(run_folder_ + "/checkpoints");
  }
  return load(path);
}

}  // namespace ballot

#include "runtime/run_journal.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/disk.h"
#include "core/error.h"
#include "core/log.h"
#include "runtime/decision_record.h"

namespace ballot {
namespace {

// Out of the way, under a name that nobody takes for a shard; a person decides what becomes of it.
void set_aside(Disk& disk, const std::string& folder, const std::string& why) {
  const std::string parent = std::filesystem::path(folder).parent_path().string();
  const std::vector<std::string> names = disk.list(parent);
  std::string name;
  for (int n = 1; name.empty() || std::ranges::count(names, name) > 0; ++n)
    name = fmt::format("{}.aside-{}", std::filesystem::path(folder).filename().string(), n);
  disk.rename(folder, parent + "/" + name);
  disk.sync_folder(parent);
  log_warning("{} is set aside as {}: {}", folder, name, why);
}

// What is wrong with a shard of which `position` should be a part or the next; empty: nothing.
std::string why_unusable(const JournalReader& reader, const Digest& run, const Position& position) {
  if (!reader.damage().empty()) return reader.damage();
  if (!reader.has_segments() || reader.empty()) return "";
  if (reader.run() != run) return fmt::format("it is of run {}", to_string(reader.run()));
  if (reader.contains(position)) return "";
  return fmt::format("it holds steps {} to {} of another history, or lacks those up to {}",
                     reader.begin().step + 1, reader.end().step, position.step);
}

}  // namespace

RunJournal::RunJournal(const RunConfig& config, const StepLayout& layout,
                       const TrainingState& training, const JournalShards* shards,
                       Transport& transport, Duration patience)
    : layout_(layout),
      worker_{transport.rank(), transport.size(),
              transport.size() / static_cast<int>(config.members)},
      voters_(worker_.count / static_cast<int>(config.members)),
      copies_(static_cast<int>(config.journal.copies)),
      run_(training.journal->run),
      position_{training.step, training.journal->chain} {
  Disk& disk = system_disk();
  const std::string folder = shard_folder(config.output_folder, worker_.rank);
  const JournalOptions options{static_cast<std::uint64_t>(config.journal.segment_mib) << 20};
  disk.make_folder(config.output_folder + "/journal");
  disk.sync_folder(config.output_folder);

  if (shards != nullptr) fill_up(*shards, folder, options);
  transport.barrier(Deadline::in(patience + std::chrono::hours(1)));  // it may be much to read

  const auto open = [&](const std::string& shard) {
    const std::string problem =
        why_unusable(JournalReader(disk, shard, OnDamage::stop), run_, position_);
    if (!problem.empty()) set_aside(disk, shard, problem);
    auto journal = std::make_unique<Journal>(disk, shard, run_, position_, options);
    if (journal->end().step > position_.step)
      log_info("{}: steps {} to {} are cut off; this run goes on after step {}", shard,
               position_.step + 1, journal->end().step, position_.step);
    journal->cut_after(position_);
    return journal;
  };
  JournalWriterOptions writer;
  writer.sync_every = std::chrono::milliseconds(config.journal.sync_every_ms);
  writer.queue_bytes = static_cast<std::uint64_t>(config.journal.queue_mib) << 20;
  writer.patience = patience;
  writer_ = std::make_unique<JournalWriter>(open(folder), writer);
  if (worker_.rank != 0) return;
  for (const int departed : shard_workers(disk, config.output_folder)) {
    if (departed < worker_.count) continue;
    // Of a worker that left: its records up to this position still count.
    const std::string shard = shard_folder(config.output_folder, departed);
    std::int64_t end = JournalReader(disk, shard, OnDamage::stop).end().step;
    if (end > position_.step) end = open(shard)->end().step;
    departed_.push_back({shard, end});
  }
}

// A shard that ends before the others: what it lacks is read from theirs, which nobody cuts yet.
void RunJournal::fill_up(const JournalShards& shards, const std::string& folder,
                         const JournalOptions& options) const {
  const JournalReader mine(system_disk(), folder, OnDamage::stop);
  if (!mine.damage().empty() || mine.empty() || mine.run() != run_ ||
      mine.end().step >= position_.step)
    return;
  const JournalShards::History rest = shards.history(mine.end());
  const auto last = static_cast<std::size_t>(position_.step - mine.end().step);
  if (rest.positions.size() < last || rest.positions[last - 1] != position_) return;
  Journal journal(system_disk(), folder, run_, position_, options);
  for (std::int64_t step = journal.end().step + 1; step <= position_.step; ++step) {
    journal.append(shards.read(rest, step), {worker_.rank, worker_.count, copies_});
    if (const auto applied = shards.applied(rest, step)) journal.append(*applied);
  }
  journal.sync();
}

void RunJournal::drawn(std::int64_t first_sample, std::int64_t samples_per_worker) {
  ranges_.clear();
  const std::int64_t count = samples_per_worker * (worker_.count / worker_.voters);
  for (int v = 0; v < worker_.voters; ++v) {
    const std::int64_t begin = first_sample + v * count;
    ranges_.push_back({v, {begin, begin + count}});
  }
}

void RunJournal::held(std::int64_t step, const StepDecision& decision,
                      std::span<const TensorFactors> factors) {
  const Stopwatch watch;
  require(step == position_.step + 1, "step {} is held, the journal is at {}", step,
          position_.step);
  record_.step = step;
  record_.term = 0;
  record_.previous = position_.digest;
  record_.ranges = ranges_;
  write_decision(layout_, decision, factors, worker_.count, voters_, record_);
  position_ = record_.position();
  waited_seconds_ += writer_->append(record_, {worker_.rank, worker_.count, copies_});
  seconds_ += watch.elapsed();
}

void RunJournal::applied(const TrainingState& training, std::span<const std::uint64_t> tensors) {
  const Stopwatch watch;
  AppliedRecord applied;
  applied.step = training.step;
  applied.parameters = training.digest;
  applied.tokens_total = training.tokens_total;
  applied.tensors.assign(tensors.begin(), tensors.end());
  waited_seconds_ += writer_->append(applied);
  seconds_ += watch.elapsed();
}

void RunJournal::checkpointed(const std::string& run_folder, std::int64_t keep) {
  const std::vector<CheckpointName> checkpoints = checkpoint_names(run_folder);
  const std::size_t older = keep > 1 ? 1 : 0;  // the run's model is what is before the first
  if (checkpoints.size() <= older) return;
  writer_->forget_until(checkpoints[older].step);
  forget_departed(checkpoints[older].step);
}

void RunJournal::forget_departed(std::int64_t step) {
  std::erase_if(departed_, [step](const Departed& shard) {
    if (shard.end_step > step) return false;
    Disk& disk = system_disk();
    disk.remove(shard.folder);
    disk.sync_folder(std::filesystem::path(shard.folder).parent_path().string());
    return true;
  });
}

RunJournal::Cost RunJournal::take_cost() {
  Cost cost;
  const std::uint64_t bytes = writer_->written_bytes();
  cost.written_bytes = bytes - std::exchange(seen_bytes_, bytes);
  cost.seconds = std::exchange(seconds_, 0.0);
  cost.waited_seconds = std::exchange(waited_seconds_, 0.0);
  cost.behind_steps = position_.step - writer_->durable().step;
  return cost;
}

}  // namespace ballot

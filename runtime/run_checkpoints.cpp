#include "runtime/run_checkpoints.h"

#include <algorithm>
#include <future>
#include <limits>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "runtime/checkpoint.h"
#include "runtime/gather_values.h"
#include "runtime/share_check.h"

namespace ballot {
namespace {

PublishPolicy policy_of(const RunConfig& config) {
  PublishPolicy policy;
  policy.keep = config.keep_checkpoints;
  policy.keep_every = config.checkpoint.keep_every;
  policy.replaces_later = true;
  return policy;
}

CheckpointShare share_of(const Transport& transport, std::int64_t members_per_voter) {
  const int members = static_cast<int>(members_per_voter), rank = transport.rank();
  return {rank, transport.size(), rank / members, rank % members, members};
}

}  // namespace

CheckpointOptions checkpoint_options(const RunConfig& config, Duration patience) {
  CheckpointOptions options;
  options.staging_bytes = static_cast<std::uint64_t>(config.checkpoint.staging_mib) << 20;
  options.shard_bytes = static_cast<std::uint64_t>(config.checkpoint.shard_mib) << 20;
  options.patience = patience;
  return options;
}

RunCheckpoints::RunCheckpoints(const RunConfig& config, const ParameterArena& arena,
                               const OptimizerState& state, RunJournal* journal,
                               Transport& transport, Duration patience, Disk& disk)
    : config_(config),
      arena_(arena),
      state_(state),
      journal_(journal),
      transport_(transport),
      patience_(patience),
      share_(share_of(transport, config.members)),
      writer_(checkpoint_options(config, patience), disk) {
  if (config.checkpoint_every > 0 || config.keep_best) writer_.reserve(share_, arena, state);
}

RunCheckpoints::~RunCheckpoints() = default;

void RunCheckpoints::begin(const TrainingState& training,
                           const std::vector<std::uint64_t>& digests) {
  // A segment ends here, so that what is before this checkpoint can be forgotten.
  if (journal_ != nullptr) journal_->start_segment();
  last_step_ = training.step;
  last_failed_ = 0;
  last_error_.clear();
  writer_.begin(share_, training, digests, arena_, state_,
                {config_.output_folder, config_.model_folder});
  Pending one;
  one.step = training.step;
  if (training.journal) one.chain = training.journal->chain;
  if (config_.keep_best && training.losses && training.losses->best_step > 0)
    one.best_step = training.losses->best_step;
  one.folder = partial_folder(config_.output_folder, training, share_.count);
  one.shares.resize(static_cast<std::size_t>(share_.count));
  pending_.push_back(std::move(one));
}

void RunCheckpoints::collect() {
  while (std::optional<ShareOutcome> outcome = writer_.finished()) {
    Own own;
    own.step = outcome->training.step;
    own.written = outcome->written.has_value();
    own.error = outcome->error;
    own.damaged = outcome->damaged;
    if (own.written) {
      own.bytes = outcome->written->bytes;
      own.write_seconds = outcome->written->write_seconds;
    } else {  // now: the run may end before the others are told
      log_warning("this worker's share of the checkpoint of step {} is given up: {}", own.step,
                  own.error);
      if (own.step == last_step_) last_error_ = own.error;
    }
    own_.push_back(own);
    untold_.push_back(std::move(own));
  }
}

void RunCheckpoints::report(WorkerReport& mine) {
  // A repair changes what is replicated, also where the step has left it alone.
  for (const ParameterState& s : state_.states())
    if (!s.is_private) writer_.before_change(*s.parameter, Changing::state);
  collect();
  mine.journal_durable = journal_ != nullptr ? journal_->durable_step() : mine.step;
  if (!untold_.empty()) {
    const Own own = std::move(untold_.front());
    untold_.pop_front();
    mine.checkpoint_step = own.step;
    mine.checkpoint_written = own.written;
    mine.checkpoint_bytes = own.bytes;
  }
  const std::lock_guard lock(mutex_);
  mine.checkpoint_published = published_;
}

void RunCheckpoints::heard(std::span<const WorkerReport> reports) {
  std::int64_t durable = std::numeric_limits<std::int64_t>::max();
  for (std::size_t r = 0; r < reports.size(); ++r) {
    const WorkerReport& report = reports[r];
    durable = std::min(durable, report.journal_durable);
    if (report.checkpoint_step >= 0)
      note(static_cast<int>(r), report.checkpoint_step, report.checkpoint_written != 0,
           report.checkpoint_bytes);
  }
  settle();
  publish_durable(durable);
  if (reports[0].checkpoint_published > seen_published_) {
    seen_published_ = reports[0].checkpoint_published;
    forget();
  }
}

void RunCheckpoints::note(int worker, std::int64_t step, bool written, std::uint64_t bytes) {
  const auto one = std::ranges::find(pending_, step, &Pending::step);
  if (one == pending_.end())
    throw TransportError(
        "worker {} reports its share of the checkpoint of step {}, which nobody "
        "began",
        worker, step);
  one->shares[static_cast<std::size_t>(worker)] =
      written ? Pending::Share::written : Pending::Share::failed;
  one->bytes += bytes;
}

// Takes what all workers have told of out of `pending_`, the same everywhere.
void RunCheckpoints::settle() {
  const auto told = [](const Pending& one) {
    return std::ranges::find(one.shares, Pending::Share::under_way) == one.shares.end();
  };
  while (!pending_.empty() && told(pending_.front())) {
    Pending one = std::move(pending_.front());
    pending_.pop_front();
    if (const auto own = std::ranges::find(own_, one.step, &Own::step); own != own_.end()) {
      one.write_seconds = own->write_seconds;
      own_.erase(own);
    }
    const auto failed = std::ranges::find(one.shares, Pending::Share::failed);
    const bool whole = failed == one.shares.end();
    if (!whole && one.step == last_step_)
      last_failed_ = static_cast<int>(failed - one.shares.begin());
    if (transport_.rank() != 0) continue;
    if (whole) {
      to_publish_.push_back(std::move(one));
      continue;
    }
    Event event;
    event.step = one.step;
    event.worker = static_cast<int>(failed - one.shares.begin());
    event.error = fmt::format(
        "the checkpoint of step {} is given up: worker {} could not write its share (its log says "
        "why)",
        one.step, event.worker);
    log_warning("{}", event.error);
    add_event(std::move(event));
    writer_.enqueue([folder = one.folder] {
      Disk& disk = system_disk();
      if (!disk.list(folder).empty()) disk.remove(folder);
    });
  }
}

void RunCheckpoints::publish_durable(std::int64_t durable) {
  while (!to_publish_.empty() && to_publish_.front().step <= durable) {
    writer_.enqueue([this, one = std::move(to_publish_.front())] { publish(one); });
    to_publish_.pop_front();
  }
}

// On the writer's thread.
void RunCheckpoints::publish(const Pending& one) {
  Event event;
  event.step = one.step;
  try {
    PublishPolicy policy = policy_of(config_);
    policy.best_step = one.best_step;
    event.path = publish_checkpoint(config_.output_folder, one.step, one.chain, policy);
  } catch (const WorldError& error) {
    event.error = fmt::format(
        "the checkpoint of step {} is given up: worker 0 could not publish "
        "it: {}",
        one.step, error.what());
    log_warning("{}", event.error);
  }
  event.seconds = one.watch.elapsed();
  event.write_seconds = one.write_seconds;
  event.bytes = one.bytes;
  {
    const std::lock_guard lock(mutex_);
    if (event.error.empty()) published_ = std::max(published_, one.step);
    publish_error_ = event.error;
  }
  add_event(std::move(event));
}

void RunCheckpoints::finish(bool must) {
  collect();
  if (!writer_.wait(Deadline::in(patience_))) {
    writer_.give_up("the disk is too slow");
    throw Timeout("worker {} could not write its share of the checkpoint of step {} in {} s",
                  transport_.rank(), last_step_, seconds(patience_));
  }
  collect();
  untold_.clear();  // told below
  if (journal_ != nullptr) journal_->flush();

  int damaged_worker = -1;
  // The same number of times on every worker.
  for (Pending& one : pending_) {
    struct Told {
      std::int32_t written = 0, damaged = 0;
      std::uint64_t bytes = 0;
    };
    const auto own = std::ranges::find(own_, one.step, &Own::step);
    require(own != own_.end(), "nobody knows what became of the share of step {}", one.step);
    const std::vector<Told> all = gather_values(Told{own->written, own->damaged, own->bytes},
                                                transport_, Deadline::in(patience_));
    one.bytes = 0;
    for (std::size_t r = 0; r < all.size(); ++r) {
      one.shares[r] = all[r].written != 0 ? Pending::Share::written : Pending::Share::failed;
      one.bytes += all[r].bytes;
      if (all[r].damaged != 0 && one.step == last_step_) damaged_worker = static_cast<int>(r);
    }
  }
  settle();
  publish_durable(std::numeric_limits<std::int64_t>::max());

  const auto done = std::make_shared<std::promise<void>>();
  writer_.enqueue([done] { done->set_value(); });
  if (done->get_future().wait_for(patience_) != std::future_status::ready)
    throw Timeout("worker {} could not publish the checkpoint of step {} in {} s",
                  transport_.rank(), last_step_, seconds(patience_));
  std::int64_t published = -1;
  {
    const std::lock_guard lock(mutex_);
    published = published_;
    if (!publish_error_.empty()) last_error_ = publish_error_;
  }
  published = gather_values(published, transport_, Deadline::in(patience_))[0];
  if (published > seen_published_) {
    seen_published_ = published;
    forget();
  }
  if (!must || last_step_ < 0 || published >= last_step_) return;
  if (damaged_worker == transport_.rank())
    throw DamagedMemory("the last checkpoint, of step {}, is not saved: {}", last_step_,
                        last_error_);
  if (damaged_worker >= 0)
    throw DamagedMemory(
        "the last checkpoint, of step {}, is not saved: parameters of worker {} have changed in "
        "memory since their last update, its log names them",
        last_step_, damaged_worker);
  if (!last_error_.empty())
    throw FileError("the last checkpoint, of step {}, is not saved: {}", last_step_, last_error_);
  throw FileError("worker {} failed to save the last checkpoint, of step {}; see its log",
                  last_failed_, last_step_);
}

void RunCheckpoints::forget() {
  if (journal_ != nullptr) journal_->checkpointed(config_.output_folder, config_.keep_checkpoints);
}

void RunCheckpoints::add_event(Event event) {
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
}

std::vector<RunCheckpoints::Event> RunCheckpoints::take_events() {
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

std::string RunCheckpoints::newest_path() const {
  return fmt::format("{}/checkpoints/step-{:08}", config_.output_folder, last_step_);
}

std::optional<std::string> find_checkpoint(const std::string& run_folder, Transport& transport,
                                           Duration patience) {
  std::int64_t chosen = -1;
  if (transport.rank() == 0)
    if (const auto newest = find_newest_checkpoint(run_folder)) chosen = newest->step;
  // The others wait while worker 0 reads every file: an hour more for that.
  chosen = gather_values(chosen, transport, Deadline::in(patience + std::chrono::hours(1)))[0];
  if (chosen < 0) return std::nullopt;
  return fmt::format("{}/checkpoints/step-{:08}", run_folder, chosen);
}

}  // namespace ballot

// Shares by checkpoint; the rest is derived from them.
#include "runtime/protocol/publication.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace ballot {
namespace {

constexpr std::size_t kMostCheckpointsHeard = 16;

std::int64_t newest_of(const Row& row) {
  return row.checkpoints.empty() ? -1 : row.checkpoints.back().position.step;
}

}  // namespace

bool Publication::hear(const Pulse& pulse, const Row& row) {
  bool news = false;
  const TermWorker* const listed = row.term ? row.term->find(pulse.identity.worker) : nullptr;
  // Then all that it says is of the history of the row.
  const bool in_term = listed != nullptr && listed->identity == pulse.identity &&
                       pulse.state != WorkerState::joining && pulse.term == row.term->term &&
                       pulse.has_start;
  if (in_term)
    for (const CheckpointFact& fact : pulse.checkpoints)
      if (fact.position.step > newest_of(row) && fact.shares > 0 && fact.share >= 0 &&
          fact.share < fact.shares)
        take_share(pulse.identity, fact, news);
  for (auto& [key, checkpoint] : checkpoints_) {
    // In a term a history only grows: what this incarnation once told is still on it.
    const auto is_its_own = [&](const auto& share) {
      return share.second.writer == pulse.identity;
    };
    if (in_term && !checkpoint.proved && pulse.has_commit && pulse.told.step >= key.first.step &&
        pulse.told.step <= row.commit.step && std::ranges::any_of(checkpoint.shares, is_its_own))
      checkpoint.proved = news = true;
    if (pulse.published == key.first && !checkpoint.published) checkpoint.published = news = true;
  }
  return news;
}

void Publication::take_share(const Identity& writer, const CheckpointFact& fact, bool& news) {
  const Key key{fact.position, fact.shares};
  if (!checkpoints_.contains(key) && checkpoints_.size() >= kMostCheckpointsHeard) {
    // Whole ones wait for the commit; of the others the oldest will never be.
    const auto partial = std::ranges::find_if(
        checkpoints_, [&](const auto& entry) { return !whole(entry.first, entry.second); });
    if (partial == checkpoints_.end()) return;
    checkpoints_.erase(partial);
    drop_named_unless_there();
  }
  Checkpoint& checkpoint = checkpoints_[key];
  Share& share = checkpoint.shares[fact.share];
  if (share.writer == writer && share.fact == fact) return;
  share = {writer, fact};
  checkpoint.judged = false;
  news = true;
  judge(key, checkpoint);
}

void Publication::follow(const Row& row) {
  const std::int64_t term = row.term ? row.term->term : 0;
  const bool changed = term != std::exchange(term_, term);
  std::erase_if(checkpoints_, [&](const auto& entry) {
    const Position& p = entry.first.first;
    if (p.step <= newest_of(row)) return true;
    if (!changed || !row.term) return false;
    // The term goes on from its start: other histories are over there.
    return p.step > row.term->start.step ||
           (p.step == row.term->start.step && p != row.term->start);
  });
  drop_named_unless_there();
}

void Publication::drop_named_unless_there() {
  if (named_ && !checkpoints_.contains(named_->key)) named_.reset();
}

bool Publication::whole(const Key& key, const Checkpoint& checkpoint) const {
  if (checkpoint.shares.size() != static_cast<std::size_t>(key.second)) return false;
  const Digest& first = checkpoint.shares.begin()->second.fact.parameters;
  std::size_t files = 0;
  for (const auto& [number, share] : checkpoint.shares) {
    if (share.fact.parameters != first && !mutations_.publish_any_digest) return false;
    files += share.fact.files.size();
  }
  return files <= kMostPublishedFiles;
}

bool Publication::publishable(const Key& key, const Checkpoint& checkpoint, const Row& row) const {
  if (!whole(key, checkpoint) || key.first.step <= newest_of(row)) return false;
  if (mutations_.publish_before_commit) return true;
  return checkpoint.proved && key.first.step <= row.commit.step;
}

// Said once, when all its shares are in.
void Publication::judge(const Key& key, Checkpoint& checkpoint) {
  if (checkpoint.judged || checkpoint.shares.size() != static_cast<std::size_t>(key.second)) return;
  checkpoint.judged = true;
  if (whole(key, checkpoint)) {
    finding_.clear();
    return;
  }
  std::map<Digest, std::vector<std::int32_t>> by_digest;
  std::size_t files = 0;
  for (const auto& [number, share] : checkpoint.shares) {
    by_digest[share.fact.parameters].push_back(share.writer.worker);
    files += share.fact.files.size();
  }
  if (files > kMostPublishedFiles) {
    finding_ = fmt::format("checkpoint {} is not published: it has {} files, expected at most {}",
                           key.first.step, files, kMostPublishedFiles);
    return;
  }
  std::vector<std::int32_t> differ;
  bool majority = false;
  for (const auto& [digest, workers] : by_digest) {
    if (2 * workers.size() > checkpoint.shares.size())
      majority = true;
    else
      differ.insert(differ.end(), workers.begin(), workers.end());
  }
  std::ranges::sort(differ);
  finding_ = fmt::format(
      "checkpoint {} is not published: the parameters of worker{} {} {}", key.first.step,
      differ.size() == 1 ? "" : "s", fmt::join(differ, ", "),
      majority ? "are not those of the majority" : "differ, and no digest has a majority");
}

bool Publication::name_writer(TimePoint now, const Row& row, const Present& present) {
  if (named_) {
    const Checkpoint& checkpoint = checkpoints_.at(named_->key);
    if (publishable(named_->key, checkpoint, row) &&
        (checkpoint.published ||
         (present(named_->writer.worker) == named_->writer && now - named_->since < timeout_)))
      return false;
  }
  const auto newest = std::find_if(checkpoints_.rbegin(), checkpoints_.rend(), [&](const auto& c) {
    return publishable(c.first, c.second, row);
  });
  const std::optional<Named> before = std::exchange(named_, std::nullopt);
  if (newest == checkpoints_.rend()) return false;
  std::vector<Identity> writers;
  for (const auto& [number, share] : newest->second.shares)
    if (const auto identity = present(share.writer.worker)) writers.push_back(*identity);
  std::ranges::sort(writers);
  if (writers.empty()) return false;
  // After the one that was named for it in vain, if there is one.
  auto next = writers.begin();
  if (before && before->key == newest->first)
    next = std::ranges::upper_bound(writers, before->writer);
  if (next == writers.end()) next = writers.begin();
  named_ = Named{newest->first, *next, now};
  return true;
}

CheckpointFact Publication::joined(const Key& key, const Checkpoint& checkpoint) {
  CheckpointFact fact = checkpoint.shares.begin()->second.fact;
  fact.share = 0;
  fact.shares = key.second;
  fact.files.clear();
  for (const auto& [number, share] : checkpoint.shares)
    fact.files.insert(fact.files.end(), share.fact.files.begin(), share.fact.files.end());
  return fact;
}

std::optional<CheckpointFact> Publication::order_to(const Identity& worker) const {
  if (!named_ || named_->writer != worker) return std::nullopt;
  const Checkpoint& checkpoint = checkpoints_.at(named_->key);
  if (checkpoint.published) return std::nullopt;
  return joined(named_->key, checkpoint);
}

std::optional<CheckpointFact> Publication::published(const Row& row) const {
  const auto newest = std::find_if(checkpoints_.rbegin(), checkpoints_.rend(), [&](const auto& c) {
    return c.second.published && publishable(c.first, c.second, row);
  });
  if (newest == checkpoints_.rend()) return std::nullopt;
  CheckpointFact fact = joined(newest->first, newest->second);
  fact.files.clear();
  return fact;
}

}  // namespace ballot

#include "tests/simulation/shared_store.h"

#include <iterator>

namespace ballot::sim {

void SharedStore::write_share(const CheckpointFact& fact, Snapshot written) {
  shares_[{fact.position, fact.shares}].insert_or_assign(fact.share, std::move(written));
}

std::optional<Snapshot> SharedStore::whole(const Position& position, std::int32_t shares) const {
  const auto found = shares_.find({position, shares});
  if (found == shares_.end() || found->second.size() != static_cast<std::size_t>(shares))
    return std::nullopt;
  Snapshot snapshot = found->second.at(0);  // and what is not sliced
  for (const auto& [number, share] : found->second)
    for (std::int64_t w = kWords * number / shares; w < kWords * (number + 1) / shares; ++w)
      snapshot.model.voted[static_cast<std::size_t>(w)] =
          share.model.voted[static_cast<std::size_t>(w)];
  return snapshot;
}

void SharedStore::publish(Snapshot checkpoint) {
  const Position position = checkpoint.model.position;
  published_.try_emplace(position, std::move(checkpoint));
}

void SharedStore::forget_before(std::int64_t step) {
  std::erase_if(published_, [&](const auto& entry) { return entry.first.step < step; });
  std::erase_if(shares_, [&](const auto& entry) { return entry.first.first.step < step; });
}

void SharedStore::damage_newest() {
  if (published_.size() < 2) return;
  const auto newest = published_.rbegin();
  if (!damaged_.contains(std::next(newest)->first)) damaged_.insert(newest->first);
}

std::vector<const Snapshot*> SharedStore::whole_ones() const {
  std::vector<const Snapshot*> all;
  for (const auto& [position, snapshot] : published_)
    if (!damaged_.contains(position)) all.push_back(&snapshot);
  return all;
}

const Snapshot* SharedStore::newest_whole() const {
  const auto all = whole_ones();
  return all.empty() ? nullptr : all.back();
}

std::int64_t SharedStore::newest_step() const {
  return published_.empty() ? -1 : published_.rbegin()->first.step;
}

}  // namespace ballot::sim

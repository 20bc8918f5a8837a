#include "runtime/journal/shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::string_view kPrefix = "worker-";

// The 3 of "worker-3"; none for any other name.
std::optional<int> worker_of(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  int worker = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), worker);
  if (error != std::errc{} || worker < 0 || fmt::format("{}{}", kPrefix, worker) != name)
    return std::nullopt;
  return worker;
}

}  // namespace

std::string shard_folder(const std::string& run_folder, int worker) {
  return fmt::format("{}/journal/{}{}", run_folder, kPrefix, worker);
}

std::vector<int> shard_workers(Disk& disk, const std::string& run_folder) {
  std::vector<int> workers;
  for (const std::string& name : disk.list(run_folder + "/journal"))
    if (const auto worker = worker_of(name)) workers.push_back(*worker);
  std::ranges::sort(workers);
  return workers;
}

JournalShards::JournalShards(Disk& disk, const std::string& run_folder) {
  for (const int worker : shard_workers(disk, run_folder))
    shards_.push_back(
        {worker, JournalReader(disk, shard_folder(run_folder, worker), OnDamage::stop)});
}

bool JournalShards::empty() const {
  return std::ranges::all_of(shards_, [](const Shard& shard) { return shard.reader.empty(); });
}

std::vector<Position> JournalShards::begins() const {
  std::vector<Position> begins;
  for (const Shard& shard : shards_)
    if (!shard.reader.empty()) begins.push_back(shard.reader.begin());
  std::ranges::sort(begins);
  begins.erase(std::unique(begins.begin(), begins.end()), begins.end());
  return begins;
}

JournalShards::History JournalShards::history(const Position& base) const {
  // The chain from `tip` back to the base; empty where it does not lead there.
  const auto chain_to = [&](Position tip) {
    std::vector<Position> chain;
    while (tip.step > base.step) {
      const auto holder = std::ranges::find_if(shards_, [&](const Shard& shard) {
        return tip.step > shard.reader.begin().step && shard.reader.contains(tip);
      });
      if (holder == shards_.end()) return std::vector<Position>{};
      chain.push_back(tip);
      tip = *holder->reader.position_after(tip.step - 1);
    }
    if (tip != base) chain.clear();
    std::ranges::reverse(chain);
    return chain;
  };
  std::int64_t best_term = -1;
  std::vector<Position> best;
  for (const Shard& shard : shards_) {
    const JournalReader& reader = shard.reader;
    if (reader.empty() || reader.end().step <= base.step) continue;
    if (std::pair(reader.end_term(), reader.end().step) <=
        std::pair(best_term, base.step + static_cast<std::int64_t>(best.size())))
      continue;
    if (std::vector<Position> chain = chain_to(reader.end()); !chain.empty()) {
      best = std::move(chain);
      best_term = reader.end_term();
    }
  }
  History history;
  history.base = history.end = base;
  history.longest_step = base.step + static_cast<std::int64_t>(best.size());
  for (const Position& position : best) {
    std::vector<bool> covered;
    for (const Shard& shard : shards_) {
      if (position.step <= shard.reader.begin().step || !shard.reader.contains(position)) continue;
      const std::vector<bool>& present = shard.reader.present(position.step);
      covered.resize(present.size());
      for (std::size_t i = 0; i < present.size(); ++i) covered[i] = covered[i] || present[i];
    }
    if (const auto missing = std::ranges::find(covered, false); missing != covered.end()) {
      history.gap = fmt::format("step {}: part {} of {} is in none of the {} shards", position.step,
                                missing - covered.begin() + 1, covered.size(), shards_.size());
      for (const Shard& shard : shards_)
        if (!shard.reader.damage().empty()) history.gap += "; " + shard.reader.damage();
      break;
    }
    history.positions.push_back(position);
    history.end = position;
  }
  return history;
}

Record JournalShards::read(const History& history, std::int64_t step) const {
  require(step > history.base.step && step <= history.end.step, "step {} of a history of {} to {}",
          step, history.base.step + 1, history.end.step);
  const Position& position =
      history.positions[static_cast<std::size_t>(step - history.base.step - 1)];
  std::optional<Record> record;
  for (const Shard& shard : shards_) {
    if (step <= shard.reader.begin().step || !shard.reader.contains(position)) continue;
    if (!record)
      record = shard.reader.read(step);
    else
      merge_bodies(*record, shard.reader.read(step));
    if (record->whole()) break;
  }
  require(record && record->whole(), "step {}: its record is not whole", step);
  return std::move(*record);
}

std::optional<AppliedRecord> JournalShards::applied(const History& history,
                                                    std::int64_t step) const {
  require(step > history.base.step && step <= history.end.step, "step {} of a history of {} to {}",
          step, history.base.step + 1, history.end.step);
  const Position& position =
      history.positions[static_cast<std::size_t>(step - history.base.step - 1)];
  for (const Shard& shard : shards_) {
    if (step <= shard.reader.begin().step || !shard.reader.contains(position)) continue;
    if (auto applied = shard.reader.applied(step)) return applied;
  }
  return std::nullopt;
}

}  // namespace ballot

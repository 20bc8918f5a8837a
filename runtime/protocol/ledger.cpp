// The ledger as a set of stretches.
#include "runtime/protocol/ledger.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "runtime/journal/record.h"

namespace ballot {
namespace {

constexpr std::int64_t kEnd = std::numeric_limits<std::int64_t>::max();

// All that is unused, the endless rest included.
std::vector<SampleRange> stretches(const Ledger& ledger) {
  std::vector<SampleRange> all = ledger.unused;
  if (!all.empty() && all.back().end == ledger.next)
    all.back().end = kEnd;
  else
    all.push_back({ledger.next, kEnd});
  return all;
}

// Takes `range` out of one stretch; false if it is not wholly inside one.
bool take(std::vector<SampleRange>& all, const SampleRange& range) {
  if (range.count() == 0) return true;
  for (auto s = all.begin(); s != all.end(); ++s) {
    if (range.begin < s->begin || range.end > s->end) continue;
    const SampleRange before{s->begin, range.begin}, after{range.end, s->end};
    s = all.erase(s);
    if (after.count() > 0) s = all.insert(s, after);
    if (before.count() > 0) all.insert(s, before);
    return true;
  }
  return false;
}

}  // namespace

std::vector<VoterRange> assignment(const Ledger& ledger, std::int32_t voters,
                                   std::int64_t per_voter, std::span<const VoterRange> kept) {
  require(voters > 0 && per_voter > 0, "{} voters with {} samples each", voters, per_voter);
  std::vector<SampleRange> all = stretches(ledger);
  std::vector<VoterRange> drawn(static_cast<std::size_t>(voters));
  for (const VoterRange& k : kept) {
    require(k.voter >= 0 && k.voter < voters && k.samples.count() > 0,
            "voter {} of {} keeps [{}, {})", k.voter, voters, k.samples.begin, k.samples.end);
    require(take(all, k.samples), "voter {} keeps [{}, {}), which is used or kept twice", k.voter,
            k.samples.begin, k.samples.end);
    drawn[static_cast<std::size_t>(k.voter)].samples = k.samples;
  }
  for (std::int32_t v = 0; v < voters; ++v) {
    VoterRange& mine = drawn[static_cast<std::size_t>(v)];
    mine.voter = v;
    if (mine.samples.count() > 0) continue;
    const SampleRange front = all.front();  // the last one has no end: there is always one
    mine.samples = {front.begin, front.begin + std::min(per_voter, front.count())};
    take(all, mine.samples);
  }
  return drawn;
}

Ledger remove_counted(const Ledger& ledger, std::span<const VoterRange> drawn,
                      std::span<const std::uint64_t> counted) {
  std::vector<SampleRange> all = stretches(ledger);
  Ledger after{ledger.next, {}};
  for (const VoterRange& d : drawn) {
    const auto voter = static_cast<std::size_t>(d.voter);
    if (voter / 64 >= counted.size() || (counted[voter / 64] >> (voter % 64) & 1) == 0) continue;
    require(take(all, d.samples), "voter {} was counted with [{}, {}), which was used before",
            d.voter, d.samples.begin, d.samples.end);
    after.next = std::max(after.next, d.samples.end);
  }
  for (const SampleRange& s : all)
    if (s.begin < after.next) after.unused.push_back({s.begin, std::min(s.end, after.next)});
  return after;
}

bool is_unused(const Ledger& ledger, const SampleRange& range) {
  std::vector<SampleRange> all = stretches(ledger);
  return take(all, range);
}

Ledger ledger_after(const Ledger& ledger, const Record& record) {
  std::vector<std::uint64_t> counted;  // in any chunk
  for (const ChunkVerdictRecord& chunk : record.chunks) {
    if (counted.size() < chunk.counted.size()) counted.resize(chunk.counted.size());
    for (std::size_t i = 0; i < chunk.counted.size(); ++i) counted[i] |= chunk.counted[i];
  }
  return remove_counted(ledger, record.ranges, counted);
}

}  // namespace ballot

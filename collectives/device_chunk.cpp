#include "collectives/device_chunk.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "collectives/ballot.h"      // tie_coin_stream
#include "collectives/tally_tile.h"  // require_countable
#include "core/error.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

DeviceSegment device_segment(const BallotSegment& s) {
  return {.word = s.offset / 64,
          .words = s.extent() / 64,
          .row_words = s.row_stride / 64,
          .cols = s.cols,
          .first_block = s.first_block,
          .arena_word = s.arena_offset / 64,
          .block_shift = std::countr_zero(static_cast<std::uint64_t>(s.block / 64))};
}

}  // namespace

DeviceChunk::DeviceChunk(const BallotLayout& layout, const BallotChunk& chunk, Device device)
    : layout_(layout), chunk_(chunk) {
  require_countable(layout, chunk, 1);
  require(!layout.segments().empty(), "a ballot of no tensor");
  // Words of padding belong to the segment before them.
  first_segment_ = std::min(layout.segment_of(chunk.begin), layout.segments().size() - 1);
  segment_count_ =
      chunk.begin == chunk.end ? 1 : layout.segment_of(chunk.end - 1) + 1 - first_segment_;
  std::vector<DeviceSegment> segments;
  for (const BallotSegment& s : layout.segments().subspan(first_segment_, segment_count_))
    segments.push_back(device_segment(s));
  segments_ = Buffer(segments.size() * sizeof(DeviceSegment), device);
  Stream stream(device);
  copy_bytes(segments_.data(), device, segments.data(), Device{}, segments_.size_bytes(), stream);
  stream.synchronize();
  places_ = {.layout = segments_.as<DeviceSegment>(),
             .segments = static_cast<std::int32_t>(segments.size()),
             .first_word = chunk.begin / 64,
             .words = chunk.word_count(),
             .first_block = chunk.first_block};
}

DeviceBallots::DeviceBallots(std::size_t count, Device device)
    : known_(count), places_(count * sizeof(BallotPart), device) {
  host_ = PinnedBuffer(places_.size_bytes(), device);
}

void DeviceBallots::take(std::span<const BallotPart> ballots, Stream& stream) {
  require(ballots.size() == known_.size(), "{} ballots, expected {}", ballots.size(),
          known_.size());
  const auto equal = [](const BallotPart& a, const BallotPart& b) {
    return a.bits == b.bits && a.abstentions == b.abstentions;
  };
  if (std::ranges::equal(ballots, known_, equal)) return;
  stream.synchronize();
  std::ranges::copy(ballots, known_.begin());
  std::memcpy(host_.data(), known_.data(), places_.size_bytes());
  copy_bytes(places_.data(), places_.device(), host_.data(), Device{}, places_.size_bytes(),
             stream);
}

DeviceDecision::DeviceDecision(const DeviceChunk& chunk, int voters)
    : chunk_(chunk), voters_(voters), sums_(sizeof(DeviceSums), chunk.device()) {
  require_countable(chunk.layout(), chunk.chunk(), voters);
  host_ = PinnedBuffer(sums_.size_bytes(), chunk.device());
}

Deciding DeviceDecision::begin(const TallyOptions& options, const VerdictPart& verdict,
                               std::uint64_t* sample, Stream& stream) {
  const BallotChunk& chunk = chunk_.chunk();
  require(
      options.ties == Ties::coin || verdict.held_elements != nullptr || chunk.begin == chunk.end,
      "ties = hold needs held elements");
  fill_zero(sums_.data(), sums_.size_bytes(), stream);
  fill_zero(verdict.held_blocks, at((chunk.last_block - chunk.first_block + 63) / 64 * 8), stream);
  if (sample != nullptr) fill_zero(sample, at(device_sample_words(chunk)) * 8, stream);
  return {.chunk = chunk_.places(),
          .voters = voters_,
          .hold = options.ties == Ties::hold,
          .coin_stream = tie_coin_stream(options.seed, options.step),
          .verdict = verdict,
          .sample = sample,
          .sums = sums_.as<DeviceSums>()};
}

void DeviceDecision::fetch(Stream& stream) const {
  copy_bytes(host_.data(), Device{}, sums_.data(), sums_.device(), sums_.size_bytes(), stream);
}

bool DeviceDecision::read(VoteStatistics& statistics) const {
  const BallotChunk& chunk = chunk_.chunk();
  DeviceSums found;
  std::memcpy(&found, host_.data(), sizeof found);
  statistics.elements = chunk_.layout().real_elements(chunk.begin, chunk.end) - found.held_elements;
  statistics.ties = found.ties;
  statistics.unanimous = found.unanimous;
  statistics.held_blocks = found.held_blocks;
  statistics.blocks = chunk.last_block - chunk.first_block;
  return found.impossible == 0;
}

DeviceComparison::DeviceComparison(const DeviceChunk& chunk, std::size_t voters)
    : chunk_(chunk),
      voters_(voters),
      sums_(chunk.segment_count() * 2 * voters * sizeof(std::int64_t), chunk.device()) {
  host_ = PinnedBuffer(sums_.size_bytes(), chunk.device());
}

void DeviceComparison::compare(const BallotPart* ballots, const std::uint64_t* bits,
                               const std::uint64_t* sample, Stream& stream) {
  fill_zero(sums_.data(), sums_.size_bytes(), stream);
  cuda_vote().compare({.chunk = chunk_.places(),
                       .ballots = ballots,
                       .voters = static_cast<std::int32_t>(voters_),
                       .bits = bits,
                       .sample = sample,
                       .sums = sums_.as<std::int64_t>()},
                      stream);
}

void DeviceComparison::fetch(Stream& stream) const {
  copy_bytes(host_.data(), Device{}, sums_.data(), sums_.device(), sums_.size_bytes(), stream);
}

void DeviceComparison::read(std::span<std::int64_t> agreed, std::span<std::int64_t> compared,
                            SegmentAgreement* by_segment, std::size_t first_voter) const {
  const auto* counts = host_.as<std::int64_t>();
  for (std::size_t s = 0; s < chunk_.segment_count(); ++s)
    for (std::size_t v = 0; v < voters_; ++v) {
      const std::int64_t agrees = counts[2 * s * voters_ + v],
                         has_others = counts[(2 * s + 1) * voters_ + v];
      agreed[v] += agrees;
      compared[v] += has_others;
      if (by_segment != nullptr)
        by_segment->add(chunk_.first_segment() + s, first_voter + v, agrees, has_others);
    }
}

}  // namespace ballot

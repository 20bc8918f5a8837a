#include "collectives/device_tally.h"

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

DeviceTally::DeviceTally(const BallotLayout& layout, const BallotChunk& chunk, int voters,
                         Device device)
    : layout_(layout), chunk_(chunk) {
  require_countable(layout, chunk, voters);
  ballots_.resize(at(voters));
  require(!layout.segments().empty(), "a ballot of no tensor");
  // Words of padding belong to the segment before them.
  first_segment_ = std::min(layout.segment_of(chunk.begin), layout.segments().size() - 1);
  segment_count_ =
      chunk.begin == chunk.end ? 1 : layout.segment_of(chunk.end - 1) + 1 - first_segment_;
  std::vector<DeviceSegment> segments;
  for (const BallotSegment& s : layout.segments().subspan(first_segment_, segment_count_))
    segments.push_back(device_segment(s));
  const std::int64_t first_run = chunk.begin / 64 / kSampleRun;
  const std::int64_t end_run = (chunk.end / 64 + kSampleRun - 1) / kSampleRun;
  work_.samples = chunk.begin == chunk.end ? 0 : end_run - first_run;
  const std::size_t parts_bytes = ballots_.size() * sizeof(BallotPart);
  parts_ = Buffer(parts_bytes, device);
  segments_ = Buffer(segments.size() * sizeof(DeviceSegment), device);
  samples_ = Buffer(at(work_.samples) * sizeof(DeviceSample), device);
  sums_ = Buffer(sums() * 8, device);
  host_ = PinnedBuffer(std::max(parts_bytes, sums_.size_bytes()), device);
  Stream stream(device);
  copy_bytes(segments_.data(), device, segments.data(), Device{}, segments_.size_bytes(), stream);
  stream.synchronize();
  work_.ballots = parts_.as<BallotPart>();
  work_.voters = voters;
  work_.segments = static_cast<std::int32_t>(segments.size());
  work_.layout = segments_.as<DeviceSegment>();
  work_.first_word = chunk.begin / 64;
  work_.words = chunk.word_count();
  work_.first_block = chunk.first_block;
  work_.sample = samples_.as<DeviceSample>();
  work_.sums = sums_.as<DeviceSums>();
}

void DeviceTally::take(std::span<const BallotPart> ballots, Stream& stream) {
  require(ballots.size() == ballots_.size(), "{} ballots, expected {}", ballots.size(),
          ballots_.size());
  const auto equal = [](const BallotPart& a, const BallotPart& b) {
    return a.bits == b.bits && a.abstentions == b.abstentions;
  };
  if (std::ranges::equal(ballots, ballots_, equal)) return;
  stream.synchronize();
  std::ranges::copy(ballots, ballots_.begin());
  std::memcpy(host_.data(), ballots_.data(), parts_.size_bytes());
  copy_bytes(parts_.data(), parts_.device(), host_.data(), Device{}, parts_.size_bytes(), stream);
}

void DeviceTally::count(std::span<const BallotPart> ballots, const TallyOptions& options,
                        const VerdictPart& verdict, Stream& stream) {
  require(options.ties == Ties::coin || verdict.held_elements != nullptr || work_.words == 0,
          "ties = hold needs held elements");
  take(ballots, stream);
  fill_zero(sums_.data(), sums_.size_bytes(), stream);
  fill_zero(verdict.held_blocks, at((chunk_.last_block - chunk_.first_block + 63) / 64 * 8),
            stream);
  work_.hold = options.ties == Ties::hold;
  work_.coin_stream = tie_coin_stream(options.seed, options.step);
  work_.verdict = verdict;
  cuda_vote().tally(work_, stream);
}

void DeviceTally::statistics(VoteStatistics& statistics, Stream& stream) const {
  fetch_statistics(stream);
  stream.synchronize();
  read_statistics(statistics);
}

void DeviceTally::fetch_statistics(Stream& stream) const {
  copy_bytes(host_.data(), Device{}, sums_.data(), sums_.device(), sums_.size_bytes(), stream);
}

void DeviceTally::read_statistics(VoteStatistics& statistics, SegmentAgreement* by_segment) const {
  DeviceSums found;
  std::memcpy(&found, host_.data(), sizeof found);
  const std::int64_t* counts = host_.as<std::int64_t>() + sizeof found / 8;
  const std::size_t voters = ballots_.size();
  statistics.elements = layout_.real_elements(chunk_.begin, chunk_.end) - found.held_elements;
  statistics.ties = found.ties;
  statistics.unanimous = found.unanimous;
  statistics.held_blocks = found.held_blocks;
  statistics.blocks = chunk_.last_block - chunk_.first_block;
  statistics.agreed.assign(voters, 0);
  statistics.compared.assign(voters, 0);
  for (std::size_t s = 0; s < segment_count_; ++s)
    for (std::size_t v = 0; v < voters; ++v) {
      const std::int64_t agreed = counts[2 * s * voters + v],
                         compared = counts[(2 * s + 1) * voters + v];
      statistics.agreed[v] += agreed;
      statistics.compared[v] += compared;
      if (by_segment != nullptr) by_segment->add(first_segment_ + s, v, agreed, compared);
    }
}

}  // namespace ballot

// The flat tally: a chunk's ballots are counted and decided tile by tile, and voters are compared
// on the sampled words.

#include "collectives/tally.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>

#include "collectives/tally_tile.h"
#include "core/error.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

bool get_bit(const std::uint64_t* words, std::int64_t i) {
  return (words[i / 64] >> (i % 64)) & 1u;
}

// Where the agreement of all threads' tiles is added up.
struct ComparisonSums {
  VoteStatistics& statistics;
  SegmentAgreement* by_segment;  // null: not asked for
  std::mutex& mutex;
};

// Agreement of every voter on one thread's tiles, leave-one-out: with c negatives of V, a negative
// voter sees c-1 of the others negative and V-c positive, a positive one c negative and V-c-1
// positive. Added up tensor by tensor: tiles lie in order, so there is little to tell of each.
class VoterComparison {
 public:
  VoterComparison(const BallotLayout& layout, const BallotChunk& chunk,
                  std::span<const BallotPart> ballots, const ComparisonSums& sums)
      : layout_(layout), chunk_(chunk), ballots_(ballots), sums_(sums) {
    std::fill_n(agreed_.begin(), ballots.size(), 0);
    std::fill_n(compared_.begin(), ballots.size(), 0);
  }

  // What of this tile's ballots compare() will need; to be filled while they are counted.
  TileSample& sample_of(const Tile& tile) {
    sample_.count = 0;
    for_each_sample(layout_, chunk_, tile,
                    [&](std::int64_t w, const Stretch& s, std::int64_t inside, std::int64_t) {
                      const std::size_t i = at(sample_.count++);
                      sample_.places[i] = w;
                      blocks_[i] = s.first_block + inside / s.block_words();
                      real_[i] = s.real(inside);
                      segments_[i] = s.segment;
                    });
    std::fill(sample_.places + sample_.count, sample_.places + 8, 0);  // their masks are 0
    return sample_;
  }

  // `voting` null = nobody abstains.
  void compare(const Tile& tile, const TileElection& election, const TileVoting* voting) {
    SampleMasks masks{};
    const std::size_t count = at(sample_.count);
    if (count == 0) return;
    for (std::size_t i = 0; i < count; ++i) {
      const unsigned voters = voting == nullptr ? static_cast<unsigned>(ballots_.size())
                                                : (*voting)[at(blocks_[i] - tile.first_block)];
      if (voters > 0) mask(election, sample_.places[i], voters, real_[i], masks, i);
    }
    if (voting != nullptr)
      for (std::size_t v = 0; v < ballots_.size(); ++v) {
        unsigned votes = 0;
        for (std::size_t i = 0; i < count; ++i)
          votes |= static_cast<unsigned>(!get_bit(ballots_[v].abstentions, blocks_[i])) << i;
        votes_[v] = static_cast<std::uint8_t>(votes);
      }
    const std::uint8_t* const votes = voting == nullptr ? nullptr : votes_.data();
    if (segments_[0] == segments_[count - 1]) {
      compare(segments_[0], masks, votes);
      return;
    }
    for (std::size_t first = 0; first < count;) {  // a tile of several tensors
      std::size_t end = first + 1;
      while (end < count && segments_[end] == segments_[first]) ++end;
      compare(segments_[first], only(masks, first, end), votes);
      first = end;
    }
  }

  // Adds what is left to the sums.
  void finish() { move_on(nullptr); }

 private:
  void compare(const BallotSegment* segment, const SampleMasks& masks, const std::uint8_t* votes) {
    if (segment != segment_) move_on(segment);
    kernels().compare_sample(sample_.words.data(), static_cast<int>(ballots_.size()), masks, votes,
                             agreed_.data(), compared_.data());
  }

  void move_on(const BallotSegment* next) {
    if (segment_ != nullptr) {
      const std::lock_guard lock(sums_.mutex);
      for (std::size_t v = 0; v < ballots_.size(); ++v) {
        sums_.statistics.agreed[v] += agreed_[v];
        sums_.statistics.compared[v] += compared_[v];
        if (sums_.by_segment != nullptr)
          sums_.by_segment->add(at(segment_ - layout_.segments().data()), v, agreed_[v],
                                compared_[v]);
        agreed_[v] = compared_[v] = 0;
      }
    }
    segment_ = next;
  }

  static SampleMasks only(const SampleMasks& masks, std::size_t first, std::size_t end) {
    SampleMasks some{};
    for (std::size_t i = first; i < end; ++i) {
      some.agree_negative[i] = masks.agree_negative[i];
      some.agree_positive[i] = masks.agree_positive[i];
      some.compare_negative[i] = masks.compare_negative[i];
      some.compare_positive[i] = masks.compare_positive[i];
    }
    return some;
  }

  static void mask(const TileElection& election, std::int64_t w, unsigned voters,
                   std::uint64_t real, SampleMasks& masks, std::size_t i) {
    const Comparison half = election.compare(w, voters / 2);
    masks.agree_positive[i] = real & ~(half.more | half.equal);
    if (voters % 2 == 0) {
      masks.agree_negative[i] = real & half.more;  // 2c > V + 1
      masks.compare_negative[i] = masks.compare_positive[i] = real;
    } else {
      const Comparison high = election.compare(w, (voters + 1) / 2);
      masks.agree_negative[i] = real & high.more;
      masks.compare_negative[i] = real & ~high.equal;  // the others are even
      masks.compare_positive[i] = real & ~half.equal;
    }
  }

  const BallotLayout& layout_;
  const BallotChunk& chunk_;
  std::span<const BallotPart> ballots_;
  const ComparisonSums& sums_;
  const BallotSegment* segment_ = nullptr;  // of which agreed_ and compared_ are
  TileSample sample_;
  std::array<const BallotSegment*, 8> segments_;
  std::array<std::int64_t, 8> blocks_;
  std::array<std::uint64_t, 8> real_;
  std::array<std::uint8_t, kMaxVoters> votes_;
  std::array<std::int64_t, kMaxVoters> agreed_, compared_;
};

// One voter that does not abstain elects itself: nobody to count or to compare with.
void copy_tile(const BallotLayout& layout, const BallotChunk& chunk, const Tile& tile,
               const BallotPart& ballot, const VerdictPart& verdict, VoteStatistics& statistics) {
  const std::size_t bytes = at(tile.words) * sizeof(std::uint64_t);
  std::memcpy(verdict.bits + tile.first, ballot.bits + tile.first, bytes);
  if (verdict.held_elements != nullptr) std::memset(verdict.held_elements + tile.first, 0, bytes);
  const std::int64_t begin = chunk.begin + tile.first * 64;
  statistics.unanimous += layout.real_elements(begin, begin + tile.words * 64);
}

}  // namespace

void tally(const BallotLayout& layout, const BallotChunk& chunk,
           std::span<const BallotPart> ballots, const TallyOptions& options,
           const VerdictPart& verdict, VoteStatistics& statistics, SegmentAgreement* by_segment) {
  require_countable(layout, chunk, static_cast<std::int64_t>(ballots.size()));
  require(
      options.ties == Ties::coin || verdict.held_elements != nullptr || chunk.begin == chunk.end,
      "ties = hold needs held elements");
  require(by_segment == nullptr || (by_segment->voters() == ballots.size() &&
                                    by_segment->segments() == layout.segments().size()),
          "agreement by tensor of another vote than that of {} ballots", ballots.size());
  const std::int64_t blocks = chunk.last_block - chunk.first_block;
  statistics.ties = statistics.unanimous = statistics.held_blocks = 0;
  statistics.elements = layout.real_elements(chunk.begin, chunk.end);
  statistics.blocks = blocks;
  statistics.agreed.assign(ballots.size(), 0);
  statistics.compared.assign(ballots.size(), 0);
  if (blocks > 0) std::memset(verdict.held_blocks, 0, at((blocks + 63) / 64 * 8));
  std::mutex mutex;
  const ComparisonSums compared{statistics, by_segment, mutex};
  parallel_tiles(chunk, [&](std::int64_t first, std::int64_t last) {
    TileCounter counter(layout, chunk, ballots);
    TileElection election(layout, chunk, static_cast<int>(ballots.size()), options, verdict);
    VoterComparison comparison(layout, chunk, ballots, compared);
    TileVoting voting;
    VoteStatistics copied;
    for (std::int64_t number = first; number < last; ++number) {
      const Tile tile = tile_of(layout, chunk, number);
      if (ballots.size() == 1 && !counter.has_silent_blocks(tile, ballots[0])) {
        copy_tile(layout, chunk, tile, ballots[0], verdict, copied);
        continue;
      }
      const bool silent = counter.count(tile, election.planes(), kPlaneStride, election.digits(),
                                        voting, &comparison.sample_of(tile));
      election.elect(tile, silent ? &voting : nullptr);
      comparison.compare(tile, election, silent ? &voting : nullptr);
    }
    comparison.finish();
    const TileElection::Sums& sums = election.sums();
    const std::lock_guard lock(mutex);
    statistics.elements -= sums.held_elements;
    statistics.ties += sums.ties;
    statistics.unanimous += sums.unanimous + copied.unanimous;
    statistics.held_blocks += sums.held_blocks;
  });
}

}  // namespace ballot

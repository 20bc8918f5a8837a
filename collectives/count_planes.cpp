// Bit-sliced sums: a node's ballots into planes, planes of all nodes into a verdict.

#include "collectives/count_planes.h"

#include <array>
#include <atomic>
#include <bit>
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

// The sample of a chunk: words of |d| >= 2, then parity bits.
std::int64_t sampled_in(const BallotChunk& chunk) {
  return count_sampled(chunk.begin / 64, chunk.end / 64);
}

// Adds the planes of all parts into the election's, and voters by block. True if some block has
// fewer voters than all.
bool add_parts(std::span<const CountPart> parts, const BallotChunk& chunk, const Tile& tile,
               int voters, TileElection& election, TileVoting& voting) {
  std::fill_n(voting.begin(), tile.blocks, std::uint16_t{0});
  bool add = false;
  for (const CountPart& part : parts) {
    kernels().add_planes(part.planes + tile.first, chunk.word_count(), count_digits(part.voters),
                         tile.words, add, election.planes(), kPlaneStride, election.digits());
    add = true;
    const std::uint16_t* own = part.voting + tile.first_block;
    for (std::size_t b = 0; b < at(tile.blocks); ++b)
      voting[b] = static_cast<std::uint16_t>(voting[b] + own[b]);
  }
  return std::any_of(voting.begin(), voting.begin() + tile.blocks,
                     [&](std::uint16_t count) { return count != voters; });
}

}  // namespace

int count_digits(int voters) {
  return std::bit_width(static_cast<unsigned>(voters));
}

std::int64_t count_words(const BallotChunk& chunk, int voters) {
  return count_digits(voters) * chunk.word_count() + (chunk.last_block - chunk.first_block + 3) / 4;
}

CountPart count_part(std::uint64_t* words, const BallotChunk& chunk, int voters) {
  return {words,
          reinterpret_cast<std::uint16_t*>(words + count_digits(voters) * chunk.word_count()),
          voters};
}

void count_ballots(const BallotLayout& layout, const BallotChunk& chunk,
                   std::span<const BallotPart> ballots, const CountPart& out) {
  require_countable(layout, chunk, out.voters);
  require(ballots.size() == at(out.voters), "{} ballots for the counts of {} voters",
          ballots.size(), out.voters);
  const int digits = count_digits(out.voters);
  parallel_tiles(chunk, [&](std::int64_t first, std::int64_t last) {
    TileCounter counter(layout, chunk, ballots);
    TileVoting voting;
    for (std::int64_t number = first; number < last; ++number) {
      const Tile tile = tile_of(layout, chunk, number);
      const bool silent =
          counter.count(tile, out.planes + tile.first, chunk.word_count(), digits, voting, nullptr);
      std::uint16_t* const own = out.voting + tile.first_block;
      if (silent)
        std::copy_n(voting.begin(), tile.blocks, own);
      else
        std::fill_n(own, tile.blocks, static_cast<std::uint16_t>(out.voters));
    }
  });
}

std::int64_t sample_words(const BallotChunk& chunk) {
  return sampled_in(chunk) + (sampled_in(chunk) + 63) / 64;
}

void tally_counts(const BallotLayout& layout, const BallotChunk& chunk,
                  std::span<const CountPart> parts, const TallyOptions& options,
                  const VerdictPart& verdict, VoteStatistics& statistics, std::uint64_t* sample) {
  int voters = 0;
  for (const CountPart& part : parts) {
    require_countable(layout, chunk, part.voters);
    voters += part.voters;
  }
  require_countable(layout, chunk, voters);
  require(
      options.ties == Ties::coin || verdict.held_elements != nullptr || chunk.begin == chunk.end,
      "ties = hold needs held elements");
  const std::int64_t blocks = chunk.last_block - chunk.first_block;
  if (blocks > 0) std::memset(verdict.held_blocks, 0, at((blocks + 63) / 64 * 8));
  statistics.elements = layout.real_elements(chunk.begin, chunk.end);
  statistics.ties = statistics.unanimous = statistics.held_blocks = 0;
  statistics.blocks = blocks;
  std::uint64_t* const parity = sample == nullptr ? nullptr : sample + sampled_in(chunk);
  if (sample != nullptr) std::memset(sample, 0, at(sample_words(chunk) * 8));
  std::mutex mutex;
  parallel_tiles(chunk, [&](std::int64_t first, std::int64_t last) {
    TileElection election(layout, chunk, voters, options, verdict);
    TileVoting voting;
    for (std::int64_t number = first; number < last; ++number) {
      const Tile tile = tile_of(layout, chunk, number);
      const bool silent = add_parts(parts, chunk, tile, voters, election, voting);
      election.elect(tile, silent ? &voting : nullptr);
      if (sample == nullptr) continue;
      for_each_sample(
          layout, chunk, tile,
          [&](std::int64_t w, const Stretch& s, std::int64_t inside, std::int64_t i) {
            const unsigned count =
                voting[at(s.first_block + inside / s.block_words() - tile.first_block)];
            // |2 c - V| >= 2: c above V / 2 rounded up, or below V / 2 rounded down.
            const Comparison low = election.compare(w, count / 2);
            sample[i] = election.compare(w, count / 2 + count % 2).more | ~(low.more | low.equal);
            const std::atomic_ref<std::uint64_t> word(parity[i / 64]);  // other threads' too
            word.fetch_or(std::uint64_t{count % 2} << (i % 64), std::memory_order_relaxed);
          });
    }
    const TileElection::Sums& sums = election.sums();
    const std::lock_guard lock(mutex);
    statistics.elements -= sums.held_elements;
    statistics.ties += sums.ties;
    statistics.unanimous += sums.unanimous;
    statistics.held_blocks += sums.held_blocks;
  });
}

void compare_voter(const BallotLayout& layout, const BallotChunk& chunk, const BallotPart& ballot,
                   const std::uint64_t* verdict_bits, const std::uint64_t* sample,
                   std::int64_t& agreed, std::int64_t& compared, SegmentAgreement* by_segment,
                   std::size_t voter) {
  require_countable(layout, chunk, 1);
  const std::uint64_t* const parity = sample + sampled_in(chunk);
  std::mutex mutex;
  parallel_tiles(chunk, [&](std::int64_t first, std::int64_t last) {
    const BallotSegment* segment = nullptr;  // of which these are:
    std::int64_t own_agreed = 0, own_compared = 0;
    const auto move_on = [&](const BallotSegment* next) {
      if (segment != nullptr) {
        const std::lock_guard lock(mutex);
        agreed += own_agreed;
        compared += own_compared;
        if (by_segment != nullptr)
          by_segment->add(at(segment - layout.segments().data()), voter, own_agreed, own_compared);
        own_agreed = own_compared = 0;
      }
      segment = next;
    };
    for (std::int64_t number = first; number < last; ++number) {
      const Tile tile = tile_of(layout, chunk, number);
      for_each_sample(layout, chunk, tile,
                      [&](std::int64_t w, const Stretch& s, std::int64_t inside, std::int64_t i) {
                        if (get_bit(ballot.abstentions, s.first_block + inside / s.block_words()))
                          return;
                        if (s.segment != segment) move_on(s.segment);
                        const std::int64_t word = tile.first + w;
                        const std::uint64_t same = ~(ballot.bits[word] ^ verdict_bits[word]);
                        const std::uint64_t real = s.real(inside), firm = sample[i];
                        const std::uint64_t odd = get_bit(parity, i) ? ~std::uint64_t{0} : 0;
                        own_agreed += std::popcount(same & firm & real);
                        // One vote ahead, and that is this voter's: without it the others are even.
                        own_compared += std::popcount(~(same & ~firm & odd) & real);
                      });
    }
    move_on(nullptr);
  });
}

}  // namespace ballot

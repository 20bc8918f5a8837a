// Which ballots are counted where, and the verdict of counted words.

#include "collectives/tally_tile.h"

#include <cstring>

#include "collectives/ballot.h"
#include "collectives/count_planes.h"
#include "core/error.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

// Calls body(bit) for the set bits of [first, first + count), counted from first.
template <class Body>
void for_each_set(const std::uint64_t* words, std::int64_t first, std::int64_t count,
                  const Body& body) {
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t shift = (first + done) % 64;
    const std::int64_t length = std::min(64 - shift, count - done);
    std::uint64_t bits = (words[(first + done) / 64] >> shift) & low_bits(length);
    for (; bits != 0; bits &= bits - 1) body(done + std::countr_zero(bits));
    done += length;
  }
}

std::int64_t count_set(const std::uint64_t* words, std::int64_t first, std::int64_t count) {
  std::int64_t sum = 0;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t shift = (first + done) % 64;
    const std::int64_t length = std::min(64 - shift, count - done);
    sum += std::popcount((words[(first + done) / 64] >> shift) & low_bits(length));
    done += length;
  }
  return sum;
}

}  // namespace

Tile tile_of(const BallotLayout& layout, const BallotChunk& chunk, std::int64_t tile) {
  const std::int64_t first = std::max(chunk.begin, tile * kTileWords * 64);
  const std::int64_t last = std::min(chunk.end, (tile + 1) * kTileWords * 64);
  const std::int64_t first_block = layout.block_of(first);
  return {(first - chunk.begin) / 64, (last - first) / 64, first_block - chunk.first_block,
          layout.block_of(last) - first_block};
}

void require_countable(const BallotLayout& layout, const BallotChunk& chunk, std::int64_t voters) {
  require(voters >= 1 && voters <= kMaxVoters, "{} voters, expected 1 to {}", voters, kMaxVoters);
  require(chunk.begin % kBallotAlignment == 0 && chunk.end % kBallotAlignment == 0 &&
              chunk.begin >= 0 && chunk.begin <= chunk.end && chunk.end <= layout.extent(),
          "chunk [{}, {}) of {} elements", chunk.begin, chunk.end, layout.extent());
}

// ---- counting ----

void TileCounter::find_blocks(const Tile& tile) {
  for_each_stretch(layout_, chunk_, tile.first, tile.first + tile.words, [&](const Stretch& s) {
    const std::int64_t block_words = s.block_words();
    for (std::int64_t w = 0; w < s.words; w += block_words) {
      const std::size_t block = at(s.first_block - tile.first_block + w / block_words);
      block_first_[block] = static_cast<std::uint16_t>(s.word - tile.first + w);
      block_words_[block] = static_cast<std::uint16_t>(block_words);
    }
  });
}

const std::uint64_t* TileCounter::without_silent_blocks(const Tile& tile, const BallotPart& ballot,
                                                        std::uint64_t* copy, TileVoting& voting) {
  std::memcpy(copy, ballot.bits + tile.first, at(tile.words) * 8);
  for_each_set(ballot.abstentions, tile.first_block, tile.blocks, [&](std::int64_t block) {
    const std::size_t b = at(block);
    std::memset(copy + block_first_[b], 0, std::size_t{block_words_[b]} * 8);
    --voting[b];
  });
  return copy;
}

bool TileCounter::has_silent_blocks(const Tile& tile, const BallotPart& ballot) {
  return count_set(ballot.abstentions, tile.first_block, tile.blocks) > 0;
}

bool TileCounter::count(const Tile& tile, std::uint64_t* planes, std::int64_t stride, int digits,
                        TileVoting& voting, TileSample* sample) {
  const Kernels& kernel = kernels();
  std::array<const std::uint64_t*, kBatch> batch;
  int waiting = 0;
  std::size_t sampled = 0;
  bool counted = false, silent = false;
  const auto count_batch = [&] {
    kernel.count_ballots(batch.data(), waiting, tile.words, counted, planes, stride, digits);
    counted = true;
    waiting = 0;
  };
  const auto take_sample = [&](std::size_t voters) {
    for (; sample != nullptr && sampled < voters; ++sampled)
      sample->take(tile, sampled, ballots_[sampled]);
  };
  for (std::size_t voter = 0; voter < ballots_.size(); ++voter) {
    const BallotPart& ballot = ballots_[voter];
    const std::int64_t abstained = count_set(ballot.abstentions, tile.first_block, tile.blocks);
    if (abstained > 0 && !silent) {
      silent = true;
      find_blocks(tile);
      std::fill_n(voting.begin(), tile.blocks, static_cast<std::uint16_t>(ballots_.size()));
    }
    if (abstained > 0 && abstained == tile.blocks) {
      for (std::int64_t b = 0; b < tile.blocks; ++b) --voting[at(b)];
      continue;
    }
    batch[at(waiting)] =
        abstained == 0
            ? ballot.bits + tile.first
            : without_silent_blocks(tile, ballot, copies_.data() + waiting * kTileWords, voting);
    if (++waiting == kBatch) {
      count_batch();
      take_sample(voter + 1);
    }
  }
  if (waiting > 0) count_batch();
  take_sample(ballots_.size());
  if (!counted)
    for (int k = 0; k < digits; ++k) std::memset(planes + k * stride, 0, at(tile.words) * 8);
  return silent;
}

// ---- deciding ----

TileElection::TileElection(const BallotLayout& layout, const BallotChunk& chunk, int voters,
                           const TallyOptions& options, const VerdictPart& verdict)
    : layout_(layout),
      chunk_(chunk),
      verdict_(verdict),
      voters_(voters),
      digits_(count_digits(voters)),
      hold_(options.ties == Ties::hold),
      coin_stream_(tie_coin_stream(options.seed, options.step)) {}

void TileElection::find_real(const Stretch& s, const Tile& tile, const TileVoting* voting) {
  std::uint64_t* const real = real_.data() + (s.word - tile.first);
  std::uint64_t* const voters = voting_words_.data() + (s.word - tile.first);
  const std::int64_t block_words = s.block_words();
  std::int64_t column = s.inside % s.segment->row_stride;
  for (std::int64_t first = 0; first < s.words; first += block_words) {
    const std::uint64_t count =
        voting == nullptr ? static_cast<std::uint64_t>(voters_)
                          : (*voting)[at(s.first_block - tile.first_block + first / block_words)];
    for (std::int64_t w = first; w < first + block_words; ++w, column += 64) {
      if (column == s.segment->row_stride) column = 0;
      voters[w] = count;
      real[w] = low_bits(std::min<std::int64_t>(64, s.segment->cols - column));
      if (count == 0) {
        sums_.held_elements += std::popcount(real[w]);
        real[w] = 0;
      }
    }
  }
  std::fill_n(real + s.words, s.padding, 0);
  std::fill_n(voters + s.words, s.padding, 0);
}

void TileElection::hold_blocks(const Stretch& s, const Tile& tile, const TileVoting& voting) {
  for (std::int64_t b = 0; b < s.words / s.block_words(); ++b) {
    const std::int64_t block = s.first_block + b;  // of the chunk
    if (voting[at(block - tile.first_block)] != 0) continue;
    ++sums_.held_blocks;
    // Shared with other threads' tiles.
    const std::atomic_ref<std::uint64_t> word(verdict_.held_blocks[block / 64]);
    word.fetch_or(std::uint64_t{1} << (block % 64), std::memory_order_relaxed);
  }
}

void TileElection::elect(const Tile& tile, const TileVoting* voting) {
  const Kernels& kernel = kernels();
  for_each_stretch(layout_, chunk_, tile.first, tile.first + tile.words, [&](const Stretch& s) {
    const std::int64_t place = s.word - tile.first;
    const bool uniform = voting == nullptr && s.whole() && s.padding == 0;
    if (!uniform) find_real(s, tile, voting);
    if (voting != nullptr) hold_blocks(s, tile, *voting);
    const Election election{
        .planes = planes_.data() + place,
        .stride = kPlaneStride,
        .digits = digits_,
        .words = s.words + s.padding,
        .voting = voters_,
        .voting_words = voting == nullptr ? nullptr : voting_words_.data() + place,
        .real = uniform ? nullptr : real_.data() + place,
        .hold = hold_,
        .coin_stream = coin_stream_,
        .arena_word = static_cast<std::uint64_t>(s.arena_word(0)),
        .bits = verdict_.bits + s.word,
        .held = verdict_.held_elements == nullptr ? nullptr : verdict_.held_elements + s.word};
    const ElectionSums sums = kernel.elect(election);
    sums_.ties += sums.ties;
    sums_.unanimous += sums.unanimous;
  });
}

Comparison TileElection::compare(std::int64_t w, unsigned value) const {
  Comparison result;
  for (int k = digits_ - 1; k >= 0; --k) {
    const std::uint64_t digit = planes_[at(k * kPlaneStride + w)];
    const std::uint64_t threshold = (value >> k) & 1u ? ~std::uint64_t{0} : 0;
    result.more |= result.equal & digit & ~threshold;
    result.equal &= ~(digit ^ threshold);
  }
  return result;
}

}  // namespace ballot

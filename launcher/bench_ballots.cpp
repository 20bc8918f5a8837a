#include "launcher/bench_ballots.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "collectives/tally_reference.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "optim/replicated_update.h"

namespace ballot {
namespace {

constexpr std::int64_t kLargestPool = std::int64_t{16} << 20;  // elements: 64 MiB
constexpr std::int64_t kShift = 512;  // windows begin at multiples: blocks of zeros stay blocks

// Uniform in (-1, 1); one element in 1,024 and one block of 512 in 64 are exactly zero.
float pool_value(std::uint64_t seed, std::int64_t i) {
  const std::uint64_t random = hash64(seed, 1, static_cast<std::uint64_t>(i));
  if (random % 1024 == 0 || hash64(seed, 2, static_cast<std::uint64_t>(i / 512)) % 64 == 0)
    return 0;
  return static_cast<float>(static_cast<std::int32_t>(random >> 32)) * 0x1p-31f;
}

bool same_bits(const std::uint64_t* one, const std::uint64_t* other, std::int64_t words) {
  return std::equal(one, one + words, other);
}

}  // namespace

BenchBallots::BenchBallots(const BallotLayout& layout, std::uint64_t seed)
    : layout_(layout), seed_(seed) {
  std::int64_t largest = 0;
  for (const BallotSegment& s : layout.segments()) {
    // Whole rows that end on a multiple of 512 elements, but for the segment's last.
    const std::int64_t unit = kBallotAlignment / std::gcd(kBallotAlignment, s.row_stride);
    const std::int64_t rows = std::max(unit, kTileElements / s.row_stride / unit * unit);
    for (std::int64_t row = 0; row < s.rows; row += rows) {
      Tile tile{s, tiles_.size()};
      tile.segment.rows = std::min(rows, s.rows - row);
      tile.segment.arena_offset += row * s.row_stride;
      tile.segment.offset += row * s.row_stride;
      tile.segment.first_block += row * s.row_stride / s.block;
      largest = std::max(largest, tile.segment.extent());
      tiles_.push_back(tile);
    }
  }
  pool_elements_ = std::min(std::max(layout.extent(), 2 * kTileElements), kLargestPool);
  pool_elements_ = std::max(pool_elements_, 2 * largest);
  pool_ = Buffer(static_cast<std::size_t>(pool_elements_) * sizeof(float));
  values_ = Buffer(pool_.size_bytes());
  padded_ = Buffer(static_cast<std::size_t>(largest) * sizeof(float));
  float* pool = pool_.as<float>();
  parallel_for(pool_elements_, 65536, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) pool[i] = pool_value(seed, i);
  });
}

Tensor BenchBallots::direction(int voter, const Tile& tile) {
  const BallotSegment& s = tile.segment;
  const std::uint64_t random = hash64(seed_, static_cast<std::uint64_t>(voter) + 3, tile.number);
  const std::uint64_t places =
      static_cast<std::uint64_t>((pool_elements_ - s.extent()) / kShift + 1);
  float* window = pool_.as<float>() + static_cast<std::int64_t>(random % places) * kShift;
  const auto lying_at = [&s](float* data) {
    return make_matrix(data, DType::f32, s.rows, s.cols, s.row_stride);
  };
  if (s.cols == s.row_stride) return lying_at(window);
  float* target = padded_.as<float>();  // padding is zero
  std::fill_n(target, s.extent(), 0.0f);
  for (std::int64_t row = 0; row < s.rows; ++row)
    std::copy_n(window + row * s.row_stride, s.cols, target + row * s.row_stride);
  return lying_at(target);
}

double BenchBallots::cast(int voter, std::int64_t step, Ballot& ballot) {
  const CastOptions options{.seed = seed_, .step = step, .voter = voter};
  Stream stream;
  double total = 0;
  for (const Tile& tile : tiles_) {
    const Tensor source = direction(voter, tile);
    Stopwatch watch;
    cast_ballot(source, tile.segment, options, {}, ballot, stream);
    total += watch.elapsed();
  }
  return total;
}

double BenchBallots::apply(const Verdict& verdict) {
  const RateFactors factors{.decay = 1e-4f, .step = 1e-3f};
  Stream stream;
  double total = 0;
  std::int64_t at = 0;
  for (const Tile& tile : tiles_) {
    const BallotSegment& s = tile.segment;
    if (at + s.extent() > pool_elements_) at = 0;
    Parameter parameter;
    parameter.shape = {s.name, ParameterKind::hidden_matrix, s.rows, s.cols};
    parameter.offset = s.arena_offset;
    parameter.row_stride = s.row_stride;
    parameter.value =
        make_matrix(values_.as<float>() + at, DType::f32, s.rows, s.cols, s.row_stride);
    parameter.compute = parameter.value;
    at += s.extent();
    Stopwatch watch;
    apply_verdict(verdict, s, factors, parameter, stream);
    total += watch.elapsed();
  }
  return total;
}

bool BenchBallots::is_right(const Tile& tile, const Verdict& verdict, int voters,
                            const VoteOptions& options, std::int64_t step) {
  const BallotSegment& s = tile.segment;
  const BallotLayout layout({s});  // the tile alone; coins keep their places in the arena
  const BallotSegment& alone = layout.segments()[0];
  Stream stream;
  std::vector<Ballot> ballots;
  std::vector<BallotPart> parts;
  for (int v = 0; v < voters; ++v) {
    ballots.emplace_back(layout);
    cast_ballot(direction(v, tile), alone, {.seed = seed_, .step = step, .voter = v}, {},
                ballots.back(), stream);
  }
  for (const Ballot& ballot : ballots)
    parts.push_back({ballot.bits().words(), ballot.abstentions().words()});
  const BallotChunk chunk = layout.chunk(0, 1);
  BitVector bits(layout.extent()), blocks(layout.blocks()),
      elements(options.ties == Ties::hold ? layout.extent() : 0);
  VoteStatistics statistics;
  tally_reference(
      layout, chunk, parts, {options.seed, step, options.ties},
      {bits.words(), blocks.words(), options.ties == Ties::hold ? elements.words() : nullptr},
      statistics);
  const std::int64_t first = s.offset / 64, words = s.extent() / 64;
  if (!same_bits(bits.words(), verdict.bits.words() + first, words)) return false;
  if (options.ties == Ties::hold &&
      !same_bits(elements.words(), verdict.held_elements.words() + first, words))
    return false;
  for (std::int64_t b = 0; b < s.blocks(); ++b)
    if (blocks.get(b) != verdict.held_blocks.get(s.first_block + b)) return false;
  return true;
}

BenchBallots::Check BenchBallots::check(const Verdict& verdict, int voters,
                                        const VoteOptions& options, std::int64_t step, int rank,
                                        int ranks) {
  // The same random order on every rank; the first and the last tile before all others.
  std::vector<std::size_t> order(tiles_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t number) {
    return number == 0 || number + 1 == tiles_.size() ? 0 : hash64(seed_, 4, number);
  };
  std::ranges::sort(order, {}, key);
  Check result;
  std::int64_t budget = kCheckBudget;
  for (std::size_t i = static_cast<std::size_t>(rank); i < order.size();
       i += static_cast<std::size_t>(ranks)) {
    const Tile& tile = tiles_[order[i]];
    const std::int64_t count = tile.segment.rows * tile.segment.cols;
    if (result.elements > 0 && budget < count * voters) break;
    budget -= count * voters;
    result.elements += count;
    if (is_right(tile, verdict, voters, options, step)) continue;
    if (result.wrong++ == 0) result.first_wrong = tile.segment.offset;
  }
  return result;
}

std::uint64_t BenchBallots::digest(const Verdict& verdict) {
  std::uint64_t sum = 0, salt = 0;
  for (const BitVector* bits : {&verdict.bits, &verdict.held_blocks, &verdict.held_elements}) {
    ++salt;
    std::uint64_t place = 0;
    for (const std::uint64_t word : bits->span()) sum += mix64(word ^ mix64(salt << 56 ^ place++));
  }
  return sum;
}

}  // namespace ballot

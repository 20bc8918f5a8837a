// Layouts and ballots made from a seed, the same on every rank, so that each rank can compute
// everybody's truth.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "collectives/ballot.h"
#include "collectives/tally.h"
#include "collectives/tally_reference.h"

namespace ballot::test {

// cast_ballot() of the CPU, from memory that lies like the segment.
inline std::int64_t cast(const std::vector<float>& direction, const BallotSegment& s,
                         const CastOptions& options, std::span<const std::uint8_t> silent_rows,
                         Ballot& ballot) {
  Stream stream;
  const Tensor x =
      make_matrix(const_cast<float*>(direction.data()), DType::f32, s.rows, s.cols, s.row_stride);
  return cast_ballot(x, s, options, silent_rows, ballot, stream);
}

inline constexpr std::uint64_t kSeed = 7;

inline BallotLayout make_layout(const std::vector<std::vector<std::int64_t>>& rows_cols_stride) {
  std::vector<BallotSegment> segments;
  std::int64_t arena = 1024;  // not the ballot's own offsets: coins must follow the arena
  for (const auto& shape : rows_cols_stride) {
    BallotSegment s;
    s.name = "tensor." + std::to_string(segments.size());
    s.rows = shape[0];
    s.cols = shape[1];
    s.row_stride = shape.size() > 2 ? shape[2] : (shape[1] + 63) / 64 * 64;
    s.arena_offset = arena;
    arena += (s.extent() + 511) / 512 * 512 + 512;
    segments.push_back(s);
  }
  return BallotLayout(segments);
}

// Row strides from 64 to 1536, among them those whose largest power of two is small (192, 576,
// 960).
inline BallotLayout random_layout(std::mt19937_64& random) {
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  std::vector<std::vector<std::int64_t>> shapes;
  for (std::int64_t n = pick(1, 5); n > 0; --n) {
    const std::int64_t stride = 64 * pick(1, 24);
    const std::int64_t cols =
        pick(0, 2) == 0 ? stride : std::max<std::int64_t>(1, stride - pick(0, 130));
    shapes.push_back({pick(1, 9), cols, stride});
  }
  return make_layout(shapes);
}

enum class Mood { random, unanimous, silent };  // silent: most blocks abstain

// Ballots as a voter could have cast them: padding 0, abstaining blocks 0.
inline std::vector<std::unique_ptr<Ballot>> random_ballots(const BallotLayout& layout, int voters,
                                                           Mood mood, std::mt19937_64& random) {
  std::vector<std::unique_ptr<Ballot>> ballots;
  const std::uint64_t common = random();
  for (int v = 0; v < voters; ++v) {
    auto ballot = std::make_unique<Ballot>(layout);
    for (const BallotSegment& s : layout.segments())
      for (std::int64_t b = 0; b < s.blocks(); ++b) {
        const bool padding = b * s.block % s.row_stride >= s.cols;
        const std::uint64_t chance = mood == Mood::silent ? 90 : mood == Mood::random ? 10 : 0;
        const bool abstains = padding || random() % 100 < chance;
        ballot->abstentions().words()[(s.first_block + b) / 64] |=
            static_cast<std::uint64_t>(abstains) << ((s.first_block + b) % 64);
        if (abstains) continue;
        for (std::int64_t w = 0; w < s.block / 64; ++w) {
          const std::int64_t inside = b * s.block + w * 64;
          const std::int64_t real = std::clamp<std::int64_t>(s.cols - inside % s.row_stride, 0, 64);
          const std::uint64_t bits =
              mood == Mood::unanimous ? common * 0x9e3779b97f4a7c15ull : random();
          ballot->bits().words()[(s.offset + inside) / 64] = bits & low_bits(real);
        }
      }
    ballots.push_back(std::move(ballot));
  }
  return ballots;
}

// A verdict over the words of one chunk, with the memory it points to.
struct ChunkVerdict {
  ChunkVerdict(const BallotChunk& chunk, Ties ties)
      : bits(static_cast<std::size_t>(chunk.word_count()),
             ~std::uint64_t{0}),  // filled, so that what is not written shows
        held_blocks(static_cast<std::size_t>((chunk.last_block - chunk.first_block + 63) / 64),
                    ~std::uint64_t{0}),
        held_elements(ties == Ties::hold ? bits.size() : 0, ~std::uint64_t{0}) {}
  VerdictPart part() {
    return {bits.data(), held_blocks.data(),
            held_elements.empty() ? nullptr : held_elements.data()};
  }
  std::vector<std::uint64_t> bits, held_blocks, held_elements;
  VoteStatistics statistics;
  SegmentAgreement by_segment;  // where asked for
};

// The ballots' parts that lie in a chunk, with the memory of the shifted abstentions.
struct ChunkBallots {
  ChunkBallots(const std::vector<std::unique_ptr<Ballot>>& ballots, const BallotChunk& chunk) {
    for (const auto& ballot : ballots) {
      abstentions.emplace_back(
          static_cast<std::size_t>((chunk.last_block - chunk.first_block + 63) / 64 + 1));
      copy_bits(ballot->abstentions().words(), chunk.first_block, abstentions.back().data(), 0,
                chunk.last_block - chunk.first_block);
      parts.push_back({ballot->bits().words() + chunk.begin / 64, abstentions.back().data()});
    }
  }
  std::vector<std::vector<std::uint64_t>> abstentions;
  std::vector<BallotPart> parts;
};

// The truth over the whole ballot: one chunk, plain loops.
inline ChunkVerdict whole_reference(const BallotLayout& layout,
                                    const std::vector<std::unique_ptr<Ballot>>& ballots,
                                    const TallyOptions& options,
                                    SegmentAgreement* by_segment = nullptr) {
  const BallotChunk chunk = layout.chunk(0, 1);
  ChunkVerdict verdict(chunk, options.ties);
  tally_reference(layout, chunk, ChunkBallots(ballots, chunk).parts, options, verdict.part(),
                  verdict.statistics, by_segment);
  return verdict;
}

}  // namespace ballot::test

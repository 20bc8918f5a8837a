// A model small enough for millions of steps, and real enough to tell histories apart: 32 voted
// parameters, each moved by the 64 bits of its word of the verdict, and 3 that AdamW moves by the
// mean gradient. All arithmetic is float in a fixed order, so equal histories give equal bits.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "runtime/journal/record.h"
#include "runtime/protocol/ledger.h"
#include "runtime/protocol/worker_core.h"

namespace ballot::sim {

inline constexpr std::int64_t kUnits = 4;  // of 512 elements: chunks are whole units
inline constexpr std::int64_t kWords = kUnits * 8;
inline constexpr std::size_t kUnvoted = 3;

struct ToyModel {
  std::array<float, static_cast<std::size_t>(kWords)> voted{};
  std::array<float, kUnvoted> unvoted{}, m{}, v{};
  std::int64_t count = 0;  // AdamW's own steps
  Position position;

  explicit ToyModel(std::uint64_t seed);
  // `as_update`: the mutation whose journal has the update in place of the mean.
  void apply(const Record& record, const Position& after, bool as_update);
  void flip(int bit);     // of a voted parameter's mantissa
  Digest digest() const;  // of everything above
};

Position genesis(std::uint64_t seed);

// What one worker casts for these samples, computed on `model`: depends on all three.
struct ToyBallot : BallotData {
  // Whose it truly is, beside what its frames say.
  std::int32_t worker = 0;
  Position base;
  SampleRange samples;
  std::vector<std::uint64_t> all_bits;  // of all chunks; `bits` is unused
};
std::shared_ptr<const ToyBallot> compute_ballot(const ToyModel& model, std::int32_t worker,
                                                const SampleRange& samples);

// Elements of chunk `chunk` of `chunks`; some are empty.
SampleRange chunk_elements(std::int32_t chunk, std::int32_t chunks);

// The owner's tally: bitwise majority, ties by a shared coin; in chunk 0 the means too.
ChunkVerdict tally_chunk(const DecideChunk& decision,
                         const std::vector<std::shared_ptr<const ToyBallot>>& ballots,
                         const ToyModel& model, bool as_update);
// That mutation's journal: the update alone.
Record without_means(Record record);

}  // namespace ballot::sim

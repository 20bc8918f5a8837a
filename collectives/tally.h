// Counting ballots into a verdict, exactly.
//
// Per element, over the ballots whose block did not abstain: more negatives than positives -> 1,
// fewer -> 0. A tie is the shared coin of (seed, step, element), or holds the element. All
// abstained -> the block is held. A word has one set of voters (a block is at least 64 elements),
// so counting is bit-sliced: a count's binary digits are words. tally_reference.h is the slow
// truth.
#pragma once

#include <cstdint>
#include <span>

#include "collectives/ballot_layout.h"
#include "collectives/verdict.h"

namespace ballot {

inline constexpr std::int64_t kAgreementSample = 8;  // words

struct TallyOptions {
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  Ties ties = Ties::coin;
};

// One voter's part of a chunk: word_count() words of bits, and one bit per block of the chunk from
// bit 0.
struct BallotPart {
  const std::uint64_t* bits;
  const std::uint64_t* abstentions;
};

// What an owner decides for its chunk; same shapes. held_elements may be null with ties = coin.
struct VerdictPart {
  std::uint64_t* bits;
  std::uint64_t* held_blocks;
  std::uint64_t* held_elements;
};

// Up to 1024 voters. Statistics are of this chunk alone; agreed and compared are sized to the
// voters.
void tally(const BallotLayout& layout, const BallotChunk& chunk,
           std::span<const BallotPart> ballots, const TallyOptions& options,
           const VerdictPart& verdict, VoteStatistics& statistics);

}  // namespace ballot

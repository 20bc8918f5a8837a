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
#include "collectives/segment_agreement.h"
#include "collectives/verdict.h"
#include "core/hash.h"

namespace ballot {

inline constexpr int kMaxVoters = 1024;

// Agreement is measured on a sample: one word in each run of 64 words of the ballot, chosen by a
// hash of the run, so that it is the same for every chunking and schedule. (A fixed stride would
// look at the same columns of a matrix in every row.)
inline constexpr std::int64_t kSampleRun = 64;  // words
constexpr std::int64_t sampled_word(std::int64_t run) {
  return run * kSampleRun + static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(run)) % 64);
}
constexpr bool is_sampled(std::int64_t word) {
  return sampled_word(word / kSampleRun) == word;
}

// Calls body(word of the ballot) for the sampled words of [first, last), in order.
template <class Body>
void for_each_sampled_word(std::int64_t first, std::int64_t last, const Body& body) {
  for (std::int64_t run = first / kSampleRun; run * kSampleRun < last; ++run) {
    const std::int64_t word = sampled_word(run);
    if (word >= first && word < last) body(word);
  }
}

// How many words of [first, last) are sampled.
constexpr std::int64_t count_sampled(std::int64_t first, std::int64_t last) {
  if (first >= last) return 0;
  const std::int64_t first_run = first / kSampleRun, last_run = (last - 1) / kSampleRun;
  return last_run - first_run + 1 - (sampled_word(first_run) < first) -
         (sampled_word(last_run) >= last);
}

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
// voters. The same two, tensor by tensor, are added to `by_segment`, unless it is null.
void tally(const BallotLayout& layout, const BallotChunk& chunk,
           std::span<const BallotPart> ballots, const TallyOptions& options,
           const VerdictPart& verdict, VoteStatistics& statistics,
           SegmentAgreement* by_segment = nullptr);

}  // namespace ballot

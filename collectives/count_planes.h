// Counts of negatives as bit planes, for votes in which nobody has all the ballots: a node adds up
// its own voters' ballots, planes of several nodes are added, and the verdict is decided from the
// sum: the hierarchical exact tally.
//
// Plane k of a CountPart holds digit k of every element's count, in the order of the chunk's words;
// beside the planes stands how many voters did not abstain, block by block. Both are sums, so any
// grouping of the voters gives the same sum, and tally_counts() gives the bits of tally() on all
// the ballots. Bits of voters that abstain are left out of the planes; padding counts as the
// ballots have it and is ignored.
//
// A node of G voters sends bit_width(G) bits per element and 16 bits per block, where G ballots
// would be G bits per element and G per block.
#pragma once

#include <cstdint>
#include <span>

#include "collectives/ballot_layout.h"
#include "collectives/tally.h"

namespace ballot {

// Planes that counts of up to `voters` need.
int count_digits(int voters);

// The counts of one chunk over `voters` voters, 1 to 1024.
struct CountPart {
  std::uint64_t* planes;  // count_digits(voters) planes of word_count() words each
  std::uint16_t* voting;  // by block of the chunk, from its first
  int voters;
};

// Where a CountPart lies in one piece of memory: planes, then `voting`, in whole words.
std::int64_t count_words(const BallotChunk& chunk, int voters);
CountPart count_part(std::uint64_t* words, const BallotChunk& chunk, int voters);

// Adds up `ballots` (as many as out.voters) into `out`, every word of which is written but the end
// of the last word of `voting`.
void count_ballots(const BallotLayout& layout, const BallotChunk& chunk,
                   std::span<const BallotPart> ballots, const CountPart& out);

// The verdict of all the parts' voters together, up to 1024. Statistics are those of tally(), but
// `agreed` and `compared` stay as they are. `sample` may be null; else sample_words(chunk) words
// are written there, from which every voter finds its own agreement.
void tally_counts(const BallotLayout& layout, const BallotChunk& chunk,
                  std::span<const CountPart> parts, const TallyOptions& options,
                  const VerdictPart& verdict, VoteStatistics& statistics, std::uint64_t* sample);

// What a voter must know to compare itself with the others, leave-one-out, without their ballots:
// per element of a sampled word the difference d of negatives and positives takes five cases (d >=
// 2, 1, 0, -1, d <= -2), and d has the parity of the number of voters. The verdict says the sign of
// d where d is not 0; so one more bit per element, |d| >= 2, and one per word, the parity, say
// which case it is. Order: a word of |d| >= 2 for each sampled word of the chunk, then the parity
// bits (1 = odd), 64 in a word.
std::int64_t sample_words(const BallotChunk& chunk);

// Adds this voter's agreement with the others in this chunk, as tally() measures it. `ballot` must
// be the one that was counted, `verdict_bits` and `sample` what tally_counts() decided. The same,
// tensor by tensor, is added to `by_segment` as of its voter `voter`, unless it is null.
void compare_voter(const BallotLayout& layout, const BallotChunk& chunk, const BallotPart& ballot,
                   const std::uint64_t* verdict_bits, const std::uint64_t* sample,
                   std::int64_t& agreed, std::int64_t& compared,
                   SegmentAgreement* by_segment = nullptr, std::size_t voter = 0);

}  // namespace ballot

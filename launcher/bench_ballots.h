// Ballots, verdict and parameters of a benchmark: made from a seed, so that every rank can make
// every voter's ballot again and hold the verdict against the scalar tally.
//
// A ballot is cast and checked tile by tile: whole rows, at most kTileElements. A tile's direction
// is a window of a pool of fp32 values, another one for each voter and tile; among them are exact
// zeros and blocks of zeros, so coins and abstentions take part. One pool a rank, large enough that
// a pass over a large ballot reads memory rather than a cache. One thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "collectives/ballot.h"
#include "collectives/verdict.h"
#include "collectives/vote.h"
#include "core/buffer.h"

namespace ballot {

class BenchBallots {
 public:
  static constexpr std::int64_t kTileElements = std::int64_t{1} << 20;

  // `layout` must outlive it.
  BenchBallots(const BallotLayout& layout, std::uint64_t seed);

  // Casts this voter's ballot of `step`; the seconds that cast_ballot() took (from fp32 to bits).
  double cast(int voter, std::int64_t step, Ballot& ballot);
  // Applies it to parameters; the seconds that apply_verdict() took.
  double apply(const Verdict& verdict);

  struct Check {
    std::int64_t elements = 0;      // compared with the scalar tally by this rank
    std::int64_t wrong = 0;         // tiles that differ
    std::int64_t first_wrong = -1;  // element at which the first of them begins
  };
  // This rank's share of the tiles against tally_reference(). All ranks together check the whole
  // verdict, or, where that would be more than kCheckBudget voter-elements a rank, the first and
  // the last tile and a random sample of the others.
  Check check(const Verdict& verdict, int voters, const VoteOptions& options, std::int64_t step,
              int rank, int ranks);
  static constexpr std::int64_t kCheckBudget = std::int64_t{1} << 27;

  // Equal on two ranks exactly when their verdicts are (64 bits of hash).
  static std::uint64_t digest(const Verdict& verdict);

 private:
  struct Tile {
    BallotSegment segment;  // rows of a segment of the layout, with their places in the ballot
    std::size_t number = 0;
  };
  Tensor direction(int voter, const Tile& tile);
  bool is_right(const Tile& tile, const Verdict& verdict, int voters, const VoteOptions& options,
                std::int64_t step);

  const BallotLayout& layout_;
  std::uint64_t seed_;
  std::vector<Tile> tiles_;
  std::int64_t pool_elements_ = 0;
  Buffer pool_, values_, padded_;
};

}  // namespace ballot

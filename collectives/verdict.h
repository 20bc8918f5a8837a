// The elected bits of a step: the only thing applied to parameters of voted groups.
//
// A held block had no ballot: it takes weight decay and no step. With ties = hold, held_elements
// has one more bit per element (1 = do not move); with ties = coin it is empty. Bits of held
// blocks, held elements and padding are 0 in `bits`; held_elements names single tied elements only,
// never those of a held block. A block with no real element is held.
#pragma once

#include <cstdint>
#include <vector>

#include "collectives/ballot_layout.h"
#include "collectives/bit_vector.h"
#include "core/buffer.h"

namespace ballot {

enum class Ties { coin, hold };

// Over the whole ballot, the same on every worker. Shares are of real elements in blocks that were
// not held.
struct VoteStatistics {
  std::int64_t elements = 0;  // counted elements
  std::int64_t ties = 0;
  std::int64_t unanimous = 0;
  std::int64_t held_blocks = 0;
  std::int64_t blocks = 0;
  // Per voter, leave-one-out: of the `compared` elements where the majority of the OTHER ballots is
  // decided, how many have this voter's sign. Chance is one half for every W >= 2. From a fixed
  // sample of words (tally.h: one in 64), the same for every schedule.
  std::vector<std::int64_t> agreed;
  std::vector<std::int64_t> compared;
  bool operator==(const VoteStatistics&) const = default;
};

struct Verdict {
  BitVector bits;
  BitVector held_blocks;
  BitVector held_elements;
  VoteStatistics statistics;
  // Words of bits and of held_elements in a GPU's memory too, where they were counted there; else
  // empty.
  Buffer device_bits, device_held_elements;
};

}  // namespace ballot

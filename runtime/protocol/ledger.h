// Which samples are not used yet: every voter's range is drawn from it and goes from it only when a
// step has counted that voter (R6 of docs/protocol.md).
//
// "Used" means counted in exactly one step of the record chain. A range of a voter that died or was
// late was never removed, so it is drawn again, first of all. The ledger is the complement of what
// was used, in one canonical form: `next` is the end of the furthest range ever used, `unused` what
// lies below it, ascending, not touching each other. So it is a pure function of the record chain.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/protocol/sample_range.h"

namespace ballot {

struct Ledger {
  std::int64_t next = 0;            // nothing at or above it was used
  std::vector<SampleRange> unused;  // below `next`
  auto operator<=>(const Ledger&) const = default;
};

// Who draws what in the next step: `kept` ranges stay with their voters (the first step of a term);
// the other voters, ascending, take the ledger's front. A range is one stretch of at most
// `per_voter` samples: fewer where an unused stretch is shorter (only if `per_voter` changed).
// `kept` must be unused and disjoint.
std::vector<VoterRange> assignment(const Ledger& ledger, std::int32_t voters,
                                   std::int64_t per_voter, std::span<const VoterRange> kept);

// The ledger after a step that counted the ranges of these voters; ranges of others stay. Bit v of
// `counted` (64 voters a word) is voter v. A range that is not wholly unused is a LogicError.
Ledger remove_counted(const Ledger& ledger, std::span<const VoterRange> drawn,
                      std::span<const std::uint64_t> counted);

// After a record: what it counted is gone.
struct Record;
Ledger ledger_after(const Ledger& ledger, const Record& record);

// Whether all of `range` is unused.
bool is_unused(const Ledger& ledger, const SampleRange& range);

}  // namespace ballot

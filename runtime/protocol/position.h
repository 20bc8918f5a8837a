// Where a history stands: the step, and the digest of the record chain up to it, so that a position
// names a whole history.
//
// The chain: digest(0) = genesis (of the run's configuration and starting parameters),
// digest(s) = H(digest(s-1), record s) as runtime/journal/record.h says.
#pragma once

#include <compare>
#include <cstdint>

#include "core/digest.h"

namespace ballot {

struct Position {
  std::int64_t step = 0;  // steps done
  Digest digest;
  auto operator<=>(const Position&) const = default;
};

}  // namespace ballot

// A stretch of sample ids, and whose it is in a step.
#pragma once

#include <compare>
#include <cstdint>

namespace ballot {

struct SampleRange {
  std::int64_t begin = 0, end = 0;  // [begin, end)
  std::int64_t count() const { return end - begin; }
  auto operator<=>(const SampleRange&) const = default;
};

struct VoterRange {
  std::int32_t voter = 0;
  SampleRange samples;
  auto operator<=>(const VoterRange&) const = default;
};

}  // namespace ballot

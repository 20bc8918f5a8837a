// What a step left: the digest of the parameters after it, which replaying must reproduce.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/digest.h"

namespace ballot {

struct AppliedRecord {
  std::int64_t step = 0;
  std::uint64_t parameters = 0;        // the folded digest of all tensors
  std::int64_t tokens_total = 0;       // for the run's record: tokens of all workers so far
  std::vector<std::uint64_t> tensors;  // one digest each, in the order of the arena; may be empty
  bool operator==(const AppliedRecord&) const = default;
};

std::vector<std::byte> encode(const AppliedRecord& applied);
AppliedRecord decode_applied(std::span<const std::byte> bytes, std::string_view source,
                             std::uint64_t offset = 0);

}  // namespace ballot

// Which part of a tensor a member's file of momentum holds, as its metadata says it: "part.NAME" =
// "rows 0 640" or "columns 512 1024", the end not included. A tensor without it is there whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/tensor_part.h"

namespace ballot {

std::string part_key(const std::string& tensor);
std::string part_text(const TensorPart& part);

// Of a side that is so long: [begin, end); none where the text says nothing such.
struct PartRange {
  std::int64_t begin = 0, end = 0;
};
std::optional<PartRange> parse_part(std::string_view text, bool by_columns, std::int64_t side);

}  // namespace ballot

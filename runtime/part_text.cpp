#include "runtime/part_text.h"

#include <fmt/format.h>

#include <charconv>

namespace ballot {

std::string part_key(const std::string& tensor) {
  return "part." + tensor;
}

std::string part_text(const TensorPart& part) {
  return fmt::format("{} {} {}", part.by_columns ? "columns" : "rows", part.begin, part.end);
}

std::optional<PartRange> parse_part(std::string_view text, bool by_columns, std::int64_t side) {
  const std::string_view name = by_columns ? "columns " : "rows ";
  if (!text.starts_with(name)) return std::nullopt;
  text.remove_prefix(name.size());
  const char* const last = text.data() + text.size();
  PartRange range;
  const auto first = std::from_chars(text.data(), last, range.begin);
  if (first.ec != std::errc{} || first.ptr == last || *first.ptr != ' ') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, last, range.end);
  const bool fits = range.begin >= 0 && range.begin < range.end && range.end <= side;
  if (second.ec != std::errc{} || second.ptr != last || !fits) return std::nullopt;
  return range;
}

}  // namespace ballot

// JSON objects of a checkpoint's own files: a field that is missing or of the wrong type is a
// CorruptFile that names file and field. Included by .cpp files only.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "models/strict_json.h"

namespace ballot {

inline nlohmann::json parse_json_object(const std::string& text, const std::string& path) {
  nlohmann::json parsed = parse_strict_json(text, path);
  if (!parsed.is_object()) throw CorruptFile("{} is not a JSON object", path);
  return parsed;
}

// `T` is std::int64_t, std::string or nlohmann::json.
template <class T>
T json_field(const nlohmann::json& object, const char* name, const std::string& path) {
  const auto found = object.find(name);
  if (found == object.end()) throw CorruptFile("{} has no \"{}\"", path, name);
  if constexpr (std::is_same_v<T, nlohmann::json>) {
    return *found;
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!found->is_string())
      throw CorruptFile("{}: \"{}\" is {}, expected a string", path, name, shown(*found));
    return found->template get<std::string>();
  } else {
    static_assert(std::is_same_v<T, std::int64_t>);
    const bool fits =
        found->is_number_integer() &&
        (!found->is_number_unsigned() || found->template get<std::uint64_t>() <= INT64_MAX);
    if (!fits)
      throw CorruptFile("{}: \"{}\" is {}, expected a whole number", path, name, shown(*found));
    return found->template get<std::int64_t>();
  }
}

}  // namespace ballot

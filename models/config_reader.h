// The keys of a config.json, read one by one; what is wrong is collected, so that all of it is told
// at once.
//
// Included by .cpp files only, so that nlohmann's header stays out of ours. The object must outlive
// the reader.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "models/strict_json.h"

namespace ballot {

class ConfigReader {
 public:
  explicit ConfigReader(const nlohmann::json& object) : object_(object) {}

  std::vector<std::string> problems;

  template <class... Args>
  void complain(fmt::format_string<Args...> format, Args&&... args) {
    problems.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  // The value, or nullptr when the key is absent or null: transformers treats both alike.
  const nlohmann::json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  // A whole number in [low, high]; `low` when it is not one, so that later checks stay harmless.
  std::int64_t whole(const char* key, std::optional<std::int64_t> fallback, std::int64_t low,
                     std::int64_t high) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      complain("{} is missing, expected a whole number in [{}, {}]", key, low, high);
      return low;
    }
    if (const std::optional<std::int64_t> number = as_whole(*value);
        number && low <= *number && *number <= high)
      return *number;
    complain("{} is {}, expected a whole number in [{}, {}]", key, shown(*value), low, high);
    return low;
  }

  // A number in (low, high).
  double real(const char* key, double fallback, double low, double high) {
    const nlohmann::json* value = find(key);
    return value == nullptr ? fallback : real_value(key, *value, fallback, low, high);
  }
  double real_value(const char* key, const nlohmann::json& value, double fallback, double low,
                    double high) {
    if (value.is_number() && value.get<double>() > low && value.get<double>() < high)
      return value.get<double>();
    complain("{} is {}, expected a number between {} and {}", key, shown(value), low, high);
    return fallback;
  }

  bool boolean(const char* key, bool fallback) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    complain("{} is {}, expected true or false", key, shown(*value));
    return fallback;
  }

  // A key that may only have one value, because nothing else is implemented.
  void only(const char* key, const nlohmann::json& supported) {
    const nlohmann::json* value = find(key);
    if (value != nullptr && *value != supported)
      complain("{} = {} is not supported, expected {}", key, shown(*value), shown(supported));
  }

  // An id or a list of ids, none of them twice; none where it is null. Absent: `fallback`, if the
  // vocabulary has it.
  std::vector<std::int64_t> tokens(const char* key, std::int64_t fallback,
                                   std::int64_t vocabulary) {
    const auto found = object_.find(key);
    std::vector<std::int64_t> ids;
    if (found == object_.end() && fallback < vocabulary) ids.push_back(fallback);
    if (found == object_.end() || found->is_null()) return ids;
    for (const nlohmann::json& value :
         found->is_array() ? *found : nlohmann::json::array({*found})) {
      const std::optional<std::int64_t> id = as_whole(value);
      if (!id || *id < 0 || *id >= vocabulary)
        complain("{} is {}, expected a token in [0, {})", key, shown(value), vocabulary);
      else if (std::find(ids.begin(), ids.end(), *id) == ids.end())
        ids.push_back(*id);
    }
    return ids;
  }

  // An id or a list of ids, of which the first is taken: the one that transformers' tokenizers
  // write.
  std::int64_t token(const char* key, std::int64_t fallback, std::int64_t vocabulary) {
    const auto found = object_.find(key);
    if (found == object_.end()) return fallback < vocabulary ? fallback : -1;
    if (found->is_null()) return -1;
    const nlohmann::json& value = found->is_array() && !found->empty() ? found->front() : *found;
    if (const std::optional<std::int64_t> id = as_whole(value); id && *id >= 0 && *id < vocabulary)
      return *id;
    complain("{} is {}, expected a token in [0, {})", key, shown(value), vocabulary);
    return -1;
  }

 private:
  static std::optional<std::int64_t> as_whole(const nlohmann::json& value) {
    if (value.is_number_unsigned() &&
        value.get<std::uint64_t>() <=
            static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return static_cast<std::int64_t>(value.get<std::uint64_t>());
    if (value.is_number_integer() && !value.is_number_unsigned()) return value.get<std::int64_t>();
    return std::nullopt;
  }

  const nlohmann::json& object_;
};

}  // namespace ballot

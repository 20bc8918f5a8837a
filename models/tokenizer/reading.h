// What the parts of a tokenizer.json are read with: members, flags and a list of what is refused.
//
// Included by .cpp files and this folder's own headers only: it brings in nlohmann's header.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/strict_json.h"

namespace ballot {

constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;

// Collects what a tokenizer.json asks for and this reader does not do, so that a user sees all of
// it at once.
class Refusals {
 public:
  explicit Refusals(std::string path) : path_(std::move(path)) {}
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    add_text(fmt::format(format, std::forward<Args>(args)...));
  }
  void throw_if_any() const;  // DataError

 private:
  void add_text(std::string problem);

  std::string path_;
  std::vector<std::string> problems_;
  std::size_t left_out_ = 0;  // beyond the first few
};

// A member of an object; null where it has none or is no object.
const nlohmann::json& member(const nlohmann::json& object, const char* key);

bool is_false_or_absent(const nlohmann::json& value);
bool is_empty_or_absent(const nlohmann::json& value);

// A token's id in [0, kMaxVocabulary).
std::optional<std::int32_t> as_token(const nlohmann::json& value);

// object[key] as a flag; `otherwise` where it is absent or null. `where` names the object.
bool read_flag(const nlohmann::json& object, const char* key, bool otherwise,
               std::string_view where, Refusals& refusals);

// The members of a {"type": "Sequence", <list>: [...]}, else the value itself alone; none of null.
std::vector<const nlohmann::json*> steps_of(const nlohmann::json& value, const char* list,
                                            std::string_view where, Refusals& refusals);

}  // namespace ballot

// A pattern of a tokenizer.json, {"String": ...} or {"Regex": ...}, and where it matches a text.
//
// The `tokenizers` library gives regular expressions to Oniguruma, we to PCRE2. What both read
// alike is taken over, what can be said to PCRE2 in other words is translated, the rest is refused.
// Bytes that are no UTF-8 are in no match, and end the text for what stands before them. Immutable
// and copied cheaply; safe from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/reading.h"

namespace ballot {

// A stretch of a text, in bytes: a match, or what lies between two.
struct Stretch {
  std::size_t begin = 0, end = 0;
  bool matched = false;
};

class Pattern {
 public:
  static Pattern literal(std::string text);  // not empty
  // A regular expression in Oniguruma's words; none, and a refusal, where we cannot follow it.
  static std::optional<Pattern> regex(const std::string& expression, std::string_view where,
                                      Refusals& refusals);
  // A {"String": ...} or {"Regex": ...}.
  static std::optional<Pattern> read(const nlohmann::json& value, std::string_view where,
                                     Refusals& refusals);

  // The text from end to end, cut into matches and what lies between them. DataError where the
  // expression takes too long on this text.
  void cut(std::string_view text, std::vector<Stretch>& stretches) const;

 private:
  struct Compiled;
  void match(std::string_view text, std::size_t offset, std::vector<Stretch>& found) const;

  std::string text_;                          // a literal's
  std::shared_ptr<const Compiled> compiled_;  // null: a literal
};

// An Oniguruma expression in PCRE2's words. What has no such words is told by `problem`.
std::string translate_regex(std::string_view expression, std::string& problem);

}  // namespace ballot

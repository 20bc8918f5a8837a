// The tokens that stand beside a vocabulary and are found in a text before it is cut into words:
// "added_tokens" of a tokenizer.json.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/tokenizer/normalizer.h"

namespace ballot {

struct AddedToken {
  std::string text;
  std::int32_t id = 0;
  bool special = false;      // left out by decode, and by encode where it is not asked for
  bool single_word = false;  // not inside a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // found in the normalized text
};

// Reads the list; refuses what is damaged or stands twice.
std::vector<AddedToken> read_added_tokens(const nlohmann::json& value, Refusals& refusals);

// Finds some of them in a text, from left to right, the longest first.
class AddedTokenFinder {
 public:
  // Those of `tokens` that are `normalized` or not; their texts are normalized alike.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                   const Normalizer& normalizer, Refusals& refusals);

  // Calls `take` with each piece of `text` in order: a token, or null and a text that is not empty.
  // A special token counts as text unless `specials`.
  using Take = std::function<void(const AddedToken*, std::string_view)>;
  void find(std::string_view text, bool specials, const Take& take) const;

 private:
  const AddedToken* longest_at(std::string_view text, std::size_t& length) const;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };
  std::unordered_map<std::string, AddedToken, Hash, std::equal_to<>> token_of_text_;
  std::array<std::vector<std::size_t>, 256> lengths_;  // by first byte, longest first
};

}  // namespace ballot

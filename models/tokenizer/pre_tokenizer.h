// Cuts a text into the words inside which tokens are merged: "pre_tokenizer" of a tokenizer.json.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/pattern.h"

namespace ballot {

// What becomes of a match and of what lies between two, by `tokenizers`' names.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// Joins or drops the stretches that a pattern cuts a text into; the stretches left are the words.
void apply_behavior(SplitBehavior behavior, std::vector<Stretch>& stretches);

class PreTokenizer {
 public:
  // Of Split, Digits and ByteLevel (which comes last) and Sequences of them, or of Metaspace alone;
  // null is one word.
  static PreTokenizer read(const nlohmann::json& value, Refusals& refusals);

  // Whether words are taken byte by byte (ByteLevel) instead of character by character.
  bool byte_level() const { return byte_level_; }
  // Whether the words put together are the text.
  bool keeps_all() const;

  // The words of `text`, none empty. They look into `text` or into `prefixed`, which owns the words
  // that a space was put before.
  // `first`: the text begins here.
  void split(std::string_view text, bool first, std::deque<std::string>& prefixed,
             std::vector<std::string_view>& words) const;

 private:
  struct Step {
    Pattern pattern;
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;  // the pattern says what lies between the words
  };
  // Spaces as a symbol, which may stand before the first word too.
  struct Metaspace {
    std::string symbol;
    enum class Prepend { never, first, always } prepend = Prepend::always;
    std::optional<Step> split;  // by word, each with its symbol before it
  };
  void read_step(const nlohmann::json& value, Refusals& refusals);
  void read_metaspace(const nlohmann::json& value, Refusals& refusals);
  static void split_once(const Step& step, std::vector<std::string_view>& words);

  std::vector<Step> steps_;
  std::optional<Metaspace> metaspace_;
  bool byte_level_ = false;
  bool add_prefix_space_ = false;
  std::optional<Step> byte_level_words_;  // use_regex
};

}  // namespace ballot

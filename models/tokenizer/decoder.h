// Tokens' texts back to a text: "decoder" of a tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/pattern.h"

namespace ballot {

class Decoder {
 public:
  // Of ByteLevel, Replace, ByteFallback, Strip and Fuse, and Sequences of them. Null is ByteLevel
  // where words are taken byte by byte, and refused elsewhere.
  static Decoder read(const nlohmann::json& value, bool byte_level, Refusals& refusals);

  // The bytes that one token stands for, given its symbol: all steps before the tokens are fused.
  // Bytes that are no UTF-8 are kept as they are, where `tokenizers` puts U+FFFD.
  std::string bytes_of(std::string_view symbol) const;
  // The steps after that, on all bytes together.
  std::string finish(std::string text) const;
  bool byte_level_alone() const { return each_.size() == 1 && each_[0].kind == Kind::byte_level; }

 private:
  enum class Kind { byte_level, byte_fallback, replace, strip, fuse };
  struct Step {
    Kind kind = Kind::fuse;
    std::optional<Pattern> pattern;   // of replace
    std::string text;                 // of replace: instead; of strip: the character
    std::size_t start = 0, stop = 0;  // of strip: at most so many at either end
  };
  static std::optional<Step> read_step(const nlohmann::json& value, Refusals& refusals);
  static std::string apply(const Step& step, std::string text);

  std::vector<Step> each_, all_;
};

}  // namespace ballot

// Tokens as they come, told as text as soon as it is whole: a character whose bytes belong to
// several tokens is held back until all of them are there.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace ballot {

// How many bytes of `text` are whole characters: all but a beginning of one at its end. Bytes that
// begin no character count as whole.
std::size_t whole_characters(std::string_view text);

class TextStream {
 public:
  // Goes on after `before` (a prompt), of which nothing is told again. The tokenizer must outlive
  // it.
  TextStream(const Tokenizer& tokenizer, std::vector<std::int32_t> before);
  // The text that this token completes.
  std::string add(std::int32_t token);
  // What was held back, as U+FFFD: the text has ended within a character.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> tokens_;
  std::size_t told_ = 0;  // bytes of their text
};

}  // namespace ballot

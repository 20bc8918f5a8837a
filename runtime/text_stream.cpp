#include "runtime/text_stream.h"

#include <algorithm>
#include <utility>

namespace ballot {

std::size_t whole_characters(std::string_view text) {
  // A character has at most four bytes: its first one is among the last three, or it is whole.
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;  // not the first of a character
    const std::size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? text.size() - back : text.size();
  }
  return text.size();
}

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::int32_t> before)
    : tokenizer_(tokenizer), tokens_(std::move(before)), told_(tokenizer.decode(tokens_).size()) {}

std::string TextStream::add(std::int32_t token) {
  tokens_.push_back(token);
  const std::string text = tokenizer_.decode(tokens_);
  const std::size_t whole = whole_characters(text);
  if (whole <= told_) return "";
  return text.substr(std::exchange(told_, whole), whole - told_);
}

std::string TextStream::finish() {
  const std::size_t all = tokenizer_.decode(tokens_).size();
  return std::exchange(told_, std::max(told_, all)) < all ? "\xEF\xBF\xBD" : "";
}

}  // namespace ballot

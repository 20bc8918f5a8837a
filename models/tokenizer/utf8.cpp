#include "models/tokenizer/utf8.h"

#include <algorithm>

namespace ballot {
namespace {

unsigned byte_at(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

// The code point of a well-formed character.
char32_t code_of(std::string_view character) {
  const unsigned first = byte_at(character, 0);
  if (character.size() == 1) return first;
  char32_t code = first & (0x7fu >> character.size());
  for (std::size_t i = 1; i < character.size(); ++i)
    code = code << 6 | (byte_at(character, i) & 0x3f);
  return code;
}

bool is_space(char32_t code) {
  return (code >= 0x9 && code <= 0xd) || code == 0x20 || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned first = byte_at(text, 0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const std::size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  // The second byte alone tells overlong forms, surrogates and what is beyond U+10FFFF.
  const unsigned least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (byte_at(text, 1) < least || byte_at(text, 1) > most) return 0;
  for (std::size_t i = 2; i < length; ++i)
    if ((byte_at(text, i) & 0xc0) != 0x80) return 0;
  return length;
}

std::size_t utf8_length_at_end(std::string_view text) {
  for (std::size_t length = 1; length <= std::min<std::size_t>(4, text.size()); ++length)
    if (utf8_length(text.substr(text.size() - length)) == length) return length;
  return 0;
}

std::size_t leading_space(std::string_view text) {
  std::size_t taken = 0;
  while (const std::size_t length = utf8_length(text.substr(taken))) {
    if (!is_space(code_of(text.substr(taken, length)))) break;
    taken += length;
  }
  return taken;
}

std::size_t trailing_space(std::string_view text) {
  std::size_t left = text.size();
  while (const std::size_t length = utf8_length_at_end(text.substr(0, left))) {
    if (!is_space(code_of(text.substr(left - length, length)))) break;
    left -= length;
  }
  return text.size() - left;
}

}  // namespace ballot

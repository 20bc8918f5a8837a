#include "models/tokenizer/byte_alphabet.h"

namespace ballot {
namespace {

constexpr int kFirstSpare = 0x100, kSpares = 68;

// Printable Latin-1 stands for itself; the other 68 bytes are, in order, U+0100, U+0101, ...
bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

// By code point below U+0144: the byte it stands for, or -1.
std::array<int, kFirstSpare + kSpares> bytes_of_codes() {
  std::array<int, kFirstSpare + kSpares> bytes;
  bytes.fill(-1);
  int next = kFirstSpare;
  for (int byte = 0; byte < 256; ++byte) bytes[stands_for_itself(byte) ? byte : next++] = byte;
  return bytes;
}

}  // namespace

const std::array<std::string, 256>& byte_alphabet() {
  static const std::array<std::string, 256> alphabet = [] {
    std::array<std::string, 256> made;
    int next = kFirstSpare;
    for (int byte = 0; byte < 256; ++byte) {
      const int code = stands_for_itself(byte) ? byte : next++;
      if (code < 0x80) {
        made[byte] = std::string(1, static_cast<char>(code));
      } else {  // below U+0800: two bytes
        made[byte] = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
      }
    }
    return made;
  }();
  return alphabet;
}

std::optional<std::string> bytes_of_symbols(std::string_view symbols) {
  static const std::array<int, kFirstSpare + kSpares> byte_of_code = bytes_of_codes();
  std::string bytes;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    unsigned code = static_cast<unsigned char>(symbols[i]);
    if (code >= 0x80) {
      if (code < 0xc2 || code > 0xc5 || ++i == symbols.size()) return std::nullopt;
      const unsigned second = static_cast<unsigned char>(symbols[i]);
      if ((second & 0xc0) != 0x80) return std::nullopt;
      code = (code & 0x1f) << 6 | (second & 0x3f);
    }
    if (code >= byte_of_code.size() || byte_of_code[code] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_of_code[code]);
  }
  return bytes;
}

}  // namespace ballot

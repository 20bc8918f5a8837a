// GPT-2's alphabet: each byte as one printable code point, so that a vocabulary of byte strings can
// stand in JSON.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace ballot {

// The symbol of each byte, in UTF-8.
const std::array<std::string, 256>& byte_alphabet();

// The bytes that `symbols` spells; none where a character is no symbol of the alphabet.
std::optional<std::string> bytes_of_symbols(std::string_view symbols);

}  // namespace ballot

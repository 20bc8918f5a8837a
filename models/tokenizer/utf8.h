// Characters of UTF-8 text that need not be well-formed.
#pragma once

#include <cstddef>
#include <string_view>

namespace ballot {

// Bytes of the well-formed character that `text` begins with; 0 where it begins with none.
std::size_t utf8_length(std::string_view text);
// The same of the character that `text` ends with.
std::size_t utf8_length_at_end(std::string_view text);

// Bytes of white space (Unicode's White_Space) that `text` begins and ends with.
std::size_t leading_space(std::string_view text);
std::size_t trailing_space(std::string_view text);

}  // namespace ballot

// Text and numbers as a report shows them. What is not finite is "–".
#pragma once

#include <string>
#include <string_view>

namespace ballot {

// Safe as text and in quoted attributes; bytes that are not UTF-8 and control characters become
// U+FFFD.
std::string escape_html(std::string_view text);

std::string si_number(double value);  // "1.25 M"
std::string si_bytes(double value);   // "1.25 MB"
std::string plain_number(double value, int digits = 4);
std::string plain_duration(double seconds);  // "4.25 s", "3 min 20 s", "2 h 5 min"

}  // namespace ballot

#include "runtime/report_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace ballot {
namespace {

// The bytes of the UTF-8 character at `at`, or 0 if there is none.
std::size_t character_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  const std::size_t length = first < 0x80                    ? 1
                             : first >= 0xc2 && first < 0xe0 ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  if (length == 0 || at + length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  if (first == 0xe0 && byte(at + 1) < 0xa0) return 0;  // longer than needed
  if (first == 0xed && byte(at + 1) > 0x9f) return 0;  // surrogates
  if (first == 0xf0 && byte(at + 1) < 0x90) return 0;
  if (first == 0xf4 && byte(at + 1) > 0x8f) return 0;  // beyond U+10FFFF
  return length;
}

std::string with_prefix(double value, const char* unit) {
  if (!std::isfinite(value)) return "–";
  static constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P"};
  std::size_t prefix = 0;
  while (std::abs(value) >= 999.5 && prefix + 1 < std::size(kPrefixes)) {
    value /= 1000;
    ++prefix;
  }
  return fmt::format("{:.3g} {}{}", value, kPrefixes[prefix], unit);
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character_length(text, at);
    const char first = text[at];
    if (length == 0 ||
        (length == 1 && (static_cast<unsigned char>(first) < 0x20 || first == 0x7f))) {
      out += first == '\n' || first == '\t' ? " " : "\xef\xbf\xbd";
    } else if (length > 1) {
      out += text.substr(at, length);
    } else {
      switch (first) {
        case '&':
          out += "&amp;";
          break;
        case '<':
          out += "&lt;";
          break;
        case '>':
          out += "&gt;";
          break;
        case '"':
          out += "&quot;";
          break;
        case '\'':
          out += "&#39;";
          break;
        default:
          out += first;
      }
    }
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

std::string si_number(double value) {
  std::string text = with_prefix(value, "");
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

std::string si_bytes(double value) {
  return std::isfinite(value) ? with_prefix(value, "B") : "–";
}

std::string plain_number(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  if (std::abs(value) >= std::pow(10, digits) && std::abs(value) < 1e15)
    return fmt::format("{:.0f}", value);  // no exponent
  return fmt::format("{:.{}g}", value, digits);
}

std::string plain_duration(double seconds) {
  if (!std::isfinite(seconds)) return "–";
  if (seconds < 100) return plain_number(seconds, 3) + " s";
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 48 * 3600) return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
  return fmt::format("{} d {} h", whole / 86400, whole % 86400 / 3600);
}

}  // namespace ballot

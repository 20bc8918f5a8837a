#include "launcher/kubernetes/kubernetes_rules.h"

#include <cmath>
#include <cstdlib>
#include <string_view>

#include "core/error.h"

namespace ballot {
namespace {

bool is_lower(char c) {
  return c >= 'a' && c <= 'z';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_alphanumeric(char c) {
  return is_lower(c) || is_digit(c) || (c >= 'A' && c <= 'Z');
}

// Lower-case letters, digits and '-', not first and not last.
bool is_lower_label(std::string_view text) {
  if (text.empty() || text.size() > 63 || text.front() == '-' || text.back() == '-') return false;
  for (const char c : text)
    if (!is_lower(c) && !is_digit(c) && c != '-') return false;
  return true;
}

bool is_subdomain(std::string_view text) {
  if (text.empty() || text.size() > 253) return false;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('.', begin), text.size());
    if (!is_lower_label(text.substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  return true;
}

// Letters, digits, '-', '_', '.', a letter or digit first and last.
bool is_label_word(std::string_view text) {
  if (text.empty() || text.size() > 63 || !is_alphanumeric(text.front()) ||
      !is_alphanumeric(text.back()))
    return false;
  for (const char c : text)
    if (!is_alphanumeric(c) && c != '-' && c != '_' && c != '.') return false;
  return true;
}

// What a suffix multiplies by, or 0 where it is none.
double factor_of(std::string_view suffix) {
  if (suffix.empty()) return 1;
  if (suffix == "n") return 1e-9;
  if (suffix == "u") return 1e-6;
  if (suffix == "m") return 1e-3;
  if (suffix == "k") return 1e3;
  constexpr std::string_view kBinary = "KMGTPE", kDecimal = "MGTPE";
  if (suffix.size() == 2 && suffix[1] == 'i')
    if (const std::size_t at = kBinary.find(suffix[0]); at != std::string_view::npos)
      return std::pow(1024.0, static_cast<double>(at + 1));
  if (suffix.size() == 1)
    if (const std::size_t at = kDecimal.find(suffix[0]); at != std::string_view::npos)
      return std::pow(1000.0, static_cast<double>(at + 2));
  return 0;
}

// The exponent behind 'e' or 'E', or nothing sensible: then 0 is returned.
double exponent_factor(std::string_view text) {
  std::size_t at = text.size() > 1 && (text[1] == '-' || text[1] == '+') ? 2 : 1;
  if (at >= text.size() || text.size() > at + 2) return 0;
  for (std::size_t i = at; i < text.size(); ++i)
    if (!is_digit(text[i])) return 0;
  return std::pow(10.0, std::atof(std::string(text.substr(1)).c_str()));
}

}  // namespace

void require_dns_label(const std::string& what, const std::string& value, std::size_t longest) {
  if (!is_lower_label(value) || !is_lower(value.front()) || value.size() > longest)
    throw ConfigError(
        "{} \"{}\": expected a DNS label: 1 to {} lower-case letters, digits and '-', a letter "
        "first, no '-' at the end",
        what, value, longest);
}

void require_dns_subdomain(const std::string& what, const std::string& value) {
  if (!is_subdomain(value))
    throw ConfigError(
        "{} \"{}\": expected a DNS name: lower-case letters, digits, '-' and '.', each part with a "
        "letter or digit first and last, 253 characters at most",
        what, value);
}

void require_label_key(const std::string& what, const std::string& value) {
  const std::size_t slash = value.find('/');
  const bool prefixed = slash != std::string::npos;
  if ((prefixed && !is_subdomain(std::string_view(value).substr(0, slash))) ||
      !is_label_word(std::string_view(value).substr(prefixed ? slash + 1 : 0)))
    throw ConfigError(
        "{} \"{}\": expected the key of a label: [DNS name/]name, the name of 1 to 63 letters, "
        "digits, '-', '_' and '.', a letter or digit first and last",
        what, value);
}

void require_label_value(const std::string& what, const std::string& value) {
  if (!value.empty() && !is_label_word(value))
    throw ConfigError(
        "{} \"{}\": expected the value of a label: at most 63 letters, digits, '-', '_' and '.', a "
        "letter or digit first and last",
        what, value);
}

void require_image(const std::string& what, const std::string& value) {
  bool good = !value.empty() && value.size() <= 1024 && is_alphanumeric(value.front()) &&
              is_alphanumeric(value.back());
  for (const char c : value)
    good = good && (is_alphanumeric(c) || std::string_view("./:@_-").find(c) != std::string::npos);
  if (!good)
    throw ConfigError(
        "{} \"{}\": expected an image such as registry.example.com/ballot:1.0 or name@sha256:...",
        what, value);
}

double parse_quantity(const std::string& what, const std::string& value) {
  std::size_t end = 0, digits = 0, dots = 0;
  for (; end < value.size() && (is_digit(value[end]) || value[end] == '.'); ++end)
    value[end] == '.' ? ++dots : ++digits;
  const std::string_view suffix = std::string_view(value).substr(end);
  const bool exponent =  // and not 1Ei
      suffix.size() > 1 && (suffix[0] == 'e' || suffix[0] == 'E') && suffix[1] != 'i';
  const double factor = exponent ? exponent_factor(suffix) : factor_of(suffix);
  const double number =
      digits > 0 && dots <= 1 && end <= 30 ? std::atof(value.substr(0, end).c_str()) * factor : 0;
  if (!(number > 0))
    throw ConfigError(
        "{} \"{}\": expected a Kubernetes quantity above 0: a number and m, k, M, G, T, P, E, Ki, "
        "Mi, Gi, Ti, Pi, Ei or nothing, such as 500m, 4 or 8Gi",
        what, value);
  return number;
}

}  // namespace ballot

#include "launcher/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <span>

#include "core/error.h"

namespace ballot {
namespace {

struct Unit {
  const char* name;
  double factor;
};
constexpr std::array kBits = {Unit{"kbit", 1e3 / 8}, Unit{"mbit", 1e6 / 8}, Unit{"gbit", 1e9 / 8},
                              Unit{"tbit", 1e12 / 8}};
constexpr std::array kBytes = {Unit{"B/s", 1.0}, Unit{"kB/s", 1e3}, Unit{"MB/s", 1e6},
                               Unit{"GB/s", 1e9}, Unit{"TB/s", 1e12}};
constexpr std::array kSizes = {Unit{"B", 1.0},      Unit{"kB", 1e3},     Unit{"KB", 1e3},
                               Unit{"MB", 1e6},     Unit{"GB", 1e9},     Unit{"TB", 1e12},
                               Unit{"KiB", 0x1p10}, Unit{"MiB", 0x1p20}, Unit{"GiB", 0x1p30},
                               Unit{"TiB", 0x1p40}};
constexpr std::array kTimes = {Unit{"s", 1.0}, Unit{"ms", 1e-3}, Unit{"us", 1e-6},
                               Unit{"ns", 1e-9}};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

struct Amount {
  double value;
  std::string unit;
};
// A number that is finite and not negative, and what follows it. False: there is no such number.
bool split(const std::string& text, Amount& amount) {
  const char* const end = text.data() + text.size();
  const auto [after, error] =
      std::from_chars(text.data(), end, amount.value, std::chars_format::fixed);
  if (error != std::errc{} || !std::isfinite(amount.value) || std::signbit(amount.value))
    return false;
  const char* unit = after;
  while (unit != end && *unit == ' ') ++unit;
  amount.unit.assign(unit, end);
  return true;
}

std::string text_in(double value, std::span<const Unit> units) {
  const Unit* best = &units[0];
  for (const Unit& unit : units)
    if (value >= unit.factor * 0.9995) best = &unit;
  return fmt::format("{:.3g} {}", value / best->factor, best->name);
}

}  // namespace

double parse_bandwidth(const std::string& flag, const std::string& text) {
  Amount amount{};
  if (split(text, amount) && amount.value > 0) {
    std::string bits = lower(amount.unit);
    if (bits.ends_with("/s")) bits.resize(bits.size() - 2);
    for (const Unit& unit : kBits)
      if (bits == unit.name) return amount.value * unit.factor;
    for (const Unit& unit : kBytes)
      if (amount.unit == unit.name) return amount.value * unit.factor;
  }
  throw ConfigError("{} {}: expected a rate such as 100mbit, 1gbit or 12.5GB/s", flag, text);
}

std::uint64_t parse_bytes(const std::string& flag, const std::string& text) {
  Amount amount{};
  if (split(text, amount))
    for (const Unit& unit : kSizes)
      if (amount.unit == unit.name && amount.value * unit.factor >= 1 &&
          amount.value * unit.factor < 0x1p62)
        return static_cast<std::uint64_t>(amount.value * unit.factor);
  throw ConfigError("{} {}: expected a size such as 400MB, 5GB or 4GiB", flag, text);
}

double parse_duration(const std::string& flag, const std::string& text) {
  Amount amount{};
  if (split(text, amount)) {
    if (amount.value == 0 && amount.unit.empty()) return 0;
    for (const Unit& unit : kTimes)
      if (amount.unit == unit.name) return amount.value * unit.factor;
  }
  throw ConfigError("{} {}: expected a time such as 0.1ms, 50us or 2s", flag, text);
}

std::string bandwidth_text(double bytes_per_second) {
  constexpr std::array kRates = {Unit{"kbit/s", 1e3}, Unit{"Mbit/s", 1e6}, Unit{"Gbit/s", 1e9},
                                 Unit{"Tbit/s", 1e12}};
  return text_in(8 * bytes_per_second, kRates);
}

std::string duration_text(double seconds) {
  constexpr std::array kTexts = {Unit{"us", 1e-6}, Unit{"ms", 1e-3}, Unit{"s", 1.0}};
  if (seconds >= 999.5) return fmt::format("{:.0f} s", seconds);
  return text_in(seconds, kTexts);
}

std::string bytes_text(double bytes) {
  constexpr std::array kTexts = {Unit{"B", 1.0},  Unit{"kB", 1e3},  Unit{"MB", 1e6},
                                 Unit{"GB", 1e9}, Unit{"TB", 1e12}, Unit{"PB", 1e15}};
  return text_in(bytes, kTexts);
}

}  // namespace ballot

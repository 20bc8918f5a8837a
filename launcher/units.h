// Rates and times as people write them on a command line. ConfigError names the flag, the value and
// what was expected.
#pragma once

#include <cstdint>
#include <string>

namespace ballot {

// "100mbit", "1gbit", "2.5Gbit/s" (bits, powers of ten), "12.5GB/s", "800MB/s" (bytes) -> bytes/s.
// "Gb" and "GBps" are refused: nobody knows which of the two they mean.
double parse_bandwidth(const std::string& flag, const std::string& text);

// "5GB", "400kB" (powers of ten), "4GiB", "512KiB" (powers of two) -> bytes, at least 1.
std::uint64_t parse_bytes(const std::string& flag, const std::string& text);

// "0.1ms", "50us", "2s" -> s. 0 needs no unit.
double parse_duration(const std::string& flag, const std::string& text);

// "1 Gbit/s", "0.31 ms", "25.4 MB": three digits.
std::string bandwidth_text(double bytes_per_second);
std::string duration_text(double seconds);
std::string bytes_text(double bytes);

}  // namespace ballot

// Bars as HTML, so that names of any length wrap: one a row, or cut into parts.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace ballot {

struct Bar {
  std::string name;
  double value;
  std::string text;  // beside the bar
  std::size_t color = 0;
  bool minor = false;  // a part of the bar above
};
// On one linear scale from 0.
std::string bar_rows(const std::vector<Bar>& bars);

struct PartedBar {
  std::string name;
  std::vector<double> parts;  // by part; NaN: none
  std::string text;
};
// Beside each other on one scale, with a legend of the parts (classes s0..s10 of the style) that
// any has.
std::string parted_bars(const std::vector<std::string>& parts, const std::vector<PartedBar>& bars);

}  // namespace ballot

// Charts as inline SVG: lines and points, stacked areas, bars on a log scale. Colours and dashes
// are classes c0..c7 (s0..s10 for stages) of the page's style, so that one page reads in light and
// dark.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

inline constexpr std::size_t kMostPoints = 1000;  // of one curve
inline constexpr std::size_t kPalette = 8;

// Safe as text and in quoted attributes; bytes that are not UTF-8 and control characters become
// U+FFFD.
std::string escape_html(std::string_view text);

std::string si_number(double value);  // "1.25 M"
std::string si_bytes(double value);   // "1.25 MB"
std::string plain_number(double value, int digits = 4);

struct Point {
  double x, y;  // y NaN: a gap
};

// At most kMostPoints: of each bucket the least and the greatest, so that no spike is lost.
std::vector<Point> envelope(const std::vector<Point>& points);
// At most `count` buckets, their means; a bucket without a value is a gap.
std::vector<Point> bucket_means(const std::vector<Point>& points, std::size_t count);

struct Curve {
  std::string name;
  std::vector<Point> points;
  std::size_t color = 0;  // also its dash and its marker
  bool markers = false;   // points instead of a line
  bool thin = false;
};

struct Chart {
  std::string title;             // for screen readers
  std::string x_label, y_label;  // with units
  bool from_zero = false;
  double x_low = 0, x_high = 0;  // shown at the least, where x_low < x_high
  bool whole = false;            // y counts things
  double reference = 0;          // a horizontal line, 0: none
  std::string reference_label;
};

std::string line_chart(const Chart& chart, const std::vector<Curve>& curves);

// Layers upon each other, first at the bottom; all with the same x.
struct Layer {
  std::string name;
  std::vector<Point> points;
};
std::string stacked_chart(const Chart& chart, const std::vector<Layer>& layers);

struct Bar {
  std::string name;
  double value;
  std::string text;  // beside the bar
  std::size_t color = 0;
  bool minor = false;  // a part of the bar above
};
std::string log_bars(const Chart& chart, const std::vector<Bar>& bars);

}  // namespace ballot

// Charts as inline SVG: lines, points and marks of events, stacked areas. Colours and dashes are
// classes c0..c7 (s0..s10 for stages) of the page's style (report_style.h), so that one page reads
// in light and dark. The axes' names are text of the page, above and below, so that they wrap.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/report_text.h"  // escape_html

namespace ballot {

inline constexpr std::size_t kMostPoints = 1000;  // of one curve
inline constexpr std::size_t kPalette = 8;

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
  bool whole_x = true;           // x counts steps or tokens
  double reference = 0;          // a horizontal line, 0: none
  std::string reference_label;
};

// What happened in a run, on its curve: a stem at (x, y) with a sign of its kind.
enum class MarkKind { start, term, checkpoint, repair, alarm, failure };
inline constexpr std::size_t kMarkKinds = 6;
const char* name_of(MarkKind kind);
struct Mark {
  Point at;
  MarkKind kind;
  std::size_t color;  // the run's
  std::string title;
};

// Marks beyond kMostMarks of one kind and colour are thinned out, evenly.
inline constexpr std::size_t kMostMarks = 60;
std::string line_chart(const Chart& chart, const std::vector<Curve>& curves,
                       const std::vector<Mark>& marks = {});

// Layers upon each other, first at the bottom; all with the same x.
struct Layer {
  std::string name;
  std::vector<Point> points;
};
std::string stacked_chart(const Chart& chart, const std::vector<Layer>& layers);

}  // namespace ballot

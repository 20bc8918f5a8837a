// Numbers to SVG text. Coordinates are in the picture's own units, 640 x 300, scaled by the
// browser.
#include "runtime/report_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

namespace ballot {
namespace {

constexpr double kWidth = 640, kHeight = 300;
constexpr double kLeft = 62, kRight = 604, kTop = 14, kBottom = 270;

bool visible(const Point& point) {
  return std::isfinite(point.x) && std::isfinite(point.y);
}

// Round steps that cut [low, high] into about `count` parts.
std::vector<double> ticks(double low, double high, int count, bool whole = false) {
  std::vector<double> result;
  const double raw = (high - low) / count;
  if (!(raw > 0) || !std::isfinite(raw)) return {low};
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = power;
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    step = factor * power;
    if (step >= raw) break;
  }
  if (whole) step = std::max(1.0, step);
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; ++k)
    result.push_back(k * step);
  return result;
}

std::string tick_text(double value) {
  if (std::abs(value) < 1e-12) return "0";
  if (std::abs(value) >= 1000) {
    std::string text = si_number(value);
    std::erase(text, ' ');
    return text;
  }
  return fmt::format("{:.4g}", value);
}

struct Frame {
  double x_low, x_high, y_low, y_high;
  double x(double value) const {
    return kLeft + (value - x_low) / (x_high - x_low) * (kRight - kLeft);
  }
  double y(double value) const {
    return kBottom - (value - y_low) / (y_high - y_low) * (kBottom - kTop);
  }
};

std::string open_picture(const Chart& chart) {
  return fmt::format(
      "<p class=\"axis-name\">{}</p><svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
      escape_html(chart.y_label), kWidth, kHeight, escape_html(chart.title));
}

std::string close_picture(const Chart& chart) {
  return "</svg><p class=\"axis-name below\">" + escape_html(chart.x_label) + "</p>";
}

std::string axes(const Chart& chart, const Frame& frame) {
  std::string out;
  for (const double value : ticks(frame.y_low, frame.y_high, 5, chart.whole)) {
    const double y = frame.y(value);
    out += fmt::format("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", kLeft, y, kRight);
    out += fmt::format("<text x=\"{}\" y=\"{:.1f}\" class=\"end\">{}</text>", kLeft - 7, y + 4,
                       tick_text(value));
  }
  for (const double value : ticks(frame.x_low, frame.x_high, 6, chart.whole_x)) {
    const double x = frame.x(value);
    out += fmt::format("<path class=\"axis\" d=\"M{:.1f} {}v4\"/>", x, kBottom);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"middle\">{}</text>", x, kBottom + 18,
                       tick_text(value));
  }
  out += fmt::format("<path class=\"axis\" d=\"M{} {}H{}\"/>", kLeft, kBottom, kRight);
  if (chart.reference > frame.y_low && chart.reference < frame.y_high) {
    const double y = frame.y(chart.reference);
    out += fmt::format("<path class=\"reference\" d=\"M{} {:.1f}H{}\"/>", kLeft, y, kRight);
    out += fmt::format("<text x=\"{}\" y=\"{:.1f}\" class=\"end note\">{}</text>", kRight - 4,
                       y - 5, escape_html(chart.reference_label));
  }
  return out;
}

std::string path_of(const std::vector<Point>& points, const Frame& frame) {
  std::string d;
  bool pen_down = false;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!visible(points[i])) {
      pen_down = false;
      continue;
    }
    fmt::format_to(std::back_inserter(d), "{}{:.1f} {:.1f}", pen_down ? 'L' : 'M',
                   frame.x(points[i].x), frame.y(points[i].y));
    // A point between gaps is a line of no length; its round cap shows it.
    if (!pen_down && (i + 1 == points.size() || !visible(points[i + 1]))) d += "h0";
    pen_down = true;
  }
  return d;
}

// Told apart without colour.
std::string marker(std::size_t kind, double x, double y) {
  switch (kind % 4) {
    case 0:
      return fmt::format("M{:.1f} {:.1f}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z", x - 4.5, y);
    case 1:
      return fmt::format("M{:.1f} {:.1f}h8v8h-8z", x - 4, y - 4);
    case 2:
      return fmt::format("M{:.1f} {:.1f}l5 9h-10z", x, y - 6);
    default:
      return fmt::format("M{:.1f} {:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z", x, y - 5.5);
  }
}

std::string legend_item(const Curve& curve) {
  std::string picture =
      "<svg viewBox=\"0 0 34 12\" width=\"34\" height=\"12\" aria-hidden=\"true\">";
  if (curve.markers)
    picture += fmt::format("<path class=\"point c{}\" d=\"{}\"/>", curve.color % kPalette,
                           marker(curve.color, 17, 6));
  else
    picture += fmt::format("<path class=\"line {}c{}\" d=\"M2 6H32\"/>", curve.thin ? "thin " : "",
                           curve.color % kPalette);
  return fmt::format("<li>{}</svg><span>{}</span></li>", picture, escape_html(curve.name));
}

constexpr double kStem = 17;

// A stem up from (x, y), and upon it a sign by which kinds are told apart without colour.
std::string mark_path(MarkKind kind, double x, double y) {
  const double top = y - kStem;
  const std::string stem = fmt::format("M{:.1f} {:.1f}V{:.1f}", x, y, top + 4);
  switch (kind) {
    case MarkKind::start:
      return stem + fmt::format("M{:.1f} {:.1f}l9 5l-9 5z", x, top - 6);
    case MarkKind::term:
      return stem + fmt::format("M{:.1f} {:.1f}l5 5l-5 5l-5 -5z", x, top - 6);
    case MarkKind::checkpoint:
      return fmt::format("M{:.1f} {:.1f}v10", x, y - 5);
    case MarkKind::repair:
      return stem + fmt::format("M{:.1f} {:.1f}h10m-5 -5v10", x - 5, top - 1);
    case MarkKind::alarm:
      return stem + fmt::format("M{:.1f} {:.1f}l5.5 9h-11z", x, top - 5);
    case MarkKind::failure:
      return stem + fmt::format("M{:.1f} {:.1f}l9 9m0 -9l-9 9", x - 4.5, top - 5);
  }
  return stem;
}

const char* mark_class(MarkKind kind) {
  switch (kind) {
    case MarkKind::alarm:
    case MarkKind::failure:
      return "mark trouble";
    case MarkKind::checkpoint:
      return "mark tick";
    default:
      return "mark";
  }
}

std::string draw_marks(const std::vector<Mark>& marks, const Frame& frame) {
  std::map<std::pair<MarkKind, std::size_t>, std::vector<const Mark*>> groups;
  for (const Mark& mark : marks)
    if (visible(mark.at)) groups[{mark.kind, mark.color}].push_back(&mark);
  std::string out;
  for (const auto& [key, group] : groups) {
    const std::size_t shown = std::min(group.size(), kMostMarks);
    for (std::size_t i = 0; i < shown; ++i) {
      const Mark& mark = *group[i * group.size() / shown];
      const double x = frame.x(mark.at.x), y = std::max(frame.y(mark.at.y), kTop + kStem + 6);
      out += fmt::format("<path class=\"{} m{}\" d=\"{}\"><title>{}</title></path>",
                         mark_class(mark.kind), mark.color % kPalette, mark_path(mark.kind, x, y),
                         escape_html(mark.title));
    }
  }
  return out;
}

std::string marks_legend(const std::vector<Mark>& marks) {
  std::string out;
  for (std::size_t k = 0; k < kMarkKinds; ++k) {
    const auto kind = static_cast<MarkKind>(k);
    if (std::none_of(marks.begin(), marks.end(),
                     [&](const Mark& mark) { return mark.kind == kind && visible(mark.at); }))
      continue;
    out += fmt::format(
        "<li><svg viewBox=\"0 0 24 24\" width=\"18\" height=\"18\" aria-hidden=\"true\"><path "
        "class=\"{}\" d=\"{}\"/></svg><span>{}</span></li>",
        mark_class(kind), mark_path(kind, 10, kind == MarkKind::checkpoint ? 12 : 24),
        name_of(kind));
  }
  return out;
}

std::string nothing_to_show() {
  return "<p class=\"empty\">No values.</p>";
}

}  // namespace

std::vector<Point> envelope(const std::vector<Point>& points) {
  if (points.size() <= kMostPoints) return points;
  const std::size_t buckets = kMostPoints / 2;
  std::vector<Point> result;
  result.reserve(kMostPoints);
  for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
    const std::size_t begin = bucket * points.size() / buckets,
                      end = (bucket + 1) * points.size() / buckets;
    const Point *least = nullptr, *greatest = nullptr;
    for (std::size_t i = begin; i < end; ++i) {
      if (!visible(points[i])) continue;
      if (!least || points[i].y < least->y) least = &points[i];
      if (!greatest || points[i].y > greatest->y) greatest = &points[i];
    }
    if (!least) {
      result.push_back({points[begin].x, points[begin].y});
    } else {
      result.push_back(least < greatest ? *least : *greatest);
      if (least != greatest) result.push_back(least < greatest ? *greatest : *least);
    }
  }
  return result;
}

std::vector<Point> bucket_means(const std::vector<Point>& points, std::size_t count) {
  if (points.size() <= count) return points;
  std::vector<Point> result;
  for (std::size_t bucket = 0; bucket < count; ++bucket) {
    const std::size_t begin = bucket * points.size() / count,
                      end = (bucket + 1) * points.size() / count;
    double x = 0, y = 0;
    std::size_t values = 0;
    for (std::size_t i = begin; i < end; ++i) {
      x += points[i].x;
      if (!visible(points[i])) continue;
      y += points[i].y;
      ++values;
    }
    result.push_back({x / static_cast<double>(end - begin),
                      values ? y / static_cast<double>(values) : std::nan("")});
  }
  return result;
}

const char* name_of(MarkKind kind) {
  switch (kind) {
    case MarkKind::start:
      return "start";
    case MarkKind::term:
      return "change of term";
    case MarkKind::checkpoint:
      return "checkpoint";
    case MarkKind::repair:
      return "repair";
    case MarkKind::alarm:
      return "alarm";
    case MarkKind::failure:
      return "checkpoint failed";
  }
  return "";
}

std::string line_chart(const Chart& chart, const std::vector<Curve>& curves,
                       const std::vector<Mark>& marks) {
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
  for (const Curve& curve : curves)
    for (const Point& point : curve.points) {
      if (!visible(point)) continue;
      x_low = std::min(x_low, point.x);
      x_high = std::max(x_high, point.x);
      y_low = std::min(y_low, point.y);
      y_high = std::max(y_high, point.y);
    }
  if (!(x_low <= x_high)) return nothing_to_show();
  for (const Mark& mark : marks)  // a last checkpoint is published after the last step
    if (visible(mark.at)) {
      x_low = std::min(x_low, mark.at.x);
      x_high = std::max(x_high, mark.at.x);
    }
  const double flat = std::max(0.05 * std::abs(y_high), 1e-3);
  const double margin = y_high > y_low ? 0.06 * (y_high - y_low) : flat;
  y_low = chart.from_zero ? std::min(0.0, y_low) : y_low - margin;
  y_high += margin;
  if (chart.x_low < chart.x_high) {
    x_low = std::min(x_low, chart.x_low);
    x_high = std::max(x_high, chart.x_high);
  }
  if (chart.reference != 0) y_low = std::min(y_low, chart.reference - 0.02);
  if (!(x_low < x_high)) {
    x_low -= 1;
    x_high += 1;
  }
  const Frame frame{x_low, x_high, y_low, y_high};
  std::string lines, points, legend;
  for (const Curve& curve : curves) {
    if (curve.points.empty()) continue;
    legend += legend_item(curve);
    if (!curve.markers) {
      lines += fmt::format("<path class=\"line {}c{}\" d=\"{}\"/>", curve.thin ? "thin " : "",
                           curve.color % kPalette, path_of(envelope(curve.points), frame));
      continue;
    }
    const std::vector<Point> shown = envelope(curve.points);
    for (const Point& point : shown) {
      if (!visible(point)) continue;
      points += fmt::format("<path class=\"point c{}\" d=\"{}\">", curve.color % kPalette,
                            marker(curve.color, frame.x(point.x), frame.y(point.y)));
      if (shown.size() <= 100)
        points += fmt::format("<title>{}: {} at {}</title>", escape_html(curve.name),
                              plain_number(point.y), si_number(point.x));
      points += "</path>";
    }
  }
  return open_picture(chart) + axes(chart, frame) + lines + points + draw_marks(marks, frame) +
         close_picture(chart) + "<ul class=\"legend\">" + legend + marks_legend(marks) + "</ul>";
}

std::string stacked_chart(const Chart& chart, const std::vector<Layer>& layers) {
  constexpr std::size_t kColumns = 96;
  std::vector<std::vector<Point>> columns;
  for (const Layer& layer : layers) columns.push_back(bucket_means(layer.points, kColumns));
  if (columns.empty() || columns[0].empty()) return nothing_to_show();
  const std::size_t count = columns[0].size();
  std::vector<double> sums(count, 0.0);
  for (const auto& column : columns)
    for (std::size_t i = 0; i < count; ++i)
      if (visible(column[i])) sums[i] += column[i].y;
  std::vector<double> sorted = sums;
  std::sort(sorted.begin(), sorted.end());
  const double usual = sorted[(sorted.size() - 1) * 95 / 100], greatest = sorted.back();
  if (!(greatest > 0)) return nothing_to_show();
  // A first step or a checkpoint can take many times a step: it may leave the frame, and is said.
  const bool cut = usual > 0 && greatest > 2.5 * usual;
  const double height = cut ? 1.5 * usual : 1.05 * greatest;
  const double x_low = columns[0].front().x, x_high = columns[0].back().x;
  const double half = count > 1 ? (x_high - x_low) / static_cast<double>(count - 1) / 2 : 0.5;
  const Frame frame{x_low - half, x_high + half, 0, height};

  std::string areas, legend;
  std::vector<double> base(count, 0.0);
  double total = 0;
  for (const double sum : sums) total += sum;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    double own = 0;
    std::vector<double> top = base;
    for (std::size_t i = 0; i < count; ++i)
      if (visible(columns[layer][i])) {
        top[i] += columns[layer][i].y;
        own += columns[layer][i].y;
      }
    if (own > 0) {
      // Steps, not slopes: each column is a mean of its own.
      std::string up, down;
      for (std::size_t i = 0; i < count; ++i) {
        const double left = frame.x(columns[0][i].x - half),
                     right = frame.x(columns[0][i].x + half);
        fmt::format_to(std::back_inserter(up), "{}{:.1f} {:.1f}H{:.1f}", i == 0 ? 'M' : 'L', left,
                       frame.y(std::min(top[i], height)), right);
        const std::size_t k = count - 1 - i;
        fmt::format_to(std::back_inserter(down), "L{:.1f} {:.1f}H{:.1f}",
                       frame.x(columns[0][k].x + half), frame.y(std::min(base[k], height)),
                       frame.x(columns[0][k].x - half));
      }
      const std::string text =
          fmt::format("{} {} ms ({:.1f} %)", escape_html(layers[layer].name),
                      plain_number(1000 * own / static_cast<double>(count), 3), 100 * own / total);
      areas += fmt::format("<path class=\"area s{}\" d=\"{}{}z\"><title>{}</title></path>", layer,
                           up, down, text);
      legend += fmt::format(
          "<li><svg viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" aria-hidden=\"true\">"
          "<path class=\"area s{}\" d=\"M0 0h12v12h-12z\"/></svg><span>{}</span></li>",
          layer, text);
    }
    base = std::move(top);
  }
  std::string note;
  if (cut) {
    const auto taller =
        std::count_if(sums.begin(), sums.end(), [&](double sum) { return sum > height; });
    note =
        fmt::format("<p class=\"small\">{} of {} columns leave the frame, the tallest at {} s.</p>",
                    taller, count, plain_number(greatest, 3));
  }
  return open_picture(chart) + axes(chart, frame) + areas + close_picture(chart) +
         "<ul class=\"legend\">" + legend + "</ul>" + note;
}

}  // namespace ballot

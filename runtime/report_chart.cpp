// Numbers to SVG text. Coordinates are in the picture's own units, 640 x 320, scaled by the
// browser.
#include "runtime/report_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace ballot {
namespace {

constexpr double kWidth = 640, kHeight = 320;
constexpr double kLeft = 62, kRight = 628, kTop = 14, kBottom = 270;

bool visible(const Point& point) {
  return std::isfinite(point.x) && std::isfinite(point.y);
}

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
    std::string text = with_prefix(value, "");
    text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
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

std::string open_picture(const Chart& chart, double height = kHeight) {
  return fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", kWidth, height,
                     escape_html(chart.title));
}

std::string axes(const Chart& chart, const Frame& frame) {
  std::string out;
  for (const double value : ticks(frame.y_low, frame.y_high, 5, chart.whole)) {
    const double y = frame.y(value);
    out += fmt::format("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", kLeft, y, kRight);
    out += fmt::format("<text x=\"{}\" y=\"{:.1f}\" class=\"end\">{}</text>", kLeft - 7, y + 4,
                       tick_text(value));
  }
  for (const double value : ticks(frame.x_low, frame.x_high, 6, true)) {
    const double x = frame.x(value);
    out += fmt::format("<path class=\"axis\" d=\"M{:.1f} {}v4\"/>", x, kBottom);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"middle\">{}</text>", x, kBottom + 18,
                       tick_text(value));
  }
  out += fmt::format("<path class=\"axis\" d=\"M{} {}H{}\"/>", kLeft, kBottom, kRight);
  out += fmt::format("<text x=\"{}\" y=\"{}\" class=\"middle label\">{}</text>",
                     (kLeft + kRight) / 2, kBottom + 40, escape_html(chart.x_label));
  out += fmt::format(
      "<text transform=\"translate(15 {}) rotate(-90)\" class=\"middle label\">{}</text>",
      (kTop + kBottom) / 2, escape_html(chart.y_label));
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
  return fmt::format("<li>{}</svg>{}</li>", picture, escape_html(curve.name));
}

std::string nothing_to_show() {
  return "<p class=\"empty\">No values.</p>";
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
  return std::isfinite(value) ? fmt::format("{:.{}g}", value, digits) : "–";
}

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

std::string line_chart(const Chart& chart, const std::vector<Curve>& curves) {
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
  return open_picture(chart) + axes(chart, frame) + lines + points + "</svg><ul class=\"legend\">" +
         legend + "</ul>";
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
          "<path class=\"area s{}\" d=\"M0 0h12v12h-12z\"/></svg>{}</li>",
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
  return open_picture(chart) + axes(chart, frame) + areas + "</svg><ul class=\"legend\">" + legend +
         "</ul>" + note;
}

std::string log_bars(const Chart& chart, const std::vector<Bar>& bars) {
  double least = INFINITY, greatest = 0;
  for (const Bar& bar : bars)
    if (std::isfinite(bar.value) && bar.value > 0) {
      least = std::min(least, bar.value);
      greatest = std::max(greatest, bar.value);
    }
  if (!(greatest > 0)) return nothing_to_show();
  // A whole decade below the least, so that its bar has a length.
  const double low =
      std::floor(std::log10(least)) - (std::log10(least) == std::floor(std::log10(least)) ? 1 : 0);
  const double high = std::max(low + 1, std::ceil(std::log10(greatest) - 1e-9));
  constexpr double kNames = 190, kRow = 25;
  const double end = kWidth - 120, bottom = kTop + kRow * static_cast<double>(bars.size()) + 4;
  const auto x = [&](double logarithm) {
    return kNames + (logarithm - low) / (high - low) * (end - kNames);
  };
  std::string out = open_picture(chart, bottom + 48);
  for (double decade = low; decade <= high; ++decade) {
    out += fmt::format("<path class=\"grid\" d=\"M{:.1f} {}V{}\"/>", x(decade), kTop, bottom);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"middle\">{}</text>", x(decade),
                       bottom + 16, si_bytes(std::pow(10, decade)));
  }
  out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"middle label\">{}</text>",
                     (kNames + end) / 2, bottom + 38, escape_html(chart.x_label));
  double y = kTop + 2;
  for (const Bar& bar : bars) {
    const double height = bar.minor ? 9 : 17, top = y + (kRow - 4 - height) / 2;
    const bool positive = std::isfinite(bar.value) && bar.value > 0;
    const double width = positive ? x(std::log10(bar.value)) - kNames : 0;
    out += fmt::format("<text x=\"{}\" y=\"{:.1f}\" class=\"end{}\">{}</text>", kNames - 8, y + 15,
                       bar.minor ? " note" : "", escape_html(bar.name));
    if (positive)
      out += fmt::format(
          "<rect class=\"bar b{}{}\" x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" "
          "rx=\"2\"/>",
          bar.color % kPalette, bar.minor ? " minor" : "", kNames, top, width, height);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>", kNames + width + 7, y + 15,
                       bar.minor ? " class=\"note\"" : "", escape_html(bar.text));
    y += kRow;
  }
  return out + "</svg>";
}

}  // namespace ballot

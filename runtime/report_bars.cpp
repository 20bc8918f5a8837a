#include "runtime/report_bars.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/report_chart.h"  // kPalette
#include "runtime/report_text.h"

namespace ballot {
namespace {

std::string row(const std::string& name, const std::string& track, const std::string& text,
                bool minor) {
  return fmt::format(
      "<div class=\"bar-row{}\"><div class=\"bar-name\">{}</div><div class=\"bar-track\">{}</div>"
      "<div class=\"bar-text\">{}</div></div>",
      minor ? " minor" : "", escape_html(name), track, escape_html(text));
}

}  // namespace

std::string bar_rows(const std::vector<Bar>& bars) {
  double greatest = 0;
  for (const Bar& bar : bars)
    if (std::isfinite(bar.value)) greatest = std::max(greatest, bar.value);
  if (!(greatest > 0)) return "<p class=\"empty\">No values.</p>";
  std::string out = "<div class=\"bars\">";
  for (const Bar& bar : bars) {
    const double share = bar.value > 0 && std::isfinite(bar.value) ? bar.value / greatest : 0;
    out += row(bar.name,
               share > 0 ? fmt::format("<i class=\"b{}\" style=\"width:{:.2f}%\"></i>",
                                       bar.color % kPalette, 100 * share)
                         : "",
               bar.text, bar.minor);
  }
  return out + "</div>";
}

std::string parted_bars(const std::vector<std::string>& parts, const std::vector<PartedBar>& bars) {
  double greatest = 0;
  std::vector<bool> any(parts.size(), false);
  for (const PartedBar& bar : bars) {
    double sum = 0;
    for (std::size_t i = 0; i < bar.parts.size(); ++i)
      if (bar.parts[i] > 0 && std::isfinite(bar.parts[i])) {
        sum += bar.parts[i];
        any[i] = true;
      }
    greatest = std::max(greatest, sum);
  }
  if (!(greatest > 0)) return "<p class=\"empty\">No values.</p>";
  std::string out = "<div class=\"bars\">", legend;
  for (const PartedBar& bar : bars) {
    std::string track;
    for (std::size_t i = 0; i < bar.parts.size(); ++i)
      if (bar.parts[i] > 0 && std::isfinite(bar.parts[i]))
        track += fmt::format("<i class=\"s{}\" style=\"width:{:.2f}%\" title=\"{}\"></i>", i,
                             100 * bar.parts[i] / greatest, escape_html(parts[i]));
    out += row(bar.name, track, bar.text, false);
  }
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (any[i])
      legend += fmt::format("<li><i class=\"swatch s{}\"></i><span>{}</span></li>", i,
                            escape_html(parts[i]));
  return out + "</div><ul class=\"legend\">" + legend + "</ul>";
}

}  // namespace ballot

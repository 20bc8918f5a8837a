#include "runtime/report_run_section.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/report_chart.h"

namespace ballot {

std::vector<Point> points_of(const RunRecord& run, const StepValue& y) {
  std::vector<Point> points;
  points.reserve(run.steps.size());
  for (const StepRecord& step : run.steps)
    points.push_back({static_cast<double>(step.step), y(step)});
  return points;
}

bool any(const std::vector<Point>& points) {
  return std::any_of(points.begin(), points.end(),
                     [](const Point& point) { return std::isfinite(point.y); });
}

std::string card(const std::string& title, const std::string& body, bool wide) {
  return std::string("<section class=\"card") + (wide ? " wide" : "") + "\"><h3>" +
         escape_html(title) + "</h3>" + body + "</section>";
}

namespace {

// Of text from elsewhere, as much as a row of a table holds.
std::string cut(const std::string& text) {
  constexpr std::size_t kMost = 600;
  return text.size() > kMost ? text.substr(0, kMost) + " …" : text;
}

double all_faults(const StepRecord& step) {
  return (std::isfinite(step.gradient_faults) ? step.gradient_faults : 0) +
         (std::isfinite(step.loss_faults) ? step.loss_faults : 0);
}

std::string stages_card(const RunRecord& run) {
  std::vector<Layer> layers;
  for (std::size_t stage = 0; stage < kStageCount; ++stage)
    layers.push_back({kStages[stage].name,
                      points_of(run, [&](const StepRecord& s) { return s.stages[stage]; })});
  layers.push_back({"other", points_of(run, [](const StepRecord& s) {
                      double rest = s.seconds;
                      for (const double stage : s.stages)
                        if (std::isfinite(stage)) rest -= stage;
                      return std::isfinite(rest) ? std::max(0.0, rest) : kNoValue;
                    })});
  return card("Time per stage, worker 0", stacked_chart({.title = "Seconds per step by stage",
                                                         .x_label = "step",
                                                         .y_label = "seconds per step",
                                                         .reference_label = ""},
                                                        layers));
}

std::string agreement_card(const RunRecord& run) {
  std::size_t voters = 0;
  for (const StepRecord& step : run.steps) voters = std::max(voters, step.agreement.size());
  if (voters == 0) return "";
  std::vector<Curve> curves;
  const auto of_voter = [](std::size_t voter) {
    return [voter](const StepRecord& step) {
      return voter < step.agreement.size() ? static_cast<double>(step.agreement[voter]) : kNoValue;
    };
  };
  if (voters <= kPalette) {
    for (std::size_t voter = 0; voter < voters; ++voter)
      curves.push_back({fmt::format("voter {}", voter),
                        bucket_means(points_of(run, of_voter(voter)), 200), voter});
  } else {
    for (const auto& [name, share] :
         {std::pair{"least", 0.0}, {"median", 0.5}, {"greatest", 1.0}}) {
      const double rank = share;
      const StepValue value = [rank](const StepRecord& step) {
        std::vector<float> sorted;
        for (const float x : step.agreement)
          if (std::isfinite(x)) sorted.push_back(x);
        if (sorted.empty()) return kNoValue;
        std::sort(sorted.begin(), sorted.end());
        return static_cast<double>(
            sorted[static_cast<std::size_t>(rank * static_cast<double>(sorted.size() - 1))]);
      };
      curves.push_back({fmt::format("{} of {} voters", name, voters),
                        bucket_means(points_of(run, value), 200), curves.size()});
    }
  }
  if (std::none_of(curves.begin(), curves.end(),
                   [](const Curve& curve) { return any(curve.points); }))
    return "";
  return card(
      "Agreement of each voter with the others",
      line_chart({.title = "Share of elements where a voter agrees with the majority of the others",
                  .x_label = "step",
                  .y_label = "share of elements",
                  .reference = 0.5,
                  .reference_label = "chance"},
                 curves));
}

// Red as far as a voter is behind its layer's median, from the median down to chance.
std::string layers_card(const RunRecord& run) {
  if (!run.layers || run.layers->layers.empty() || run.layers->agreement[0].empty()) return "";
  const LayerRecord& record = *run.layers;
  constexpr std::size_t kMostVoters = 64;
  const std::size_t voters = record.agreement[0].size(), shown = std::min(voters, kMostVoters);
  // The worst, where not all find room.
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t v = 0; v < voters; ++v) {
    double sum = 0, count = 0;
    for (const std::vector<float>& row : record.agreement)
      if (std::isfinite(row[v])) sum += row[v], ++count;
    order.emplace_back(count > 0 ? sum / count : 2, v);
  }
  if (shown < voters) std::sort(order.begin(), order.end());
  order.resize(shown);
  std::string out =
      "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th scope=\"col\">layer</th>";
  for (const auto& [mean, voter] : order)
    out += fmt::format("<th scope=\"col\">voter {}</th>", voter);
  out += "</tr></thead><tbody>";
  for (std::size_t layer = 0; layer < record.layers.size(); ++layer) {
    const std::vector<float>& row = record.agreement[layer];
    std::vector<float> sorted;
    for (const float share : row)
      if (std::isfinite(share)) sorted.push_back(share);
    std::sort(sorted.begin(), sorted.end());
    const double median = sorted.empty() ? kNoValue : sorted[sorted.size() / 2];
    out += "<tr><th scope=\"row\">" + escape_html(record.layers[layer]) + "</th>";
    for (const auto& [mean, voter] : order) {
      const double share = row[voter];
      const double behind = median > 0.5 ? (median - share) / (median - 0.5) : 0;
      const double red = std::isfinite(behind) ? std::clamp(behind, 0.0, 1.0) * 60 : 0;
      out += fmt::format(
          "<td style=\"background:color-mix(in srgb,var(--heat) {:.0f}%,transparent)\">{}</td>",
          red, std::isfinite(share) ? fmt::format("{:.3f}", share) : "–");
    }
    out += "</tr>";
  }
  out += "</tbody></table></div><p class=\"small\">" +
         fmt::format("Over {} steps up to step {}; chance is 0.5.", plain_number(record.steps),
                     record.step);
  if (shown < voters) out += fmt::format(" The {} voters of {} that agree least.", shown, voters);
  return card("Agreement by layer", out + "</p>", true);
}

std::string ties_card(const RunRecord& run) {
  std::vector<Curve> curves;
  const auto add = [&](const char* name, const StepValue& value, std::size_t color) {
    Curve curve{name, bucket_means(points_of(run, value), 200), color};
    if (any(curve.points)) curves.push_back(std::move(curve));
  };
  add(
      "tied", [](const StepRecord& s) { return s.ties; }, 1);
  add(
      "unanimous", [](const StepRecord& s) { return s.unanimous; }, 2);
  add(
      "held (all abstained)", [](const StepRecord& s) { return s.held; }, 3);
  if (curves.empty()) return "";
  return card("Ties and unanimous votes", line_chart({.title = "Shares of voted elements",
                                                      .x_label = "step",
                                                      .y_label = "share of voted elements",
                                                      .from_zero = true,
                                                      .reference_label = ""},
                                                     curves));
}

std::string faults_card(const RunRecord& run) {
  if (sum_of(run, all_faults) == 0) return "";
  std::vector<Curve> curves;
  const auto add = [&](const char* name, const StepValue& value, std::size_t color) {
    Curve curve{name, {}, color, true};
    for (const Point& point : points_of(run, value))
      if (point.y > 0) curve.points.push_back(point);
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  };
  add(
      "tensors whose gradient was not finite",
      [](const StepRecord& s) { return s.gradient_faults; }, 1);
  add(
      "workers whose loss was not finite", [](const StepRecord& s) { return s.loss_faults; }, 3);
  return card("Faults", line_chart({.title = "Faults by step",
                                    .x_label = "step",
                                    .y_label = "count in the step",
                                    .from_zero = true,
                                    .x_low = static_cast<double>(run.steps.front().step),
                                    .x_high = static_cast<double>(run.steps.back().step),
                                    .whole = true,
                                    .reference_label = ""},
                                   curves));
}

// Checkpoints one after the other are one row.
std::string events_card(const RunRecord& run) {
  if (run.events.empty()) return "";
  constexpr std::size_t kMostRows = 200;
  std::string rows;
  std::size_t count = 0;
  for (std::size_t i = 0; i < run.events.size();) {
    const EventRecord& event = run.events[i];
    std::size_t end = i + 1;
    if (event.kind == MarkKind::checkpoint)
      while (end < run.events.size() && run.events[end].kind == MarkKind::checkpoint) ++end;
    const EventRecord& last = run.events[end - 1];
    const bool many = end - i > 1;
    if (++count <= kMostRows)
      rows += fmt::format(
          "<tr><td>{}</td><td>{}</td><td{}>{}</td><td class=\"detail\">{}</td></tr>",
          plain_duration(event.elapsed) + (many ? " to " + plain_duration(last.elapsed) : ""),
          many ? fmt::format("{} to {}", event.step, last.step) : std::to_string(event.step),
          event.kind == MarkKind::alarm || event.kind == MarkKind::failure ? " class=\"bad\"" : "",
          many ? fmt::format("{} checkpoints", end - i) : name_of(event.kind),
          many ? "the last: " + escape_html(cut(last.text)) : escape_html(cut(event.text)));
    i = end;
  }
  std::string out =
      "<div class=\"scroll\"><table class=\"events\"><thead><tr><th scope=\"col\">after</th>"
      "<th scope=\"col\">step</th><th scope=\"col\">what</th><th scope=\"col\"></th></tr></thead>"
      "<tbody>" +
      rows + "</tbody></table></div>";
  if (count > kMostRows)
    out += fmt::format("<p class=\"small\">The first {} of {}.</p>", kMostRows, count);
  return card("Events", out, true);
}

std::string facts(const RunRecord& run) {
  if (run.facts.empty()) return "";
  std::string rows;
  for (const auto& [key, value] : run.facts) {
    const bool cut = value.size() > 300;
    rows += "<tr><th scope=\"row\">" + escape_html(key.substr(0, 100)) + "</th><td>" +
            escape_html(value.substr(0, 300)) + (cut ? " …" : "") + "</td></tr>";
  }
  return "<details><summary>What this run says of itself</summary><div class=\"card "
         "scroll\"><table><tbody>" +
         rows + "</tbody></table></div></details>";
}

}  // namespace

std::string run_section(const RunRecord& run) {
  std::string out =
      "<h2>" + escape_html(run.name) + "</h2><p class=\"lead\">" + escape_html(run.folder);
  if (!run.ended) out += " · has not ended";
  if (run.starts > 1)
    out += run.elastic ? fmt::format(" · {} terms", run.starts)
                       : fmt::format(" · started {} times", run.starts);
  out += "</p><div class=\"grid2\">";
  out += events_card(run) + stages_card(run) + agreement_card(run) + layers_card(run) +
         ties_card(run) + faults_card(run);
  return out + "</div>" + facts(run);
}

}  // namespace ballot

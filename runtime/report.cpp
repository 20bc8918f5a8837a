// The page: what was run and what it cost in one table, then the curves.
#include "runtime/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "core/error.h"            // require
#include "core/file.h"             // replace_file_atomically
#include "runtime/report_chart.h"  // line_chart, stacked_chart, log_bars
#include "runtime/report_data.h"   // RunRecord

namespace ballot {
namespace {

using Value = std::function<double(const StepRecord&)>;

// Colours: dark enough on white and light enough on near-black for 3:1; dashes tell the curves
// apart without them.
constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--page:#fbfbfa;--card:#fff;--ink:#1d2126;--soft:#5b636d;--edge:#dfe2e6;--grid:#e8eaed;
--c0:#1f5fbf;--c1:#c2410c;--c2:#0f7b5f;--c3:#8b35a8;--c4:#8a6d00;--c5:#0e7490;--c6:#b4235f;--c7:#5b6470;
--s0:#9aa3ad;--s1:#4f8fe6;--s2:#1f5fbf;--s3:#8b5fd0;--s4:#e3a008;--s5:#d9480f;--s6:#b4235f;--s7:#e68fb3;--s8:#12a07a;
--s9:#6bc4a6;--s10:#cfd4da;--bad:#b42318;--good:#0f7b5f}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1b1f24;--ink:#e8eaed;--soft:#a4adb8;--edge:#2e343b;
--grid:#2a3037;--c0:#74aaff;--c1:#ff9a5c;--c2:#4ecfa6;--c3:#d393ee;--c4:#e0c04a;--c5:#57c7e6;--c6:#ff8ab5;--c7:#b3bcc7;
--s0:#79828c;--s1:#8fbaff;--s2:#4a86e0;--s3:#a884e8;--s4:#f0b93a;--s5:#ff8552;--s6:#e0568f;--s7:#f2b3cc;--s8:#35b98f;
--s9:#8fdcc2;--s10:#4b535c;--bad:#ff8a80;--good:#4ecfa6}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif}
main{max-width:1400px;margin:0 auto;padding:28px 24px 48px}
h1{font-size:1.55rem;margin:0}h2{font-size:1.2rem;margin:36px 0 12px;overflow-wrap:anywhere}h3{font-size:1rem;margin:0 0 8px}
.lead{color:var(--soft);margin:2px 0 20px;overflow-wrap:anywhere}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:18px}
.card{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:16px 18px;min-width:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 18px 6px 0;border-bottom:1px solid var(--edge);vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
th[scope=row]{font-weight:400;color:var(--soft);white-space:nowrap}
td{overflow-wrap:anywhere;min-width:8em}.strong td{font-weight:650}.heat td{min-width:0;padding:6px 10px;text-align:right}
.good{color:var(--good);font-weight:650}.bad{color:var(--bad);font-weight:650}
svg{display:block;width:100%;height:auto}
.wide{grid-column:1/-1}.wide svg{max-width:860px}
svg text{font:12px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:var(--soft)}
svg .label{fill:var(--ink)}svg .note{font-size:11px}.middle{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:var(--grid);fill:none}.axis{stroke:var(--soft);fill:none}
.reference{stroke:var(--soft);stroke-dasharray:3 4;fill:none}
.line{fill:none;stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}.thin{stroke-width:1.1;opacity:.85}
.point{stroke:var(--card);stroke-width:1.3}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1);stroke-dasharray:7 4}.line.c2{stroke:var(--c2);stroke-dasharray:2 4}
.line.c3{stroke:var(--c3);stroke-dasharray:9 3 2 3}.line.c4{stroke:var(--c4);stroke-dasharray:14 4}
.line.c5{stroke:var(--c5);stroke-dasharray:5 3 1 3 1 3}.line.c6{stroke:var(--c6);stroke-dasharray:4 4}
.line.c7{stroke:var(--c7);stroke-dasharray:1 5}
.point.c0,.b0{fill:var(--c0)}.point.c1,.b1{fill:var(--c1)}.point.c2,.b2{fill:var(--c2)}.point.c3,.b3{fill:var(--c3)}
.point.c4,.b4{fill:var(--c4)}.point.c5,.b5{fill:var(--c5)}.point.c6,.b6{fill:var(--c6)}.point.c7,.b7{fill:var(--c7)}
.point.c1,.point.c3,.point.c5,.point.c7{fill:none;stroke-width:2}.point.c1{stroke:var(--c1)}.point.c3{stroke:var(--c3)}
.point.c5{stroke:var(--c5)}.point.c7{stroke:var(--c7)}
.minor{opacity:.6}
.area{stroke:none}.s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}.s3{fill:var(--s3)}
.s4{fill:var(--s4)}.s5{fill:var(--s5)}.s6{fill:var(--s6)}.s7{fill:var(--s7)}.s8{fill:var(--s8)}.s9{fill:var(--s9)}
.s10{fill:var(--s10)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0 0;padding:0;font-size:13px}
.legend li{display:flex;align-items:center;gap:7px;overflow-wrap:anywhere}.legend svg{width:auto;flex:none}
.small,.empty{color:var(--soft);font-size:13px;margin:8px 0 0}
details{margin-top:18px}summary{cursor:pointer;color:var(--soft)}
@media print{.card{break-inside:avoid}}
)css";

std::vector<Point> points_of(const RunRecord& run, const Value& y, bool by_tokens = false) {
  std::vector<Point> points;
  points.reserve(run.steps.size());
  for (const StepRecord& step : run.steps) {
    const double x = by_tokens ? step.tokens : static_cast<double>(step.step);
    if (std::isfinite(x)) points.push_back({x, y(step)});
  }
  return points;
}

double mean_of(const RunRecord& run, const Value& value) {
  double sum = 0;
  std::size_t count = 0;
  for (const StepRecord& step : run.steps)
    if (const double x = value(step); std::isfinite(x)) {
      sum += x;
      ++count;
    }
  return count ? sum / static_cast<double>(count) : kNoValue;
}

double sum_of(const RunRecord& run, const Value& value) {
  double sum = 0;
  for (const StepRecord& step : run.steps)
    if (const double x = value(step); std::isfinite(x)) sum += x;
  return sum;
}

double median_of(const RunRecord& run, const Value& value) {
  std::vector<double> values;
  for (const StepRecord& step : run.steps)
    if (const double x = value(step); std::isfinite(x)) values.push_back(x);
  if (values.empty()) return kNoValue;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

bool any(const std::vector<Point>& points) {
  return std::any_of(points.begin(), points.end(),
                     [](const Point& point) { return std::isfinite(point.y); });
}

double bytes(const StepRecord& step) {
  return step.bytes;
}
double fp32_bytes(const StepRecord& step) {
  return step.fp32_bytes;
}
double all_faults(const StepRecord& step) {
  return (std::isfinite(step.gradient_faults) ? step.gradient_faults : 0) +
         (std::isfinite(step.loss_faults) ? step.loss_faults : 0);
}

std::string text_or_dash(const std::string& text) {
  return text.empty() ? "–" : escape_html(text);
}

// What 1 fp32 all-reduce would send, as a multiple of what was sent.
std::string ratio(const RunRecord& run) {
  const double sent = mean_of(run, bytes), fp32 = mean_of(run, fp32_bytes);
  if (!(sent > 0) || !std::isfinite(fp32)) return "–";
  const double times = fp32 / sent;
  return times >= 1.05   ? fmt::format("{:.1f} times less", times)
         : times > 0.952 ? "the same"
                         : fmt::format("{:.1f} times more", 1 / times);
}

std::string identical(const RunRecord& run) {
  if (!run.replicas_identical) return run.ended ? "–" : "not said: the run has not ended";
  return *run.replicas_identical ? "<span class=\"good\">yes</span>"
                                 : "<span class=\"bad\">NO</span>";
}

std::string faults_text(const RunRecord& run) {
  const double gradients = sum_of(run, [](const StepRecord& s) { return s.gradient_faults; });
  const double losses = sum_of(run, [](const StepRecord& s) { return s.loss_faults; });
  if (gradients + losses == 0) return "none";
  return fmt::format("<span class=\"bad\">{} tensors, {} losses not finite</span>", gradients,
                     losses);
}

std::string summary(const std::vector<RunRecord>& runs) {
  std::string out = "<table><thead><tr><th scope=\"col\"></th>";
  for (const RunRecord& run : runs) out += "<th scope=\"col\">" + escape_html(run.name) + "</th>";
  out += "</tr></thead><tbody>";
  const auto row = [&](const char* name, const std::function<std::string(const RunRecord&)>& cell,
                       bool strong = false) {
    out += fmt::format("<tr{}><th scope=\"row\">{}</th>", strong ? " class=\"strong\"" : "", name);
    for (const RunRecord& run : runs) out += "<td>" + cell(run) + "</td>";
    out += "</tr>";
  };
  const auto before = [](const RunRecord& run) {
    return run.evaluations.empty() ? kNoValue : run.evaluations.front().loss;
  };
  const auto after = [](const RunRecord& run) {
    return run.evaluations.size() < 2 ? kNoValue : run.evaluations.back().loss;
  };
  row("Model", [](const RunRecord& run) { return text_or_dash(run.model); });
  row("Workers", [](const RunRecord& run) { return text_or_dash(run.workers); });
  row("Rule, combined by", [](const RunRecord& run) {
    return run.reduce.empty() ? text_or_dash(run.rule)
                              : text_or_dash(run.rule) + ", " + escape_html(run.reduce);
  });
  row("Products computed in", [](const RunRecord& run) { return text_or_dash(run.compute); });
  row("Steps", [](const RunRecord& run) {
    return run.steps.empty() ? std::string("0") : fmt::format("{}", run.steps.size());
  });
  row("Tokens", [](const RunRecord& run) {
    return run.steps.empty() ? std::string("–") : si_number(run.steps.back().tokens);
  });
  const auto nats = [](double loss) {
    return std::isfinite(loss) ? plain_number(loss) + " nats/token" : "–";
  };
  row("Held-out loss before", [&](const RunRecord& run) { return nats(before(run)); });
  row(
      "Held-out loss after", [&](const RunRecord& run) { return nats(after(run)); }, true);
  row(
      "Sent per step and worker",
      [](const RunRecord& run) { return si_bytes(mean_of(run, bytes)); }, true);
  row("An fp32 all-reduce sends",
      [](const RunRecord& run) { return si_bytes(mean_of(run, fp32_bytes)); });
  row("Against fp32", ratio, true);
  row("Replicas identical", identical);
  row("Time per step", [](const RunRecord& run) {
    const double time = median_of(run, [](const StepRecord& s) { return s.seconds; });
    return std::isfinite(time) ? plain_number(1000 * time, 3) + " ms (median)" : "–";
  });
  row("Tokens/s per worker", [](const RunRecord& run) {
    return si_number(median_of(run, [](const StepRecord& s) { return s.tokens_per_second; }));
  });
  row("Faults", faults_text);
  return out + "</tbody></table>";
}

std::string card(const std::string& title, const std::string& body, bool wide = false) {
  return std::string("<section class=\"card") + (wide ? " wide" : "") + "\"><h3>" +
         escape_html(title) + "</h3>" + body + "</section>";
}

std::string loss_card(const std::vector<RunRecord>& runs, bool by_tokens) {
  std::vector<Curve> curves;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Curve line{runs[i].name + ", training",
               points_of(
                   runs[i], [](const StepRecord& s) { return s.loss; }, by_tokens),
               i, false, true};
    if (any(line.points)) curves.push_back(std::move(line));
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Curve held_out{runs[i].name + ", held out", {}, i, true, false};
    for (const EvaluationRecord& evaluation : runs[i].evaluations) {
      double x = static_cast<double>(evaluation.step);
      if (by_tokens) {
        // Held-out tokens stand in the line; the curve's x is the trained ones at that step.
        const auto at =
            std::upper_bound(runs[i].steps.begin(), runs[i].steps.end(), evaluation.step,
                             [](std::int64_t step, const StepRecord& s) { return step < s.step; });
        x = evaluation.step == 0 || at == runs[i].steps.begin() ? 0 : std::prev(at)->tokens;
      }
      held_out.points.push_back({x, evaluation.loss});
    }
    if (any(held_out.points)) curves.push_back(std::move(held_out));
  }
  const char* title = by_tokens ? "Loss by tokens" : "Loss by step";
  return card(title, line_chart({.title = title,
                                 .x_label = by_tokens ? "tokens, all workers" : "step",
                                 .y_label = "loss (nats per token)",
                                 .reference_label = ""},
                                curves));
}

std::string bytes_card(const std::vector<RunRecord>& runs) {
  std::vector<Bar> bars;
  double fp32 = kNoValue;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const double sent = mean_of(runs[i], bytes);
    if (!std::isfinite(sent)) continue;
    const auto part = [&](const char* name, double value) {
      if (value > 0) bars.push_back({name, value, si_bytes(value), i, true});
    };
    bars.push_back({runs[i].name, sent, si_bytes(sent), i, false});
    part("votes", mean_of(runs[i], [](const StepRecord& s) { return s.vote_bytes; }));
    part("means", mean_of(runs[i], [](const StepRecord& s) { return s.mean_bytes; }));
    part("control", mean_of(runs[i], [](const StepRecord& s) { return s.control_bytes; }));
    if (!std::isfinite(fp32)) fp32 = mean_of(runs[i], fp32_bytes);
  }
  bool positive = false;
  for (const Bar& bar : bars) positive = positive || bar.value > 0;
  if (!positive)
    return card("Bytes per step and worker",
                "<p class=\"empty\">Nothing was sent: one worker, or no step yet.</p>");
  if (fp32 > 0) bars.push_back({"fp32 all-reduce", fp32, si_bytes(fp32) + " (reckoned)", 7, false});
  return card("Bytes per step and worker",
              log_bars({.title = "Bytes sent per step and worker, log scale",
                        .x_label = "bytes sent per step by one worker, mean (log scale)",
                        .y_label = "",
                        .reference_label = ""},
                       bars),
              true);
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
      const Value value = [rank](const StepRecord& step) {
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
          "<td style=\"background:color-mix(in srgb,var(--bad) {:.0f}%,transparent)\">{}</td>", red,
          std::isfinite(share) ? fmt::format("{:.3f}", share) : "–");
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
  const auto add = [&](const char* name, const Value& value, std::size_t color) {
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
  const auto add = [&](const char* name, const Value& value, std::size_t color) {
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

std::string run_section(const RunRecord& run) {
  std::string out =
      "<h2>" + escape_html(run.name) + "</h2><p class=\"lead\">" + escape_html(run.folder);
  if (!run.ended) out += " · has not ended";
  if (run.starts > 1) out += fmt::format(" · started {} times", run.starts);
  out += "</p><div class=\"grid2\">";
  out +=
      stages_card(run) + agreement_card(run) + layers_card(run) + ties_card(run) + faults_card(run);
  return out + "</div>" + facts(run);
}

}  // namespace

std::string write_report(const std::vector<std::string>& run_folders, const std::string& path) {
  require(!run_folders.empty(), "a report of no run");
  std::vector<RunRecord> runs;
  for (const std::string& folder : run_folders) runs.push_back(read_run_record(folder));
  // Two folders of one name are told apart by their whole paths.
  std::vector<std::string> names;
  for (const RunRecord& run : runs) names.push_back(run.name);
  for (RunRecord& run : runs)
    if (run.name.empty() || std::count(names.begin(), names.end(), run.name) > 1)
      run.name = run.folder;

  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src "
      "'unsafe-inline'\">"
      "<title>Ballot: ";
  page += escape_html(runs[0].name) + "</title><style>" + kStyle + "</style></head><body><main>";
  page += "<h1>Ballot run report</h1><p class=\"lead\">";
  for (std::size_t i = 0; i < runs.size(); ++i)
    page += (i ? " · " : "") + escape_html(runs[i].name);
  page += "</p><div class=\"card scroll\">" + summary(runs) + "</div>";
  page += "<h2>Loss and traffic</h2><div class=\"grid2\">";
  page += loss_card(runs, false) + loss_card(runs, true) + bytes_card(runs) + "</div>";
  for (const RunRecord& run : runs) page += run_section(run);
  page += "</main></body></html>\n";

  const std::string target =
      path.empty() ? (std::filesystem::path(run_folders[0]) / "report.html").string() : path;
  replace_file_atomically(target, page);
  return target;
}

}  // namespace ballot

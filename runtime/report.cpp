// The page: the runs side by side in one table and their curves together, then each alone.
#include "runtime/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "core/error.h"                  // ConfigError
#include "core/file.h"                   // replace_file_atomically
#include "runtime/report_bars.h"         // bar_rows, parted_bars
#include "runtime/report_chart.h"        // line_chart
#include "runtime/report_data.h"         // RunRecord
#include "runtime/report_figures.h"      // mean_of, reach
#include "runtime/report_run_section.h"  // run_section, card
#include "runtime/report_style.h"

namespace ballot {
namespace {

double bytes(const StepRecord& step) {
  return step.bytes;
}
double fp32_bytes(const StepRecord& step) {
  return step.fp32_bytes;
}

std::string text_or_dash(const std::string& text) {
  return text.empty() ? "–" : escape_html(text);
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

std::string progress(const RunRecord& run) {
  std::string text = run.steps.empty() ? "0" : std::to_string(run.steps.back().step);
  const bool partly =
      run.planned_steps > 0 && (run.steps.empty() || run.steps.back().step < run.planned_steps);
  if (partly) text += fmt::format(" of {}", run.planned_steps);
  if (!run.ended) text += ", has not ended";
  return text;
}

std::string events_text(const RunRecord& run) {
  std::string text;
  for (std::size_t k = 0; k < kMarkKinds; ++k) {
    const auto kind = static_cast<MarkKind>(k);
    const auto count = std::ranges::count(run.events, kind, &EventRecord::kind);
    if (count == 0) continue;
    const std::string name = name_of(kind);
    text += (text.empty() ? "" : ", ") + fmt::format("{} {}", count,
                                                     count == 1 || kind == MarkKind::failure ? name
                                                     : kind == MarkKind::term ? "changes of term"
                                                                              : name + "s");
  }
  return text.empty() ? "–" : text;
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
  row("Steps", progress);
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
  row(
      "Against fp32", [](const RunRecord& run) { return text_or_dash(against_fp32(run)); }, true);
  row("Sent in all, per worker", [](const RunRecord& run) {
    return si_bytes(sum_of(run, bytes)) + " (fp32: " + si_bytes(sum_of(run, fp32_bytes)) + ")";
  });
  row("Replicas identical", identical);
  row("Time per step", [](const RunRecord& run) {
    const double time = median_of(run, [](const StepRecord& s) { return s.seconds; });
    return std::isfinite(time) ? plain_number(1000 * time, 3) + " ms (median)" : "–";
  });
  row(
      "Time in all",
      [](const RunRecord& run) {
        return plain_duration(last_elapsed(run)) + " (" + clock_of(run) + ")";
      },
      true);
  row("Tokens/s, all workers, over that time",
      [](const RunRecord& run) { return si_number(tokens_per_second(run)); });
  row("Tokens/s per worker, of a step (median)", [](const RunRecord& run) {
    return si_number(median_of(run, [](const StepRecord& s) { return s.tokens_per_second; }));
  });
  row("Faults", faults_text);
  row("Events", events_text);
  return out + "</tbody></table>";
}

enum class Across { step, tokens, time };

// Seconds, minutes or hours, as the longest run needs.
struct TimeUnit {
  const char* name;
  double seconds;
};
TimeUnit time_unit(const std::vector<RunRecord>& runs) {
  double longest = 0;
  for (const RunRecord& run : runs)
    if (!run.steps.empty()) longest = std::max(longest, last_elapsed(run));
  if (longest < 180) return {"seconds", 1};
  if (longest < 3 * 3600) return {"minutes", 60};
  return {"hours", 3600};
}

// The last step that is not after `step`; null where there is none.
const StepRecord* step_at(const RunRecord& run, std::int64_t step) {
  const auto after =
      std::upper_bound(run.steps.begin(), run.steps.end(), step,
                       [](std::int64_t at, const StepRecord& s) { return at < s.step; });
  return after == run.steps.begin() ? nullptr : &*std::prev(after);
}

// Where a record of `step` at `elapsed` stands.
double place_of(const RunRecord& run, Across across, const TimeUnit& unit, std::int64_t step,
                double elapsed) {
  if (across == Across::step) return static_cast<double>(step);
  if (across == Across::time) return elapsed / unit.seconds;
  const StepRecord* at = step_at(run, step);
  return at == nullptr ? 0 : at->tokens;
}

// On the curve of the training loss: at the last value that it had by then, or its first.
double height_at(const RunRecord& run, std::int64_t step) {
  const StepRecord* at = step_at(run, step);
  const std::ptrdiff_t from = at == nullptr ? 0 : at - run.steps.data();
  for (std::ptrdiff_t i = from; i >= 0 && at != nullptr; --i)
    if (std::isfinite(run.steps[static_cast<std::size_t>(i)].loss))
      return run.steps[static_cast<std::size_t>(i)].loss;
  for (const StepRecord& later : run.steps)
    if (std::isfinite(later.loss)) return later.loss;
  return kNoValue;
}

std::string loss_card(const std::vector<RunRecord>& runs, Across across) {
  const TimeUnit unit = time_unit(runs);
  std::vector<Curve> curves;
  std::vector<Mark> marks;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunRecord& run = runs[i];
    Curve line{run.name + ", training", {}, i, false, true};
    for (const StepRecord& step : run.steps) {
      const double x = place_of(run, across, unit, step.step, step.elapsed);
      if (std::isfinite(x)) line.points.push_back({x, step.loss});
    }
    if (any(line.points)) curves.push_back(std::move(line));
    for (const EventRecord& event : run.events) {
      if (event.kind == MarkKind::start && event.step == 0) continue;  // where the curve begins
      const double x = place_of(run, across, unit, event.step, event.elapsed);
      marks.push_back({{x, height_at(run, event.step)},
                       event.kind,
                       i,
                       fmt::format("{}, step {}: {}{}", run.name, event.step, name_of(event.kind),
                                   event.text.empty() ? "" : ", " + event.text)});
    }
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Curve held_out{runs[i].name + ", held out", {}, i, true, false};
    for (const EvaluationRecord& evaluation : runs[i].evaluations)
      held_out.points.push_back(
          {place_of(runs[i], across, unit, evaluation.step, evaluation.elapsed), evaluation.loss});
    if (any(held_out.points)) curves.push_back(std::move(held_out));
  }
  const char* title = across == Across::tokens ? "Loss by tokens"
                      : across == Across::time ? "Loss by time"
                                               : "Loss by step";
  const std::string x_label = across == Across::tokens ? "tokens, all workers"
                              : across == Across::time
                                  ? fmt::format("{} of the run, as counted below", unit.name)
                                  : "step";
  return card(title, line_chart({.title = title,
                                 .x_label = x_label,
                                 .y_label = "loss (nats per token)",
                                 .x_low = 0,
                                 .x_high = across == Across::time ? 1e-9 : 0,  // from 0 on
                                 .whole_x = across != Across::time,
                                 .reference_label = ""},
                                curves, marks));
}

// "1.8 times as fast as mean".
std::string speed_up(const Reached& one, const Reached& reference, const std::string& name) {
  if (!(one.seconds > 0) || !(reference.seconds > 0)) return "";
  const double times = reference.seconds / one.seconds;
  return times >= 1 ? fmt::format("{:.3g} times as fast as {}", times, name)
                    : fmt::format("{:.3g} times as long as {}", 1 / times, name);
}

std::string speed_card(const std::vector<RunRecord>& runs) {
  const std::size_t window = smoothing_window(runs), reference = reference_run(runs);
  const std::vector<double> losses = common_losses(runs, window);
  std::string out;
  if (losses.empty()) {
    out = "<p class=\"empty\">There is no loss that all of these runs have come down to.</p>";
  } else {
    out = "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">training loss</th>";
    for (const RunRecord& run : runs) out += "<th scope=\"col\">" + escape_html(run.name) + "</th>";
    out += "</tr></thead><tbody>";
    for (const double loss : losses) {
      out += fmt::format("<tr><th scope=\"row\">{} nats</th>", plain_number(loss));
      const Reached base = reach(runs[reference], loss, window);
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const Reached at = reach(runs[i], loss, window);
        out += fmt::format("<td>after {}<br><span class=\"soft\">step {}, {} tokens</span>",
                           plain_duration(at.seconds), at.step, si_number(at.tokens));
        const std::string faster = i == reference ? "" : speed_up(at, base, runs[reference].name);
        if (!faster.empty()) out += "<br><strong>" + escape_html(faster) + "</strong>";
        out += "</td>";
      }
      out += "</tr>";
    }
    out += "</tbody></table></div>";
    out += fmt::format(
        "<p class=\"small\">The training loss is the mean of the last {}; the lowest row is the "
        "lowest that all have come to.</p>",
        window == 1 ? "step alone" : fmt::format("{} steps", window));
  }
  return card("Time to reach a loss", out, true);
}

std::string bytes_card(const std::vector<RunRecord>& runs) {
  std::vector<Bar> bars;
  std::vector<double> references;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const double sent = mean_of(runs[i], bytes), fp32 = mean_of(runs[i], fp32_bytes);
    if (!std::isfinite(sent)) continue;
    const auto part = [&](const char* name, double value) {
      if (value > 0) bars.push_back({name, value, si_bytes(value), i, true});
    };
    bars.push_back({runs[i].name, sent, si_bytes(sent), i, false});
    part("votes", mean_of(runs[i], [](const StepRecord& s) { return s.vote_bytes; }));
    part("means", mean_of(runs[i], [](const StepRecord& s) { return s.mean_bytes; }));
    part("control", mean_of(runs[i], [](const StepRecord& s) { return s.control_bytes; }));
    // Runs of one model and as many workers have one reference; where some were away for a few
    // steps, nearly.
    const bool known = std::ranges::any_of(
        references, [&](double one) { return std::abs(one - fp32) <= 0.05 * fp32; });
    if (fp32 > 0 && !known) references.push_back(fp32);
  }
  if (std::ranges::none_of(bars, [](const Bar& bar) { return bar.value > 0; }))
    return card("Bytes per step and worker",
                "<p class=\"empty\">Nothing was sent: one worker, or no step yet.</p>", true);
  for (const double fp32 : references)
    bars.push_back({"an fp32 all-reduce", fp32, si_bytes(fp32) + " (reckoned)", 7, false});
  return card("Bytes per step and worker",
              bar_rows(bars) +
                  "<p class=\"small\">Sent in a step by worker 0, or by the one that "
                  "wrote the record; means of all steps.</p>",
              true);
}

// Means of all steps, every run's beside the others'.
std::string stages_side_by_side(const std::vector<RunRecord>& runs) {
  std::vector<std::string> parts;
  for (const Stage& stage : kStages) parts.push_back(stage.name);
  parts.push_back("other");
  std::vector<PartedBar> bars;
  for (const RunRecord& run : runs) {
    PartedBar bar{run.name, {}, ""};
    const double whole = mean_of(run, [](const StepRecord& s) { return s.seconds; });
    double rest = whole;
    for (std::size_t stage = 0; stage < kStageCount; ++stage) {
      bar.parts.push_back(mean_of(run, [&](const StepRecord& s) { return s.stages[stage]; }));
      if (std::isfinite(bar.parts.back())) rest -= bar.parts.back();
    }
    bar.parts.push_back(rest > 0 ? rest : kNoValue);
    if (std::isfinite(whole)) bar.text = plain_number(1000 * whole, 3) + " ms";
    bars.push_back(std::move(bar));
  }
  return card("Time of a step by stage", parted_bars(parts, bars), true);
}

const char* const kClockNote =
    "<p class=\"small\">Time is the wall clock while the run ran, from the first line of its "
    "record: "
    "evaluations and checkpoints are in it, and between two terms of an elastic run the waiting. "
    "Not "
    "in it are the pauses between a stop and the next start, and work that was lost by a stop and "
    "done again, which counts once. Records of older versions have no time of day; for them the "
    "times of the steps are added up, without what was between them.</p>";

// Two folders of one name are told apart by their whole paths.
void name_apart(std::vector<RunRecord>& runs) {
  std::vector<std::string> names;
  for (const RunRecord& run : runs) names.push_back(run.name);
  for (RunRecord& run : runs)
    if (run.name.empty() || std::count(names.begin(), names.end(), run.name) > 1)
      run.name = run.folder;
}

}  // namespace

std::string write_report(const std::vector<std::string>& run_folders, const std::string& path) {
  if (run_folders.empty() || run_folders.size() > kMostRuns)
    throw ConfigError("a report of {} runs: expected 1 to {}", run_folders.size(), kMostRuns);
  std::vector<RunRecord> runs;
  for (const std::string& folder : run_folders) runs.push_back(read_run_record(folder));
  name_apart(runs);

  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src "
      "'unsafe-inline'\">"
      "<title>Ballot: ";
  page +=
      escape_html(runs[0].name) + "</title><style>" + kReportStyle + "</style></head><body><main>";
  page += "<h1>Ballot run report</h1><p class=\"lead\">";
  for (std::size_t i = 0; i < runs.size(); ++i)
    page += (i ? " · " : "") + escape_html(runs[i].name);
  page += "</p><div class=\"card scroll\">" + summary(runs) + "</div>";
  page += "<h2>Loss</h2><div class=\"grid2\">";
  page += loss_card(runs, Across::tokens) + loss_card(runs, Across::time) +
          loss_card(runs, Across::step) + "</div>" + kClockNote;
  page += "<h2>Time and traffic</h2><div class=\"grid2\">";
  if (runs.size() > 1) page += speed_card(runs);
  page += bytes_card(runs) + stages_side_by_side(runs) + "</div>";
  for (const RunRecord& run : runs) page += run_section(run);
  page += "</main></body></html>\n";

  const std::string target =
      path.empty() ? (std::filesystem::path(run_folders[0]) / "report.html").string() : path;
  replace_file_atomically(target, page);
  return target;
}

}  // namespace ballot

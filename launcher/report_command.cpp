// `ballot report RUN...`: one HTML page. `ballot compare RUN...`: the same runs as a table in the
// terminal.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "launcher/commands.h"
#include "runtime/metrics.h"
#include "runtime/report.h"
#include "runtime/report_data.h"
#include "runtime/report_figures.h"
#include "runtime/report_text.h"

namespace ballot {
namespace {

struct ReportFlags {
  std::vector<std::string> runs;
  std::string output;
};

std::string show(double value, const char* format) {
  return std::isnan(value) ? "-" : fmt::format(fmt::runtime(format), value);
}

std::string duration_words(double seconds) {
  return std::isnan(seconds) ? "-" : plain_duration(seconds);
}
double bytes(const StepRecord& step) {
  return step.bytes;
}
double fp32_bytes(const StepRecord& step) {
  return step.fp32_bytes;
}
std::string bytes_or_dash(double value) {
  return std::isnan(value) ? "-" : human_bytes(value);
}

// What they are, what they sent and what they came to.
void print_runs(const std::vector<RunRecord>& runs) {
  fmt::print("{:<22} {:>16} {:>7} {:>7} {:>11} {:>11} {:>14} {:>14} {:>9} {:>10}\n", "run",
             "rule by reduce", "workers", "steps", "loss before", "loss after", "sent/worker",
             "fp32 ring", "ratio", "replicas");
  fmt::print("{:<22} {:>16} {:>7} {:>7} {:>11} {:>11} {:>14} {:>14} {:>9} {:>10}\n", "", "", "", "",
             "(nats/token)", "(nats/token)", "(per step)", "(per step)", "(measured)", "identical");
  for (const RunRecord& run : runs) {
    const double sent = mean_of(run, bytes), fp32 = mean_of(run, fp32_bytes);
    const double before = run.evaluations.empty() ? kNoValue : run.evaluations.front().loss;
    const double after = run.evaluations.size() < 2 ? kNoValue : run.evaluations.back().loss;
    fmt::print("{:<22} {:>16} {:>7} {:>7} {:>11} {:>11} {:>14} {:>14} {:>9} {:>10}\n", run.name,
               run.rule + " " + run.reduce, run.workers, run.steps.size(), show(before, "{:.4f}"),
               show(after, "{:.4f}"), bytes_or_dash(sent), bytes_or_dash(fp32),
               sent > 0 ? show(fp32 / sent, "{:.1f}x") : "-",
               !run.replicas_identical   ? "unknown"
               : *run.replicas_identical ? "yes"
                                         : "NO");
  }
}

// The whole of it, and how long each took to losses that all have come to; of "1.8x as fast" the
// reference is the first run that averages, else the first.
void print_times(const std::vector<RunRecord>& runs) {
  const std::size_t window = smoothing_window(runs), reference = reference_run(runs);
  const std::vector<double> losses = common_losses(runs, window);
  fmt::print("\n{:<22} {:>13} {:>12} {:>14} {:>14}", "run", "time", "tokens/s", "sent in all",
             "fp32 in all");
  for (const double loss : losses) fmt::print(" {:>20}", "to " + plain_number(loss) + " nats");
  fmt::print("\n");
  bool steps_only = false;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunRecord& run = runs[i];
    const bool by_steps = !run.steps.empty() && run.steps_with_time < run.steps.size();
    steps_only = steps_only || by_steps;
    fmt::print("{:<22} {:>13} {:>12} {:>14} {:>14}", run.name,
               run.steps.empty() ? "-" : duration_words(last_elapsed(run)) + (by_steps ? "*" : ""),
               show(tokens_per_second(run), "{:.0f}"), human_bytes(sum_of(run, bytes)),
               human_bytes(sum_of(run, fp32_bytes)));
    for (const double loss : losses) {
      const Reached at = reach(run, loss, window), base = reach(runs[reference], loss, window);
      std::string cell = duration_words(at.seconds);
      if (i != reference && at.seconds > 0 && base.seconds > 0)
        cell += fmt::format(" ({:.2f}x)", base.seconds / at.seconds);
      fmt::print(" {:>20}", cell);
    }
    fmt::print("\n");
  }
  fmt::print(
      "\ntime: the wall clock while the run ran, without the pauses between a stop and the next "
      "start\n");
  if (steps_only)
    fmt::print(
        "*: its record has no times of day (an older version); the steps' own are added up\n");
  if (!losses.empty())
    fmt::print("to ... nats: of training, mean of {} steps{}\n", window,
               runs.size() == 1
                   ? ""
                   : fmt::format("; (2.00x): twice as fast as {}", runs[reference].name));
}

int compare(const ReportFlags& flags) {
  std::vector<RunRecord> runs;
  for (const std::string& folder : flags.runs) runs.push_back(read_run_record(folder));
  print_runs(runs);
  print_times(runs);
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  auto flags = std::make_shared<ReportFlags>();
  CLI::App* report =
      app.add_subcommand("report", "one HTML page of a run, or of several side by side");
  report->add_option("runs", flags->runs, "run directories")->required();
  report->add_option("--output", flags->output,
                     "the page; default: report.html in the first run's directory");
  report->callback([&action, flags] {
    action = [flags] {
      fmt::print("{}\n", write_report(flags->runs, flags->output));
      return 0;
    };
  });
  CLI::App* table = app.add_subcommand(
      "compare", "tables of runs: loss, bytes sent, ratio to fp32, time, time to reach a loss");
  table->add_option("runs", flags->runs, "run directories")->required();
  table->callback([&action, flags] { action = [flags] { return compare(*flags); }; });
}

}  // namespace ballot

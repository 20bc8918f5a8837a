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

namespace ballot {
namespace {

struct ReportFlags {
  std::vector<std::string> runs;
  std::string output;
};

std::string show(double value, const char* format) {
  return std::isnan(value) ? "-" : fmt::format(fmt::runtime(format), value);
}

// Mean over the steps that have a value.
double mean_of(const RunRecord& run, double StepRecord::*member) {
  double sum = 0;
  int count = 0;
  for (const StepRecord& step : run.steps)
    if (!std::isnan(step.*member)) sum += step.*member, ++count;
  return count == 0 ? kNoValue : sum / count;
}

int compare(const ReportFlags& flags) {
  fmt::print("{:<22} {:>16} {:>7} {:>7} {:>11} {:>11} {:>14} {:>14} {:>9} {:>10}\n", "run",
             "rule by reduce", "workers", "steps", "loss before", "loss after", "sent/worker",
             "fp32 ring", "ratio", "replicas");
  fmt::print("{:<22} {:>16} {:>7} {:>7} {:>11} {:>11} {:>14} {:>14} {:>9} {:>10}\n", "", "", "", "",
             "(nats/token)", "(nats/token)", "(per step)", "(per step)", "(measured)", "identical");
  for (const std::string& folder : flags.runs) {
    const RunRecord run = read_run_record(folder);
    const double sent = mean_of(run, &StepRecord::bytes),
                 fp32 = mean_of(run, &StepRecord::fp32_bytes);
    const double before = run.evaluations.empty() ? kNoValue : run.evaluations.front().loss;
    const double after = run.evaluations.size() < 2 ? kNoValue : run.evaluations.back().loss;
    fmt::print("{:<22} {:>16} {:>7} {:>7} {:>11} {:>11} {:>14} {:>14} {:>9} {:>10}\n", run.name,
               run.rule + " " + run.reduce, run.workers, run.steps.size(), show(before, "{:.4f}"),
               show(after, "{:.4f}"), std::isnan(sent) ? "-" : human_bytes(sent),
               std::isnan(fp32) ? "-" : human_bytes(fp32),
               sent > 0 ? show(fp32 / sent, "{:.1f}x") : "-",
               !run.replicas_identical   ? "unknown"
               : *run.replicas_identical ? "yes"
                                         : "NO");
  }
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
  CLI::App* table =
      app.add_subcommand("compare", "a table of runs: loss, bytes sent, ratio to fp32");
  table->add_option("runs", flags->runs, "run directories")->required();
  table->callback([&action, flags] { action = [flags] { return compare(*flags); }; });
}

}  // namespace ballot

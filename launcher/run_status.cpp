#include "launcher/run_status.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "runtime/metrics.h"        // wall_clock
#include "runtime/metrics_names.h"  // metric::
#include "runtime/report_text.h"    // plain_duration

namespace ballot {
namespace {

using nlohmann::json;

constexpr std::streamoff kTailBytes = 1 << 20;
constexpr std::size_t kPaceSteps = 64;  // the pace is theirs
constexpr std::size_t kMostEvents = 8;
constexpr double kLongSilence = 60;  // seconds; or so many steps
constexpr double kLongSteps = 20;

std::optional<double> number(const json& line, const char* key) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}
std::int64_t whole(const json& line, const char* key) {
  const double value = number(line, key).value_or(0);
  return value > 0 && value < 9e15 ? static_cast<std::int64_t>(value) : 0;
}
std::string text(const json& line, const char* key) {
  const auto found = line.find(key);
  if (found == line.end() || found->is_null()) return "";
  return found->is_string() ? found->get<std::string>()
                            : found->dump(-1, ' ', false, json::error_handler_t::replace);
}

struct Done {  // a step
  std::int64_t step;
  std::optional<double> time;
  double seconds;
};

double pace(const std::vector<Done>& steps) {
  if (steps.empty()) return 0;
  const Done &first = steps.front(), &last = steps.back();
  if (first.time && last.time && *last.time > *first.time && last.step > first.step)
    return static_cast<double>(last.step - first.step) / (*last.time - *first.time);
  double sum = 0;
  for (const Done& done : steps) sum += done.seconds;
  return sum > 0 ? static_cast<double>(steps.size()) / sum : 0;
}

void read_run(const json& line, RunStatus& status, std::vector<Done>& steps) {
  status.model = text(line, "model");
  status.rule = text(line, "rule") + " " + text(line, "reduce");
  status.workers = text(line, "workers");
  status.backend = text(line, metric::kBackend);
  status.progress.steps = whole(line, "steps");
  status.progress.step = std::max(status.progress.step, whole(line, "first_step"));
  status.ended = false;
  steps.clear();  // the pause before it is no step's
}

void read_step(const json& line, double workers, RunStatus& status, std::vector<Done>& steps) {
  RecordedStep recorded;
  recorded.step = whole(line, metric::kStep);
  recorded.loss = number(line, metric::kLoss);
  recorded.tokens_per_second = number(line, metric::kTokensPerSecond).value_or(0) * workers;
  recorded.tokens_total = whole(line, metric::kTokensTotal);
  recorded.bytes_sent = whole(line, metric::kBytesSent);
  recorded.fp32_bytes = whole(line, metric::kFp32Bytes);
  recorded.ties = number(line, metric::kTieShare);
  status.agreement.clear();
  const json agreement = line.value(metric::kAgreement, json());
  double sum = 0;
  int voters = 0;
  if (agreement.is_array())
    for (const json& share : agreement) {
      status.agreement.push_back(share.is_number() ? share.get<double>()
                                                   : std::numeric_limits<double>::quiet_NaN());
      if (share.is_number()) sum += share.get<double>(), ++voters;
    }
  if (voters > 0) recorded.agreement = sum / voters;
  status.progress.step = recorded.step;
  status.progress.recorded = recorded;
  std::erase_if(steps, [&](const Done& done) { return done.step >= recorded.step; });
  steps.push_back(
      {recorded.step, number(line, metric::kTime), number(line, metric::kStepSeconds).value_or(0)});
  if (steps.size() > kPaceSteps) steps.erase(steps.begin());
}

void read_line(const json& line, RunStatus& status, std::vector<Done>& steps) {
  const std::string type = text(line, "type");
  if (type == "run") return read_run(line, status, steps);
  if (type == "step")
    return read_step(line, std::max(1.0, std::atof(status.workers.c_str())), status, steps);
  if (type == "evaluation") {
    status.evaluated_at = whole(line, metric::kStep);
    status.held_out_loss = number(line, "loss").value_or(std::numeric_limits<double>::quiet_NaN());
  } else if (type == "end") {
    status.ended = true;
  } else if (type == "checkpoint" || type == "checkpoint_failed" || type == "repair" ||
             type == "alarm" || type == "term") {
    const std::string what =
        type == "checkpoint" ? text(line, "path")
        : type == "term"
            ? fmt::format("{} of workers {}{}{}", text(line, "term"), text(line, "workers"),
                          text(line, "reason").empty() ? "" : ": ", text(line, "reason"))
            : text(line, "text");
    status.events.push_back(fmt::format("step {}: {}: {}", whole(line, metric::kStep), type, what));
    if (status.events.size() > kMostEvents) status.events.erase(status.events.begin());
  }
}

}  // namespace

RunStatus read_run_status(const std::string& folder) {
  const std::string path = (std::filesystem::path(folder) / "metrics.jsonl").string();
  std::ifstream file(path, std::ios::binary);
  if (!file) throw_file_error("open", path);
  RunStatus status;
  status.folder = folder;
  std::vector<Done> steps;
  std::optional<double> last_time;
  const auto take = [&](const std::string& line) {
    const json parsed = json::parse(line, nullptr, false);
    if (!parsed.is_object()) return;
    read_line(parsed, status, steps);
    if (const auto time = number(parsed, metric::kTime)) last_time = time;
  };
  std::string line;
  std::getline(file, line);
  take(line);  // what run it is, if its line is further up than the tail
  const std::streamoff after_first = file.eof() ? 0 : static_cast<std::streamoff>(file.tellg());
  file.clear();
  file.seekg(0, std::ios::end);
  const std::streamoff size = file.tellg();
  const std::streamoff from = std::max(after_first, size - kTailBytes);
  file.seekg(from);
  if (from > after_first) std::getline(file, line);  // the rest of one
  while (after_first > 0 && std::getline(file, line)) take(line);
  if (file.bad()) throw_file_error("read", path);
  status.progress.steps_per_second = pace(steps);
  if (last_time) {
    status.seconds_since_line = std::max(0.0, wall_clock() - *last_time);
  } else {
    const auto written = std::filesystem::last_write_time(path);
    status.seconds_since_line = std::max(
        0.0, std::chrono::duration<double>(std::filesystem::file_time_type::clock::now() - written)
                 .count());
  }
  return status;
}

std::vector<std::string> status_lines(const RunStatus& status) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format("run {}: {} by {}, {} workers over {}", status.folder, status.model,
                              status.rule, status.workers, status.backend));
  const double silence = status.seconds_since_line;
  std::string standing = status.ended ? "has ended" : "runs";
  const double usual =
      status.progress.steps_per_second > 0 ? kLongSteps / status.progress.steps_per_second : 0;
  if (!status.ended && silence > std::max(kLongSilence, usual))
    standing = "SILENT: it may have been killed, or is stuck";
  lines.push_back(
      fmt::format("{}; its last line was written {} ago", standing,
                  plain_duration(silence < 100 ? std::round(silence * 10) / 10 : silence)));
  lines.push_back(fmt::format("{}", fmt::join(progress_parts(status.progress), ", ")));
  if (status.evaluated_at)
    lines.push_back(fmt::format("held out: {:.4f} nats per token at step {}", status.held_out_loss,
                                *status.evaluated_at));
  if (!status.agreement.empty()) {
    std::string row = "agreement by voter:";
    for (std::size_t v = 0; v < status.agreement.size(); ++v)
      row += std::isnan(status.agreement[v])
                 ? fmt::format("  {}: abstains", v)
                 : fmt::format("  {}: {:.1f} %", v, 100 * status.agreement[v]);
    lines.push_back(row);
  }
  if (!status.events.empty()) lines.push_back("");
  lines.insert(lines.end(), status.events.begin(), status.events.end());
  return lines;
}

std::string status_summary(const RunStatus& status) {
  return fmt::format("{}{}", fmt::join(progress_parts(status.progress), ", "),
                     status.ended ? ", has ended" : "");
}

nlohmann::ordered_json status_json(const RunStatus& status) {
  using Json = nlohmann::ordered_json;
  Json agreement = Json::array();
  for (const double share : status.agreement)
    agreement.push_back(std::isnan(share) ? Json() : Json(share));
  const auto left = status.progress.seconds_left();
  return {{"folder", status.folder},
          {"model", status.model},
          {"rule", status.rule},
          {"workers", status.workers},
          {"backend", status.backend},
          {"ended", status.ended},
          {"seconds_since_line", status.seconds_since_line},
          {"step", status.progress.step},
          {"steps", status.progress.steps > 0 ? Json(status.progress.steps) : Json()},
          {"steps_per_second", status.progress.steps_per_second},
          {"seconds_left", left ? Json(*left) : Json()},
          {"recorded", recorded_json(status.progress.recorded)},
          {"agreement", agreement},
          {"held_out_step", status.evaluated_at ? Json(*status.evaluated_at) : Json()},
          {"held_out_loss", status.evaluated_at && std::isfinite(status.held_out_loss)
                                ? Json(status.held_out_loss)
                                : Json()},
          {"events", status.events}};
}

}  // namespace ballot

#include "runtime/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "runtime/metrics_names.h"
#include "runtime/watching/tensorboard_log.h"

namespace ballot {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN or infinity: they are null.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

// A line as text, with when it was written or what it tells of happened.
std::string dated(Json line, double time = wall_clock()) {
  line[metric::kTime] = std::round(time * 1000) / 1000;
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Keeps what belongs to steps up to `last_step`; a torn last line goes too. Returns the last step
// that has a line.
std::int64_t cut_after(const std::string& path, std::int64_t last_step) {
  std::ifstream file(path);
  std::int64_t last = 0;
  if (!file) return last;
  std::string kept, line;
  std::int64_t dropped = 0;
  while (std::getline(file, line)) {
    const Json parsed = Json::parse(line, nullptr, false);
    const bool numbered =
        parsed.is_object() && parsed.contains("step") && parsed["step"].is_number_integer();
    if (!parsed.is_object() || (numbered && parsed["step"].get<std::int64_t>() > last_step)) {
      ++dropped;
      continue;
    }
    if (numbered && parsed.value("type", "") == "step") last = parsed["step"].get<std::int64_t>();
    kept += line + "\n";
  }
  if (dropped == 0) return last;
  log_info("{}: dropped {} lines of steps after {}, which are repeated", path, dropped, last_step);
  replace_file_atomically(path, kept);
  return last;
}

using Values = std::vector<std::pair<std::string, double>>;

// The numbers of a line, each under its name; an array's under the name and the place.
Values numbers_of(const Json& line, const std::string& prefix = "") {
  Values values;
  for (const auto& [name, value] : line.items()) {
    if (name == metric::kStep) continue;
    if (value.is_number()) values.emplace_back(prefix + name, value.get<double>());
    for (std::size_t i = 0; value.is_array() && i < value.size(); ++i)
      if (value[i].is_number())
        values.emplace_back(fmt::format("{}{}/{}", prefix, name, i), value[i].get<double>());
  }
  return values;
}

}  // namespace

MetricsLog::MetricsLog(const std::string& folder, std::int64_t last_step, bool tensorboard)
    : path_(folder + "/metrics.jsonl") {
  opened_after_ = cut_after(path_, last_step);
  file_ = std::fopen(path_.c_str(), "a");
  if (file_ == nullptr) throw_file_error("open", path_);
  // Steps that follow are told again; those before the first (an evaluation) as well.
  if (tensorboard)
    tensorboard_ =
        std::make_unique<TensorBoardLog>(folder, opened_after_ == 0 ? 0 : opened_after_ + 1);
}

MetricsLog::~MetricsLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void MetricsLog::write(const std::string& line) {
  if (std::fputs((line + "\n").c_str(), file_) < 0 || std::fflush(file_) != 0)
    throw_file_error("write", path_);
}

void MetricsLog::run(const RunFacts& facts) {
  Json line;
  line["type"] = "run";
  line["version"] = facts.version;
  line["model"] = facts.model;
  line["members"] = facts.members;
  line["workers"] = facts.workers;
  line["parameters"] = facts.parameters;
  line["voted_parameters"] = facts.voted_parameters;
  line["rule"] = facts.rule;
  line["reduce"] = facts.reduce;
  line["steps"] = facts.steps;
  line["first_step"] = facts.first_step;
  line["seed"] = facts.seed;
  line["compute"] = facts.compute;
  line["threads"] = facts.threads;
  line["processor"] = facts.processor;
  line[metric::kBackend] = facts.backend;
  if (!facts.schedule.empty()) line["vote_schedule"] = facts.schedule;
  line["overlap"] = facts.overlap;
  line["config"] = facts.config_toml;
  write(dated(std::move(line)));
}

void MetricsLog::step(const StepMetrics& r) {
  Json line;
  line["type"] = "step";
  line[metric::kStep] = r.step;
  line[metric::kLoss] = number(r.loss);
  line[metric::kRate] = r.rate;
  line[metric::kTokensTotal] = r.tokens_total;
  line[metric::kTokensPerSecond] = number(r.tokens / r.step_seconds / r.workers);
  line[metric::kStepSeconds] = r.step_seconds;
  line[metric::kDataSeconds] = r.data_seconds;
  line[metric::kForwardSeconds] = r.forward_seconds;
  line[metric::kBackwardSeconds] = r.backward_seconds;
  line[metric::kDirectionSeconds] = r.direction_seconds;
  line[metric::kPackSeconds] = r.pack_seconds;
  line[metric::kExposedSeconds] = r.exposed_seconds;
  line[metric::kHiddenSeconds] = r.hidden_seconds;
  line[metric::kTallySeconds] = r.tally_seconds;
  line[metric::kApplySeconds] = r.apply_seconds;
  line[metric::kAuditSeconds] = r.audit_seconds;
  line[metric::kBytesSent] = r.traffic.total_sent();
  line[metric::kVoteBytesSent] = r.traffic.sent(Purpose::vote);
  line[metric::kMeanBytesSent] = r.traffic.sent(Purpose::mean);
  line[metric::kControlBytesSent] = r.traffic.sent(Purpose::control);
  if (r.member_bytes > 0) line[metric::kMemberBytesSent] = r.member_bytes;
  line[metric::kFp32Bytes] = r.fp32_bytes;
  line[metric::kCompression] =
      r.traffic.total_sent() == 0 ? Json(nullptr) : Json(r.fp32_bytes / r.traffic.total_sent());
  line[metric::kBackend] = r.backend;
  if (r.votes != nullptr) {
    const VoteStatistics& v = *r.votes;
    const double elements = std::max<double>(1, v.elements);
    line[metric::kTieShare] = v.ties / elements;
    line[metric::kUnanimousShare] = v.unanimous / elements;
    line[metric::kHeldShare] = v.held_blocks / std::max<double>(1, v.blocks);
    if (v.agreed.size() > 1) {
      Json agreement = Json::array();
      double least = 2;
      std::size_t least_rank = 0;
      for (std::size_t i = 0; i < v.agreed.size(); ++i) {
        if (v.compared[i] == 0) {  // a voter that abstained everywhere
          agreement.push_back(nullptr);
          continue;
        }
        const double share = v.agreed[i] / static_cast<double>(v.compared[i]);
        agreement.push_back(share);
        if (share < least) least = share, least_rank = i;
      }
      line[metric::kAgreement] = agreement;
      if (least <= 1) {
        line[metric::kAgreementMin] = least;
        line[metric::kAgreementRank] = least_rank;
      }
    }
  }
  line[metric::kGradientFaults] = r.gradient_faults;
  line[metric::kLossFaults] = r.loss_faults;
  if (r.journal) {
    line[metric::kJournalSeconds] = r.journal->seconds;
    line[metric::kJournalBytes] = r.journal->bytes;
    line[metric::kJournalWaitSeconds] = r.journal->wait_seconds;
    line[metric::kJournalLag] = r.journal->lag_steps;
  }
  if (r.checkpoint_wait_seconds > 0)
    line[metric::kCheckpointWaitSeconds] = r.checkpoint_wait_seconds;
  line[metric::kSlowestVoter] = r.slowest_voter;
  line[metric::kSlowestSeconds] = r.slowest_seconds;
  for (const StepMetrics::SlowStage& slow : r.slow_stages) {
    const std::string name = metric::kSlowestPrefix + slow.stage;
    line[name] = slow.worker;
    line[name + "(s)"] = slow.seconds;
    line[name + "_median(s)"] = slow.median_seconds;
  }
  if (tensorboard_) tensorboard_->add(r.step, numbers_of(line));
  write(r.time > 0 ? dated(std::move(line), r.time) : dated(std::move(line)));
}

void MetricsLog::evaluation(std::int64_t step, double loss, std::int64_t tokens, double seconds) {
  Json line{{"type", "evaluation"},
            {"step", step},
            {"loss", number(loss)},
            {"tokens", tokens},
            {"seconds", seconds}};
  if (tensorboard_) tensorboard_->add(step, numbers_of(line, "evaluation/"));
  write(dated(std::move(line)));
}

void MetricsLog::memory(std::int64_t step, const MemoryPlan& plan, std::int64_t used_bytes) {
  Json parts = Json::object();
  for (const MemoryPlan::Line& line : plan.lines) parts[line.name] = line.bytes;
  write(dated(Json{{"type", "memory"},
                   {"step", step},
                   {"planned_bytes", plan.total()},
                   {"used_bytes", used_bytes < 0 ? Json(nullptr) : Json(used_bytes)},
                   {"parts", std::move(parts)}}));
}

void MetricsLog::layers(std::int64_t step, const LayerTable& table) {
  Json shares = Json::array();
  for (std::size_t layer = 0; layer < table.layers.size(); ++layer) {
    Json row = Json::array();
    for (std::size_t v = 0; v < table.voters; ++v) row.push_back(number(table.share(layer, v)));
    shares.push_back(std::move(row));
  }
  write(dated(Json{{"type", "agreement"},
                   {"step", step},
                   {"steps", table.steps},
                   {"layers", table.layers},
                   {"agreement", std::move(shares)}}));
}

void MetricsLog::notice(const char* type, std::int64_t step, int worker, const std::string& text) {
  write(dated(Json{{"type", type}, {"step", step}, {"worker", worker}, {"text", text}}));
}

void MetricsLog::checkpoint(std::int64_t step, const std::string& path, double seconds,
                            double write_seconds, std::uint64_t bytes) {
  if (tensorboard_)
    tensorboard_->add(step, {{metric::kCheckpointWriteSeconds, write_seconds},
                             {metric::kCheckpointBytes, static_cast<double>(bytes)}});
  write(dated(Json{{"type", "checkpoint"},
                   {"step", step},
                   {"path", path},
                   {"seconds", seconds},
                   {metric::kCheckpointWriteSeconds, write_seconds},
                   {metric::kCheckpointBytes, bytes}}));
}

void MetricsLog::checkpoint(std::int64_t step, const std::string& path) {
  write(dated(Json{{"type", "checkpoint"}, {"step", step}, {"path", path}}));
}

void MetricsLog::term(std::int64_t step, std::int64_t term,
                      const std::vector<std::int32_t>& workers, const std::string& reason) {
  write(dated(Json{
      {"type", "term"}, {"step", step}, {"term", term}, {"workers", workers}, {"reason", reason}}));
}

void MetricsLog::end(std::int64_t step, bool replicas_identical, double seconds) {
  write(dated(Json{{"type", "end"},
                   {"step", step},
                   {"replicas_identical", replicas_identical},
                   {"seconds", seconds}}));
}

double wall_clock() {
  using namespace std::chrono;
  return duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string human_bytes(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) bytes /= 1000, ++unit;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.3g} {}", bytes, units[unit]);
}

ProgressLine::ProgressLine(std::int64_t steps)
    : steps_(steps), terminal_(isatty(STDERR_FILENO) == 1) {
  started_ = seconds(system_clock().now().time_since_epoch());
}

void ProgressLine::update(const StepMetrics& r) {
  const double now = seconds(system_clock().now().time_since_epoch());
  if (first_step_ < 0) first_step_ = r.step - 1;
  const bool last = r.step == steps_;
  if (now - last_shown_ < (terminal_ ? 0.1 : 5.0) && !last) return;
  last_shown_ = now;
  const double per_step = (now - started_) / (r.step - first_step_);
  std::string line = fmt::format("step {}/{}  loss {:.4f}  {:.0f} tokens/s", r.step, steps_, r.loss,
                                 r.tokens / r.step_seconds);
  if (const double sent = r.traffic.total_sent(); sent > 0)
    line += fmt::format("  sent {}/step, fp32 / {:.1f}", human_bytes(sent), r.fp32_bytes / sent);
  if (r.gradient_faults + r.loss_faults > 0)
    line += fmt::format("  {} tensors left out", r.gradient_faults);
  line += fmt::format("  {:.0f} s left", per_step * (steps_ - r.step));
  if (terminal_)
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
  else
    log_info("{}", line);
}

void ProgressLine::finish() {
  if (terminal_) std::fprintf(stderr, "\n");
}

}  // namespace ballot

// metrics.jsonl, line by line.
#include "runtime/report_data.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"             // DataError, FileError
#include "runtime/metrics_names.h"  // metric::

namespace ballot {

using nlohmann::json;

const std::array<Stage, kStageCount> kStages{{{metric::kDataSeconds, "data"},
                                              {metric::kForwardSeconds, "forward"},
                                              {metric::kBackwardSeconds, "backward"},
                                              {metric::kDirectionSeconds, "direction"},
                                              {metric::kPackSeconds, "pack"},
                                              {metric::kExposedSeconds, "communication"},
                                              {metric::kApplySeconds, "apply"},
                                              {metric::kAuditSeconds, "audit"}}};

namespace {

// Where a value stands, for messages.
struct Place {
  const std::string& path;
  std::int64_t line;
};

[[noreturn]] void damaged(const Place& place, const std::string& what) {
  throw DataError("{}:{}: {}", place.path, place.line, what);
}

double number(const json& object, const char* key, const Place& place) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return kNoValue;
  if (!found->is_number()) damaged(place, fmt::format("\"{}\" is not a number", key));
  return found->get<double>();
}

std::int64_t step_of(const json& object, const Place& place) {
  const auto found = object.find(metric::kStep);
  if (found == object.end() || !found->is_number_integer() || found->get<double>() < 0 ||
      found->get<double>() > 9e15)
    damaged(place, "\"step\" is missing or not a whole number from 0");
  return found->get<std::int64_t>();
}

// Lines of steps that a restart repeats replace the earlier ones.
template <class Record>
void put(std::vector<Record>& records, Record record) {
  while (!records.empty() && records.back().step >= record.step) records.pop_back();
  records.push_back(std::move(record));
}

std::vector<float> read_shares(const json& list, const char* name, const Place& place) {
  if (!list.is_array()) damaged(place, fmt::format("\"{}\" is not a list", name));
  std::vector<float> shares;
  for (const json& share : list) {
    if (!share.is_number() && !share.is_null())
      damaged(place, fmt::format("\"{}\" holds what is not a number", name));
    shares.push_back(share.is_null() ? static_cast<float>(kNoValue) : share.get<float>());
  }
  return shares;
}

// A string, or what is said where there is none.
std::string text_of(const json& object, const char* key, const Place& place) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  if (!found->is_string()) damaged(place, fmt::format("\"{}\" is not a string", key));
  return found->get<std::string>();
}

std::vector<std::int64_t> workers_of(const json& object, const Place& place) {
  const json list = object.value("workers", json());
  if (!list.is_array()) damaged(place, "\"workers\" is not a list");
  std::vector<std::int64_t> workers;
  for (const json& worker : list) {
    if (!worker.is_number_integer()) damaged(place, "\"workers\" holds what is not a whole number");
    workers.push_back(worker.get<std::int64_t>());
  }
  std::ranges::sort(workers);
  return workers;
}

StepRecord read_step(const json& object, const Place& place) {
  const auto value = [&](const char* key) { return number(object, key, place); };
  StepRecord step;
  step.step = step_of(object, place);
  step.loss = value(metric::kLoss);
  step.tokens = value(metric::kTokensTotal);
  step.tokens_per_second = value(metric::kTokensPerSecond);
  step.seconds = value(metric::kStepSeconds);
  step.bytes = value(metric::kBytesSent);
  step.vote_bytes = value(metric::kVoteBytesSent);
  step.mean_bytes = value(metric::kMeanBytesSent);
  step.control_bytes = value(metric::kControlBytesSent);
  step.fp32_bytes = value(metric::kFp32Bytes);
  step.ties = value(metric::kTieShare);
  step.unanimous = value(metric::kUnanimousShare);
  step.held = value(metric::kHeldShare);
  step.gradient_faults = value(metric::kGradientFaults);
  step.loss_faults = value(metric::kLossFaults);
  for (std::size_t i = 0; i < kStageCount; ++i) step.stages[i] = value(kStages[i].key);
  const auto agreement = object.find(metric::kAgreement);
  if (agreement != object.end() && !agreement->is_null())
    step.agreement = read_shares(*agreement, metric::kAgreement, place);
  return step;
}

LayerRecord read_layers(const json& object, const Place& place) {
  LayerRecord record;
  record.step = step_of(object, place);
  record.steps = number(object, "steps", place);
  const json layers = object.value("layers", json()), rows = object.value("agreement", json());
  if (!layers.is_array() || !rows.is_array() || layers.size() != rows.size())
    damaged(place, "\"layers\" and \"agreement\" are not lists of one length");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (!layers[i].is_string()) damaged(place, "\"layers\" holds what is not a string");
    record.layers.push_back(layers[i].get<std::string>());
    record.agreement.push_back(read_shares(rows[i], "agreement", place));
    if (record.agreement.back().size() != record.agreement.front().size())
      damaged(place, "\"agreement\" has rows of other lengths");
  }
  return record;
}

std::string plain(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_primitive() && !value.is_null() ? value.dump() : "";
}

// "folder" of "[model]" in a run file that we wrote ourselves: one key a line, strings in double
// quotes.
std::string toml_value(const std::string& text, const std::string& table, const std::string& key) {
  std::istringstream lines(text);
  std::string line, current;
  const auto trimmed = [](std::string word) {
    const std::size_t begin = word.find_first_not_of(" \t\"'"),
                      end = word.find_last_not_of(" \t\r\"'");
    return begin == std::string::npos ? "" : word.substr(begin, end - begin + 1);
  };
  while (std::getline(lines, line)) {
    if (!line.empty() && line[0] == '[') {
      current = line.substr(1, line.find(']') == std::string::npos ? 0 : line.find(']') - 1);
    } else if (current == table && line.find('=') != std::string::npos &&
               trimmed(line.substr(0, line.find('='))) == key) {
      std::string value = line.substr(line.find('=') + 1);
      if (const std::size_t comment = value.find(" #"); comment != std::string::npos)
        value.resize(comment);
      return trimmed(value);
    }
  }
  return "";
}

// The configuration in a run line: TOML text, or tables.
std::string config_value(const json& config, const std::string& table, const std::string& key) {
  if (config.is_string()) return toml_value(config.get<std::string>(), table, key);
  const json* at = &config;
  std::istringstream parts(table + "." + key);
  for (std::string part; std::getline(parts, part, '.');) {
    if (!at->is_object() || !at->contains(part)) return "";
    at = &at->at(part);
  }
  return plain(*at);
}

// What is kept between lines.
struct Reading {
  RunRecord& run;
  double before = 0;         // seconds of the starts before this one
  double began = kNoValue;   // this start's first line, by the wall clock
  double elapsed = 0;        // at the line before
  bool start_event = false;  // the last event is a line of type run
  std::optional<std::vector<std::int64_t>> workers = {};  // of the term before
};

// The run's seconds at a line; `seconds` of its own where it has no time.
double elapsed_at(const json& object, const Place& place, Reading& reading, double seconds) {
  const double time = number(object, metric::kTime, place);
  if (std::isfinite(time) && std::isfinite(reading.began))
    reading.elapsed = std::max(reading.elapsed, reading.before + time - reading.began);
  else if (std::isfinite(seconds))
    reading.elapsed += std::max(0.0, seconds);
  return reading.elapsed;
}

// The clock of a start; a term of an elastic run that goes on keeps the one of the first.
void begin_clock(const json& object, const Place& place, Reading& reading) {
  const double time = number(object, metric::kTime, place);
  const bool goes_on = object.value(metric::kBackend, json()) == "elastic" &&
                       reading.run.starts > 0 && !reading.run.ended && std::isfinite(reading.began);
  if (goes_on) {
    elapsed_at(object, place, reading, 0);
    return;
  }
  // Steps after its first, which it repeats, were in vain.
  const double first = number(object, "first_step", place);
  const std::vector<StepRecord>& steps = reading.run.steps;
  const auto lost = std::ranges::find_if(
      steps, [first](const StepRecord& step) { return static_cast<double>(step.step) > first; });
  if (lost != steps.end()) reading.elapsed = lost == steps.begin() ? 0 : std::prev(lost)->elapsed;
  reading.before = reading.elapsed;
  reading.began = time;
}

std::string list_of(const std::vector<std::int64_t>& workers) {
  return fmt::format("{} {}", workers.size() == 1 ? "worker" : "workers", fmt::join(workers, ", "));
}

void read_term(const json& object, const Place& place, Reading& reading) {
  const std::vector<std::int64_t> workers = workers_of(object, place);
  std::string text =
      fmt::format("term {}: {}", plain_number(number(object, "term", place), 17), list_of(workers));
  if (reading.workers) {
    std::vector<std::int64_t> left, joined;
    std::ranges::set_difference(*reading.workers, workers, std::back_inserter(left));
    std::ranges::set_difference(workers, *reading.workers, std::back_inserter(joined));
    if (!left.empty()) text += "; " + list_of(left) + " left";
    if (!joined.empty()) text += "; " + list_of(joined) + " joined";
  }
  if (const std::string reason = text_of(object, "reason", place); !reason.empty())
    text += " (" + reason + ")";
  std::vector<EventRecord>& events = reading.run.events;
  if (reading.start_event) events.pop_back();  // the run line says the same with less
  events.push_back({reading.workers ? MarkKind::term : MarkKind::start, step_of(object, place),
                    elapsed_at(object, place, reading, 0), std::move(text)});
  reading.workers = workers;
}

void read_checkpoint(const json& object, const Place& place, Reading& reading) {
  const std::string path = text_of(object, "path", place);
  std::string text = path.substr(path.find_last_of('/') + 1);
  const double seconds = number(object, "seconds", place),
               size = number(object, metric::kCheckpointBytes, place);
  if (std::isfinite(seconds))
    text += fmt::format(", {} in {}", si_bytes(size), plain_duration(seconds));
  reading.run.events.push_back({MarkKind::checkpoint, step_of(object, place),
                                elapsed_at(object, place, reading, 0), std::move(text)});
}

void read_notice(MarkKind kind, const json& object, const Place& place, Reading& reading) {
  std::string text = text_of(object, "text", place);
  if (kind == MarkKind::failure)
    text = fmt::format("worker {}: {}", plain(object.value("worker", json())), text);
  reading.run.events.push_back(
      {kind, step_of(object, place), elapsed_at(object, place, reading, 0), std::move(text)});
}

void read_run_line(const json& object, const Place& place, Reading& reading) {
  RunRecord& run = reading.run;
  begin_clock(object, place, reading);
  run.starts += 1;
  run.elastic = object.value(metric::kBackend, json()) == "elastic";
  const double first_step = number(object, "first_step", place),
               steps = number(object, "steps", place);
  run.planned_steps = steps > 0 && steps < 9e15 ? static_cast<std::int64_t>(steps) : 0;
  const std::int64_t from =
      first_step > 0 && first_step < 9e15 ? static_cast<std::int64_t>(first_step) : 0;
  const std::string workers = plain(object.value("workers", json()));
  run.events.push_back(
      {MarkKind::start, from, reading.elapsed,
       fmt::format("{}{}", from == 0 ? "started" : fmt::format("goes on after step {}", from),
                   workers.empty() ? "" : ", workers: " + workers)});
  const std::string& folder = run.folder;
  run.ended = false;
  run.replicas_identical.reset();
  run.facts.clear();
  for (const auto& [key, value] : object.items())
    if (key != "type" && value.is_primitive() && !value.is_null()) {
      const std::string text = plain(value);
      if (text.find('\n') == std::string::npos) run.facts.emplace_back(key, text);
    }
  json config = object.value("config", json());
  if (config.is_null()) {
    std::ifstream file(std::filesystem::path(folder) / "run.toml");
    config = std::string(std::istreambuf_iterator<char>(file), {});
  }
  const auto first = [&](std::initializer_list<std::string> values) {
    for (const std::string& value : values)
      if (!value.empty()) return value;
    return std::string();
  };
  const auto own = [&](const char* key) {
    return object.contains(key) ? plain(object.at(key)) : std::string();
  };
  run.model = first({own("model"), config_value(config, "model", "folder")});
  run.workers = own("workers");
  run.compute = first({own("compute"), config_value(config, "train", "compute")});
  run.rule = first({own("rule"), config_value(config, "group.hidden", "rule"),
                    config_value(config, "optimizer", "preset")});
  run.reduce = first({own("reduce"), config_value(config, "group.hidden", "reduce"),
                      config_value(config, "optimizer", "reduce")});
}

void read_line(const json& object, const Place& place, Reading& reading) {
  RunRecord& run = reading.run;
  if (!object.is_object()) damaged(place, "not a JSON object");
  const auto type = object.find("type");
  if (type == object.end() || !type->is_string())
    damaged(place, "\"type\" is missing or not a string");
  const std::string kind = type->get<std::string>();
  if (kind == "run") {
    read_run_line(object, place, reading);
    reading.start_event = true;
    return;
  }
  if (kind == "step") {
    StepRecord step = read_step(object, place);
    step.elapsed = elapsed_at(object, place, reading, step.seconds);
    if (std::isfinite(number(object, metric::kTime, place))) ++run.steps_with_time;
    put(run.steps, std::move(step));
  } else if (kind == "evaluation") {
    put(run.evaluations,
        EvaluationRecord{step_of(object, place), number(object, "loss", place),
                         number(object, "tokens", place), elapsed_at(object, place, reading, 0)});
  } else if (kind == "term") {
    read_term(object, place, reading);
  } else if (kind == "checkpoint") {
    read_checkpoint(object, place, reading);
  } else if (kind == "checkpoint_failed") {
    read_notice(MarkKind::failure, object, place, reading);
  } else if (kind == "repair") {
    read_notice(MarkKind::repair, object, place, reading);
  } else if (kind == "alarm") {
    read_notice(MarkKind::alarm, object, place, reading);
  } else if (kind == "agreement") {
    run.layers = read_layers(object, place);
  } else if (kind == "end") {
    run.ended = true;
    elapsed_at(object, place, reading, 0);
    const auto identical = object.find("replicas_identical");
    if (identical != object.end() && !identical->is_null()) {
      if (!identical->is_boolean()) damaged(place, "\"replicas_identical\" is not true or false");
      run.replicas_identical = identical->get<bool>();
    }
  }  // other types are newer than this page
  reading.start_event = false;
}

}  // namespace

RunRecord read_run_record(const std::string& folder) {
  RunRecord run;
  run.folder = folder;
  std::filesystem::path shown = std::filesystem::path(folder).lexically_normal();
  if (!shown.has_filename()) shown = shown.parent_path();
  run.name = shown.filename().string();
  const std::string path = (std::filesystem::path(folder) / "metrics.jsonl").string();
  std::ifstream file(path, std::ios::binary);
  if (!file) throw_file_error("open", path);
  Reading reading{run};
  std::string line;
  for (std::int64_t count = 1; std::getline(file, line); ++count) {
    const bool torn = file.eof();  // no newline: it was being written
    const json object = json::parse(line, nullptr, false);
    const Place place{path, count};
    if (object.is_discarded()) {
      if (torn) break;
      damaged(place, "not a line of JSON");
    }
    read_line(object, place, reading);
  }
  if (file.bad()) throw_file_error("read", path);
  return run;
}

}  // namespace ballot

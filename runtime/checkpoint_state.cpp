#include "runtime/checkpoint_state.h"

#include <charconv>

#include "core/file.h"
#include "runtime/checkpoint_json.h"

namespace ballot {
namespace {

using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr std::uint64_t kMaxStateBytes = std::uint64_t{64} << 20;  // a ledger may be long

Digest digest_field(const Json& object, const char* name, const std::string& path) {
  const auto text = json_field<std::string>(object, name, path);
  const auto parsed = parse_digest(text);
  if (!parsed) throw CorruptFile("{}: \"{}\" is {}, no digest", path, name, shown(text));
  return *parsed;
}

std::uint64_t hex_field(const Json& object, const char* name, const std::string& path) {
  const auto text = json_field<std::string>(object, name, path);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc{} || end != text.data() + text.size())
    throw CorruptFile("{}: \"{}\" is {}, expected hexadecimal digits", path, name, shown(text));
  return value;
}

nlohmann::ordered_json to_json(const Ledger& ledger) {
  nlohmann::ordered_json unused = nlohmann::ordered_json::array();
  for (const SampleRange& range : ledger.unused) unused.push_back({range.begin, range.end});
  return {{"next", ledger.next}, {"unused", unused}};
}

Ledger parse_ledger(const Json& json, const std::string& path) {
  const auto wrong = [&path](const Json& what) {
    return CorruptFile("{}: \"ledger\" has {}, expected ranges below \"next\", ascending and apart",
                       path, shown(what));
  };
  if (!json.is_object()) throw wrong(json);
  Ledger ledger;
  ledger.next = json_field<std::int64_t>(json, "next", path);
  const Json unused = json_field<Json>(json, "unused", path);
  if (!unused.is_array() || ledger.next < 0) throw wrong(json);
  std::int64_t least = 0;
  for (const Json& one : unused) {
    if (!one.is_array() || one.size() != 2 || !one[0].is_number_integer() ||
        !one[1].is_number_integer())
      throw wrong(one);
    const SampleRange range{one[0].get<std::int64_t>(), one[1].get<std::int64_t>()};
    if (range.begin < least || range.end <= range.begin || range.end > ledger.next)
      throw wrong(one);
    least = range.end + 1;
    ledger.unused.push_back(range);
  }
  return ledger;
}

LossHistory parse_losses(const Json& json, const std::string& path) {
  if (!json.is_object())
    throw CorruptFile("{}: \"losses\" is {}, expected an object", path, shown(json));
  const auto loss = [&](const char* name) {
    const Json value = json_field<Json>(json, name, path);
    if (!value.is_number())
      throw CorruptFile("{}: \"{}\" is {}, expected a number", path, name, shown(value));
    return value.get<double>();
  };
  LossHistory losses;
  losses.of = json_field<std::string>(json, "of", path);
  losses.best = loss("best");
  losses.best_step = json_field<std::int64_t>(json, "best_step", path);
  losses.counted = loss("counted");
  losses.since = json_field<std::int64_t>(json, "since", path);
  if (losses.best_step < 0 || losses.since < 0)
    throw CorruptFile("{}: \"losses\" is {}, expected steps of 0 or more", path, shown(json));
  return losses;
}

}  // namespace

std::string training_state_json(const TrainingState& training) {
  nlohmann::ordered_json state{{"format", kFormat},
                               {"step", training.step},
                               {"sample_counter", training.sample_counter},
                               {"tokens_total", training.tokens_total},
                               {"workers", training.workers},
                               {"members", training.members},
                               {"threads", training.threads},
                               {"processor", training.processor},
                               {"compute", training.compute},
                               {"digest", fmt::format("{:016x}", training.digest)}};
  if (training.journal) {
    state["journal_run"] = to_string(training.journal->run);
    state["journal_chain"] = to_string(training.journal->chain);
  }
  if (training.ledger) state["ledger"] = to_json(*training.ledger);
  if (training.history_term) state["history_term"] = *training.history_term;
  if (training.data) state["data"] = to_string(*training.data);
  if (training.losses && training.losses->best_step >= 0)
    state["losses"] = {{"of", training.losses->of},
                       {"best", training.losses->best},
                       {"best_step", training.losses->best_step},
                       {"counted", training.losses->counted},
                       {"since", training.losses->since}};
  return state.dump(1) + "\n";
}

TrainingState parse_training_state(const std::string& json, const std::string& path) {
  const Json object = parse_json_object(json, path);
  const auto number = [&](const char* name) {
    return json_field<std::int64_t>(object, name, path);
  };
  TrainingState training;
  training.step = number("step");
  training.sample_counter = number("sample_counter");
  training.tokens_total = number("tokens_total");
  training.workers = number("workers");
  if (object.contains("members")) training.members = number("members");
  training.threads = number("threads");
  training.processor = json_field<std::string>(object, "processor", path);
  training.compute = json_field<std::string>(object, "compute", path);
  training.digest = hex_field(object, "digest", path);
  constexpr std::int64_t kMost = 1 << 20;  // far above any job; loops go over them
  if (training.step < 0 || training.sample_counter < 0 || training.workers < 1 ||
      training.workers > kMost || training.members < 1 || training.workers % training.members != 0)
    throw CorruptFile("{}: step {}, sample_counter {}, workers {}, members {}", path, training.step,
                      training.sample_counter, training.workers, training.members);
  if (object.contains("journal_run"))
    training.journal = JournalPlace{digest_field(object, "journal_run", path),
                                    digest_field(object, "journal_chain", path)};
  if (object.contains("ledger"))
    training.ledger = parse_ledger(json_field<Json>(object, "ledger", path), path);
  if (object.contains("history_term")) training.history_term = number("history_term");
  if (object.contains("data")) training.data = digest_field(object, "data", path);
  if (object.contains("losses"))
    training.losses = parse_losses(json_field<Json>(object, "losses", path), path);
  return training;
}

TrainingState read_training_state(const std::string& checkpoint) {
  const std::string path = checkpoint + "/trainer/state.json";
  return parse_training_state(read_file(path, kMaxStateBytes), path);
}

}  // namespace ballot

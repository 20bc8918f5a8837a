#include "runtime/run_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <sstream>
#include <vector>

#include "core/disk.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "models/model_folder.h"
#include "runtime/checkpoint.h"
#include "runtime/journal/shards.h"

namespace ballot {
namespace {

// What may change when a run is resumed.
constexpr std::array kFree = {"model.folder",
                              "data.train",
                              "data.validation",
                              "train.steps",
                              "train.evaluate_every",
                              "train.validation_windows",
                              "train.checkpoint_every",
                              "train.keep_checkpoints",
                              "train.threads",
                              "train.device",
                              "train.recompute",
                              "train.keep_best",
                              "train.early_stop_evaluations",
                              "train.early_stop_min_delta",
                              "vote.deadline_seconds",
                              "output.folder",
                              "output.prometheus",
                              "output.tensorboard",
                              "journal.enabled",
                              "journal.sync_every_ms",
                              "journal.copies",
                              "journal.segment_mib",
                              "journal.queue_mib",
                              "journal.mean_limit_bytes",
                              "checkpoint.overlap",
                              "checkpoint.staging_mib",
                              "checkpoint.shard_mib",
                              "checkpoint.keep_every",
                              "vote.members",
                              "vote.cut",
                              "audit.repairs",
                              "audit.bad_voter",
                              "audit.agreement_window"};

// "table.key" -> value, of a resolved run.toml.
std::map<std::string, std::string> keys_of(const std::string& toml) {
  std::map<std::string, std::string> keys;
  std::istringstream lines(toml);
  std::string line, table;
  while (std::getline(lines, line)) {
    if (line.starts_with('['))
      table = line.substr(1, line.find(']') - 1) + ".";
    else if (const std::size_t equals = line.find(" = "); equals != std::string::npos)
      keys[table + line.substr(0, equals)] = line.substr(equals + 3);
  }
  return keys;
}

}  // namespace

void require_unused_folder(const std::string& output_folder) {
  if (std::filesystem::exists(output_folder + "/metrics.jsonl") || has_checkpoints(output_folder) ||
      !JournalShards(system_disk(), output_folder).empty())
    throw ConfigError(
        "output.folder = \"{}\" already holds a run; resume it with --resume, or name another "
        "folder",
        output_folder);
}

void require_same_run(const RunConfig& config) {
  const std::string path = config.output_folder + "/run.toml";
  if (!std::filesystem::exists(path)) return;  // a folder that was moved without it
  const std::map<std::string, std::string> before = keys_of(read_file(path, 1 << 20)),
                                           now = keys_of(to_toml(config));
  // A key that the file does not have is younger than the run, which had its default.
  const std::map<std::string, std::string> defaults = keys_of(to_toml(RunConfig{}));
  std::vector<std::string> changed;
  for (const auto& [key, value] : now) {
    const auto kept = before.find(key), otherwise = defaults.find(key);
    // A group's defaults are its rule's, so one that the file does not have is not known.
    if (kept == before.end() && (otherwise == defaults.end() || key.starts_with("group.")))
      continue;
    const std::string& old = (kept != before.end() ? kept : otherwise)->second;
    if (old == value) continue;
    if (std::find(kFree.begin(), kFree.end(), key) == kFree.end())
      changed.push_back(fmt::format("{} = {}, was {}", key, value, old));
    else if (key != "train.threads")
      log_info("resuming with {} = {}, was {}", key, value, old);
  }
  if (!changed.empty())
    throw ConfigError(
        "--resume: {} is another run:\n  {}\nstart a new one from its checkpoint instead "
        "(model.folder = "
        "\"{}/checkpoints/latest\")",
        path, fmt::join(changed, "\n  "), config.output_folder);
}

Device find_device(const RunConfig& config, const Architecture& model, int local_rank,
                   std::string* reason) {
  if (config.device == "auto" && config.members > 1) return find_device(config, local_rank, reason);
  return find_device(model, config.device, local_rank, reason);
}

std::vector<ParameterShape> shapes_to_load(const RunConfig& config, const Architecture& model,
                                           bool resume) {
  std::vector<ParameterShape> shapes = model.parameter_shapes();
  if (!resume) check_parameters(config.model_folder, shapes);
  return shapes;
}

void check_data(const RunConfig& config, const Architecture& model, const RunData& data) {
  if (config.sequence_length > model.max_positions())
    throw ConfigError("data.sequence_length = {}: the model has {} positions",
                      config.sequence_length, model.max_positions());
  for (const auto& [key, tokens] :
       {std::pair{"data.train", &data.training()}, std::pair{"data.validation", &data.held_out()}})
    if (tokens->most() >= model.vocabulary())
      throw DataError(
          "{} holds token {}, expected 0 to {}: the tokenizer's vocabulary is not the model's", key,
          tokens->most(), model.vocabulary() - 1);
}

}  // namespace ballot

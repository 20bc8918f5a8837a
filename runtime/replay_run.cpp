#include "runtime/replay_run.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "runtime/checkpoint.h"
#include "runtime/parameter_rules.h"
#include "runtime/replica_audit.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

// Parameters on the CPU, and what follows the means.
struct Replica {
  Replica(const Architecture& architecture, const RunConfig& config)
      : arena(with_rules(architecture.parameter_shapes(), config), DType::f32),
        state(arena, config.groups, OptimizerState::Private::none),
        layout(state) {}
  ParameterArena arena;
  OptimizerState state;
  StepLayout layout;
};

// Where a replay can begin: a state, the folder that it is in, and what the journal holds after it.
struct Base {
  std::string folder;
  bool is_checkpoint = false;
  TrainingState training;
  JournalShards::History history;
  std::unique_ptr<Replica> replica;
};

std::string what_is_retained(const JournalShards& shards) {
  std::vector<std::string> parts;
  for (const JournalShards::Shard& shard : shards.shards()) {
    const JournalReader& reader = shard.reader;
    parts.push_back(reader.empty() ? fmt::format("worker {} nothing", shard.worker)
                                   : fmt::format("worker {} steps {} to {}", shard.worker,
                                                 reader.begin().step + 1, reader.end().step));
    if (!reader.damage().empty()) parts.back() += " (" + reader.damage() + ")";
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

// The newest whole checkpoint from which the journal leads to the step.
std::optional<Base> find_checkpoint_base(const RunConfig& config, const std::string& run_folder,
                                         const JournalShards& shards,
                                         std::optional<std::int64_t> to_step) {
  for (const CheckpointName& checkpoint : checkpoint_names(run_folder)) {
    if (to_step && checkpoint.step > *to_step) continue;
    try {
      verify_checkpoint(checkpoint.path);
      Base base{checkpoint.path, true, read_training_state(checkpoint.path), {}, nullptr};
      if (!base.training.journal)
        throw DataError("{} was saved by a run without a journal", checkpoint.path);
      base.history = shards.history({base.training.step, base.training.journal->chain});
      if (to_step && base.history.end.step < *to_step) {
        log_warning("from {} the journal leads to step {}{}{}", checkpoint.path,
                    base.history.end.step, base.history.gap.empty() ? "" : ": ", base.history.gap);
        continue;
      }
      base.replica = std::make_unique<Replica>(*read_architecture(checkpoint.path), config);
      Replica& replica = *base.replica;
      base.training = load_checkpoint(checkpoint.path, replica.arena, replica.state, 0);
      // Whole, but of a replica that was damaged when it was saved.
      if (const std::uint64_t found = fold(parameter_digests(replica.arena));
          found != base.training.digest)
        throw CorruptFile("parameters have digest {:016x}, its state says {:016x}", found,
                          base.training.digest);
      return base;
    } catch (const WorldError& damage) {
      log_warning("{} is passed over: {}", checkpoint.path, damage.what());
    }
  }
  return std::nullopt;
}

// The model that the run began with; none where the journal does not reach that far back.
std::optional<Base> find_starting_base(const RunConfig& config, const std::string& run_folder,
                                       const JournalShards& shards,
                                       std::optional<std::int64_t> to_step) {
  const std::vector<Position> begins = shards.begins();
  if (begins.empty() || begins.front().step != 0) return std::nullopt;
  const std::string& folder = config.model_folder;
  Base base{folder, false, {}, {}, nullptr};
  base.replica = std::make_unique<Replica>(*read_architecture(folder), config);
  const ParameterArena& arena = base.replica->arena;
  load_parameters(folder, arena);
  base.training.digest = fold(parameter_digests(arena));
  const Digest origin = history_origin(config, arena, base.training.digest, 0);
  base.training.journal = JournalPlace{origin, origin};
  base.history = shards.history({0, origin});
  if (std::ranges::count(begins, Position{0, origin}) == 0)
    throw DataError(
        "{} is not the model that {} began with: its history would begin at {}, the "
        "journal's at {}",
        folder, run_folder, to_string(origin), to_string(begins.front().digest));
  if (base.history.end.step < to_step.value_or(1)) return std::nullopt;
  return base;
}

void write_model(const std::string& output, const std::string& side_files_from,
                 const ParameterArena& arena) {
  fs::create_directories(output);
  copy_side_files(side_files_from, output);
  save_parameters(output, arena);
}

}  // namespace

ReplayedRun replay_run(const std::string& run_folder, std::optional<std::int64_t> to_step,
                       const std::string& output) {
  return replay_run(read_resolved_config(run_folder + "/run.toml"), run_folder, to_step, output);
}

ReplayedRun replay_run(const RunConfig& config, const std::string& run_folder,
                       std::optional<std::int64_t> to_step, const std::string& output) {
  if (!output.empty() && fs::exists(output) && !fs::is_empty(output))
    throw ConfigError("--output {}: it is there already and not empty", output);
  const JournalShards shards(system_disk(), run_folder);
  if (shards.shards().empty())
    throw ConfigError("{} holds no journal (journal.enabled = \"{}\")", run_folder,
                      to_string(config.journal.enabled));

  std::optional<Base> base = find_checkpoint_base(config, run_folder, shards, to_step);
  if (!base) base = find_starting_base(config, run_folder, shards, to_step);
  if (!base) {
    const std::string step = to_step ? fmt::format("step {}", *to_step) : "a step to replay";
    throw ConfigError("{}: no whole checkpoint from which the journal leads to {}; it holds: {}",
                      run_folder, step, what_is_retained(shards));
  }
  Replica& replica = *base->replica;
  if (const std::string reason = why_not_journaled(config, replica.layout); !reason.empty())
    throw ConfigError("{}: this run recovers from checkpoints only: {}", run_folder, reason);

  ReplayedRun result;
  result.base = base->folder;
  result.from_step = base->training.step;
  result.to_step = to_step.value_or(base->history.end.step);
  result.whole_until = base->history.end.step;
  result.gap = base->history.gap;
  Replay again(replica.arena, replica.state, replica.layout,
               static_cast<std::uint64_t>(config.seed), config.ties);
  result.report = replay(shards, base->history, result.to_step, replica.arena, again,
                         config.sequence_length, base->training);
  result.tensors = parameter_digests(replica.arena);
  result.parameters = base->training.digest;
  result.chain = base->training.journal->chain;
  result.last_proved = result.to_step == result.from_step
                           ? base->is_checkpoint
                           : shards.applied(base->history, result.to_step).has_value();
  if (!output.empty()) write_model(output, result.base, replica.arena);
  return result;
}

}  // namespace ballot

// A run, as its TOML file states it, resolved: every value that decides what is computed.
//
// Defaults, then the preset of [optimizer], then [group.*], then --set. Reading checks types,
// ranges and combinations and reports everything wrong at once (ConfigError), before anything
// starts.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/vote.h"       // Ties, Schedule, Estimator
#include "optim/parameter_group.h"  // ParameterGroup
#include "optim/schedule.h"         // RateSchedule
#include "runtime/token_source.h"   // TokenSource

namespace ballot {

enum class Compute { automatic, f32, bf16 };

struct RunConfig {
  std::string model_folder;
  TokenSource train_data;
  TokenSource validation_data;  // empty path: no evaluation
  std::int64_t sequence_length = 256;

  std::int64_t steps = 100;
  std::int64_t batch = 4;  // sequences per voter and micro-batch
  std::int64_t micro_batches = 1;
  std::int64_t seed = 1;
  Compute compute = Compute::automatic;
  std::string device = "auto";
  std::int64_t threads = 0;             // per worker; 0: the machine's cores / its workers
  std::int64_t evaluate_every = 0;      // steps; 0: before the first and after the last
  std::int64_t validation_windows = 0;  // 0: all
  std::int64_t checkpoint_every = 0;    // steps; 0: after the last
  std::int64_t keep_checkpoints = 2;

  RateSchedule schedule;
  std::array<ParameterGroup, 4> groups;  // by ParameterKind

  Ties ties = Ties::coin;
  std::optional<Schedule> vote_schedule;  // none: chosen at the start by a measurement of the link
  Estimator estimator = Estimator::majority;
  std::int64_t node_size = 1;       // workers of a node, for the hierarchical schedule
  std::int64_t piece_elements = 0;  // of votes and means; 0: chosen by size
  bool overlap = true;              // ballots leave while backward goes on
  double deadline_seconds = 600;    // of any wait for peers

  std::string output_folder;

  const ParameterGroup& group(ParameterKind kind) const {
    return groups[static_cast<std::size_t>(kind)];
  }
};

// `settings` are "key=value" of --set.
RunConfig read_run_config(const std::string& path, const std::vector<std::string>& settings);
RunConfig parse_run_config(const std::string& text, const std::string& path,
                           const std::vector<std::string>& settings);

// The four groups that [optimizer] preset = `rule` fills, at this rate.
std::array<ParameterGroup, 4> preset_groups(const std::string& rule, double rate);

// The resolved run.toml: reading it again gives the same RunConfig.
std::string to_toml(const RunConfig& config);
// Every key with its default and help.
std::string run_config_reference();

DType resolve_compute(
    Compute compute);  // auto -> bf16 where the processor has instructions for it, else f32
const char* to_string(Compute compute);
const char* to_string(Ties ties);

}  // namespace ballot

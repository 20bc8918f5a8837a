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

#include "collectives/vote.h"         // Ties, Schedule, Estimator
#include "core/device.h"              // Device
#include "optim/parameter_group.h"    // ParameterGroup
#include "optim/schedule.h"           // RateSchedule
#include "runtime/data/token_data.h"  // DocumentRules
#include "runtime/token_source.h"     // TokenSource

namespace ballot {

enum class Compute { automatic, f32, tf32, bf16 };

// The record of verdicts from which the parameters of any step can be rebuilt.
struct JournalConfig {
  enum class Enabled { automatic, on, off };
  Enabled enabled = Enabled::automatic;  // automatic: where the run can be replayed
  std::int64_t sync_every_ms = 200;      // how much a power cut may take back
  // Workers that keep each chunk's bits; 0: all. One is enough where all write to one disk, as a
  // static job's workers do: further copies would lie beside it.
  std::int64_t copies = 1;
  std::int64_t segment_mib = 256;
  std::int64_t queue_mib = 256;                            // of memory, between step and disk
  std::int64_t mean_limit_bytes = std::int64_t{16} << 20;  // of a step's means; more: no journal
};

// What workers check in one another every step.
struct AuditConfig {
  bool repairs = true;  // a replica that differs takes the majority's bits; false: the run stops
  enum class BadVoter { warn, abstain };
  BadVoter bad_voter = BadVoter::warn;  // a voter that agrees with nobody for a window of steps
  std::int64_t agreement_window = 50;   // steps
};

// How checkpoints are written; when, and how many are kept, is [train]'s.
struct CheckpointConfig {
  bool overlap = true;             // steps go on meanwhile; false: they wait until it is published
  std::int64_t staging_mib = 256;  // of memory, between step and disk
  std::int64_t shard_mib = 64;     // parameters that are worth a file of their own; 0: any
  std::int64_t keep_every = 0;     // steps whose checkpoints stay for ever; 0: none
};

struct RunConfig {
  std::string model_folder;
  TokenSource train_data;
  TokenSource validation_data;  // empty path: no evaluation
  DocumentRules documents;      // of both
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
  enum class Recompute { none, layer };
  Recompute recompute = Recompute::none;  // of activations in the backward: the same bits
  std::vector<std::string> freeze;        // patterns of names that keep their values
  std::vector<std::string> no_decay;      // and of names whose weights do not decay
  bool keep_best = false;                 // the checkpoint with the lowest held-out loss stays
  // Evaluations in a row without an improvement by more than early_stop_min_delta nats, after which
  // the run ends; 0: never.
  std::int64_t early_stop_evaluations = 0;
  double early_stop_min_delta = 0;

  RateSchedule schedule;
  std::array<ParameterGroup, 4> groups;  // by ParameterKind

  Ties ties = Ties::coin;
  std::optional<Schedule> vote_schedule;  // none: chosen at the start by a measurement of the link
  Estimator estimator = Estimator::majority;
  std::int64_t members = 1;         // workers of a voter: they share gradients, momentum, ballot
  bool cut = false;                 // large matrices may be cut among the members of a voter
  std::int64_t node_size = 1;       // workers of a node, for the hierarchical schedule
  std::int64_t piece_elements = 0;  // of votes and means; 0: chosen by size
  std::int64_t average_momentum_every = 0;  // steps; 0: never
  bool overlap = true;                      // ballots leave while backward goes on
  double deadline_seconds = 600;            // of any wait for peers

  CheckpointConfig checkpoint;
  JournalConfig journal;
  AuditConfig audit;

  std::string output_folder;
  std::string prometheus;    // "HOST:PORT" of each worker's endpoint; empty: none
  bool tensorboard = false;  // event files

  const ParameterGroup& group(ParameterKind kind) const {
    return groups[static_cast<std::size_t>(kind)];
  }
};

// Where a run will be, and so what of it can be looked at here: files, device and processor; the
// files, which those machines share with this one; neither. All else always is.
enum class Machines { this_one, same_files, others };

// `settings` are "key=value" of --set.
RunConfig read_run_config(const std::string& path, const std::vector<std::string>& settings,
                          Machines machines = Machines::this_one);
RunConfig parse_run_config(const std::string& text, const std::string& path,
                           const std::vector<std::string>& settings);

// The run.toml that a run wrote, for looking at the run later: the files that it names may be gone.
RunConfig read_resolved_config(const std::string& path);

// The four groups that [optimizer] preset = `rule` fills, at this rate.
std::array<ParameterGroup, 4> preset_groups(const std::string& rule, double rate);

// The resolved run.toml: reading it again gives the same RunConfig.
std::string to_toml(const RunConfig& config);
// Every key with its default and help.
std::string run_config_reference();

// Where this run computes: as core/device.h's, but that members of a voter work on CPUs only.
Device find_device(const RunConfig& config, int local_rank = 0, std::string* reason = nullptr);
// auto -> bf16 where the device has instructions for it, else f32.
DType resolve_compute(Compute compute, Device device = {});
Float32Products float32_products(Compute compute);
// What a record says of the two: "f32", "tf32" or "bf16".
const char* name_of_products(Compute compute, DType type);
const char* to_string(Compute compute);
const char* to_string(RunConfig::Recompute recompute);
const char* to_string(Ties ties);
const char* to_string(JournalConfig::Enabled enabled);
const char* to_string(AuditConfig::BadVoter policy);

}  // namespace ballot

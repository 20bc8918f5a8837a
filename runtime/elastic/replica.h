// A worker's numbers in an elastic run: parameters, momentum, model and data. What the protocol
// (runtime/protocol/worker_core.h) knows by name, this holds: positions are states of it, ballots
// are made by it, records change it.
//
// One thread at a time (the computing one), but for decide(), which reads nothing that changes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "models/llama/llama_config.h"
#include "models/model.h"
#include "models/tokenizer.h"
#include "runtime/checkpoint.h"
#include "runtime/elastic/voter_ballot.h"
#include "runtime/optimizer_state.h"
#include "runtime/protocol/history.h"
#include "runtime/protocol/ledger.h"
#include "runtime/replay.h"
#include "runtime/run_config.h"
#include "runtime/sampler.h"
#include "runtime/trainer.h"  // TrainingHooks

namespace ballot {

class Replica {
 public:
  // Reads model and data; stands at step 0. Both must outlive it. ConfigError for what cannot be
  // elastic, and as the trainer does.
  Replica(const RunConfig& config, const TrainingHooks& hooks);

  // Where every history of this run begins: of the configuration and the starting parameters.
  const Position& genesis() const { return genesis_; }
  // What all workers must agree on: that, the data, and all that decides bits; not where files lie.
  const Digest& config_digest() const { return config_digest_; }

  const Position& position() const { return position_; }
  std::int64_t term() const { return term_; }  // of the record that ends there
  const Ledger& ledger() const { return ledger_; }
  std::uint64_t digest() const { return training_.digest; }  // of the parameters there
  const std::vector<std::int64_t>& counts() const;           // AdamW's updates, by tensor

  // The ballot of the step after position().
  std::shared_ptr<const VoterBallot> cast(const SampleRange& samples, int voter);
  // The next record. Returns what the journal keeps of it.
  AppliedRecord apply(const Record& record);
  // The starting model. `keep_momentum`: what is this voter's own stays as it is.
  void load_start(bool keep_momentum);
  // A checkpoint's state. CorruptFile, DataError: then its own is undefined until a load succeeds.
  void load(const std::string& checkpoint, int voter, bool keep_momentum);

  // Called before each change that a ballot or an update makes; loads do not ask.
  void before_change(const BeforeChange& call) {
    maker_.before_change(call);
    replay_.before_change(call);
  }

  // Of the step under way, and the last applied: for the record.
  struct Times {
    double data = 0, forward = 0, backward = 0, direction = 0, pack = 0, apply = 0;
  };
  const Times& times() const { return times_; }
  std::optional<Loss> evaluate();  // none: no held-out data

  const RunConfig& config() const { return config_; }
  const ParameterArena& arena() const { return arena_; }
  const OptimizerState& state() const { return state_; }
  OptimizerState& state() { return state_; }
  const StepLayout& layout() const { return layout_; }
  const TrainingState& training() const { return training_; }
  DType compute() const { return compute_; }

 private:
  void stand_at(const Position& position, std::int64_t term, Ledger ledger);

  const RunConfig& config_;
  const TrainingHooks& hooks_;
  std::string device_reason_;  // empty: as configured
  Device device_;
  DType compute_;
  LlamaConfig llama_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ParameterArena arena_;
  OptimizerState state_;
  StepLayout layout_;
  std::vector<std::int32_t> training_tokens_, held_out_tokens_;
  Sampler sampler_;
  std::unique_ptr<EvaluationWindows> windows_;
  std::unique_ptr<Model> model_;
  BallotMaker maker_;
  Replay replay_;
  std::vector<TokenBatch> batches_;
  mutable std::vector<std::int64_t> counts_;

  Position genesis_;
  Digest config_digest_;
  Position position_;
  std::int64_t term_ = 0;
  Ledger ledger_;
  TrainingState training_;
  Times times_;
};

}  // namespace ballot

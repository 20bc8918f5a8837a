// A worker's numbers in an elastic run: parameters, momentum, model and data. What the protocol
// (runtime/protocol/worker_core.h) knows by name, this holds: positions are states of it, ballots
// are made by it, records change it.
//
// A voter of several members has a replica on each of them. The first member's is what the protocol
// drives; it tells the others (member_orders.h), whose follow() does the same: every ballot is made
// by all, momentum lies where the work is, each applies every record. Losing a member ends the
// voter's process group; it comes back as a whole, from checkpoint and journal, and is planned
// anew.
//
// One thread at a time (the computing one).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "models/architecture.h"
#include "models/model.h"
#include "models/tokenizer.h"
#include "runtime/checkpoint.h"
#include "runtime/checkpoint_writer.h"
#include "runtime/elastic/member_orders.h"
#include "runtime/elastic/voter_ballot.h"
#include "runtime/member_plan.h"
#include "runtime/optimizer_state.h"
#include "runtime/protocol/history.h"
#include "runtime/protocol/ledger.h"
#include "runtime/replay.h"
#include "runtime/run_config.h"
#include "runtime/run_data.h"
#include "runtime/trainer.h"  // TrainingHooks

namespace ballot {

class Replica {
 public:
  // Reads model and data; stands at step 0. All must outlive it. `members`: of this voter, as many
  // as vote.members says; null: this process is the voter. Collective over them. ConfigError for
  // what cannot be elastic, for members that were started differently, and as the trainer does.
  Replica(const RunConfig& config, const TrainingHooks& hooks, Transport* members = nullptr);

  // What follows, down to config(), is the first member's to call, who has the others do the same.
  bool is_first_member() const { return members_ == nullptr || members_->rank() == 0; }
  // The others': until the first member dismisses them; whether the run has ended. PeerLost,
  // Timeout.
  bool follow();
  void dismiss(bool ended);
  // When there is nothing to do, now and then: the others wait for orders only so long.
  void keep_members();

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
  // `live`: the run makes this step now, it is not replayed.
  AppliedRecord apply(const Record& record, bool live = false);
  // The starting model. `keep_momentum`: what is this voter's own stays as it is.
  void load_start(bool keep_momentum);
  // A checkpoint's state. CorruptFile, DataError: then its own is undefined until a load succeeds.
  void load(const std::string& checkpoint, int voter, bool keep_momentum);

  // Called before each change that a ballot or an update makes; loads do not ask.
  void before_change(const BeforeChange& call) {
    maker_->before_change(call);
    replay_.before_change(call);
  }

  // This voter's share of a checkpoint of position(), in as many files as it has members: its own
  // part by `writer`, the others' by theirs.
  // The share's `number` is given here, ascending.
  void begin_checkpoint(CheckpointShare share, CheckpointWriter& writer);
  // Of the other members' parts of the share with this number.
  enum class OthersShare { writing, written, failed };
  OthersShare look_at_checkpoint(std::int64_t number);
  // Whether some member was asked to leave, as of the last ballot. Any thread.
  bool asked_to_leave() const { return asked_to_leave_; }

  // Of the step under way, and the last applied: for the record. Of the slowest member.
  struct Times {
    double data = 0, forward = 0, backward = 0, direction = 0, pack = 0, apply = 0;
  };
  const Times& times() const { return times_; }
  std::optional<Loss> evaluate();  // none: no held-out data
  // To this voter's other members so far.
  std::uint64_t member_bytes_sent() const { return maker_->bytes_sent(); }

  const RunConfig& config() const { return config_; }
  const ParameterArena& arena() const { return arena_; }
  const OptimizerState& state() const { return state_; }
  OptimizerState& state() { return state_; }
  const StepLayout& layout() const { return layout_; }
  std::string products() const { return name_of_products(config_.compute, compute_); }
  const MemberPlan& plan() const { return plan_; }

 private:
  void stand_at(const Position& position, std::int64_t term, Ledger ledger);
  void tell(MemberOrder order, ConstBytes what_follows = {});
  int member() const { return members_ == nullptr ? 0 : members_->rank(); }
  // What an order is about, on every member.
  std::shared_ptr<const VoterBallot> make_ballot(const SampleRange& samples, int voter);
  void join_reports(VoterBallot& ballot);
  AppliedRecord apply_here(const Record& record);
  void load_start_here(bool keep_momentum);
  void load_here(const std::string& checkpoint, int voter, bool keep_momentum);
  void begin_checkpoint_here(const CheckpointShare& share, CheckpointWriter& writer);
  std::optional<Loss> evaluate_here();
  void require_all_loaded(bool loaded, const std::string& what);

  const RunConfig& config_;
  const TrainingHooks& hooks_;
  Transport* const members_;  // null: none
  const Duration patience_;
  std::unique_ptr<Architecture> architecture_;
  std::string device_reason_;  // empty: as configured
  Device device_;
  DType compute_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ParameterArena arena_;
  MemberPlan plan_;
  OptimizerState state_;
  StepLayout layout_;
  RunData data_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<BallotMaker> maker_;
  Replay replay_;
  std::vector<TokenBatch> batches_;
  mutable std::vector<std::int64_t> counts_;

  Position genesis_;
  Digest config_digest_;
  Position position_;
  std::int64_t term_ = 0;
  Ledger ledger_;
  TrainingState training_;
  std::vector<std::uint64_t> digests_;  // by parameter: what the last update or load made
  Times times_;
  std::optional<MemberOrders> orders_;
  std::int64_t checkpoints_begun_ = 0;
  std::atomic<bool> asked_to_leave_ = false;
};

}  // namespace ballot

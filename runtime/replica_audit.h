// What workers tell each other once a step: loss, faults, time, and the digest of their parameters.
//
// One small all-gather. Replicas are identical by construction; this proves it every step. When one
// differs, the tensor and the workers are named. Who is right is what more than half of all workers
// hold, or, where no such majority is, what a judge finds (replay_judge.h); the others take these
// bits from them (values and, of averaged groups, the moments): found one step after it happened,
// the damage is in no ballot but that step's. Where nobody can say who is right, or where repairing
// is switched off: ReplicasDiffer.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "core/parameter_arena.h"
#include "runtime/before_change.h"
#include "runtime/optimizer_state.h"
#include "runtime/replay_judge.h"  // Judgement

namespace ballot {

// Parts of a step that a worker does by itself: who is slow, and at what.
inline constexpr std::array<const char*, 6> kOwnStages = {"data",      "fwd",  "bwd",
                                                          "direction", "pack", "apply"};

// Travels as it is, little-endian; every worker of a job runs the same build (checked when it
// starts).
struct WorkerReport {
  std::int64_t step = 0;
  double loss_sum = 0;
  std::int64_t tokens = 0;
  std::uint64_t digest = 0;  // of all parameters, after the step
  std::uint64_t record = 0;  // the low half of the journal's chain with this step's record; 0: none
  std::int32_t gradient_faults = 0;
  std::int32_t loss_fault = 0;
  std::int32_t stop = 0;                // this worker was asked to leave: all stop after this step
  std::int32_t checkpoint_written = 0;  // else it is given up: `checkpoint_step`
  double compute_seconds = 0;           // from the step's start to the ballot being ready
  std::array<float, kOwnStages.size()> stage_seconds{};  // as kOwnStages
  std::int64_t checkpoint_step =
      -1;  // what has become of this worker's share of it; -1: nothing new
  std::uint64_t checkpoint_bytes = 0;
  std::int64_t checkpoint_published = -1;  // worker 0: the newest that this run has published
  std::int64_t journal_durable = 0;        // step up to which this worker's journal is
};

// One tensor that was not the same everywhere.
struct ReplicaDifference {
  std::size_t parameter = 0;  // in arena order
  std::vector<int> most;      // the workers of the largest group that agrees; judged: who is right
  std::vector<int> others;
  bool has_majority = false;  // more than half of all workers agree
  int judge = -1;             // else: the worker whose replay said who is right; -1: none did
  std::int64_t judged_from_step = 0;  // where that replay began
};

class ReplicaAudit {
 public:
  // `state`: of this worker. All of them must outlive it. Equal `repairs` on all workers.
  ReplicaAudit(const ParameterArena& arena, OptimizerState& state, Transport& transport,
               bool repairs);
  // Who is asked where no majority agrees, on every worker at once; without one nobody is.
  using Judge = std::function<Judgement(std::int64_t step)>;
  void judge_by(Judge judge) { judge_ = std::move(judge); }
  // Called before a repair changes a parameter that the step has left alone: a frozen one.
  void before_change(BeforeChange call) { before_change_ = std::move(call); }
  // Everybody's report, by rank, after any repair: all digests are equal. `digests` has one entry
  // per parameter; what was repaired here is changed in it. `report.digest` is filled in. Where
  // journals hold other records of the step than others' do, ReplicasDiffer after the repair:
  // parameters can be given, a written history cannot, and no checkpoint would be published again.
  const std::vector<WorkerReport>& exchange(WorkerReport report,
                                            std::vector<std::uint64_t>& digests, Deadline deadline);
  // What the last exchange() repaired, on any worker; all workers give the same.
  const std::vector<ReplicaDifference>& repaired() const { return repaired_; }
  std::string describe(const ReplicaDifference& difference) const;

 private:
  std::vector<std::vector<std::uint64_t>> gather_digests(const std::vector<std::uint64_t>& digests,
                                                         Deadline deadline);
  void judge(std::vector<ReplicaDifference>& found,
             const std::vector<std::vector<std::uint64_t>>& all, std::int64_t step);
  void require_same_records() const;
  void repair(const ReplicaDifference& difference, std::vector<std::uint64_t>& digests,
              Deadline deadline);
  const ParameterArena& arena_;
  OptimizerState& state_;
  Transport& transport_;
  const bool repairs_;
  Judge judge_;
  BeforeChange before_change_;
  std::vector<std::int64_t> judged_;  // the steps, of late
  std::vector<WorkerReport> reports_;
  std::vector<ReplicaDifference> repaired_;
};

// The digests of all parameters as they are, in arena order.
std::vector<std::uint64_t> parameter_digests(const ParameterArena& arena);
std::uint64_t fold(const std::vector<std::uint64_t>& digests);

// Collective, when a job starts: every worker must give the same text (version, resolved
// configuration, processor where bits depend on it, parameters, step); ConfigError names the first
// line that differs and the rank it differs on.
void require_same_everywhere(const std::string& text, Transport& transport, Deadline deadline);

}  // namespace ballot

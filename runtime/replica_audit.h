// What workers tell each other once a step: loss, faults, time, and the digest of their parameters.
//
// One small all-gather. Replicas are identical by construction; this proves it every step, and when
// one differs names the tensor and the workers (ReplicasDiffer).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "core/parameter_arena.h"

namespace ballot {

// Travels as it is, little-endian; every worker of a job runs the same build (checked when it
// starts).
struct WorkerReport {
  std::int64_t step = 0;
  double loss_sum = 0;
  std::int64_t tokens = 0;
  std::uint64_t digest = 0;  // of all parameters, after the step
  std::int32_t gradient_faults = 0;
  std::int32_t loss_fault = 0;
  std::int32_t stop = 0;  // this worker was asked to leave: all stop after this step
  std::int32_t unused = 0;
  double compute_seconds = 0;  // from the step's start to the ballot being ready
};

class ReplicaAudit {
 public:
  ReplicaAudit(const ParameterArena& arena, Transport& transport);
  // Everybody's report, by rank. `digests` has one entry per parameter; `report.digest` is filled
  // in here.
  const std::vector<WorkerReport>& exchange(WorkerReport report,
                                            const std::vector<std::uint64_t>& digests,
                                            Deadline deadline);

 private:
  [[noreturn]] void name_difference(const std::vector<std::uint64_t>& digests, std::int64_t step,
                                    Deadline deadline);
  const ParameterArena& arena_;
  Transport& transport_;
  std::vector<WorkerReport> reports_;
};

// The digests of all parameters as they are, in arena order.
std::vector<std::uint64_t> parameter_digests(const ParameterArena& arena);
std::uint64_t fold(const std::vector<std::uint64_t>& digests);

// Collective, when a job starts: every worker must give the same text (version, resolved
// configuration, processor where bits depend on it, parameters, step); ConfigError names the first
// line that differs and the rank it differs on.
void require_same_everywhere(const std::string& text, Transport& transport, Deadline deadline);

}  // namespace ballot

// What a worker's memory is for, foretold from shapes before anything is allocated, and held
// against what the process used.
//
// A pure function of the model's shapes and the run's configuration. Not in it: the program and its
// libraries, the data, and what products take within a library; what was used is therefore told as
// the growth since the run began.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/parameter.h"         // ParameterShape
#include "core/tensor.h"            // DType
#include "models/model.h"           // ActivationMemory
#include "optim/parameter_group.h"  // ParameterGroup
#include "runtime/member_plan.h"

namespace ballot {

struct MemoryPlan {
  struct Line {
    std::string name;  // "momentum"
    std::int64_t bytes = 0;
    std::string of;  // "fp32, of 1,235,814,400 trained"
  };
  std::vector<Line> lines;  // none of 0 bytes

  std::int64_t total() const;
  std::int64_t bytes_of(const std::string& name) const;  // 0: it has no such line
  // A table, largest first, and the total; no line feed at its end.
  std::string describe() const;
};

// Of one worker.
struct MemoryFacts {
  std::span<const ParameterShape> shapes;  // with what is frozen
  std::array<ParameterGroup, 4> groups;    // by ParameterKind
  DType compute = DType::f32;
  std::int64_t voters = 1, members = 1;
  const MemberPlan* plan = nullptr;  // who works on what, where there are members; null: unknown,
  int member = 0;                    // an even share of each; else what this one works on
  std::optional<ActivationMemory> activations;  // none: unknown
  std::int64_t checkpoint_staging_bytes = 0;    // at most
};
MemoryPlan plan_memory(const MemoryFacts& facts);

// Of this process, as the kernel counts: bytes of memory that it has now, and the most it had. 0:
// this system does not tell.
struct ProcessMemory {
  std::int64_t resident_bytes = 0, peak_bytes = 0;
};
// What was taken since `before`, at most; below 0: not known, or no more than before at its peak.
std::int64_t memory_taken(const ProcessMemory& before, const ProcessMemory& now);
ProcessMemory process_memory();

}  // namespace ballot

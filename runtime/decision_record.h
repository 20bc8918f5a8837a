// A step's decision as the journal writes it down, and back.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/journal/record.h"
#include "runtime/step_layout.h"
#include "runtime/step_update.h"

namespace ballot {

// The elements of one chunk of `verdict`, sealed; `counted` by voter.
ChunkVerdictRecord to_record(const Verdict& verdict, const BallotLayout& layout,
                             const BallotChunk& chunk, std::vector<std::uint64_t> counted);

// A record of everything but step, term, previous and ranges, sealed: the voted elements in
// `chunks` parts as even as BallotLayout::chunk() cuts them, each counted from voters 0 to
// `voters` - 1, then one mean for each wire type in use. Reuses the memory of `record`.
void write_decision(const StepLayout& layout, const StepDecision& decision,
                    std::span<const TensorFactors> factors, int chunks, int voters, Record& record);

// The other way: owns the verdict that it makes of a record's chunks, however they are cut, and a
// copy of its means.
class RecordedDecision {
 public:
  RecordedDecision(const StepLayout& layout, Ties ties);
  // The record must be whole and must outlive the decision's use. DataError where it is of other
  // tensors than the layout.
  const StepDecision& read(const Record& record);

 private:
  const StepLayout& layout_;
  Ties ties_;
  Verdict verdict_;
  std::array<std::vector<float>, 2> means_;  // by wire type
  StepDecision decision_;
};

}  // namespace ballot

// What the owners of a step saw in its ballots, put together: what a step's line of the record and
// the watch over the voters are made of. The same on every worker that voted in the step.
#pragma once

#include <cstdint>
#include <span>

#include "collectives/segment_agreement.h"
#include "models/model.h"  // Loss
#include "runtime/protocol/worker_messages.h"

namespace ballot {

struct StepFigures {
  std::int64_t step = 0, term = 0;
  std::int32_t workers = 0;
  VoteStatistics votes;      // agreed and compared by voter of the term
  SegmentAgreement tensors;  // the same two by tensor of the ballot: of all that were told of
  Loss loss;                 // of the voters counted for chunk 0
  std::int32_t loss_faults = 0;
};

// `chunks` by chunk of `record`, with the voters that each counted; numbers of others are 0.
StepFigures figures_of(const Record& record, std::span<const ChunkFigures> chunks);

}  // namespace ballot

// What an owner decides for its chunk of a step: the verdict of the ballots that it counted, and
// with chunk 0 the means and the factors of the update. A pure function: any worker of the term
// that counted the same ballots would have decided the same.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "collectives/tally.h"
#include "runtime/protocol/worker_messages.h"
#include "runtime/step_layout.h"

namespace ballot {

struct CountedBallot {
  std::int32_t voter = 0;
  const BallotData* data = nullptr;
};

// `ballots` ascending by voter, at least one; their sizes have been looked at (has_sizes_of()).
// `options.step` counts from 0. The result lacks `counted` and `factors`. Means are summed in the
// order of voters in fp32 and divided once, as collectives/mean.h does.
ChunkVerdict decide_chunk(const StepLayout& layout, int chunk, int chunks,
                          std::span<const CountedBallot> ballots, const TallyOptions& options);

// Whether what an owner sent can be its chunk of this model.
bool has_sizes_of(const ChunkVerdict& verdict, const StepLayout& layout, Ties ties, int chunk,
                  int chunks, std::size_t tensors);

}  // namespace ballot

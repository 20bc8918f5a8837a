// What workers say to each other: plain values. A stream between two workers is bound to one term
// by its Hello (R2 of docs/protocol.md); fetches are calls of their own and bound to none.
//
// Verdicts are large: received ones are moved into the record, a worker's own is shared.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "collectives/verdict.h"  // VoteStatistics
#include "runtime/journal/record.h"
#include "runtime/protocol/messages.h"

namespace ballot {

struct Hello {
  std::string run;
  std::int64_t term = 0;
  Identity identity;  // of the sender
};

enum class LinkAnswer {
  accept,
  not_yet,  // the record of that term has not arrived here: ask again
  refuse,   // that term is over here, or sealed, or does not have the sender
};

// One voter's bits of one chunk, as the tally wants them, and in chunk 0 its gradients of what is
// averaged, and its loss.
struct BallotData {
  std::vector<std::uint64_t> bits, abstentions;
  std::vector<std::vector<float>> gradients;           // by mean of the record
  std::vector<std::vector<std::uint8_t>> contributes;  // by mean and tensor: 0 is left out of it
  double loss_sum = 0;                                 // over `tokens`; NaN: not finite
  std::int64_t tokens = 0;
};

struct BallotFrame {
  std::int64_t step = 0;
  std::int32_t chunk = 0;
  std::int32_t voter = 0;
  Position base;        // what it was computed on (R4)
  SampleRange samples;  // and from
  std::shared_ptr<const BallotData> data;
};

// What an owner saw in the ballots that it counted, for the run's record and for alarms: no bit of
// any replica depends on it, so it is no part of the record chain.
struct ChunkFigures {
  VoteStatistics votes;  // agreed and compared by counted voter, ascending
  // The same two of the tensors that the chunk reaches into, by tensor of the ballot from
  // `first_tensor` on, then counted voter: their sums are those of `votes`.
  std::int64_t first_tensor = 0;
  std::vector<std::int64_t> tensor_agreed, tensor_compared;
  // With chunk 0: over the counted ballots whose loss was finite, and how many were not.
  double loss_sum = 0;
  std::int64_t tokens = 0;
  std::int32_t loss_faults = 0;
  bool operator==(const ChunkFigures&) const = default;
};

// What an owner decides for its chunk. The means and the rate factors come with chunk 0.
struct ChunkVerdict {
  ChunkVerdictRecord verdict;
  std::vector<TensorFactors> factors;
  std::vector<MeanRecord> means;
  ChunkFigures figures;
  bool operator==(const ChunkVerdict&) const = default;
};

struct VerdictFrame {
  std::int64_t step = 0;
  std::int32_t chunk = 0;
  Position base;
  ChunkVerdict data;
};

struct Fetch {
  Position from;
  // Of the asking worker's term record, if it is in a term: proof that `start` may be served.
  std::int64_t term = 0;
  Position start;
};

struct FetchReply {
  Position from;          // as asked
  std::int64_t term = 0;  // in which the serving worker vouches; 0: only for what is committed
  Position start;         // of that term
  Position vouched;       // the furthest position it serves
  std::vector<std::shared_ptr<const Record>> records;  // after `from`, if that is on its history
  std::vector<Position> landmarks;  // else positions of its history, newest first
};

}  // namespace ballot

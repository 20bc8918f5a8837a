// Chooses how ballots travel by a brief measurement of the link and of this machine: what
// vote.schedule = "auto" does at the start of a run.
#pragma once

#include "collectives/collective.h"  // kPiecesInFlight
#include "collectives/cost_model.h"
#include "collectives/transport/transport.h"

namespace ballot {

struct MeasuredChoice {
  ScheduleChoice choice;
  std::size_t pieces_in_flight = kPiecesInFlight;  // so that latency leaves no gap on the wire
};

// Collective, under half a second on links of 1 Gbit/s; the same choice on every rank, for the same
// bits whatever it is. `options` says everything but the schedule.
MeasuredChoice choose_by_measurement(const BallotLayout& layout, const VoteOptions& options,
                                     Transport& transport, Deadline deadline);

}  // namespace ballot

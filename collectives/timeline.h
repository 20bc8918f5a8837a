// When collectives are whole, by a small deterministic simulation of one worker.
//
// Four resources, each doing one thing at a time in the order in which things become possible:
//   compute        the worker's own thread: its tasks in order; a task releases a segment
//   communication  a thread that seals, checks and counts; a piece that may start goes first, then
//                  the piece with the lowest number (as PieceQueue::advance()): pieces start in
//                  their order, a few of a collective under way at once
//   link           of the node: a stage of a piece holds it for
//                    messages x per_message + node_size x remote_bytes / bandwidth
//                  because all workers of the node send the same at the same time
//   local link     of the worker: messages x per_message + local_bytes / bandwidth
// What is sent has arrived `hops` latencies after it has left; all workers do the same at the same
// time, so what is received arrives with it. Not modelled: stragglers, congestion inside the
// network, a link slower one way than the other.
#pragma once

#include <cstddef>
#include <span>

#include "collectives/collective.h"  // kPiecesInFlight
#include "collectives/cost_model.h"

namespace ballot {

struct ComputeTask {
  double seconds = 0;
  // Then, for voters of several members, so many bytes travel inside the voter, and when they have
  // come, `then_seconds` more are computed (before the next task, if that has not begun).
  double local_bytes = 0;
  double then_seconds = 0;
  // Afterwards this segment of this collective is final; -1: nothing is.
  int collective = -1;
  std::size_t segment = 0;
};

struct TimelineOptions {
  bool overlap = true;       // false: everything is released when all tasks are done
  bool shared_core = false;  // communication takes its time from the same core as compute
  std::size_t in_flight = kPiecesInFlight;  // pieces of a collective, at least 1
};

struct Timeline {
  double computed = 0;  // s from the start: all tasks are done
  double finished = 0;  // all collectives are whole (at least `computed`)
  double exposed() const { return finished - computed; }
  double link_busy = 0, local_busy = 0, communication_busy = 0;  // s
};

Timeline simulate(std::span<const ComputeTask> tasks,
                  std::span<const CollectiveCost* const> collectives, const Cluster& cluster,
                  const VoteRates& rates, TimelineOptions options = {});

// One collective by itself, everything released at the start.
double simulate_alone(const CollectiveCost& collective, const Cluster& cluster,
                      const VoteRates& rates);

}  // namespace ballot

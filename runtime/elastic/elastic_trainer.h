// Trains as one worker of an elastic run: others may come, go, hang and die at any instant, this
// one too (docs/protocol.md). Peers are reached over gRPC, terms come from a coordinator.
//
// The worker's number names it for the whole run: a process started again with the same number and
// run folder goes on where its journal ends. All workers see the same run folder; each keeps a
// whole journal of its own in RUN/journal/worker-<number>.
//
// With vote.members = G a worker's number is that of a voter of G processes: the first of them does
// all that, the others what it does (replica.h), on a transport of their own.
#pragma once

#include <cstdint>
#include <string>

#include "collectives/transport/transport.h"
#include "runtime/coordinator/coordinator_access.h"
#include "runtime/run_config.h"
#include "runtime/trainer.h"

namespace ballot {

struct ElasticOptions {
  std::int32_t worker = -1;
  std::string coordinator;             // "host:port"
  std::string run;                     // its name there
  std::string listen = "127.0.0.1:0";  // where peers reach this worker; port 0: any
  CoordinatorAccess access;
  Duration heartbeat = std::chrono::milliseconds(250);
  Duration late_grace = std::chrono::seconds(5);  // with a quorum: for the ballots after it
  Duration fetch_timeout = std::chrono::seconds(30);
  Duration link_patience = std::chrono::seconds(5);
};

// Returns when the run has ended everywhere (the last step is committed and its checkpoint
// published), or when this worker was asked to leave and has. Waits for its peers of a step are
// bounded by vote.deadline_seconds, which ends the term, not the run; the coordinator is waited for
// as long as it takes, which the log says. Throws for what this process cannot go on from: its
// disk, its data, an error of its model. `members`: the processes of this voter, or null where it
// is one; a member that is lost ends all of them.
TrainingResult train_elastic(const RunConfig& config, const ElasticOptions& options,
                             const TrainingHooks& hooks = {}, Transport* members = nullptr);

}  // namespace ballot

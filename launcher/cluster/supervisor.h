// Processes on one or many hosts, watched from here: each started again when it dies (an elastic
// job), or all ended with the first that fails (a fixed one).
//
// What is started here is a child of this process or an agent's (agent.h), so it ends with this
// process: in order, as if asked to leave. Every line goes to LOG_FOLDER/<name>.log, with a dash
// for the blank in the name, and to the terminal as "<name> | line". SIGINT, SIGTERM and
// SIGUSR1 ask the workers to leave in order, which they have `drain_deadline` for; a second SIGINT
// ends them at once.
#pragma once

#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "launcher/cluster/starter.h"  // StartCommand

namespace ballot {

// What the launcher says is not heard for so long: the agent gives it up (AgentOrder).
inline constexpr double kAgentSilenceSeconds = 60;

struct SupervisedProcess {
  std::string name;  // "worker 3", "coordinator"
  // What starts it, for the first time or anew. `host_lost`: its connection broke or its host
  // could not be reached, so that another host, where there is one, would be better. Throws where
  // there is nothing to start it on.
  std::function<StartCommand(bool host_lost)> start;
};

struct SupervisedJob {
  std::optional<SupervisedProcess> coordinator;
  std::vector<SupervisedProcess> workers;  // by number
  std::string log_folder;                  // made if it does not exist
  int restarts = 0;                        // elastic: of all processes together; fixed: 0
  bool forward_output = true;
  int leave_signal = SIGTERM;  // asks a worker to leave in order
  std::chrono::milliseconds drain_deadline{120'000};
  std::chrono::milliseconds end_deadline{20'000};  // fixed: for the others, once one has failed
};

struct SupervisedResult {
  // 0; or of the first worker that failed, 128 + the signal that ended it; ExitCode::retry where
  // all left in order as asked, or a host was lost; ExitCode::sent_away where all workers were.
  int exit_code = 0;
  std::string failed;             // the process that ended the job, or empty
  std::size_t failed_worker = 0;  // its number, if it is a worker
  bool lost = false;              // it was lost: to a signal, or with its host
  bool host_lost = false;
  bool asked_to_stop = false;  // by a signal to this process,
  int stop_signal = 0;         // this one
};

// Blocks until every worker has ended well (one that was sent away, ExitCode::sent_away, is not
// started again and ends nothing, but if all of them were), or one has failed in a way that
// starting it again cannot mend or once too often, or the job was asked to stop. Call it from the
// main thread, before others are started.
SupervisedResult supervise(const SupervisedJob& job);

}  // namespace ballot

// Before the first step: is everything that a job needs on all its hosts, and the same there?
//
// Each host is reached, asked for its facts and made to try all others at the addresses that the
// job will use. One table says what was found, and every reason not to start stands below it with
// what would change it: all at once, not one after another.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/cluster/host_runs.h"
#include "launcher/cluster/hosts.h"
#include "launcher/cluster/network.h"
#include "launcher/cluster/reach.h"
#include "launcher/cluster/starter.h"

namespace ballot {

struct PreflightNeeds {
  std::string run_folder;    // on the hosts
  std::string model_folder;  // empty: is not compared (a run that goes on has its own checkpoints)
  std::string interface;     // as asked for; empty: chosen
  std::int64_t memory_bytes_per_worker = 0, disk_bytes = 0;  // 0: not known; with gpu: of the GPU
  bool gpu = false;                                          // each worker needs one
  bool nccl = false;                                         // and NCCL, the same everywhere
  bool bf16 = false;                                         // products of processors, or a GPU
  std::vector<int> workers_of_host;                          // 0: a host that only stands by
  bool again = false;        // the job has run before: a folder that is not seen may be mounted yet
  double clock_seconds = 5;  // by how much clocks may differ: certificates, logs
  std::chrono::seconds patience{30};  // for a host to answer; 20 times that with a model to digest
};

// What one host answered, and when it was asked: for its clock.
struct PreflightAnswer {
  HostAnswer answer;
  double asked_at = 0, answered_at = 0;  // seconds since the epoch, here
};

struct PreflightRow {
  Host host;
  std::optional<HostFacts> facts;
  double clock_off = 0;  // at least so many seconds from the launcher's
  std::string problem;   // why there are no facts
  bool may_pass = true;  // it may be another the next time
};

struct Preflight {
  std::vector<PreflightRow> rows;  // as the hosts
  NetworkChoice network;           // empty where a host has no facts
  std::string witness_folder;      // where the launcher wrote a file that all hosts have to see
  std::vector<std::optional<ReachReport>> reached;
  // Why the job is not started, each with what to change; empty: it may be.
  std::vector<std::string> refusals;
  // All of them are hosts and ways between them that do not answer: another try may find them.
  bool may_pass = true;

  std::string table() const;  // as many lines as hosts and refusals, and a few
};

// Runs `program probe ...` on every host. ConfigError and Unavailable only for what is wrong here.
Preflight look_before_start(const Starter& starter, const std::vector<Host>& hosts,
                            const PreflightNeeds& needs, const std::string& folder);

// The two halves of it that only judge: pure functions.
PreflightRow read_answer(const Host& host, const PreflightAnswer& answer);
void judge_hosts(const PreflightNeeds& needs, Preflight& preflight);
void judge_reach(Preflight& preflight);

}  // namespace ballot

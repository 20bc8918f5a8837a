// Faults that the simulation puts into the protocol to show that it would notice them
// (docs/protocol.md, section "Mutations"). For tests only: every one is off in a run.
#pragma once

namespace ballot {

struct ProtocolMutations {
  // Worker.
  bool no_promise = false;           // a sealed worker goes on accepting and holding
  bool missing_chunk = false;        // applies with a chunk missing, as if it were held blocks
  bool keep_chunks = false;          // verdict chunks and ballots live on in the next term
  bool ballot_without_base = false;  // casts a ballot whatever it was computed on
  bool cut_to_peer = false;          // cuts its journal to a peer's shorter history
  bool bare_counter = false;         // the ledger is its next counter alone
  bool update_in_record = false;     // the record holds the unvoted update, not the mean
  bool serve_provisional = false;    // serves its last held step to joining workers
  bool cut_behind_newest = false;    // keeps no record of the checkpoint to fall back on
  bool accept_any_term = false;      // uses frames of other terms and incarnations
  bool decide_early = false;         // decides a poll of s without holding s - 1
  bool vote_past_end = false;        // goes on after the run's last step
  bool late_comer_waits = false;     // for records, where the run has ended without it
  bool any_length = false;           // does not mind that the run's last step is not its own
  // Coordinator.
  bool least_start = false;          // starts at the least report
  bool longest_start = false;        // starts at the longest history, whatever its terms
  bool restart_in_place = false;     // a restarted worker takes its old place in the term
  bool cold_without_commit = false;  // a cold start does not ask for the commit
  bool unconditional_write = false;  // the row is written whatever its revision
  bool commit_one_disk = false;      // commit is the greatest durable, not the least
  bool commit_before_start = false;  // counts `durable` of workers that have not reached the start
  bool speak_before_write = false;   // shows a term before its row is durable
  bool publish_before_commit = false;  // has a checkpoint of a step published that is not committed
  bool publish_any_digest = false;     // ... whose shares are of differing parameters
  bool rebuild_nobody = false;         // where no majority judges, as if replay could not
};

}  // namespace ballot

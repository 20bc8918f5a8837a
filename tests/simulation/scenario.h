// One run of the simulation as data: how many workers, how long, and every fault with its time, so
// that a failing run can be told again and its faults dropped one by one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/clock.h"
#include "runtime/protocol/mutations.h"

namespace ballot::sim {

using Milliseconds = std::int64_t;

// Places in a worker's or a coordinator's work at which it can be stopped for good.
enum class Point {
  send_ballot,
  send_verdict,
  before_append,
  before_apply,
  before_sync,
  after_sync,
  before_sealed_pulse,
  after_sealed_pulse,
  entered,
  before_cut,
  after_cut,
  fetched,
  before_share,    // of a checkpoint: while it is written
  after_share,     // before it is told
  before_publish,  // named, before the rename
  after_publish,   // before it is told
  before_put,      // coordinator: before it asks the store
  after_put,       // before it hears the answer
  after_order,     // after the first order of a row
};
const char* to_string(Point point);

struct Fault {
  enum class Kind {
    crash,              // worker `who`, back after `lasts`; 0: never
    lose_disk,          // the same, and its disk is empty when it is back
    crash_at,           // worker `who` at its `count`-th time at `point` from `at` on
    pause,              // SIGSTOP for `lasts`
    partition,          // workers of `mask` apart from the others; bits 30, 31: the coordinators
    cut_link,           // nothing from `who` to `other`
    loss,               // of messages, with `rate`
    doubles,            // messages twice, with `rate`
    delays,             // messages up to `count` ms late, with `rate`
    slow,               // worker `who` computes `count` times as long
    slow_sync,          // worker `who` does not sync
    slow_apply,         // worker `who` takes `count` ms to apply a step
    flip,               // a bit of worker `who`'s parameters
    damage_checkpoint,  // the newest one cannot be read any more
    break_stream,       // of pulses of worker `who`, for `lasts`: the coordinator sees it end, and
                        // workers of `mask` their links to it
    sync_error,         // the next fsync of worker `who` fails
    disk_full,          // worker `who`: after `count` more bytes
    join,               // worker `who` starts for the first time
    leave,              // worker `who`
    coordinator_crash,  // `who`, back after `lasts`
    coordinator_crash_at,
    coordinator_pause,
    lease,          // to coordinator `who`; the other believes in it `lasts` longer
    store_trouble,  // answers get lost, writes may come late, with `rate`
    other_length,   // worker `who` (-1: all) is stopped for `lasts`, then has `count` steps more
    row_lost,       // the store is emptied, or restored from a copy as old as `count` terms; all
                    // coordinators are started again with `recover`
  };
  Kind kind = Kind::crash;
  Milliseconds at = 0, lasts = 0;
  int who = 0, other = 0, count = 0;
  double rate = 0;
  std::uint32_t mask = 0;
  Point point = Point::send_ballot;
};
std::string describe(const Fault& fault);

struct Scenario {
  std::uint64_t seed = 0;
  int workers = 3;       // that start at once
  int coordinators = 1;  // the first holds the lease
  int min_workers = 1;
  int quorum = 0;
  std::int64_t per_voter = 2;
  Milliseconds fault_time = 12'000;  // no fault begins later, all end by then
  Milliseconds quiet_time = 60'000;  // I13: within which everything must go on
  bool revived = true;               // who is dead for good is back when the faults stop
  bool connections_end = true;       // of a process that dies; no: as if its host lost its power
  int checkpoint_every = 0;          // steps; 0: none, and journals are kept from the start
  std::int64_t steps = 0;            // the run's last; 0: it has none, and goes on
  std::vector<Fault> faults;
  ProtocolMutations mutations;
};

// What random faults seldom do by themselves: no commit for a while (the coordinator is stopped or
// the disks are slow to sync), a worker cut off with what only it holds, then all die, and come
// back one by one.
void add_storm(Scenario& scenario, std::uint64_t seed);

// Two histories with the same commit: an owner dies when one worker alone has its last verdict,
// that one dies before it reports, the others vote the step again without committing it, then some
// or all of them die.
void add_fork(Scenario& scenario, std::uint64_t seed);

// A long history without a commit of two that die, a shorter and later one of the two others; one
// of those dies too, and one of the first returns.
void add_old_history(Scenario& scenario);

// Frames that are seconds late while terms change quickly: a third of all messages, and workers
// that restart at once.
void add_lateness(Scenario& scenario, std::uint64_t seed);

// A flipped bit in a worker of `least` or more, and checkpoints.
void add_flip(Scenario& scenario, std::uint64_t seed, int least = 3);

// A last step, which most runs reach before the faults stop; in some it moves.
void add_end(Scenario& scenario, std::uint64_t seed);

// One worker gets another last step while the coordinator cannot hear those who have the old one.
void add_two_lengths(Scenario& scenario, std::uint64_t seed);

// All of it drawn from the seed.
Scenario random_scenario(std::uint64_t seed);

}  // namespace ballot::sim

// Who is right where workers hold different parameters and no majority agrees: the journal,
// replayed up to this very step from a checkpoint or the run's start.
//
// Records hold what was decided, which all workers have alike, so a replay gives the bits of a
// worker whose memory was never damaged; each of its steps but the last is proved by the digest
// that the run left, and the chain of its records must be the workers'. Worker 0 replays, and only
// where it cannot the next, with what its machine sees of the run folder, until one can. Its memory
// meanwhile: two more arrays of the parameters in fp32 and what averaged groups remember, on the
// CPU; its time is that of `ballot replay`, and the others wait for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "runtime/run_config.h"
#include "runtime/run_journal.h"

namespace ballot {

// The same on every worker.
struct Judgement {
  int judge = -1;                      // the worker that replayed; -1: nobody could
  std::int64_t from_step = 0;          // of the checkpoint, or 0: the run's start
  double seconds = 0;                  // that it took
  std::vector<std::uint64_t> tensors;  // what each parameter's digest should be, in arena order
  std::string why_not;                 // where nobody could: worker by worker
};

class ReplayJudge {
 public:
  // All of these must outlive it. `patience` is how long a worker waits for the others, from when
  // its own part is done; an hour more is for what they have to read.
  ReplayJudge(const RunConfig& config, RunJournal& journal, Transport& transport,
              Duration patience);

  // Collective. Of the parameters after `step`, the last one that the journal was given, on every
  // worker. Files that are damaged, or not there, or too little memory are reasons why not, not
  // errors; a worker that is lost is one.
  Judgement judge(std::int64_t step, std::size_t tensors);

 private:
  struct Told;
  struct Attempt;
  // `chain`: where all workers are; a folder that leads elsewhere is no witness.
  Attempt replay(std::int64_t step, std::size_t tensors, const Digest& chain) const;
  Deadline deadline() const;

  const RunConfig& config_;
  RunJournal& journal_;
  Transport& transport_;
  const Duration patience_;
};

}  // namespace ballot

#include "runtime/replay_judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "core/error.h"
#include "runtime/checkpoint.h"
#include "runtime/gather_values.h"
#include "runtime/replay_run.h"

namespace ballot {

// What a worker says of its attempt.
struct ReplayJudge::Told {
  std::int64_t from_step = 0;
  double seconds = 0;
  std::int64_t can = 0;
  std::array<char, 512> why_not{};  // ends with a zero
};

struct ReplayJudge::Attempt {
  Told told;
  std::vector<std::uint64_t> tensors;
  void refuse(const std::string& reason) {
    told.can = 0;
    told.why_not = {};
    reason.copy(told.why_not.data(), told.why_not.size() - 1);
  }
};

ReplayJudge::ReplayJudge(const RunConfig& config, RunJournal& journal, Transport& transport,
                         Duration patience)
    : config_(config), journal_(journal), transport_(transport), patience_(patience) {}

Deadline ReplayJudge::deadline() const {
  return Deadline::in(patience_ + std::chrono::hours(1));
}

Judgement ReplayJudge::judge(std::int64_t step, std::size_t tensors) {
  // This step's records are read from files, and all must be of one history.
  Attempt mine;
  try {
    journal_.flush();
  } catch (const WorldError& error) {
    mine.refuse(error.what());
  }
  struct Held {
    Digest chain;
    std::int64_t tensors;
  };
  const Held held{journal_.place().chain, static_cast<std::int64_t>(tensors)};
  const std::vector<Held> all_held = gather_values(held, transport_, deadline());
  Judgement judgement;
  for (std::size_t r = 0; r < all_held.size(); ++r) {
    if (all_held[r].tensors != all_held[0].tensors)
      throw TransportError("worker {} has {} parameters, worker 0 has {}", r, all_held[r].tensors,
                           all_held[0].tensors);
    if (all_held[r].chain == all_held[0].chain) continue;
    judgement.why_not = fmt::format(
        "worker {} wrote another decision of step {} in its journal than worker 0: it is no "
        "witness",
        r, step);
    return judgement;
  }

  std::vector<Told> told(static_cast<std::size_t>(transport_.size()));
  // One after the other: several of one machine at once might not have the memory.
  for (int turn = 0; turn < transport_.size(); ++turn) {
    if (transport_.rank() == turn && mine.told.why_not[0] == 0)
      mine = replay(step, tensors, held.chain);
    gather_values(mine.told, std::span(told), transport_, deadline());
    const auto judge = std::ranges::find_if(told, [](const Told& one) { return one.can != 0; });
    if (judge == told.end()) continue;
    judgement.judge = static_cast<int>(judge - told.begin());
    judgement.from_step = judge->from_step;
    judgement.seconds = judge->seconds;
    break;
  }
  if (judgement.judge < 0) {
    for (std::size_t r = 0; r < told.size(); ++r) {
      told[r].why_not.back() = 0;
      const std::string reason = told[r].why_not.data();
      if (r > 0 && reason == told[r - 1].why_not.data()) continue;
      judgement.why_not += fmt::format("{}worker {}: {}", r > 0 ? "; " : "", r, reason);
    }
    return judgement;
  }

  std::vector<SendParts> to(told.size());
  std::vector<ReceiveParts> from(told.size());
  judgement.tensors = std::move(mine.tensors);
  judgement.tensors.resize(tensors);
  const Bytes bytes = std::as_writable_bytes(std::span(judgement.tensors));
  if (transport_.rank() == judgement.judge) {
    for (std::size_t r = 0; r < to.size(); ++r)
      if (static_cast<int>(r) != judgement.judge) to[r] = {bytes};
  } else {
    from[static_cast<std::size_t>(judgement.judge)] = {bytes};
  }
  transport_.start_exchange(Purpose::control, to, from)->wait(Deadline::in(patience_));
  return judgement;
}

ReplayJudge::Attempt ReplayJudge::replay(std::int64_t step, std::size_t tensors,
                                         const Digest& chain) const {
  Attempt attempt;
  const auto names = [this] {
    std::vector<std::int64_t> steps;
    for (const CheckpointName& one : checkpoint_names(config_.output_folder))
      steps.push_back(one.step);
    return steps;
  };
  // Once more where a checkpoint that was about to be read was deleted meanwhile, being old.
  for (int round = 0; round < 2; ++round) {
    std::vector<std::int64_t> before;
    const Stopwatch watch;
    try {
      before = names();
      ReplayedRun run = replay_run(config_, config_.output_folder, step, "");
      if (run.tensors.size() != tensors)
        throw DataError("{} has {} parameters, this run {}", run.base, run.tensors.size(), tensors);
      if (run.chain != chain)
        throw DataError("{} and the journal here lead to {} at step {}, this run is at {}",
                        run.base, to_string(run.chain), step, to_string(chain));
      attempt.tensors = std::move(run.tensors);
      attempt.told.can = 1;
      attempt.told.from_step = run.from_step;
      attempt.told.seconds = watch.elapsed();
      return attempt;
    } catch (const std::bad_alloc&) {
      attempt.refuse("not enough memory for a second replica");
      break;
    } catch (const std::exception& error) {  // the others wait for this worker's word
      attempt.refuse(describe_failure(error).message);
    }
    try {
      if (names() == before) break;
    } catch (const std::exception&) {
      break;
    }
  }
  return attempt;
}

}  // namespace ballot

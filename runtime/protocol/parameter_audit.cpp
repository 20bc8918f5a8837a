// Digests by position, positions ascending.
#include "runtime/protocol/parameter_audit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace ballot {
namespace {

constexpr std::int64_t kToldFor = 100;  // steps, of what replay said

std::string names(const std::set<Identity>& workers) {
  std::vector<std::int32_t> numbers;
  for (const Identity& identity : workers) numbers.push_back(identity.worker);
  return fmt::format("worker{} {}", numbers.size() == 1 ? "" : "s", fmt::join(numbers, ", "));
}

bool is_in(const std::set<Identity>& workers, std::int32_t worker) {
  return std::ranges::any_of(workers, [&](const Identity& w) { return w.worker == worker; });
}

// What replay said, of those who were sent and are back.
std::string outcome_of(const Pulse& pulse) {
  const std::int64_t from = pulse.rebuilt->wrong_from;
  if (from > 0)
    return fmt::format("worker {}'s were wrong from step {} on", pulse.identity.worker, from);
  return fmt::format("worker {}'s were {}", pulse.identity.worker, from == 0 ? "right" : "rebuilt");
}

}  // namespace

void ParameterAudit::look(const std::vector<const Pulse*>& pulses, const std::set<Identity>& term) {
  Said said;
  std::set<Identity> heard, heard_of_term;
  for (const Pulse* pulse : pulses) {
    heard.insert(pulse->identity);
    if (term.contains(pulse->identity)) heard_of_term.insert(pulse->identity);
    for (const ParametersAt& at : pulse->parameters)
      said[at.position][at.digest].insert(pulse->identity);
  }
  wrong_.clear();
  const auto is_gone = [&](const Identity& w) { return !heard.contains(w) || wrong_.contains(w); };
  if (std::ranges::any_of(differing_, is_gone)) differing_.clear();
  std::erase_if(to_replay_, [&](const auto& entry) { return !heard.contains(entry.first); });
  for (const auto& [position, by_digest] : said) {
    if (by_digest.size() < 2) continue;
    std::size_t all = 0;
    const auto most = std::ranges::max_element(
        by_digest, {}, [](const auto& entry) { return entry.second.size(); });
    for (const auto& [digest, workers] : by_digest) all += workers.size();
    const bool judged = 2 * most->second.size() > all;
    for (const auto& [digest, workers] : by_digest) {
      if (!judged || digest == most->first) continue;
      for (const Identity& worker : workers)
        wrong_.try_emplace(worker, fmt::format("its parameters after step {} are not those of {}",
                                               position.step, names(most->second)));
    }
    if (judged || (!differing_.empty() && position.step != since_)) continue;
    for (const auto& [digest, workers] : by_digest)
      differing_.insert(workers.begin(), workers.end());
    since_ = position.step;
  }
  if (std::ranges::any_of(differing_, is_gone)) differing_.clear();
  look_at_differing(said);
  look_at_replayed(said, pulses);
  send_to_replay(said, heard_of_term);
  finding_ = replay_said_;
  if (differing_.empty()) return;
  const bool is_sent =
      std::ranges::any_of(differing_, [&](const Identity& w) { return replayed_.contains(w); });
  const bool again = !agreed_ && std::ranges::any_of(differing_, [&](const Identity& w) {
    return is_in(replayed_, w.worker);
  });
  if (!finding_.empty()) finding_ += "; ";
  finding_ +=
      fmt::format("after step {} the parameters of {} differ, {}", since_, names(differing_),
                  is_sent ? "replay will judge"
                  : again ? "after replay too"
                          : "no majority judges");
}

// They agree again if they do so wherever two of them have told of a later step.
void ParameterAudit::look_at_differing(const Said& said) {
  bool agree = false;
  for (const auto& [position, by_digest] : said) {
    if (position.step <= since_) continue;
    std::size_t told = 0, digests = 0;
    for (const auto& [digest, workers] : by_digest) {
      const auto theirs = static_cast<std::size_t>(std::ranges::count_if(
          workers, [&](const Identity& w) { return differing_.contains(w); }));
      told += theirs;
      digests += theirs > 0 ? 1 : 0;
    }
    if (digests > 1) return;
    agree = agree || told > 1;
  }
  if (agree) differing_.clear();
}

// Who have rebuilt and agree with anybody since may be sent again, should they differ some day.
// What replay said is told a little longer.
void ParameterAudit::look_at_replayed(const Said& said, const std::vector<const Pulse*>& pulses) {
  replay_said_.clear();
  if (replayed_.empty()) return;
  for (const auto& [position, by_digest] : said) {
    if (position.step <= replayed_after_ || by_digest.size() != 1) continue;
    const std::set<Identity>& workers = by_digest.begin()->second;
    const bool back = std::ranges::any_of(workers, [&](const Identity& w) {
      return is_in(replayed_, w.worker) && !replayed_.contains(w);
    });
    if (!back || workers.size() < 2) continue;
    agreed_ = true;
    if (position.step <= replayed_after_ + kToldFor) continue;
    to_replay_.clear();
    return replayed_.clear();
  }
  for (const Pulse* pulse : pulses)
    if (pulse->rebuilt && is_in(replayed_, pulse->identity.worker))
      replay_said_ +=
          (replay_said_.empty() ? "replay of differing parameters: " : ", ") + outcome_of(*pulse);
}

void ParameterAudit::send_to_replay(const Said& said, const std::set<Identity>& term) {
  if (differing_.empty() || term.empty()) return;
  for (const auto& [position, by_digest] : said) {
    std::set<Identity> told;
    std::size_t most = 0;
    for (const auto& [digest, workers] : by_digest) {
      told.insert(workers.begin(), workers.end());
      most = std::max(most, workers.size());
    }
    const auto is_differing = [&](const Identity& w) { return differing_.contains(w); };
    if (by_digest.size() < 2 || 2 * most > told.size() || !std::ranges::includes(told, term) ||
        !std::ranges::any_of(told, is_differing))
      continue;
    // By now replay has said what it can.
    if (!agreed_ &&
        std::ranges::any_of(told, [&](const Identity& w) { return is_in(replayed_, w.worker); }))
      continue;
    agreed_ = false;
    replayed_ = told;
    replayed_after_ = said.rbegin()->first.step;
    for (const Identity& worker : told)
      to_replay_.try_emplace(
          worker, fmt::format("after step {} the parameters of {} differ and no majority judges: "
                              "replay does",
                              position.step, names(told)));
    return;
  }
}

}  // namespace ballot

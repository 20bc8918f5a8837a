// Digests by position, positions ascending.
#include "runtime/protocol/parameter_audit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace ballot {
namespace {

std::string names(const std::set<Identity>& workers) {
  std::vector<std::int32_t> numbers;
  for (const Identity& identity : workers) numbers.push_back(identity.worker);
  return fmt::format("worker{} {}", numbers.size() == 1 ? "" : "s", fmt::join(numbers, ", "));
}

}  // namespace

void ParameterAudit::look(const std::vector<const Pulse*>& pulses) {
  std::map<Position, std::map<Digest, std::set<Identity>>> said;
  std::set<Identity> heard;
  for (const Pulse* pulse : pulses) {
    heard.insert(pulse->identity);
    for (const ParametersAt& at : pulse->parameters)
      said[at.position][at.digest].insert(pulse->identity);
  }
  wrong_.clear();
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
    if (judged || !differing_.empty()) continue;
    for (const auto& [digest, workers] : by_digest)
      differing_.insert(workers.begin(), workers.end());
    since_ = position.step;
    finding_ = fmt::format("after step {} the parameters of {} differ, no majority judges", since_,
                           names(differing_));
  }
  const bool gone = std::ranges::any_of(
      differing_, [&](const Identity& w) { return !heard.contains(w) || wrong_.contains(w); });
  if (gone) differing_.clear();
  look_at_differing(said);
  if (differing_.empty()) finding_.clear();
}

// They agree again if they do so wherever two of them have told of a later step.
void ParameterAudit::look_at_differing(
    const std::map<Position, std::map<Digest, std::set<Identity>>>& said) {
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

}  // namespace ballot

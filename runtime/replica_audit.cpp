#include "runtime/replica_audit.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "core/error.h"
#include "core/hash.h"
#include "optim/replicated_update.h"
#include "runtime/gather_values.h"

namespace ballot {

ReplicaAudit::ReplicaAudit(const ParameterArena& arena, Transport& transport)
    : arena_(arena), transport_(transport), reports_(transport.size()) {}

const std::vector<WorkerReport>& ReplicaAudit::exchange(WorkerReport report,
                                                        const std::vector<std::uint64_t>& digests,
                                                        Deadline deadline) {
  report.digest = fold(digests);
  gather_values(report, std::span(reports_), transport_, deadline);
  for (const WorkerReport& other : reports_) {
    if (other.step != report.step)
      throw TransportError("a worker reports step {} while this one is at step {}", other.step,
                           report.step);
    if (other.digest != report.digest) name_difference(digests, report.step, deadline);
  }
  return reports_;
}

void ReplicaAudit::name_difference(const std::vector<std::uint64_t>& digests, std::int64_t step,
                                   Deadline deadline) {
  const int size = transport_.size();
  std::vector<std::vector<std::uint64_t>> all(size, std::vector<std::uint64_t>(digests.size()));
  all[transport_.rank()] = digests;
  std::vector<Bytes> from;
  for (auto& one : all) from.push_back(std::as_writable_bytes(std::span(one)));
  transport_.start_gather(Purpose::control, std::as_bytes(std::span(digests)), from)
      ->wait(deadline);
  for (std::size_t i = 0; i < digests.size(); ++i) {
    std::map<std::uint64_t, std::vector<int>> holders;
    for (int r = 0; r < size; ++r) holders[all[r][i]].push_back(r);
    if (holders.size() == 1) continue;
    const auto most = std::max_element(
        holders.begin(), holders.end(),
        [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
    std::vector<int> others;
    for (const auto& [digest, ranks] : holders)
      if (digest != most->first) others.insert(others.end(), ranks.begin(), ranks.end());
    throw ReplicasDiffer(
        "replicas differ after step {}: parameter {} of worker {} is not what worker {} has", step,
        arena_.parameters()[i].shape.name, fmt::format("{}", fmt::join(others, ", ")),
        fmt::format("{}", fmt::join(most->second, ", ")));
  }
  throw ReplicasDiffer(
      "replicas differ after step {}: folded digests differ and no parameter's does", step);
}

std::vector<std::uint64_t> parameter_digests(const ParameterArena& arena) {
  std::vector<std::uint64_t> digests;
  for (const Parameter& parameter : arena.parameters())
    digests.push_back(apply_decay(RateFactors{0, 0}, parameter));
  return digests;
}

std::uint64_t fold(const std::vector<std::uint64_t>& digests) {
  std::uint64_t folded = 0;
  for (const std::uint64_t digest : digests) folded = hash64(folded, digest, 0);
  return folded;
}

void require_same_everywhere(const std::string& text, Transport& transport, Deadline deadline) {
  const int size = transport.size();
  const std::vector<std::uint64_t> lengths =
      gather_values<std::uint64_t>(text.size(), transport, deadline);
  std::vector<std::string> texts(size);
  std::vector<Bytes> from;
  for (int r = 0; r < size; ++r) {
    if (lengths[r] > (std::uint64_t{1} << 20))
      throw TransportError("worker {} describes itself in {} bytes, expected at most 1 MiB", r,
                           lengths[r]);
    texts[r].resize(lengths[r]);
    from.push_back(std::as_writable_bytes(std::span(texts[r].data(), texts[r].size())));
  }
  transport
      .start_gather(Purpose::control, std::as_bytes(std::span(text.data(), text.size())), from)
      ->wait(deadline);
  for (int r = 0; r < size; ++r) {
    if (r == transport.rank() || texts[r] == text) continue;
    std::istringstream mine(text), theirs(texts[r]);
    std::string my_line, their_line;
    while (std::getline(mine, my_line) && std::getline(theirs, their_line) &&
           my_line == their_line) {
    }
    throw ConfigError(
        "worker {} has \"{}\" where worker {} has \"{}\"; all workers must start with the same", r,
        their_line, transport.rank(), my_line);
  }
}

}  // namespace ballot

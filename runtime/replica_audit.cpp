#include "runtime/replica_audit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "core/error.h"
#include "core/hash.h"
#include "core/host_bytes.h"
#include "optim/replicated_update.h"
#include "runtime/gather_values.h"

namespace ballot {
namespace {

constexpr std::int64_t kJudgedWithin = 100;  // steps
constexpr std::size_t kMostJudged = 3;

}  // namespace
namespace {

// `all`: the digests of every worker, by parameter.
std::vector<ReplicaDifference> find_differences(
    const std::vector<std::vector<std::uint64_t>>& all) {
  std::vector<ReplicaDifference> found;
  const int size = static_cast<int>(all.size());
  for (std::size_t i = 0; i < all[0].size(); ++i) {
    std::map<std::uint64_t, std::vector<int>> holders;
    for (int r = 0; r < size; ++r) holders[all[r][i]].push_back(r);
    if (holders.size() == 1) continue;
    const auto most = std::max_element(
        holders.begin(), holders.end(),
        [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
    ReplicaDifference difference;
    difference.parameter = i;
    difference.most = most->second;
    difference.has_majority = 2 * static_cast<int>(most->second.size()) > size;
    for (const auto& [digest, ranks] : holders)
      if (digest != most->first)
        difference.others.insert(difference.others.end(), ranks.begin(), ranks.end());
    std::ranges::sort(difference.others);
    found.push_back(std::move(difference));
  }
  return found;
}

}  // namespace

ReplicaAudit::ReplicaAudit(const ParameterArena& arena, OptimizerState& state, Transport& transport,
                           bool repairs)
    : arena_(arena),
      state_(state),
      transport_(transport),
      repairs_(repairs),
      reports_(transport.size()) {}

const std::vector<WorkerReport>& ReplicaAudit::exchange(WorkerReport report,
                                                        std::vector<std::uint64_t>& digests,
                                                        Deadline deadline) {
  repaired_.clear();
  report.digest = fold(digests);
  gather_values(report, std::span(reports_), transport_, deadline);
  bool differ = false;
  for (const WorkerReport& other : reports_) {
    if (other.step != report.step)
      throw TransportError("a worker reports step {} while this one is at step {}", other.step,
                           report.step);
    differ |= other.digest != report.digest;
  }
  if (!differ) {
    require_same_records();
    return reports_;
  }
  const std::vector<std::vector<std::uint64_t>> all_digests = gather_digests(digests, deadline);
  std::vector<ReplicaDifference> found = find_differences(all_digests);
  if (found.empty())
    throw ReplicasDiffer(
        "replicas differ after step {}: folded digests differ and no parameter's does",
        report.step);
  if (!repairs_)
    throw ReplicasDiffer("replicas differ after step {}: {}", report.step, describe(found[0]));
  const TimePoint before = system_clock().now();
  judge(found, all_digests, report.step);
  deadline.at += system_clock().now() - before;  // a replay takes its own time
  for (const ReplicaDifference& difference : found) repair(difference, digests, deadline);
  const std::uint64_t digest = fold(digests);
  const std::vector<std::uint64_t> all = gather_values(digest, transport_, deadline);
  for (int r = 0; r < transport_.size(); ++r) {
    if (all[r] != digest)
      throw ReplicasDiffer(
          "replicas still differ after step {} was repaired: worker {} has digest "
          "{:016x}, worker {} has {:016x}",
          report.step, r, all[r], transport_.rank(), digest);
    reports_[r].digest = digest;
  }
  repaired_ = found;
  require_same_records();
  return reports_;
}

void ReplicaAudit::require_same_records() const {
  std::map<std::uint64_t, std::vector<int>> workers;
  for (std::size_t r = 0; r < reports_.size(); ++r)
    workers[reports_[r].record].push_back(static_cast<int>(r));
  if (workers.size() == 1) return;
  std::vector<std::string> groups;
  for (const auto& [record, group] : workers)
    groups.push_back(fmt::format("{:016x} of worker{} {}", record, group.size() > 1 ? "s" : "",
                                 fmt::join(group, ", ")));
  throw ReplicasDiffer(
      "the journals hold different records of step {}: chains {}; --resume goes on from the steps "
      "before",
      reports_.front().step, fmt::join(groups, ", "));
}

std::vector<std::vector<std::uint64_t>> ReplicaAudit::gather_digests(
    const std::vector<std::uint64_t>& digests, Deadline deadline) {
  std::vector<std::vector<std::uint64_t>> all(static_cast<std::size_t>(transport_.size()),
                                              std::vector<std::uint64_t>(digests.size()));
  all[transport_.rank()] = digests;
  std::vector<Bytes> from;
  for (auto& one : all) from.push_back(std::as_writable_bytes(std::span(one)));
  transport_.start_gather(Purpose::control, std::as_bytes(std::span(digests)), from)
      ->wait(deadline);
  return all;
}

// What no majority says is asked of the judge, once for all of it.
void ReplicaAudit::judge(std::vector<ReplicaDifference>& found,
                         const std::vector<std::vector<std::uint64_t>>& all, std::int64_t step) {
  const auto open = std::ranges::find(found, false, &ReplicaDifference::has_majority);
  if (open == found.end()) return;
  const std::string who = fmt::format("replicas differ after step {}: {}", step, describe(*open));
  if (!judge_)
    throw ReplicasDiffer(
        "{}; no more than half of all workers agree, so nobody can say who is right: this run "
        "keeps no journal that could be replayed",
        who);
  // Damage is rare; machines that do not compute alike differ again and again, and each replay is
  // longer than the one before.
  std::erase_if(judged_, [step](std::int64_t before) { return before <= step - kJudgedWithin; });
  if (judged_.size() >= kMostJudged)
    throw ReplicasDiffer(
        "{}; that has been judged by a replay {} times within {} steps already: what "
        "makes them differ is still there",
        who, kMostJudged, kJudgedWithin);
  judged_.push_back(step);
  const Judgement judgement = judge_(step);
  if (judgement.judge < 0)
    throw ReplicasDiffer(
        "{}; no more than half of all workers agree, so nobody can say who is right, and the "
        "journal cannot be replayed to tell: {}",
        who, judgement.why_not);
  for (ReplicaDifference& difference : found) {
    if (difference.has_majority) continue;
    difference.most.clear();
    difference.others.clear();
    for (int r = 0; r < transport_.size(); ++r) {
      const bool right = all[r][difference.parameter] == judgement.tensors[difference.parameter];
      (right ? difference.most : difference.others).push_back(r);
    }
    difference.judge = judgement.judge;
    difference.judged_from_step = judgement.from_step;
    if (difference.most.empty())
      throw ReplicasDiffer(
          "replicas differ after step {}: of parameter {} no worker has what worker {} replayed "
          "from the journal (from step {}): all are damaged",
          step, arena_.parameters()[difference.parameter].shape.name, judgement.judge,
          judgement.from_step);
  }
}

std::string ReplicaAudit::describe(const ReplicaDifference& difference) const {
  std::string text =
      fmt::format("parameter {} of worker {} is not what worker {} has",
                  arena_.parameters()[difference.parameter].shape.name,
                  fmt::join(difference.others, ", "), fmt::join(difference.most, ", "));
  if (difference.judge >= 0)
    text += fmt::format(
        ", and the journal, replayed by worker {} from step {}, gives what worker {} has",
        difference.judge, difference.judged_from_step, difference.most.front());
  return text;
}

// The first of those who are right sends, the others receive, the rest only take part in numbering.
void ReplicaAudit::repair(const ReplicaDifference& difference, std::vector<std::uint64_t>& digests,
                          Deadline deadline) {
  const Parameter& parameter = arena_.parameters()[difference.parameter];
  ParameterState frozen;
  ParameterState& state = parameter.shape.frozen ? frozen : state_.of(parameter);
  std::vector<HostBytes> tensors;
  tensors.emplace_back(parameter.value, HostBytes::Holds::what_it_has);
  if (!state.is_private)
    for (const OwnedTensor* moment : {&state.momentum, &state.second})
      if (moment->view().data != nullptr)
        tensors.emplace_back(*moment, HostBytes::Holds::what_it_has);
  std::vector<Bytes> parts{std::as_writable_bytes(std::span(&state.count, 1))};
  for (const HostBytes& tensor : tensors) parts.push_back(tensor.bytes());
  const int source = difference.most.front(), me = transport_.rank();
  const bool receives = std::ranges::binary_search(difference.others, me);
  std::vector<SendParts> to(transport_.size());
  std::vector<ReceiveParts> from(transport_.size());
  if (me == source)
    for (const int other : difference.others) to[other].assign(parts.begin(), parts.end());
  if (receives) from[source].assign(parts.begin(), parts.end());
  transport_.start_exchange(Purpose::control, to, from)->wait(deadline);
  if (receives && parameter.shape.frozen && before_change_)
    before_change_(parameter, Changing::value);
  if (receives)
    for (const HostBytes& tensor : tensors) tensor.put_back();
  // What products read is made anew too.
  if (!receives) return;
  Stream stream(arena_.device());
  digests[difference.parameter] = apply_decay(RateFactors{0, 0}, parameter, stream);
}

std::vector<std::uint64_t> parameter_digests(const ParameterArena& arena) {
  Stream stream(arena.device());
  std::vector<std::uint64_t> digests;
  for (const Parameter& parameter : arena.parameters())
    digests.push_back(apply_decay(RateFactors{0, 0}, parameter, stream));
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

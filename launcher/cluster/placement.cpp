#include "launcher/cluster/placement.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {

Placement::Placement(std::vector<Host> hosts, int voters, int members)
    : hosts_(std::move(hosts)), members_(members), lost_(hosts_.size()) {
  require(voters > 0 && members > 0 && !hosts_.empty(), "{} voters of {} members on {} hosts",
          voters, members, hosts_.size());
  std::size_t host = 0;
  for (int voter = 0; voter < voters; ++voter) {
    std::optional<int> slot;
    while (host < hosts_.size() && !(slot = free_slot(host))) ++host;
    if (!slot)
      throw ConfigError(
          "{} workers{} do not fit onto {} hosts with {} slots; name more hosts or slots (HOST "
          "slots=N), or start fewer workers",
          voters * members,
          members > 1 ? fmt::format(" in voters of {}, each on one host,", members) : "",
          hosts_.size(), total_slots(hosts_));
    host_of_.push_back(host);
    slot_of_.push_back(*slot);
  }
}

int Placement::workers_of(std::size_t host) const {
  int count = 0;
  for (const std::size_t of_voter : host_of_) count += of_voter == host ? members_ : 0;
  return count;
}

std::optional<int> Placement::free_slot(std::size_t host) const {
  for (int slot = 0; slot + members_ <= hosts_[host].slots; slot += members_) {
    bool taken = false;
    for (std::size_t voter = 0; voter < host_of_.size(); ++voter)
      taken = taken || (host_of_[voter] == host && slot_of_[voter] == slot);
    if (!taken) return slot;
  }
  return std::nullopt;
}

std::size_t Placement::move(int voter) {
  const auto v = static_cast<std::size_t>(voter);
  const std::size_t from = host_of_[v];
  lost_[from] = true;
  for (const bool again : {false, true}) {
    for (std::size_t host = 0; host < hosts_.size(); ++host) {
      if (lost_[host]) continue;
      if (const std::optional<int> slot = free_slot(host)) {
        host_of_[v] = host;
        slot_of_[v] = *slot;
        return host;
      }
    }
    // One that was lost long ago may be back.
    if (!again) std::fill(lost_.begin(), lost_.end(), false);
    lost_[from] = true;
  }
  lost_[from] = false;
  return from;
}

}  // namespace ballot

#include "runtime/schedule_choice.h"

#include <algorithm>
#include <cmath>

#include "collectives/pieces.h"
#include "collectives/rate_probe.h"

namespace ballot {

MeasuredChoice choose_by_measurement(const BallotLayout& layout, const VoteOptions& options,
                                     Transport& transport, Deadline deadline) {
  if (transport.size() == 1) return {{Schedule::sharded, "there is one worker", {}}};
  if (transport.device_link() != nullptr)
    return {{Schedule::sharded, "from GPU to GPU nothing is measured", {}}};
  Cluster cluster;
  cluster.workers = transport.size();
  cluster.node_size = options.node_size;
  cluster.link = probe_link(transport, options.node_size, deadline);
  // Inside a node nothing was measured apart; as slow as the link is the careful guess.
  cluster.local = cluster.link;
  cluster.local.bandwidth = cluster.link.bandwidth / options.node_size;
  const VoteRates rates =
      share_rates(transport, probe_vote_rates(transport.size() / options.members), deadline);
  MeasuredChoice chosen;
  chosen.choice = choose_schedule(layout, options, transport.reducer() != nullptr, cluster, rates);
  // What a piece sends in a stage takes `wire`; while its latency passes, so many others can leave.
  const double piece = static_cast<double>(
      choose_piece(layout.extent(), cluster.workers, smallest_ballot(cluster.workers)));
  const double wire = piece / 8 / cluster.link.bandwidth;
  chosen.pieces_in_flight +=
      static_cast<std::size_t>(std::min(16.0, std::ceil(2 * cluster.link.latency / wire)));
  return chosen;
}

}  // namespace ballot

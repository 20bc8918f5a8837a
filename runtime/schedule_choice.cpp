#include "runtime/schedule_choice.h"

#include "collectives/rate_probe.h"

namespace ballot {

ScheduleChoice choose_by_measurement(const BallotLayout& layout, const VoteOptions& options,
                                     Transport& transport, Deadline deadline) {
  if (transport.size() == 1) return {Schedule::sharded, "there is one worker", {}};
  Cluster cluster;
  cluster.workers = transport.size();
  cluster.node_size = options.node_size;
  cluster.link = probe_link(transport, options.node_size, deadline);
  // Inside a node nothing was measured apart; as slow as the link is the careful guess.
  cluster.local = cluster.link;
  cluster.local.bandwidth = cluster.link.bandwidth / options.node_size;
  const VoteRates rates =
      share_rates(transport, probe_vote_rates(transport.size() / options.members), deadline);
  return choose_schedule(layout, options, transport.reducer() != nullptr, cluster, rates);
}

}  // namespace ballot

// A brief measurement of what a transport and this machine really give, for choosing a schedule.
#pragma once

#include "collectives/cost_model.h"
#include "collectives/transport/transport.h"

namespace ballot {

// Collective; the same Link on every rank (rank 0's). Latency and the cost of a message from small
// exchanges, with one neighbour and with all. Bandwidth from an all-to-all of up to 8 MiB a worker,
// of which less is sent on slow links: it grows until an exchange takes 50 ms. Under 0.3 s at
// 1 Gbit/s. What is measured is one worker's share while all send at once: several workers of a
// node have a node's bandwidth between them, which is what comes back (`node_size` x a worker's).
// With one worker there is nothing to measure: ConfigError. Counted as control bytes.
Link probe_link(Transport& transport, int node_size, Deadline deadline);

// What this worker's thread team does per second with ballots of `voters` voters, in about 50 ms:
// the real tally and checksum on a few MiB. Not collective: other ranks measure others.
VoteRates probe_vote_rates(int voters);

// Collective; rank 0's figures on every rank.
VoteRates share_rates(Transport& transport, VoteRates mine, Deadline deadline);

}  // namespace ballot

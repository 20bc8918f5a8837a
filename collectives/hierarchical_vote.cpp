#include "collectives/piece_vote.h"
#include "core/error.h"

namespace ballot {

std::unique_ptr<Vote> make_hierarchical_vote(const Ballot&, Transport&, const VoteOptions&, Deadline) {
  throw Unavailable("the hierarchical schedule is not built yet");
}

}  // namespace ballot

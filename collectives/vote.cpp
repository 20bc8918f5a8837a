#include "collectives/vote.h"

#include <fmt/format.h>

#include "collectives/agreement.h"
#include "collectives/piece_vote.h"
#include "core/error.h"
#include "core/version.h"

namespace ballot {
namespace {

void check_options(const VoteOptions& options, Transport& transport) {
  const int size = transport.size();
  if (options.members < 1 || size % options.members != 0)
    throw ConfigError("members = {}: {} workers cannot be cut into voters of {}", options.members,
                      size, options.members);
  if (options.members > 1 && options.schedule != Schedule::sharded)
    throw ConfigError("members = {} needs schedule = sharded, not {}", options.members,
                      to_string(options.schedule));
  if (options.node_size < 1 || size % options.node_size != 0)
    throw ConfigError("node_size = {}: {} workers cannot be cut into nodes of {}",
                      options.node_size, size, options.node_size);
  if (options.node_size > 1 && options.schedule != Schedule::hierarchical)
    throw ConfigError("node_size = {} needs schedule = hierarchical, not {}", options.node_size,
                      to_string(options.schedule));
  if (options.estimator == Estimator::majority_of_majorities &&
      options.schedule != Schedule::hierarchical)
    throw ConfigError("estimator = {} needs schedule = hierarchical, not {}",
                      to_string(options.estimator), to_string(options.schedule));
  if (options.schedule == Schedule::lanes && transport.reducer() == nullptr &&
      transport.device_link() == nullptr)
    throw Unavailable(
        "schedule = lanes needs a transport that sums for us; {} does not: use sharded",
        transport.name());
  if (size / options.members > kMaxVoters)
    throw ConfigError("{} voters, expected at most {}", size / options.members, kMaxVoters);
  if (transport.device_link() != nullptr && options.members > 1)
    throw ConfigError("transport {} carries voters of one member only, not members = {}",
                      transport.name(), options.members);
  if (transport.device_link() != nullptr && !goes_from_gpu_to_gpu(options.schedule))
    throw ConfigError("transport {} carries schedule = sharded, lanes or hierarchical, not {}",
                      transport.name(), to_string(options.schedule));
  if (options.piece_elements < 0)
    throw ConfigError("piece_elements = {}, expected 0 or more", options.piece_elements);
}

std::unique_ptr<Vote> make_device_vote(const Ballot& ballot, Transport& transport, DeviceLink& link,
                                       const VoteOptions& options) {
  switch (options.schedule) {
    case Schedule::lanes:
      return make_device_lane_vote(ballot, transport, link, options);
    case Schedule::hierarchical:
      return make_device_hierarchical_vote(ballot, transport, link, options);
    default:
      return make_device_sharded_vote(ballot, transport, link, options);
  }
}

}  // namespace

const Verdict& Vote::elect(std::int64_t step, Deadline deadline) {
  begin(step);
  release_all();
  finish(deadline);
  return verdict();
}

Traffic Vote::traffic() {
  Traffic sum = split_traffic();
  const Traffic all = transport().traffic();
  const std::size_t vote = static_cast<std::size_t>(Purpose::vote);
  sum.bytes_sent[vote] += all.bytes_sent[vote];
  sum.bytes_received[vote] += all.bytes_received[vote];
  sum.messages_sent[vote] += all.messages_sent[vote];
  return sum;
}

std::unique_ptr<Vote> make_vote(const Ballot& ballot, Transport& transport, VoteOptions options,
                                Deadline deadline) {
  const BallotLayout& layout = ballot.layout();
  const std::string options_text =
      fmt::format("members {}, node size {}, pieces of {}, {}", options.members, options.node_size,
                  options.piece_elements, to_string(options.estimator));
  require_agreement(transport,
                    {{"version", version()},
                     {"parameters", fmt::format("{}", layout.count())},
                     {"tensors", fmt::format("{}", layout.segments().size())},
                     {"layout", fmt::format("{:016x}", layout.digest())},
                     {"ties", options.ties == Ties::coin ? "coin" : "hold"},
                     {"seed", fmt::format("{}", options.seed)},
                     {"schedule", to_string(options.schedule)},
                     {"grouping", options_text}},
                    deadline);
  check_options(options, transport);
  if (DeviceLink* link = transport.device_link())
    return make_device_vote(ballot, transport, *link, options);
  switch (options.schedule) {
    case Schedule::sharded:
      return make_sharded_vote(ballot, transport, options, deadline);
    case Schedule::gathered:
      return make_gathered_vote(ballot, transport, options);
    case Schedule::lanes:
      return make_lane_vote(ballot, transport, options);
    case Schedule::hierarchical:
      return make_hierarchical_vote(ballot, transport, options, deadline);
  }
  throw LogicError("a schedule that does not exist");
}

bool goes_from_gpu_to_gpu(Schedule schedule) {
  return schedule != Schedule::gathered;
}

const char* to_string(Schedule schedule) {
  switch (schedule) {
    case Schedule::sharded:
      return "sharded";
    case Schedule::gathered:
      return "gathered";
    case Schedule::lanes:
      return "lanes";
    case Schedule::hierarchical:
      return "hierarchical";
  }
  return "?";
}

const char* to_string(Estimator estimator) {
  return estimator == Estimator::majority ? "majority" : "majority-of-majorities";
}

}  // namespace ballot

#include "collectives/cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "collectives/count_planes.h"
#include "collectives/lanes.h"
#include "collectives/message.h"
#include "collectives/tally.h"
#include "collectives/timeline.h"
#include "core/error.h"

namespace ballot {
namespace {

// As in lane_vote.cpp: uint32 after a piece's lanes. As in mean.cpp: elements.
constexpr std::int64_t kLaneTail = 6;
constexpr std::int64_t kMeanAlignment = 16;

std::int64_t block_bytes(const BallotChunk& chunk) {
  return (chunk.last_block - chunk.first_block + 63) / 64 * 8;
}
std::int64_t bit_bytes(const BallotChunk& chunk) {
  return chunk.word_count() * 8;
}
std::int64_t elements(const BallotChunk& chunk) {
  return chunk.end - chunk.begin;
}
std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
constexpr std::int64_t kHeader = static_cast<std::int64_t>(kHeaderBytes);

// Messages and bytes of all stages.
void add_up(const Cluster& cluster, CollectiveCost& cost) {
  const auto add = [&cost](const Wire& wire) {
    cost.messages += wire.remote_messages + wire.local_messages;
    cost.remote_bytes += wire.remote_bytes;
  };
  for (const PieceCost& piece : cost.pieces)
    for (const StageCost& stage : piece.stages) add(stage.wire);
  add(cost.end.wire);
  cost.bytes_per_node = static_cast<double>(cost.remote_bytes) * cluster.node_size;
}

// Adds up one rank's costs while its stages are described.
class VoteCosts {
 public:
  VoteCosts(const BallotLayout& layout, const VoteOptions& options, const Cluster& cluster)
      : layout_(layout), options_(options), cluster_(cluster), rank_(cluster.workers - 1) {
    for (const BallotSegment& s : layout.segments()) cost_.segment_starts.push_back(s.offset);
    cost_.extent = layout.extent();
  }

  CollectiveCost run() {
    const std::int64_t piece =
        options_.piece_elements > 0
            ? options_.piece_elements
            : choose_piece(layout_.extent(), owners(), smallest_ballot(voters()));
    const Pieces pieces(cost_.segment_starts, cost_.extent, piece, kBallotAlignment);
    for (const PieceRange& range : pieces.ranges()) {
      cost_.pieces.push_back({range, {}});
      switch (options_.schedule) {
        case Schedule::sharded:
          add_sharded(range);
          break;
        case Schedule::gathered:
          add_gathered(range);
          break;
        case Schedule::lanes:
          add_lanes(range);
          break;
        case Schedule::hierarchical:
          add_hierarchical(range);
          break;
      }
    }
    add_agreement();
    add_up(cluster_, cost_);
    cost_.bytes.ballots = (bits_ + 7) / 8;
    if (options_.schedule == Schedule::lanes) {
      const std::int64_t workers = cluster_.workers;
      cost_.bytes.ballots = (lane_bits_sent_ + 8 * workers - 1) / (8 * workers);
      cost_.bytes.abstentions = lane_block_bytes_sent_ / workers;
    }
    cost_.bytes.framing = bytes_ - cost_.bytes.ballots - cost_.bytes.abstentions;
    return std::move(cost_);
  }

 private:
  // Whose chunks a piece is cut into (lanes: so that the messages of a ring have a good size).
  int owners() const {
    const int workers = cluster_.workers, bits = lane_bits(workers);
    return options_.schedule == Schedule::gathered ? 1
           : options_.schedule == Schedule::lanes  ? (workers + bits - 1) / bits
                                                   : workers;
  }
  // As the schedules tell PieceVote: nodes where each casts its own majority.
  int voters() const {
    return options_.estimator == Estimator::majority_of_majorities
               ? cluster_.workers / options_.node_size
               : cluster_.workers / options_.members;
  }
  StageCost& stage() { return cost_.pieces.back().stages.emplace_back(); }
  int planes() const { return options_.ties == Ties::hold ? 2 : 1; }
  static std::int64_t statistics_bytes(int voters) {  // as PieceVote::statistics_bytes()
    return (5 + 2 * static_cast<std::int64_t>(voters)) * 8;
  }
  static std::int64_t ballot_bytes(const BallotChunk& chunk) {
    return kHeader + block_bytes(chunk) + bit_bytes(chunk);
  }
  std::int64_t verdict_bytes(const BallotChunk& chunk, int voters) const {
    return kHeader + statistics_bytes(voters) + block_bytes(chunk) + planes() * bit_bytes(chunk);
  }

  // A message of this chunk to rank `peer`, with so many bits for each real element.
  void send(Wire& wire, int peer, std::int64_t bytes, const BallotChunk& chunk, int bits,
            std::int64_t abstentions) {
    const bool local = peer / cluster_.node_size == rank_ / cluster_.node_size;
    (local ? wire.local_bytes : wire.remote_bytes) += bytes;
    (local ? wire.local_messages : wire.remote_messages) += 1;
    bytes_ += bytes;
    if (bits > 0) bits_ += layout_.real_elements(chunk.begin, chunk.end) * bits;
    cost_.bytes.abstentions += abstentions;
  }

  void add_sharded(const PieceRange& range) {
    const int members = options_.members, voters = cluster_.workers / members;
    const int member = rank_ % members, voter = rank_ / members;
    const BallotChunk slice = layout_.chunk(range.begin, range.end, member, members);
    const BallotChunk mine = layout_.chunk(slice.begin, slice.end, voter, voters);
    const std::int64_t verdict = verdict_bytes(mine, voters);

    StageCost ballots, verdicts;
    for (int v = 0; v < voters; ++v) {
      if (v == voter) continue;
      const BallotChunk theirs = layout_.chunk(slice.begin, slice.end, v, voters);
      const int peer = v * members + member;
      ballots.before.checksum_bytes += ballot_bytes(theirs);
      send(ballots.wire, peer, ballot_bytes(theirs), theirs, 1, block_bytes(theirs));
      ballots.after.checksum_bytes += ballot_bytes(mine);
      send(verdicts.wire, peer, verdict, mine, planes(), block_bytes(mine));
      verdicts.after.checksum_bytes += verdict_bytes(theirs, voters);
    }
    ballots.after.tally_elements = elements(mine);
    ballots.after.tally_ballots = elements(mine) * voters;
    if (voters > 1) verdicts.before.checksum_bytes = verdict;
    stage() = ballots;
    stage() = verdicts;
    if (members == 1) return;

    StageCost shares;
    shares.before.checksum_bytes = verdict_bytes(slice, voters);
    for (int m = 0; m < members; ++m) {
      if (m == member) continue;
      send(shares.wire, voter * members + m, verdict_bytes(slice, voters), slice, planes(),
           block_bytes(slice));
      shares.after.checksum_bytes +=
          verdict_bytes(layout_.chunk(range.begin, range.end, m, members), voters);
    }
    stage() = shares;
  }

  void add_gathered(const PieceRange& range) {
    const int voters = cluster_.workers;
    const BallotChunk piece = layout_.chunk(range.begin, range.end, 0, 1);
    StageCost ballots;
    if (voters > 1) ballots.before.checksum_bytes = ballot_bytes(piece);
    for (int v = 0; v + 1 < voters; ++v)
      send(ballots.wire, v, ballot_bytes(piece), piece, 1, block_bytes(piece));
    ballots.after.checksum_bytes = (voters - 1) * ballot_bytes(piece);
    ballots.after.tally_elements = elements(piece);
    ballots.after.tally_ballots = elements(piece) * voters;
    stage() = ballots;
  }

  // As a ring would sum them. A ring that follows the ranks leaves each node once.
  void add_lanes(const PieceRange& range) {
    const std::int64_t workers = cluster_.workers;
    const BallotChunk piece = layout_.chunk(range.begin, range.end, 0, 1);
    const int bits = lane_bits(cluster_.workers);
    const std::int64_t block_values = lane_values(round_up(block_bytes(piece) / 8, 8), bits);
    const std::int64_t values =
        round_up(lane_values(piece.word_count(), bits) + block_values + kLaneTail, workers);
    const std::int64_t sent = values / workers * 4 * 2 * (workers - 1);
    StageCost sums;
    sums.before.memory_bytes = 4 * values + bit_bytes(piece);
    sums.after.memory_bytes = 3 * 4 * values + 4 * values;  // the library's adding, then ours
    sums.after.tally_elements = elements(piece);
    sums.wire.hops = static_cast<int>(2 * (workers - 1));
    if (cluster_.workers > cluster_.node_size) {
      sums.wire.remote_bytes = sent / cluster_.node_size;
      sums.wire.remote_messages = sums.wire.hops;
    }
    if (cluster_.node_size > 1) {
      sums.wire.local_bytes = sent - sums.wire.remote_bytes;
      sums.wire.local_messages = sums.wire.hops;
    }
    bytes_ += sent;
    lane_bits_sent_ += layout_.real_elements(piece.begin, piece.end) * bits * 2 * (workers - 1);
    lane_block_bytes_sent_ += block_values * 4 * 2 * (workers - 1);
    stage() = sums;
  }

  // Ballots to the worker of the own node that has the slice; its counts to the owners, one in each
  // node; verdicts back the same way.
  void add_hierarchical(const PieceRange& range) {
    const int size = options_.node_size, nodes = cluster_.workers / size;
    const int place = rank_ % size, node = rank_ / size;
    const int entered = options_.estimator == Estimator::majority ? size : 1;
    const int digits = count_digits(entered);
    const BallotChunk slice = layout_.chunk(range.begin, range.end, place, size);
    const auto chunk_of = [&](const BallotChunk& of, int n) {
      return layout_.chunk(of.begin, of.end, n, nodes);
    };
    const BallotChunk mine = chunk_of(slice, node);
    const auto abstentions = [&](const BallotChunk& of) {
      std::int64_t bytes = 0;
      for (int n = 0; n < nodes; ++n) bytes += block_bytes(chunk_of(of, n));
      return bytes;
    };
    const auto ballots_of = [&](const BallotChunk& of) {
      return kHeader + abstentions(of) + bit_bytes(of);
    };
    const auto counts_of = [&](const BallotChunk& chunk) {
      return kHeader + 8 * count_words(chunk, entered);
    };
    const auto share_of = [&](const BallotChunk& chunk) {
      return kHeader + statistics_bytes(0) + block_bytes(chunk) + planes() * bit_bytes(chunk);
    };
    const auto verdict_of = [&](const BallotChunk& chunk) {
      return share_of(chunk) + 8 * sample_words(chunk);
    };

    StageCost inside, counts, verdicts, shares;
    for (int j = 0; j < size; ++j) {
      if (j == place) continue;
      const BallotChunk theirs = layout_.chunk(range.begin, range.end, j, size);
      const int peer = node * size + j;
      inside.before.checksum_bytes += ballots_of(theirs);
      send(inside.wire, peer, ballots_of(theirs), theirs, 1, abstentions(theirs));
      inside.after.checksum_bytes += ballots_of(slice);
      send(shares.wire, peer, share_of(slice), slice, planes(), block_bytes(slice));
      shares.after.checksum_bytes += share_of(theirs);
    }
    inside.after.tally_ballots = elements(slice) * size;
    if (entered < size) inside.after.tally_elements = elements(slice);  // the node's own verdict
    for (int n = 0; n < nodes; ++n) {
      if (n == node) continue;
      const BallotChunk theirs = chunk_of(slice, n);
      const int peer = n * size + place;
      counts.before.checksum_bytes += counts_of(theirs);
      send(counts.wire, peer, counts_of(theirs), theirs, digits,
           8 * (count_words(theirs, entered) - digits * theirs.word_count()));
      counts.after.checksum_bytes += counts_of(mine);
      send(verdicts.wire, peer, verdict_of(mine), mine, planes(), block_bytes(mine));
      verdicts.after.checksum_bytes += verdict_of(theirs);
    }
    counts.after.tally_elements = elements(mine);
    counts.after.tally_ballots = elements(mine) * nodes * digits;
    if (nodes > 1) verdicts.before.checksum_bytes = verdict_of(mine);
    if (size > 1) shares.before.checksum_bytes = share_of(slice);
    for (const StageCost& s : {inside, counts, verdicts, shares}) stage() = s;
  }

  // What all tell each other when the last piece is decided (VoterAgreement).
  void add_agreement() {
    const bool hierarchical = options_.schedule == Schedule::hierarchical;
    if (!hierarchical && options_.schedule != Schedule::lanes) return;
    const int each =
        hierarchical && options_.estimator == Estimator::majority ? options_.node_size : 1;
    const std::int64_t message = kHeader + 8 * (1 + 2 * static_cast<std::int64_t>(each));
    for (int r = 0; r < rank_; ++r)
      send(cost_.end.wire, r, message, layout_.chunk(0, 0, 0, 1), 0, 0);
    cost_.end.after.checksum_bytes = rank_ * message;
  }

  const BallotLayout& layout_;
  const VoteOptions& options_;
  const Cluster& cluster_;
  const int rank_;
  CollectiveCost cost_;
  std::int64_t bytes_ = 0, bits_ = 0;
  std::int64_t lane_bits_sent_ = 0, lane_block_bytes_sent_ = 0;  // x workers
};

std::string rate_text(double bytes_per_second) {
  const double bits = 8 * bytes_per_second;
  return bits >= 1e9 ? fmt::format("{:.3g} Gbit/s", bits / 1e9)
                     : fmt::format("{:.3g} Mbit/s", bits / 1e6);
}

void check(const VoteOptions& options, const Cluster& cluster) {
  const int workers = cluster.workers;
  if (workers < 1 || cluster.node_size < 1 || workers % cluster.node_size != 0)
    throw ConfigError("{} workers cannot be cut into nodes of {}", workers, cluster.node_size);
  if (options.members < 1 || workers % options.members != 0)
    throw ConfigError("members = {}: {} workers cannot be cut into voters of {}", options.members,
                      workers, options.members);
  if (options.members > 1 && options.schedule != Schedule::sharded)
    throw ConfigError("members = {} needs schedule = sharded, not {}", options.members,
                      to_string(options.schedule));
  if (options.node_size < 1 || workers % options.node_size != 0)
    throw ConfigError("node_size = {}: {} workers cannot be cut into nodes of {}",
                      options.node_size, workers, options.node_size);
  if (workers / options.members > kMaxVoters)
    throw ConfigError("{} voters, expected at most {}", workers / options.members, kMaxVoters);
}

}  // namespace

double seconds(const Work& work, const VoteRates& rates) {
  const auto share = [](std::int64_t amount, double rate) {
    return amount == 0 ? 0.0 : static_cast<double>(amount) / rate;
  };
  return share(work.checksum_bytes, rates.checksum) + share(work.memory_bytes, rates.memory) +
         share(work.tally_elements, rates.tally_elements) +
         share(work.tally_ballots, rates.tally_ballots);
}

CollectiveCost vote_cost(const BallotLayout& layout, const VoteOptions& options,
                         const Cluster& cluster) {
  check(options, cluster);
  return VoteCosts(layout, options, cluster).run();
}

CollectiveCost mean_cost(std::span<const std::int64_t> segments, DType wire,
                         const Cluster& cluster) {
  CollectiveCost cost;
  for (const std::int64_t length : segments) {
    cost.segment_starts.push_back(cost.extent);
    cost.extent += length;
  }
  if (cost.extent == 0) return cost;
  const std::int64_t workers = cluster.workers, rank = workers - 1;
  const std::int64_t size = static_cast<std::int64_t>(size_bytes(wire));
  const bool copies = wire != DType::f32;  // fp32 lies where it is sent from
  const Pieces pieces(cost.segment_starts, cost.extent,
                      choose_mean_piece(cost.extent, cluster.workers), kMeanAlignment);
  for (const PieceRange& range : pieces.ranges()) {
    const std::int64_t units = (range.end - range.begin + kMeanAlignment - 1) / kMeanAlignment;
    const auto place = [&](std::int64_t owner) {
      return std::min(range.end, range.begin + units * owner / workers * kMeanAlignment);
    };
    struct Message {
      std::int64_t elements, contribution, mean;  // the latter two: headers and flags
    };
    const auto message = [&](std::int64_t owner) {
      const std::int64_t begin = place(owner), end = place(owner + 1);
      std::int64_t touched = 0;
      if (begin < end)
        touched = std::ranges::lower_bound(cost.segment_starts, end) -
                  std::ranges::upper_bound(cost.segment_starts, begin) + 1;
      return Message{end - begin, kHeader + round_up(touched, 8),
                     kHeader + round_up(4 * touched, 8)};
    };
    StageCost contributions, means;
    const Message mine = message(rank);
    for (std::int64_t r = 0; r < rank; ++r) {
      const Message theirs = message(r);
      const bool local = r / cluster.node_size == rank / cluster.node_size;
      const std::int64_t there = theirs.contribution + theirs.elements * size;
      const std::int64_t back = mine.mean + mine.elements * size;
      (local ? contributions.wire.local_bytes : contributions.wire.remote_bytes) += there;
      (local ? means.wire.local_bytes : means.wire.remote_bytes) += back;
      for (Wire* w : {&contributions.wire, &means.wire})
        (local ? w->local_messages : w->remote_messages) += 1;
      contributions.before.checksum_bytes += there;
      contributions.after.checksum_bytes += mine.contribution + mine.elements * size;
      means.after.checksum_bytes += theirs.mean + theirs.elements * size;
      cost.bytes.ballots += (theirs.elements + mine.elements) * size;
      cost.bytes.framing += theirs.contribution + mine.mean;
    }
    const std::int64_t count = range.end - range.begin;
    if (copies) contributions.before.memory_bytes = count * (4 + size);
    contributions.after.memory_bytes = mine.elements * (workers + 1) * size;  // sums stay in cache
    if (workers > 1) means.before.checksum_bytes = mine.mean + mine.elements * size;
    if (copies) means.after.memory_bytes = count * (4 + size);
    cost.pieces.push_back({range, {contributions, means}});
  }
  add_up(cluster, cost);
  return cost;
}

RingCost ideal_ring(double bytes, const Cluster& cluster) {
  const double nodes = static_cast<double>(cluster.workers) / cluster.node_size;
  const double size = cluster.node_size;
  RingCost ring;
  ring.bytes_per_node = 2 * (nodes - 1) / nodes * bytes;
  if (nodes > 1)
    ring.seconds =
        ring.bytes_per_node / cluster.link.bandwidth + 2 * (nodes - 1) * cluster.link.latency;
  if (size > 1)
    ring.seconds = std::max(ring.seconds, 2 * (size - 1) / size * bytes / cluster.local.bandwidth) +
                   2 * (size - 1) * cluster.local.latency;
  return ring;
}

ScheduleChoice choose_schedule(const BallotLayout& layout, const VoteOptions& options,
                               bool has_reducer, const Cluster& cluster, const VoteRates& rates) {
  ScheduleChoice choice;
  const auto consider = [&](Schedule schedule, int node_size) {
    VoteOptions candidate = options;
    candidate.schedule = schedule;
    candidate.node_size = node_size;
    const CollectiveCost cost = vote_cost(layout, candidate, cluster);
    choice.times.push_back({schedule, simulate_alone(cost, cluster, rates), cost.bytes_per_node});
  };
  const bool any = options.estimator == Estimator::majority;
  if (any) consider(Schedule::sharded, 1);
  if (any && options.members == 1) {
    consider(Schedule::gathered, 1);
    if (has_reducer) consider(Schedule::lanes, 1);
  }
  const int node_size = std::max(options.node_size, cluster.node_size);
  if (options.members == 1 && (node_size > 1 || !any)) consider(Schedule::hierarchical, node_size);
  if (choice.times.empty())
    throw ConfigError("estimator = {} with members = {}: no schedule does both",
                      to_string(options.estimator), options.members);

  const double shortest =
      std::ranges::min_element(choice.times, {}, &ScheduleTime::seconds)->seconds;
  ScheduleTime best = {Schedule::sharded, 0, std::numeric_limits<double>::infinity()};
  for (const ScheduleTime& time : choice.times)
    if (time.seconds <= std::max(kWorthBytes * shortest, shortest + kWorthBytesSeconds) &&
        time.bytes_per_node < best.bytes_per_node)
      best = time;
  choice.schedule = best.schedule;
  std::string others;
  for (const ScheduleTime& other : choice.times)
    if (other.schedule != best.schedule)
      others += fmt::format("{}{} {:.4g} ms", others.empty() ? "" : ", ", to_string(other.schedule),
                            1e3 * other.seconds);
  choice.reason = fmt::format(
      "{}: {} parameters over {} workers take {:.4g} ms at {} and {:.3g} ms latency, {:.4g} MB "
      "leave "
      "a node{}",
      to_string(best.schedule), layout.count(), cluster.workers, 1e3 * best.seconds,
      rate_text(cluster.link.bandwidth), 1e3 * cluster.link.latency, best.bytes_per_node / 1e6,
      others.empty() ? "" : " (" + others + ")");
  return choice;
}

BallotLayout flat_layout(std::int64_t elements) {
  require(elements > 0, "a layout of {} elements", elements);
  BallotSegment all;
  all.name = "all";
  all.rows = 1;
  all.cols = elements;
  all.row_stride = (elements + kBallotAlignment - 1) / kBallotAlignment * kBallotAlignment;
  return BallotLayout({all});
}

}  // namespace ballot

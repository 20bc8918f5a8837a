// One vote, whatever the schedule: the same ballots give the same bits and statistics for every
// schedule, grouping, piece size, order of release and arrival, and number of threads, at exactly
// the price that the schedule states.
//
// A VoteCase is a pure function of (ranks, options, seed), so that ranks that are processes make
// the same one. Every failure names all three.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "collectives/vote.h"
#include "core/parallel.h"
#include "rank_suite.h"
#include "tests/support/unpunctual_transport.h"

namespace ballot::test {

using Ballots = std::vector<std::unique_ptr<Ballot>>;

struct VoteCase {
  int ranks = 1;
  std::uint64_t seed = 0;
  VoteOptions options;
  BallotLayout layout;
  std::vector<Ballots> ballots;      // by step, by voter: members hold the same one
  std::vector<ChunkVerdict> truths;  // by step
  SegmentAgreement by_segment;       // over all steps

  std::string name() const {
    return fmt::format("{} ranks, seed {}: {}, {}, members {}, node size {}, pieces of {}, {}",
                       ranks, seed, to_string(options.schedule), to_string(options.estimator),
                       options.members, options.node_size, options.piece_elements,
                       options.ties == Ties::coin ? "coin" : "hold");
  }
};

// The nodes' own majorities as ballots, by plain loops; a node that is tied takes the coin.
inline ChunkVerdict majority_of_majorities_reference(const BallotLayout& layout,
                                                     const Ballots& ballots, int node_size,
                                                     const TallyOptions& options,
                                                     SegmentAgreement* by_segment) {
  const BallotChunk all = layout.chunk(0, 1);
  Ballots nodes;
  for (std::size_t first = 0; first < ballots.size();
       first += static_cast<std::size_t>(node_size)) {
    ChunkVerdict majority(all, Ties::coin);
    const ChunkBallots parts(ballots, all);
    tally_reference(layout, all,
                    std::span(parts.parts).subspan(first, static_cast<std::size_t>(node_size)),
                    {options.seed, options.step, Ties::coin}, majority.part(), majority.statistics);
    nodes.push_back(std::make_unique<Ballot>(layout));
    std::ranges::copy(majority.bits, nodes.back()->bits().words());
    std::ranges::copy(majority.held_blocks, nodes.back()->abstentions().words());
  }
  return whole_reference(layout, nodes, options, by_segment);
}

// The schedule and its grouping come from `options`, all else is drawn.
inline VoteCase make_case(int ranks, const VoteOptions& options, std::uint64_t seed,
                          const BallotLayout* layout = nullptr) {
  std::mt19937_64 random(seed);
  VoteCase c;
  c.ranks = ranks;
  c.seed = seed;
  c.options = options;
  c.options.seed = random();
  c.options.ties = random() % 2 == 0 ? Ties::coin : Ties::hold;
  // Now and then one that several threads share.
  c.layout = layout != nullptr                  ? *layout
             : ranks <= 4 && random() % 12 == 0 ? make_layout({{150, 576}, {130, 500}})
                                                : random_layout(random);
  const std::int64_t tiles = c.layout.extent() / kBallotAlignment;
  c.options.piece_elements =
      random() % 4 == 0
          ? 0
          : 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(tiles)) *
                    kBallotAlignment;
  // At most a dozen pieces.
  if (c.options.piece_elements > 0)
    c.options.piece_elements = std::max(c.options.piece_elements, c.layout.extent() / 12);
  const int voters = options.estimator == Estimator::majority ? ranks / options.members
                                                              : ranks / options.node_size;
  c.by_segment = SegmentAgreement(c.layout.segments().size(), static_cast<std::size_t>(voters));
  for (std::int64_t step = 0; step < 2; ++step) {
    const Mood mood = std::vector{Mood::random, Mood::random, Mood::unanimous,
                                  Mood::silent}[static_cast<std::size_t>(random() % 4)];
    c.ballots.push_back(random_ballots(c.layout, ranks / options.members, mood, random));
    const TallyOptions tally{c.options.seed, step, c.options.ties};
    c.truths.push_back(options.estimator == Estimator::majority
                           ? whole_reference(c.layout, c.ballots.back(), tally, &c.by_segment)
                           : majority_of_majorities_reference(c.layout, c.ballots.back(),
                                                              options.node_size, tally,
                                                              &c.by_segment));
  }
  return c;
}

// What differs; empty: nothing.
inline std::string difference(const Verdict& verdict, const ChunkVerdict& truth) {
  const VoteStatistics &s = verdict.statistics, &t = truth.statistics;
  if (!std::ranges::equal(verdict.bits.span(), truth.bits)) return "bits";
  if (!std::ranges::equal(verdict.held_blocks.span(), truth.held_blocks)) return "held blocks";
  if (!std::ranges::equal(verdict.held_elements.span(), truth.held_elements))
    return "held elements";
  const auto number = [](const char* what, std::int64_t is, std::int64_t expected) {
    return is == expected ? "" : fmt::format("{} {}, expected {}; ", what, is, expected);
  };
  std::string text = number("elements", s.elements, t.elements) + number("ties", s.ties, t.ties) +
                     number("unanimous", s.unanimous, t.unanimous) +
                     number("held blocks", s.held_blocks, t.held_blocks) +
                     number("blocks", s.blocks, t.blocks);
  if (s.agreed.size() != t.agreed.size() || s.compared.size() != t.compared.size())
    return fmt::format("agreement of {} voters, expected {}", s.agreed.size(), t.agreed.size());
  for (std::size_t v = 0; v < t.agreed.size(); ++v)
    text += number("agreed", s.agreed[v], t.agreed[v]) +
            number("compared", s.compared[v], t.compared[v]);
  return text;
}

// Copies one segment of a ballot.
inline void copy_segment(const Ballot& source, std::size_t segment, Ballot& target) {
  const BallotSegment& s = source.layout().segments()[segment];
  std::copy_n(source.bits().words() + s.offset / 64, s.extent() / 64,
              target.bits().words() + s.offset / 64);
  copy_bits(source.abstentions().words(), s.first_block, target.abstentions().words(),
            s.first_block, s.blocks());
}

// The sum over all ranks of what they have counted.
inline SegmentAgreement sum_of_counted(const SegmentAgreement& mine, Transport& transport) {
  const std::size_t values = mine.segments() * mine.voters();
  std::vector<std::vector<std::int64_t>> all(static_cast<std::size_t>(transport.size()),
                                             std::vector<std::int64_t>(2 * values));
  std::vector<std::int64_t>& own = all[static_cast<std::size_t>(transport.rank())];
  for (std::size_t i = 0; i < values; ++i) {
    own[2 * i] = mine.agreed(i / mine.voters(), i % mine.voters());
    own[2 * i + 1] = mine.compared(i / mine.voters(), i % mine.voters());
  }
  std::vector<Bytes> from;
  for (auto& one : all) from.push_back(std::as_writable_bytes(std::span(one)));
  const std::vector<std::int64_t> sent = own;
  transport.start_gather(Purpose::control, std::as_bytes(std::span(sent)), from)->wait(soon());
  SegmentAgreement sum(mine.segments(), mine.voters());
  for (const auto& one : all)
    for (std::size_t i = 0; i < values; ++i)
      sum.add(i / mine.voters(), i % mine.voters(), one[2 * i], one[2 * i + 1]);
  return sum;
}

// All steps of a case on this rank; what is wrong, or nothing. The ballot of a segment is written
// just before it is released.
inline std::string run_case(Transport& base, const VoteCase& c) {
  const std::uint64_t me = static_cast<std::uint64_t>(base.rank());
  std::mt19937_64 random(hash64(c.seed, 1, me));
  UnpunctualTransport transport(base, random());
  const int threads = thread_count();
  set_thread_count(1 + static_cast<int>(random() % 3));
  Ballot mine(c.layout);
  const auto vote = make_vote(mine, transport, c.options, soon());
  std::string wrong;
  for (std::size_t step = 0; step < c.truths.size(); ++step) {
    const Ballot& cast = *c.ballots[step][me / static_cast<std::uint64_t>(c.options.members)];
    const Traffic before = vote->traffic();
    vote->begin(static_cast<std::int64_t>(step));
    std::vector<std::size_t> order(vote->segments());
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::shuffle(order, random);
    for (const std::size_t segment : order) {
      for (std::uint64_t i = random() % 4; i > 0; --i) vote->advance();
      copy_segment(cast, segment, mine);
      vote->release(segment);
    }
    vote->finish(soon());
    const std::string what = difference(vote->verdict(), c.truths[step]);
    const auto sent = static_cast<std::int64_t>((vote->traffic() - before).sent(Purpose::vote));
    if (!what.empty()) wrong += fmt::format("step {}: {}; ", step, what);
    if (sent != vote->cost().total())
      wrong += fmt::format("sent {} bytes, cost {}; ", sent, vote->cost().total());
  }
  if (sum_of_counted(vote->counted(), transport) != c.by_segment) wrong += "agreement by tensor; ";
  vote->forget_counted();
  if (vote->counted() != SegmentAgreement(c.by_segment.segments(), c.by_segment.voters()))
    wrong += "agreement by tensor is not forgotten; ";
  set_thread_count(threads);
  return wrong.empty() ? "" : fmt::format("{}, rank {}: {}", c.name(), me, wrong);
}

// Every schedule with every grouping of so many ranks.
inline std::vector<VoteOptions> schedules_that_fit(int ranks, bool sums) {
  std::vector<VoteOptions> all = {{.schedule = Schedule::gathered}};
  if (sums) all.push_back({.schedule = Schedule::lanes});
  for (int group = 1; group <= ranks; ++group) {
    if (ranks % group != 0) continue;
    all.push_back({.schedule = Schedule::sharded, .members = group});
    for (const Estimator estimator : {Estimator::majority, Estimator::majority_of_majorities})
      all.push_back(
          {.schedule = Schedule::hierarchical, .estimator = estimator, .node_size = group});
  }
  return all;
}

// For transports whose ranks are processes: every rank makes the cases itself.
inline void every_schedule_gives_one_verdict(Transport& transport) {
  for (std::uint64_t seed = 100; seed < 103; ++seed)
    for (const VoteOptions& options :
         schedules_that_fit(transport.size(), transport.reducer() != nullptr))
      ASSERT_EQ(run_case(transport, make_case(transport.size(), options, seed)), "");
}

}  // namespace ballot::test

// What every transport must give, as functions that all ranks run: over loopback as threads, over
// MPI as processes.
//
// Every rank computes the truth of all ranks from the same seeds.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "collectives/mean.h"
#include "collectives/transport/transport.h"
#include "collectives/vote.h"
#include "core/bfloat16.h"
#include "core/error.h"
#include "random_ballots.h"

namespace ballot::test {

inline Deadline soon() {
  return Deadline::in(std::chrono::seconds(60));
}

// The test model's shapes: hidden 192, 2.46 M parameters.
inline BallotLayout model_layout() {
  std::vector<std::vector<std::int64_t>> shapes = {{258, 192}};
  for (int layer = 0; layer < 5; ++layer)
    for (const auto& shape : std::vector<std::vector<std::int64_t>>{
             {192, 192}, {96, 192}, {96, 192}, {192, 192}, {640, 192}, {640, 192}, {192, 640}})
      shapes.push_back(shape);
  shapes.push_back({258, 192});
  return make_layout(shapes);
}

// `mine` gets the other's bits; a vote is bound to one ballot and its memory.
inline void copy_ballot(const Ballot& other, Ballot& mine) {
  std::ranges::copy(other.bits().span(), mine.bits().words());
  std::ranges::copy(other.abstentions().span(), mine.abstentions().words());
}

inline void vote_equals_reference(Transport& transport) {
  std::mt19937_64 random(21);
  for (int trial = 0; trial < 8; ++trial) {
    const BallotLayout layout = random_layout(random);
    const Ties ties = trial % 2 == 0 ? Ties::coin : Ties::hold;
    Ballot mine(layout);
    const auto vote = make_vote(mine, transport, {.seed = kSeed, .ties = ties}, soon());
    for (std::int64_t step = 0; step < 3; ++step) {
      const Mood mood =
          std::vector{Mood::random, Mood::unanimous, Mood::silent}[static_cast<std::size_t>(step)];
      const auto ballots = random_ballots(layout, transport.size(), mood, random);
      const ChunkVerdict truth =
          whole_reference(layout, ballots, {.seed = kSeed, .step = step, .ties = ties});
      const Traffic before = transport.traffic();
      copy_ballot(*ballots[static_cast<std::size_t>(transport.rank())], mine);
      const Verdict& verdict = vote->elect(step, soon());
      ASSERT_TRUE(std::ranges::equal(verdict.bits.span(), truth.bits));
      ASSERT_TRUE(std::ranges::equal(verdict.held_blocks.span(), truth.held_blocks));
      ASSERT_TRUE(std::ranges::equal(verdict.held_elements.span(), truth.held_elements));
      ASSERT_EQ(verdict.statistics.elements, truth.statistics.elements);
      ASSERT_EQ(verdict.statistics.ties, truth.statistics.ties);
      ASSERT_EQ(verdict.statistics.unanimous, truth.statistics.unanimous);
      ASSERT_EQ(verdict.statistics.held_blocks, truth.statistics.held_blocks);
      ASSERT_EQ(verdict.statistics.blocks, truth.statistics.blocks);
      ASSERT_EQ(verdict.statistics.agreed, truth.statistics.agreed);
      ASSERT_EQ(verdict.statistics.compared, truth.statistics.compared);
      const Vote::Cost cost = vote->cost();
      const Traffic sent = transport.traffic() - before;
      ASSERT_EQ(static_cast<std::int64_t>(sent.sent(Purpose::vote)),
                cost.ballots + cost.abstentions + cost.framing);
      ASSERT_EQ(sent.total_sent(), sent.sent(Purpose::vote));
    }
  }
}

// The cost table: 2 (W-1)/W P/8 + abstentions (1 bit a block, both ways) + framing, and framing
// within two hundredths.
inline void vote_costs_what_the_table_says(Transport& transport) {
  const BallotLayout layout = model_layout();
  ASSERT_NEAR(static_cast<double>(layout.count()), 2.46e6, 0.05e6);
  std::mt19937_64 random(22);
  const auto ballots = random_ballots(layout, transport.size(), Mood::random, random);
  const auto vote = make_vote(*ballots[static_cast<std::size_t>(transport.rank())], transport,
                              {.seed = kSeed}, soon());
  const Traffic before = transport.traffic();
  vote->elect(0, soon());
  const Traffic sent = transport.traffic() - before;

  const int w = transport.size();
  const Vote::Cost cost = vote->cost();
  const double ideal = 2.0 * (w - 1) / w * static_cast<double>(layout.count()) / 8;
  EXPECT_EQ(static_cast<std::int64_t>(sent.sent(Purpose::vote)),
            cost.ballots + cost.abstentions + cost.framing);
  EXPECT_EQ(sent.messages_sent[static_cast<std::size_t>(Purpose::vote)],
            static_cast<std::uint64_t>(2 * (w - 1) * vote->pieces()));
  // In each piece chunks differ by up to 512 elements, hence this rank's share from the even one by
  // (W-2) x 64 bytes and padding.
  EXPECT_NEAR(static_cast<double>(cost.ballots), ideal,
              (64.0 * w + 512) * static_cast<double>(vote->pieces()));
  EXPECT_NEAR(static_cast<double>(cost.abstentions),
              2.0 * (w - 1) / w * static_cast<double>(layout.blocks()) / 8, 0.02 * ideal);
  // Headers and statistics: two hundredths, and those of the last piece, which may be a short one.
  const double framing = 0.02 * ideal + (w - 1) * (120.0 + 16 * w);
  EXPECT_LE(
      static_cast<double>(sent.sent(Purpose::vote)) - static_cast<double>(cost.abstentions) - ideal,
      framing);
  EXPECT_LE(static_cast<double>(cost.framing), framing);
  if (w == 1) {
    EXPECT_EQ(sent.total_sent(), 0u);
  }
}

// What arrives everywhere is one and the same: compared by exchanging it.
inline void expect_same_everywhere(Transport& transport, ConstBytes mine) {
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  std::vector<std::vector<std::byte>> theirs(ranks, std::vector<std::byte>(mine.size()));
  const std::vector<Bytes> from(theirs.begin(), theirs.end());
  transport.start_gather(Purpose::control, mine, from)->wait(soon());
  for (std::size_t r = 0; r < ranks; ++r)
    EXPECT_TRUE(static_cast<int>(r) == transport.rank() || std::ranges::equal(theirs[r], mine))
        << "rank " << r;
}

inline void mean_equals_reference(Transport& transport, DType wire) {
  std::mt19937_64 random(23);
  const int w = transport.size();
  const std::vector<std::vector<std::int64_t>> layouts = {
      {1}, {7, 5}, {64, 1, 300, 17}, {20'000, 192, 192, 3}, {}};
  for (const std::vector<std::int64_t>& segments : layouts) {
    const std::int64_t count = std::accumulate(segments.begin(), segments.end(), std::int64_t{0});
    // In one piece, in many, and as it chooses.
    const std::int64_t piece =
        std::vector<std::int64_t>{0, count < 1000 ? 16 : 700, 5000}[random() % 3];
    Mean mean(segments, wire, transport, piece);
    ASSERT_EQ(static_cast<std::int64_t>(mean.values().size()), count);
    for (int call = 0; call < 3; ++call) {
      std::vector<std::vector<float>> all(static_cast<std::size_t>(w));
      std::vector<std::vector<std::uint8_t>> flags(static_cast<std::size_t>(w));
      for (std::size_t r = 0; r < all.size(); ++r) {
        for (std::int64_t i = 0; i < count; ++i)
          all[r].push_back(std::normal_distribution<float>()(random) *
                           std::exp2(static_cast<float>(random() % 20)));
        for (std::size_t s = 0; s < segments.size(); ++s)
          flags[r].push_back(call == 0 || random() % 3 != 0);
        if (call == 2 && !segments.empty())
          flags[r][0] = 0;  // nobody contributes to the first segment
      }
      const std::size_t me = static_cast<std::size_t>(transport.rank());
      mean.begin(call);
      for (const std::uint8_t flag : mean.contributes()) ASSERT_EQ(flag, 1);
      std::ranges::copy(all[me], mean.values().begin());
      for (std::size_t s = 0, i = 0; s < segments.size();
           i += static_cast<std::size_t>(segments[s++])) {
        mean.contributes()[s] = flags[me][s];
        // An absent contribution may be anything.
        if (flags[me][s] == 0) mean.values()[i] = std::numeric_limits<float>::quiet_NaN();
      }
      const Traffic before = transport.traffic();
      mean.reduce(soon());
      const Traffic sent = transport.traffic() - before;
      EXPECT_EQ(sent.total_sent(), sent.sent(Purpose::mean));
      EXPECT_EQ(sent.sent(Purpose::mean), static_cast<std::uint64_t>(mean.cost().total()));
      if (count > 10'000 && w > 1 && piece == 0) {
        const double ideal =
            2.0 * (w - 1) / w * static_cast<double>(count) * static_cast<double>(size_bytes(wire));
        EXPECT_NEAR(static_cast<double>(sent.sent(Purpose::mean)), ideal, 0.02 * ideal);
      }
      for (std::size_t s = 0, i = 0; s < segments.size(); ++s) {
        std::int32_t contributors = 0;
        for (const auto& f : flags) contributors += f[s];
        ASSERT_EQ(mean.contributors()[s], contributors);
        for (std::int64_t k = 0; k < segments[s]; ++k, ++i) {
          float sum = 0;
          for (std::size_t r = 0; r < all.size(); ++r)
            if (flags[r][s] != 0)
              sum += wire == DType::f32 ? all[r][i] : to_float(to_bfloat16(all[r][i]));
          float expected = contributors == 0 ? 0.0f : sum / static_cast<float>(contributors);
          if (wire == DType::bf16) expected = to_float(to_bfloat16(expected));
          ASSERT_EQ(std::bit_cast<std::uint32_t>(mean.values()[i]),
                    std::bit_cast<std::uint32_t>(expected));
        }
      }
      expect_same_everywhere(transport, std::as_bytes(mean.values()));
    }
  }
}

inline void exchange_moves_every_byte(Transport& transport) {
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  const int me = transport.rank();
  // Sizes of many kinds, among them none at all; rank a sends b another size than rank b sends a.
  for (const std::size_t size : {0u, 1u, 7u, 1000u, 200'000u}) {
    const auto bytes_of = [&](int from, int to) {
      std::vector<std::byte> bytes(size == 0 ? 0 : size + static_cast<std::size_t>(3 * from + to));
      for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = static_cast<std::byte>(i * 31 + static_cast<std::size_t>(from * 7 + to));
      return bytes;
    };
    std::vector<std::vector<std::byte>> to, from;
    for (std::size_t r = 0; r < ranks; ++r) {
      to.push_back(bytes_of(me, static_cast<int>(r)));
      from.emplace_back(bytes_of(static_cast<int>(r), me).size());
    }
    const Traffic before = transport.traffic();
    auto transfer =
        transport.start_exchange(Purpose::vote, std::vector<ConstBytes>(to.begin(), to.end()),
                                 std::vector<Bytes>(from.begin(), from.end()));
    transfer->wait(soon());
    std::size_t sent = 0, received = 0;
    for (std::size_t r = 0; r < ranks; ++r) {
      EXPECT_TRUE(transfer->arrived()[r]);
      if (static_cast<int>(r) == me) continue;
      EXPECT_EQ(from[r], bytes_of(static_cast<int>(r), me));
      sent += to[r].size();
      received += from[r].size();
    }
    const Traffic traffic = transport.traffic() - before;
    EXPECT_EQ(traffic.bytes_sent[0], sent);
    EXPECT_EQ(traffic.bytes_received[0], received);
    EXPECT_EQ(traffic.messages_sent[0], ranks - 1);
  }
}

// Two transfers under way at once do not mix, though waited for in the other order.
inline void transfers_do_not_mix(Transport& transport) {
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  const int me = transport.rank();
  const int first = 100 + me, second = 200 + me;
  std::vector<int> firsts(ranks), seconds(ranks);
  const auto spans = [](std::vector<int>& values) {
    std::vector<Bytes> from;
    for (int& value : values) from.push_back(std::as_writable_bytes(std::span(&value, 1)));
    return from;
  };
  auto a =
      transport.start_gather(Purpose::vote, std::as_bytes(std::span(&first, 1)), spans(firsts));
  auto b =
      transport.start_gather(Purpose::mean, std::as_bytes(std::span(&second, 1)), spans(seconds));
  b->wait(soon());
  a->wait(soon());
  for (std::size_t r = 0; r < ranks; ++r) {
    if (static_cast<int>(r) == me) continue;
    EXPECT_EQ(firsts[r], 100 + static_cast<int>(r));
    EXPECT_EQ(seconds[r], 200 + static_cast<int>(r));
  }
  const Traffic traffic = transport.traffic();
  EXPECT_GE(traffic.sent(Purpose::mean), sizeof(int) * (ranks - 1));
}

// Even and odd ranks form transports of their own, in rank order, with counters of their own.
inline void split_makes_transports_of_their_own(Transport& transport) {
  const int color = transport.rank() % 2;
  const auto part = transport.split(color, soon());
  EXPECT_EQ(part->rank(), transport.rank() / 2);
  EXPECT_EQ(part->size(), (transport.size() + 1 - color) / 2);
  EXPECT_EQ(part->traffic().total_sent(), 0u);
  const Traffic before = transport.traffic();
  vote_equals_reference(*part);
  part->barrier(soon());
  EXPECT_EQ((transport.traffic() - before).total_sent(), 0u);
  transport.barrier(soon());
}

inline void barrier_waits_for_the_last(Transport& transport) {
  transport.barrier(soon());  // so that all start together
  const auto start = std::chrono::steady_clock::now();
  if (transport.rank() == transport.size() - 1)
    std::this_thread::sleep_for(std::chrono::milliseconds(80));
  transport.barrier(soon());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(60));
}

template <class Exception, class Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Exception& e) {
    return e.what();
  } catch (const std::exception& e) {
    return std::string("another exception: ") + e.what();
  }
  return "no exception";
}

// The last rank comes late: the others' first wait passes its deadline and names it, the second one
// succeeds.
inline void late_rank_is_named_and_may_be_waited_for_again(Transport& transport) {
  if (transport.size() == 1) return;
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  const int last = transport.size() - 1;
  transport.barrier(soon());
  if (transport.rank() == last) std::this_thread::sleep_for(std::chrono::milliseconds(400));
  const int mine = transport.rank();
  std::vector<int> values(ranks);
  std::vector<Bytes> from;
  for (int& value : values) from.push_back(std::as_writable_bytes(std::span(&value, 1)));
  auto transfer = transport.start_gather(Purpose::vote, std::as_bytes(std::span(&mine, 1)), from);
  if (transport.rank() != last) {
    const std::string message =
        message_of<Timeout>([&] { transfer->wait(Deadline::in(std::chrono::milliseconds(100))); });
    EXPECT_THAT(message, testing::HasSubstr("waited for rank " + std::to_string(last) + " (vote)"));
    EXPECT_FALSE(transfer->arrived()[static_cast<std::size_t>(last)]);
    EXPECT_TRUE(transfer->arrived()[static_cast<std::size_t>(mine)]);
  }
  transfer->wait(soon());
  values[static_cast<std::size_t>(mine)] = mine;
  for (std::size_t r = 0; r < ranks; ++r) EXPECT_EQ(values[r], static_cast<int>(r));
}

// Rank 0 sends another size than the others expect: they all name it. Leaves the transport of no
// more use.
inline void wrong_size_names_the_rank(Transport& transport, std::size_t sent,
                                      std::size_t expected) {
  if (transport.size() == 1) return;
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  std::vector<std::byte> out(std::max(sent, expected)), in(ranks * expected);
  const bool wrong = transport.rank() == 0;
  // With rank 0 only: one that has named it and gone must not be missed by another.
  std::vector<SendParts> to(ranks);
  std::vector<ReceiveParts> from(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    if (!wrong && r != 0) continue;
    to[r] = {ConstBytes(out).first(wrong ? sent : expected)};
    from[r] = {Bytes(in).subspan(r * expected, expected)};
  }
  auto transfer = transport.start_exchange(Purpose::vote, to, from);
  if (wrong) {
    transfer->wait(soon());  // what it expects of the others is right
  } else {
    const std::string message = message_of<TransportError>([&] { transfer->wait(soon()); });
    EXPECT_THAT(message, testing::HasSubstr("rank 0 sent"));
    EXPECT_THAT(message, testing::HasSubstr(std::to_string(expected)));
  }
}

}  // namespace ballot::test

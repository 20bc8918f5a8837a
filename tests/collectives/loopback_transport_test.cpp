// Ranks as threads: the suite of all transports, and what only threads can show.
#include "collectives/transport/loopback_transport.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "rank_suite.h"

namespace ballot {
namespace {

class Loopback : public testing::TestWithParam<int> {};

TEST_P(Loopback, ExchangeMovesEveryByte) {
  run_loopback(GetParam(), test::exchange_moves_every_byte);
}
TEST_P(Loopback, TransfersDoNotMix) {
  run_loopback(GetParam(), test::transfers_do_not_mix);
}
TEST_P(Loopback, SplitMakesTransportsOfTheirOwn) {
  run_loopback(GetParam(), test::split_makes_transports_of_their_own);
}
TEST_P(Loopback, BarrierWaitsForTheLast) {
  run_loopback(GetParam(), test::barrier_waits_for_the_last);
}
TEST_P(Loopback, LateRankIsNamedAndMayBeWaitedForAgain) {
  run_loopback(GetParam(), test::late_rank_is_named_and_may_be_waited_for_again);
}
TEST_P(Loopback, TooLargeAMessageNamesTheRank) {
  run_loopback(GetParam(), [](Transport& t) { test::wrong_size_names_the_rank(t, 5000, 4096); });
}
TEST_P(Loopback, TooSmallAMessageNamesTheRank) {
  run_loopback(GetParam(), [](Transport& t) { test::wrong_size_names_the_rank(t, 100, 4096); });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Loopback, testing::Values(1, 2, 3, 4, 8));

TEST(LoopbackFailures, ADestroyedPeerIsLostToThoseWhoWait) {
  auto transports = make_loopback(3);
  std::thread leaver([gone = std::move(transports[2])]() mutable {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    gone.reset();
  });
  std::thread other([&] {
    EXPECT_THAT(test::message_of<PeerLost>([&] { transports[1]->barrier(Deadline{}); }),
                testing::HasSubstr("rank 2"));
  });
  EXPECT_THAT(test::message_of<PeerLost>([&] { transports[0]->barrier(Deadline{}); }),
              testing::HasSubstr("rank 2"));
  other.join();
  leaver.join();
}

TEST(LoopbackFailures, WhatAPeerSentBeforeItLeftStillArrives) {
  auto transports = make_loopback(2);
  std::thread peer([mine = std::move(transports[1])]() mutable { mine->barrier(test::soon()); });
  transports[0]->barrier(test::soon());
  peer.join();
}

TEST(LoopbackFailures, ATransferThatIsGivenUpEndsItsTransport) {
  auto transports = make_loopback(2);
  EXPECT_THAT(test::message_of<Timeout>(
                  [&] { transports[0]->barrier(Deadline::in(std::chrono::milliseconds(5))); }),
              testing::HasSubstr("rank 1"));
  EXPECT_THROW(transports[0]->barrier(test::soon()), TransportError);
  EXPECT_THROW(transports[1]->barrier(test::soon()), PeerLost);
}

TEST(RunLoopback, RethrowsTheFirstFailureNotTheOnesItCauses) {
  EXPECT_THAT(test::message_of<ConfigError>([] {
                run_loopback(4, [](Transport& transport) {
                  if (transport.rank() == 2) throw ConfigError("rank 2's own error");
                  transport.barrier(Deadline{});
                });
              }),
              testing::StrEq("rank 2's own error"));
}

TEST(RunLoopback, RunsEveryRankOnce) {
  std::atomic<int> sum = 0;
  run_loopback(5, [&](Transport& transport) {
    EXPECT_EQ(transport.size(), 5);
    sum += 1 << transport.rank();
  });
  EXPECT_EQ(sum, 31);
}

TEST(Traffic, IsKeptApartByPurpose) {
  run_loopback(2, [](Transport& transport) {
    std::vector<std::byte> mine(10), theirs(10);
    const std::vector<Bytes> from(2, Bytes(theirs));
    transport.start_gather(Purpose::mean, mine, from)->wait(test::soon());
    transport
        .start_gather(Purpose::control, ConstBytes(mine).first(3),
                      std::vector<Bytes>(2, Bytes(theirs).first(3)))
        ->wait(test::soon());
    EXPECT_EQ(transport.traffic().sent(Purpose::vote), 0u);
    EXPECT_EQ(transport.traffic().sent(Purpose::mean), 10u);
    EXPECT_EQ(transport.traffic().sent(Purpose::control), 3u);
    EXPECT_EQ(transport.traffic().total_sent(), 13u);
  });
}

}  // namespace
}  // namespace ballot

// Ranks over grpc: the suite of all transports, with and without TLS.
#include <gtest/gtest.h>

#include "grpc_ranks.h"
#include "schedule_suite.h"

namespace ballot {
namespace {

using test::run_grpc;

class Grpc : public testing::TestWithParam<int> {};

TEST_P(Grpc, KnowsItsRankAndSize) {
  std::atomic<int> ranks = 0;
  run_grpc(GetParam(), [&](Transport& transport) {
    EXPECT_EQ(transport.name(), "grpc");
    EXPECT_EQ(transport.size(), GetParam());
    ranks += 1 << transport.rank();
  });
  EXPECT_EQ(ranks, (1 << GetParam()) - 1);
}
TEST_P(Grpc, ExchangeMovesEveryByte) {
  run_grpc(GetParam(), test::exchange_moves_every_byte);
}
TEST_P(Grpc, MessagesInManyFramesMoveEveryByte) {
  run_grpc(GetParam(), test::exchange_moves_every_byte,
           [](GrpcOptions& options) { options.frame_bytes = 10'000; });
}
TEST_P(Grpc, TransfersDoNotMix) {
  run_grpc(GetParam(), test::transfers_do_not_mix);
}
TEST_P(Grpc, SplitMakesTransportsOfTheirOwn) {
  run_grpc(GetParam(), test::split_makes_transports_of_their_own);
}
TEST_P(Grpc, BarrierWaitsForTheLast) {
  run_grpc(GetParam(), test::barrier_waits_for_the_last);
}
TEST_P(Grpc, LateRankIsNamedAndMayBeWaitedForAgain) {
  run_grpc(GetParam(), test::late_rank_is_named_and_may_be_waited_for_again);
}
TEST_P(Grpc, TooLargeAMessageNamesTheRank) {
  run_grpc(GetParam(), [](Transport& t) { test::wrong_size_names_the_rank(t, 5000, 4096); });
}
TEST_P(Grpc, TooSmallAMessageNamesTheRank) {
  run_grpc(GetParam(), [](Transport& t) { test::wrong_size_names_the_rank(t, 100, 4096); });
}
TEST_P(Grpc, TooSmallALargeMessageNamesTheRank) {
  run_grpc(GetParam(),
           [](Transport& t) { test::wrong_size_names_the_rank(t, 3'000'000, 4'000'000); });
}
TEST_P(Grpc, VoteEqualsTheReferenceOfAllBallots) {
  run_grpc(GetParam(), test::vote_equals_reference);
}
TEST_P(Grpc, EveryScheduleGivesOneVerdict) {
  run_grpc(GetParam(), test::every_schedule_gives_one_verdict);
}
TEST_P(Grpc, VoteCostsWhatTheTableSays) {
  run_grpc(GetParam(), test::vote_costs_what_the_table_says);
}
TEST_P(Grpc, MeanInF32EqualsTheSumInRankOrder) {
  run_grpc(GetParam(), [](Transport& t) { test::mean_equals_reference(t, DType::f32); });
}
TEST_P(Grpc, MeanInBf16EqualsTheRoundedSum) {
  run_grpc(GetParam(), [](Transport& t) { test::mean_equals_reference(t, DType::bf16); });
}

// Opened once, started often, in another order by each rank; large ones, so that what is started
// late must not hold up the rest. Every start carries other bytes, in parts that are cut unevenly.
TEST_P(Grpc, TransfersStartedInAnyOrderMeet) {
  run_grpc(GetParam(), [](Transport& transport) {
    const std::size_t ranks = static_cast<std::size_t>(transport.size());
    const std::size_t sizes[] = {6'000'000, 0, 70'000, 5'000'000};
    const auto value = [](int from, int to, std::size_t transfer, int start) {
      return static_cast<std::byte>(1 + from * 31 + to * 7 + static_cast<int>(transfer) * 3 +
                                    start);
    };
    struct One {
      std::vector<std::vector<std::byte>> out, in;
      std::unique_ptr<Transfer> transfer;
    };
    std::vector<One> all(std::size(sizes));
    for (std::size_t t = 0; t < all.size(); ++t) {
      std::vector<SendParts> to(ranks);
      std::vector<ReceiveParts> from(ranks);
      for (std::size_t r = 0; r < ranks; ++r) {
        all[t].out.emplace_back(sizes[t] / ranks);
        all[t].in.emplace_back(sizes[t] / ranks);
        const std::size_t cut = sizes[t] / ranks / 3;
        to[r] = {ConstBytes(all[t].out[r]).first(cut), {}, ConstBytes(all[t].out[r]).subspan(cut)};
        from[r] = {Bytes(all[t].in[r]).first(2 * cut), Bytes(all[t].in[r]).subspan(2 * cut)};
      }
      all[t].transfer = transport.open_exchange(Purpose::vote, to, from);
      EXPECT_TRUE(all[t].transfer->done());
    }
    for (int start = 0; start < 3; ++start) {
      std::vector<std::size_t> order = {0, 1, 2, 3};
      std::mt19937_64 random(static_cast<std::uint64_t>(100 * start + transport.rank()));
      std::ranges::shuffle(order, random);
      for (const std::size_t t : order) {
        for (std::size_t r = 0; r < ranks; ++r)
          std::ranges::fill(all[t].out[r], value(transport.rank(), static_cast<int>(r), t, start));
        all[t].transfer->start();
      }
      const Deadline deadline = test::soon();
      for (std::size_t left = all.size(); left > 0; transport.idle(std::chrono::milliseconds(10))) {
        left = 0;
        for (One& one : all) left += !one.transfer->done();
        ASSERT_FALSE(deadline.passed());
      }
      for (std::size_t t = 0; t < all.size(); ++t)
        for (std::size_t r = 0; r < ranks; ++r)
          if (static_cast<int>(r) != transport.rank()) {
            const std::byte expected = value(static_cast<int>(r), transport.rank(), t, start);
            EXPECT_TRUE(
                std::ranges::all_of(all[t].in[r], [&](std::byte b) { return b == expected; }));
          }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Grpc, testing::Values(1, 2, 3, 4, 8));

}  // namespace
}  // namespace ballot

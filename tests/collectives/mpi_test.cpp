// Ranks as processes: the suite of all transports over Open MPI. Run under mpirun.
#include <gtest/gtest.h>

#include <cstdio>

#include "collectives/transport/mpi_transport.h"
#include "core/parallel.h"
#include "rank_suite.h"
#include "schedule_suite.h"

namespace ballot {
namespace {

const MpiSession* session = nullptr;

TEST(Mpi, SessionKnowsTheWorld) {
  const auto world = session->world();
  EXPECT_EQ(world->rank(), session->rank());
  EXPECT_EQ(world->size(), session->size());
  EXPECT_EQ(world->name(), "mpi");
}
TEST(Mpi, ExchangeMovesEveryByte) {
  test::exchange_moves_every_byte(*session->world());
}
TEST(Mpi, MessagesInPiecesMoveEveryByte) {
  test::exchange_moves_every_byte(*session->world(1000));
}
TEST(Mpi, TransfersDoNotMix) {
  test::transfers_do_not_mix(*session->world());
}
TEST(Mpi, SplitMakesTransportsOfTheirOwn) {
  test::split_makes_transports_of_their_own(*session->world());
}
TEST(Mpi, BarrierWaitsForTheLast) {
  test::barrier_waits_for_the_last(*session->world());
}
TEST(Mpi, LateRankIsNamedAndMayBeWaitedForAgain) {
  test::late_rank_is_named_and_may_be_waited_for_again(*session->world());
}
TEST(Mpi, VoteEqualsTheReferenceOfAllBallots) {
  test::vote_equals_reference(*session->world());
}
TEST(Mpi, VoteCostsWhatTheTableSays) {
  test::vote_costs_what_the_table_says(*session->world());
}
TEST(Mpi, EverySchedulesVerdictIsTheSame) {
  test::every_schedule_gives_one_verdict(*session->world());
}
TEST(Mpi, MeanInF32EqualsTheSumInRankOrder) {
  test::mean_equals_reference(*session->world(), DType::f32);
}
TEST(Mpi, MeanInBf16EqualsTheRoundedSum) {
  test::mean_equals_reference(*session->world(), DType::bf16);
}

// Each on a world of its own, which it breaks. Small messages go out at once, large ones when the
// peer is ready.
TEST(Mpi, TooLargeAMessageNamesTheRank) {
  test::wrong_size_names_the_rank(*session->world(), 5000, 4096);
}
TEST(Mpi, TooSmallAMessageNamesTheRank) {
  test::wrong_size_names_the_rank(*session->world(), 100, 4096);
}
TEST(Mpi, TooSmallALargeMessageNamesTheRank) {
  test::wrong_size_names_the_rank(*session->world(), 300'000, 400'000);
}
TEST(Mpi, OneByteMoreThanWholePiecesNamesTheRank) {
  const auto world = session->world(1000);
  if (world->size() == 1) GTEST_SKIP() << "needs 2 ranks";
  std::vector<std::byte> out(3001), in(static_cast<std::size_t>(world->size()) * 3000);
  const bool wrong = world->rank() == 0;
  const std::vector<ConstBytes> to(static_cast<std::size_t>(world->size()),
                                   ConstBytes(out).first(wrong ? 3001 : 3000));
  std::vector<Bytes> from;
  for (std::size_t r = 0; r < to.size(); ++r) from.push_back(Bytes(in).subspan(r * 3000, 3000));
  auto transfer = world->start_exchange(Purpose::vote, to, from);
  if (wrong)
    transfer->wait(test::soon());
  else
    EXPECT_THAT(test::message_of<TransportError>([&] { transfer->wait(test::soon()); }),
                testing::HasSubstr("rank 0 sent"));
}

// The other ranks' failures, told with their rank; their successes are the same as rank 0's.
class FailuresOnly : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", session->rank(),
                 result.file_name() ? result.file_name() : "?", result.line_number(),
                 result.summary());
  }
};

}  // namespace
}  // namespace ballot

int main(int argc, char** argv) {
  const ballot::MpiSession session;
  ballot::session = &session;
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (session.rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new ballot::FailuresOnly);
  }
  return RUN_ALL_TESTS();
}

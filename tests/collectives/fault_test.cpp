// Faults in the middle of a vote or a mean: an error that names the rank, never a wrong verdict.
#include <gtest/gtest.h>

#include <thread>

#include "collectives/mean.h"
#include "collectives/transport/loopback_transport.h"
#include "collectives/vote.h"
#include "rank_suite.h"
#include "tests/support/fault_transport.h"

namespace ballot {
namespace {

using testing::HasSubstr;

struct FaultyVote : testing::Test {
  BallotLayout layout = test::make_layout({{9, 192}, {5, 512}});
  Ballot ballot{layout};
};

TEST_F(FaultyVote, APeerThatNeverSendsIsNamedByTheTimeout) {
  auto transports = make_loopback(3);
  std::thread rank1([&] {
    Vote vote(layout, *transports[1], {});
    EXPECT_THROW(vote.elect(ballot, 0, Deadline::in(std::chrono::milliseconds(500))), WorldError);
  });
  Vote vote(layout, *transports[0], {});  // rank 2 does nothing
  const std::string message = test::message_of<Timeout>(
      [&] { vote.elect(ballot, 0, Deadline::in(std::chrono::milliseconds(100))); });
  EXPECT_THAT(message, HasSubstr("waited for rank 2 (vote)"));
  rank1.join();
}

TEST_F(FaultyVote, APeerThatDiesBetweenTheTwoTransfersIsLost) {
  auto transports = make_loopback(2);
  const BallotChunk mine = layout.chunk(1, 2);
  std::thread rank1([&, gone = std::move(transports[1])]() mutable {
    // The sizes of a ballot, then silence.
    const auto bytes = [&](int owner) {
      const BallotChunk chunk = layout.chunk(owner, 2);
      return static_cast<std::size_t>(
          40 + 8 * (chunk.word_count() + (chunk.last_block - chunk.first_block + 63) / 64));
    };
    std::vector<std::byte> out(bytes(0)), in(bytes(1));
    const std::vector<ConstBytes> to = {out, {}};
    const std::vector<Bytes> from = {in, {}};
    gone->start_exchange(Purpose::vote, to, from)->wait(test::soon());
    gone.reset();
  });
  EXPECT_GT(mine.word_count(), 0);
  Vote vote(layout, *transports[0], {});
  // What it sent is no ballot, and is found out before its death is.
  EXPECT_THAT(test::message_of<TransportError>([&] { vote.elect(ballot, 0, test::soon()); }),
              HasSubstr("ballot from rank 1: starts with 0x00000000"));
  rank1.join();
}

TEST_F(FaultyVote, APeerDestroyedMidStepIsLost) {
  auto transports = make_loopback(2);
  std::thread rank1([&, gone = std::move(transports[1])]() mutable {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    gone.reset();
  });
  Vote vote(layout, *transports[0], {});
  EXPECT_THAT(test::message_of<PeerLost>([&] { vote.elect(ballot, 0, test::soon()); }),
              HasSubstr("rank 1"));
  rank1.join();
}

// Every byte of a ballot and of a verdict, one at a time: header, statistics, bits, abstentions.
TEST_F(FaultyVote, ADamagedByteIsFoundWhereverItIs) {
  const BallotLayout small = test::make_layout({{2, 192}});
  const BallotChunk chunk = small.chunk(0, 1);
  const std::size_t longest = 40 + 8 * (9 + static_cast<std::size_t>(chunk.word_count()) + 1);
  for (int collective = 0; collective < 2; ++collective)
    for (std::size_t byte = 0; byte < longest; byte += byte < 48 ? 1 : 5) {
      run_loopback(2, [&](Transport& transport) {
        Ballot mine(small);
        if (transport.rank() == 1) {
          Vote vote(small, transport, {});
          try {
            vote.elect(mine, 0, test::soon());
          } catch (const PeerLost&) {  // rank 0 gave up between the transfers
          }
          return;
        }
        FaultTransport damaged(transport, {.collective = collective, .from_rank = 1, .byte = byte});
        Vote vote(small, damaged, {});
        const std::string message =
            test::message_of<TransportError>([&] { vote.elect(mine, 0, test::soon()); });
        const std::string who =
            (collective == 0 ? "ballot" : "verdict") + std::string(" from rank 1: ");
        EXPECT_THAT(message, HasSubstr(who)) << "byte " << byte;
        EXPECT_THAT(message, testing::AnyOf(HasSubstr("checksum"), HasSubstr("starts with"),
                                            HasSubstr("version")));
      });
    }
}

void expect_refused(const std::function<Vote(Transport&)>& make_vote, std::int64_t step_of_rank_1,
                    const char* why) {
  run_loopback(2, [&](Transport& transport) {
    const BallotLayout layout = test::make_layout({{4, 512}});
    Vote vote = make_vote(transport);
    const std::string message = test::message_of<TransportError>([&] {
      vote.elect(Ballot(layout), transport.rank() == 1 ? step_of_rank_1 : 0, test::soon());
    });
    EXPECT_THAT(message, HasSubstr("ballot from rank " + std::to_string(1 - transport.rank())));
    EXPECT_THAT(message, HasSubstr(why));
    transport.barrier(test::soon());  // so that nobody sees the other leave first
  });
}

TEST(VoteMessages, OfAnotherStepAreRefused) {
  static const BallotLayout layout = test::make_layout({{4, 512}});
  expect_refused([](Transport& transport) { return Vote(layout, transport, {}); }, 9, "of step");
}

TEST(VoteMessages, OfAnotherSeedOrTieRuleAreRefused) {
  static const BallotLayout layout = test::make_layout({{4, 512}});
  expect_refused(
      [](Transport& transport) {
        return Vote(layout, transport, {.seed = static_cast<std::uint64_t>(transport.rank())});
      },
      0, "layout or options");
}

TEST(FaultyMean, ADamagedByteIsFoundInBothTransfers) {
  for (int collective = 0; collective < 2; ++collective)
    for (std::size_t byte = 0; byte < 100; byte += 3)
      run_loopback(2, [&](Transport& transport) {
        const auto reduce = [](Transport& over) {
          Mean mean({10, 30}, DType::f32, over);
          mean.reduce(test::soon());
        };
        if (transport.rank() == 1) {
          try {
            reduce(transport);
          } catch (const PeerLost&) {
          }
          return;
        }
        FaultTransport damaged(transport, {.collective = collective, .from_rank = 1, .byte = byte});
        const std::string message = test::message_of<TransportError>([&] { reduce(damaged); });
        EXPECT_THAT(message, HasSubstr(collective == 0 ? "contribution from rank 1: "
                                                       : "mean from rank 1: "));
      });
}

}  // namespace
}  // namespace ballot

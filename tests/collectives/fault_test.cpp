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
    EXPECT_THROW(make_vote(ballot, *transports[1], {}, Deadline::in(std::chrono::milliseconds(500)))
                     ->elect(0, Deadline::in(std::chrono::milliseconds(500))),
                 WorldError);
  });
  // Rank 2 does nothing.
  const std::string message = test::message_of<Timeout>(
      [&] { make_vote(ballot, *transports[0], {}, Deadline::in(std::chrono::milliseconds(100))); });
  EXPECT_THAT(message, HasSubstr("waited for rank 2"));
  rank1.join();
}

TEST_F(FaultyVote, APeerThatFallsSilentIsNamedByTheTimeout) {
  run_loopback(3, [&](Transport& transport) {
    Ballot mine(layout);
    const auto vote = make_vote(mine, transport, {}, test::soon());
    vote->elect(0, test::soon());
    transport.barrier(test::soon());
    if (transport.rank() == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(400));
      return;
    }
    EXPECT_THAT(test::message_of<Timeout>(
                    [&] { vote->elect(1, Deadline::in(std::chrono::milliseconds(100))); }),
                HasSubstr("waited for rank 2 (vote)"));
  });
}

TEST_F(FaultyVote, APeerDestroyedMidStepIsLost) {
  auto transports = make_loopback(2);
  std::thread rank1([&, gone = std::move(transports[1])]() mutable {
    {
      Ballot theirs(layout);
      const auto vote = make_vote(theirs, *gone, {}, test::soon());
      vote->begin(0);
      vote->release(0);  // half of the only piece: nothing leaves yet
      vote->advance();
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
    gone.reset();
  });
  const auto vote = make_vote(ballot, *transports[0], {}, test::soon());
  EXPECT_THAT(test::message_of<PeerLost>([&] { vote->elect(0, test::soon()); }),
              HasSubstr("rank 1"));
  rank1.join();
}

// Every byte of a ballot and of a verdict, one at a time: header, statistics, bits, abstentions.
TEST_F(FaultyVote, ADamagedByteIsFoundWhereverItIs) {
  const BallotLayout small = test::make_layout({{2, 192}});
  const BallotChunk chunk = small.chunk(0, 1);
  const std::size_t longest = 40 + 8 * (9 + static_cast<std::size_t>(chunk.word_count()) + 1);
  for (std::uint64_t collective = 0; collective < 2; ++collective)
    for (std::size_t byte = 0; byte < longest; byte += byte < 48 ? 1 : 5) {
      run_loopback(2, [&](Transport& transport) {
        Ballot mine(small);
        if (transport.rank() == 1) {
          const auto vote = make_vote(mine, transport, {}, test::soon());
          try {
            vote->elect(0, test::soon());
          } catch (const PeerLost&) {  // rank 0 gave up between the transfers
          }
          return;
        }
        FaultTransport damaged(transport,
                               {.kept_transfer = collective, .from_rank = 1, .byte = byte});
        const auto vote = make_vote(mine, damaged, {}, test::soon());
        const std::string message =
            test::message_of<TransportError>([&] { vote->elect(0, test::soon()); });
        const std::string who =
            (collective == 0 ? "ballot" : "verdict") + std::string(" from rank 1: ");
        EXPECT_THAT(message, HasSubstr(who)) << "byte " << byte;
        EXPECT_THAT(message, testing::AnyOf(HasSubstr("checksum"), HasSubstr("starts with"),
                                            HasSubstr("version")));
      });
    }
}

TEST(VoteMessages, OfAnotherStepAreRefused) {
  run_loopback(2, [&](Transport& transport) {
    const BallotLayout layout = test::make_layout({{4, 512}});
    const Ballot mine(layout);
    const auto vote = make_vote(mine, transport, {}, test::soon());
    const std::string message = test::message_of<TransportError>(
        [&] { vote->elect(transport.rank() == 1 ? 9 : 0, test::soon()); });
    EXPECT_THAT(message, HasSubstr("ballot from rank " + std::to_string(1 - transport.rank())));
    EXPECT_THAT(message, HasSubstr("of step"));
    transport.barrier(test::soon());  // so that nobody sees the other leave first
  });
}

TEST(FaultyMean, ADamagedByteIsFoundInBothTransfers) {
  for (std::uint64_t collective = 0; collective < 2; ++collective)
    for (std::size_t byte = 0; byte < 100; byte += 3)
      run_loopback(2, [&](Transport& transport) {
        const auto reduce = [](Transport& over) {
          Mean mean({10, 30}, DType::f32, over);
          mean.begin(0);
          mean.reduce(test::soon());
        };
        if (transport.rank() == 1) {
          try {
            reduce(transport);
          } catch (const PeerLost&) {
          }
          return;
        }
        FaultTransport damaged(transport,
                               {.kept_transfer = collective, .from_rank = 1, .byte = byte});
        const std::string message = test::message_of<TransportError>([&] { reduce(damaged); });
        EXPECT_THAT(message, HasSubstr(collective == 0 ? "contribution from rank 1: "
                                                       : "mean from rank 1: "));
      });
}

}  // namespace
}  // namespace ballot

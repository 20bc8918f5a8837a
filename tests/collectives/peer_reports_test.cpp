#include "collectives/peer_reports.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;

void finish(PeerReports& reports, Transport& transport) {
  const Deadline deadline = Deadline::in(20s);
  while (!reports.done()) {
    if (deadline.passed()) FAIL() << "reports are missing";
    transport.idle(1ms);
  }
}

TEST(PeerReports, BringEachRanksMessageRoundAfterRound) {
  run_loopback(3, [](Transport& transport) {
    PeerReports reports(transport, Purpose::control, 2);
    const std::uint64_t before = transport.traffic().sent(Purpose::control);
    for (int round = 0; round < 4; ++round) {
      reports.expect();
      // One that is slow is waited for, and not lost.
      if (transport.rank() == round % 3) std::this_thread::sleep_for(5ms);
      for (int i = 0; i < 10; ++i) reports.check();
      reports.message(transport.rank())[0] = std::byte(round);
      reports.message(transport.rank())[1] = std::byte(transport.rank() + 7);
      reports.send();
      finish(reports, transport);
      EXPECT_EQ(reports.missing(), nullptr);
      for (int rank = 0; rank < 3; ++rank) {
        EXPECT_EQ(reports.message(rank)[0], std::byte(round));
        EXPECT_EQ(reports.message(rank)[1], std::byte(rank + 7));
      }
    }
    EXPECT_EQ(transport.traffic().sent(Purpose::control) - before,
              static_cast<std::uint64_t>(4 * reports.sent_bytes()));
  });
}

TEST(PeerReports, OneThatWillNotComeIsALostPeer) {
  std::vector<std::unique_ptr<Transport>> ranks = make_loopback(3);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      const std::unique_ptr<Transport> transport = std::move(ranks[static_cast<std::size_t>(rank)]);
      PeerReports reports(*transport, Purpose::control, 1);
      reports.expect();
      if (rank == 1) return;  // and gone
      const Deadline deadline = Deadline::in(20s);
      try {
        while (!deadline.passed()) {
          reports.check();
          transport->idle(1ms);
        }
        ADD_FAILURE() << "rank " << rank << " noticed nothing";
      } catch (const PeerLost& lost) {
        EXPECT_THAT(lost.what(), testing::HasSubstr("rank "));
      }
    });
}

TEST(PeerReports, MissingNamesWhoIsWaitedFor) {
  run_loopback(2, [](Transport& transport) {
    PeerReports reports(transport, Purpose::control, 1);
    EXPECT_EQ(reports.missing(), nullptr);
    reports.expect();
    if (transport.rank() == 0) {
      ASSERT_NE(reports.missing(), nullptr);
      EXPECT_THAT([&] { reports.missing()->wait(Deadline::in(1ms)); },
                  testing::ThrowsMessage<Timeout>(testing::HasSubstr("rank 1")));
    }
    transport.barrier(Deadline::in(20s));
    reports.send();
    finish(reports, transport);
  });
}

}  // namespace
}  // namespace ballot

// Workers' links to each other over real sockets: opened, refused, broken, lost; frames on them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "core/error.h"
#include "tests/collectives/certificates.h"
#include "tests/runtime/peers_support.h"

namespace ballot {
namespace {

using test::ballot_frame;
using test::equal;
using test::make_ballot;
using test::make_verdict;
using test::record_of;
using test::TestPeer;
using testing::HasSubstr;
using namespace std::chrono_literals;

TEST(PeerLinks, BallotsAndVerdictsOfEverySizeArriveBitEqualAndInOrder) {
  TestPeer a(0), b(1);
  a.peers->open_links(record_of(3, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  EXPECT_EQ(a.opened[0], b.identity);
  const std::vector<std::size_t> sizes = {0, 1, 2, 100, 1u << 14, 131'071, 131'072, 1u << 20};
  std::vector<std::shared_ptr<const BallotData>> sent;
  std::vector<std::shared_ptr<const VerdictFrame>> verdicts;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto step = static_cast<std::int64_t>(i) + 1;
    sent.push_back(make_ballot(sizes[i], i));
    verdicts.push_back(make_verdict(step, static_cast<std::int64_t>(sizes[i] / 8), i));
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    a.peers->send(b.identity, 3, ballot_frame(static_cast<std::int64_t>(i) + 1, 2, 1), sent[i]);
    a.peers->send(b.identity, 3, verdicts[i]);
    // Two at a time are under way.
    ASSERT_TRUE(b.wait([&] { return b.verdicts.size() >= i; })) << i;
  }
  ASSERT_TRUE(b.wait([&] { return b.verdicts.size() == sizes.size(); }));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_TRUE(equal(b.ballots[i].frame, ballot_frame(static_cast<std::int64_t>(i) + 1, 2, 1)));
    EXPECT_TRUE(equal(*b.ballots[i].frame.data, *sent[i])) << i;
    EXPECT_EQ(b.ballots[i].from.identity, a.identity);
    EXPECT_EQ(b.ballots[i].from.term, 3);
    EXPECT_TRUE(equal(b.verdicts[i].frame, *verdicts[i])) << i;
  }
  EXPECT_GT(a.peers->traffic().sent, 8u << 20);
  EXPECT_EQ(a.peers->traffic().sent, b.peers->traffic().received);
  EXPECT_EQ(b.peers->traffic().refused_frames, 0u);
}

TEST(PeerLinks, ThreeWorkersReachEachOther) {
  TestPeer a(0), b(1), c(2);
  const std::vector<TestPeer*> all = {&a, &b, &c};
  const TermRecord record = record_of(1, {&a, &b, &c});
  for (TestPeer* one : all) one->peers->open_links(record, one->identity);
  for (TestPeer* one : all) ASSERT_TRUE(one->wait_opened(2));
  for (TestPeer* one : all)
    for (TestPeer* other : all)
      if (one != other)
        one->peers->send(other->identity, 1, ballot_frame(1, 0, one->identity.worker),
                         make_ballot(10, static_cast<std::uint64_t>(one->identity.worker)));
  for (TestPeer* one : all) {
    ASSERT_TRUE(one->wait([&] { return one->ballots.size() == 2; }));
    for (const TestPeer::Ballot& ballot : one->ballots) {
      EXPECT_EQ(ballot.frame.voter, ballot.from.identity.worker);
      EXPECT_TRUE(equal(*ballot.frame.data,
                        *make_ballot(10, static_cast<std::uint64_t>(ballot.frame.voter))));
    }
  }
}

TEST(PeerLinks, AWorkerThatDoesNotKnowTheTermYetIsAskedAgain) {
  TestPeer a(0), b(1);
  b.answer = [&](const Hello&) {
    return b.hellos.size() < 4 ? LinkAnswer::not_yet : LinkAnswer::accept;
  };
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  EXPECT_EQ(b.hellos.size(), 4u);
  EXPECT_EQ(a.opened.size(), 1u);
  EXPECT_EQ(a.lost.size(), 0u);
}

TEST(PeerLinks, AnsweringNotYetForLongerThanThePatienceIsNoLoss) {
  TestPeer a(0, [](PeersOptions& options) {
    options.link_patience = 100ms;
    options.hello_pause = 10ms;
  });
  TestPeer b(1);
  b.answer = [&](const Hello&) {
    return b.hellos.size() < 6 ? LinkAnswer::not_yet : LinkAnswer::accept;  // 10 + .. + 160 ms
  };
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  EXPECT_EQ(a.lost.size(), 0u);
}

TEST(PeerLinks, ARefusedLinkIsNotOpenedAgainAndItsPeerNotLost) {
  TestPeer a(0), b(1);
  b.answer = [&](const Hello& hello) {
    return hello.term == 1 ? LinkAnswer::refuse : LinkAnswer::accept;
  };
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  ASSERT_TRUE(b.wait([&] { return b.hellos.size() == 1; }));
  a.peers->send(b.identity, 1, ballot_frame(1), make_ballot(1));
  EXPECT_FALSE(b.wait([&] { return b.hellos.size() > 1; }, 300ms));
  a.peers->open_links(record_of(2, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  EXPECT_EQ(b.hellos.size(), 2u);
  EXPECT_EQ(a.lost.size(), 0u);
  EXPECT_EQ(b.ballots.size(), 0u);
}

TEST(PeerLinks, ALinkClosedByThePeerIsAskedForAgain) {
  TestPeer a(0), b(1);
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  b.peers->close_links();
  ASSERT_TRUE(a.wait_opened(2));
  a.peers->send(b.identity, 1, ballot_frame(1), make_ballot(7));
  ASSERT_TRUE(b.wait([&] { return b.ballots.size() == 1; }));
  EXPECT_EQ(b.hellos.size(), 2u);
  EXPECT_EQ(a.lost.size(), 0u);
}

TEST(PeerLinks, WhatWasSentBeforeTheLinksWereClosedStillArrives) {
  TestPeer a(0), b(1);
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  const auto data = make_ballot(500'000);
  for (std::int64_t step = 1; step <= 5; ++step)
    a.peers->send(b.identity, 1, ballot_frame(step), data);
  a.peers->close_links();
  a.peers->send(b.identity, 1, ballot_frame(6), data);
  ASSERT_TRUE(b.wait([&] { return b.ballots.size() == 5; }));
  EXPECT_FALSE(b.wait([&] { return b.ballots.size() > 5; }, 100ms));
  EXPECT_EQ(b.peers->traffic().refused_frames, 0u);
}

TEST(PeerLinks, ANewTermTakesThePlaceOfTheOld) {
  TestPeer a(0), b(1);
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  a.peers->open_links(record_of(2, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened(2));
  a.peers->send(b.identity, 1, ballot_frame(1), make_ballot(1));
  a.peers->send(b.identity, 2, ballot_frame(2), make_ballot(1));
  a.peers->send({1, 9}, 2, ballot_frame(3), make_ballot(1));
  ASSERT_TRUE(b.wait([&] { return !b.ballots.empty(); }));
  EXPECT_EQ(b.ballots[0].frame.step, 2);
  EXPECT_EQ(b.ballots[0].from.term, 2);
  EXPECT_EQ(a.lost.size(), 0u);
}

TEST(PeerLinks, APeerWhoseProcessIsGoneIsLostOnceLongBeforeThePatienceEnds) {
  TestPeer a(0, [](PeersOptions& options) { options.link_patience = 1h; });
  TestPeer b(1), c(2);
  a.peers->open_links(record_of(1, {&a, &b, &c}), a.identity);
  ASSERT_TRUE(a.wait_opened(2));
  b.peers.reset();
  ASSERT_TRUE(a.wait([&] { return !a.lost.empty(); }));
  EXPECT_EQ(a.lost[0].peer, b.identity);
  EXPECT_EQ(a.lost[0].term, 1);
  EXPECT_THAT(a.lost[0].why, HasSubstr("Connection refused"));
  a.peers->send(c.identity, 1, ballot_frame(1), make_ballot(1));
  a.peers->send(b.identity, 1, ballot_frame(1), make_ballot(1));
  ASSERT_TRUE(c.wait([&] { return c.ballots.size() == 1; }));
  EXPECT_FALSE(a.wait([&] { return a.lost.size() > 1; }, 100ms));
}

// A port that takes connections and says nothing.
class SilentPort {
 public:
  SilentPort() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    require(::bind(socket_, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                ::listen(socket_, 8) == 0 &&
                ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0,
            "no silent port");
    address_ = fmt::format("127.0.0.1:{}", ntohs(address.sin_port));
  }
  SilentPort(const SilentPort&) = delete;
  ~SilentPort() { ::close(socket_); }
  const std::string& address() const { return address_; }

 private:
  int socket_;
  std::string address_;
};

TEST(PeerLinks, APeerThatSaysNothingIsLostAfterThePatience) {
  TestPeer a(0, [](PeersOptions& options) { options.link_patience = 200ms; });
  const SilentPort silent;
  TermRecord record = record_of(1, {&a});
  record.workers.push_back({{1, 1}, silent.address(), 1});
  a.peers->open_links(record, a.identity);
  ASSERT_TRUE(a.wait([&] { return !a.lost.empty(); }));
  EXPECT_THAT(a.lost[0].why, HasSubstr(silent.address()));
}

TEST(PeerLinks, NoLossIsToldAfterTheLinksWereClosed) {
  TestPeer a(0, [](PeersOptions& options) { options.link_patience = 50ms; });
  const SilentPort silent;
  TermRecord record = record_of(1, {&a});
  record.workers.push_back({{1, 1}, silent.address(), 1});
  for (int i = 0; i < 20; ++i) {
    a.peers->open_links(record, a.identity);
    a.peers->close_links();
  }
  EXPECT_FALSE(a.wait([&] { return !a.lost.empty(); }, 200ms));
}

// Frames that a peer does not take pile up to a bound; then the link is opened anew.
TEST(PeerLinks, ALinkThatFallsBehindIsOpenedAnew) {
  TestPeer a(0), b(1);
  std::mutex gate;
  b.on_frame = [&] { const std::lock_guard pass(gate); };
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  ASSERT_TRUE(a.wait_opened());
  const auto data = make_ballot(200'000);
  {
    const std::lock_guard closed(gate);
    // What gRPC and the sockets hold comes on top of the queue.
    for (std::int64_t step = 1; step <= 60; ++step)
      a.peers->send(b.identity, 1, ballot_frame(step), data);
  }
  ASSERT_TRUE(a.wait_opened(2));
  a.peers->send(b.identity, 1, ballot_frame(1000), data);
  ASSERT_TRUE(b.wait([&] { return !b.ballots.empty() && b.ballots.back().frame.step == 1000; }));
  for (std::size_t i = 1; i < b.ballots.size(); ++i)
    EXPECT_LT(b.ballots[i - 1].frame.step, b.ballots[i].frame.step);
}

TEST(PeerLinks, WithTlsOnlyCertificatesOfTheAuthorityGetIn) {
  const test::Certificates certificates;
  const auto with = [](const GrpcTls& tls) {
    return [tls](PeersOptions& options) {
      options.access.tls = tls;
      options.link_patience = 300ms;
    };
  };
  TestPeer a(0, with(certificates.tls("worker"))), b(1, with(certificates.tls("worker")));
  TestPeer foreign(0, with({certificates.path("ca.pem"), certificates.path("foreign.pem"),
                            certificates.path("foreign.key"), ""}));
  TestPeer plain(0, [](PeersOptions& options) { options.link_patience = 300ms; });
  a.peers->open_links(record_of(1, {&a, &b}), a.identity);
  foreign.peers->open_links(record_of(1, {&foreign, &b}), foreign.identity);
  plain.peers->open_links(record_of(1, {&plain, &b}), plain.identity);
  ASSERT_TRUE(a.wait_opened());
  ASSERT_TRUE(foreign.wait([&] { return !foreign.lost.empty(); }));
  ASSERT_TRUE(plain.wait([&] { return !plain.lost.empty(); }));
  EXPECT_EQ(b.hellos.size(), 1u);
  a.peers->send(b.identity, 1, ballot_frame(1), make_ballot(100'000));
  EXPECT_TRUE(b.wait([&] { return b.ballots.size() == 1; }));
}

// As the driver does it: handlers take its lock, and it closes links under that lock.
TEST(PeerLinks, ClosingUnderTheLockOfTheHandlersNeverHangsAndLetsOneFrameThroughAtMost) {
  TestPeer a(0), b(1);
  std::mutex driver;
  std::int64_t closed = 0, late = 0;  // the last term that b closed; frames of it since
  std::int64_t most_late = 0;
  PeerHandlers handlers;
  handlers.answer = [&](const Hello& hello) {
    const std::lock_guard lock(driver);
    return hello.term > closed ? LinkAnswer::accept : LinkAnswer::refuse;
  };
  handlers.ballot = [&](const Hello& from, const BallotFrame&) {
    const std::lock_guard lock(driver);
    if (from.term <= closed) most_late = std::max(most_late, ++late);
  };
  b.peers = make_peers(b.options, std::move(handlers));
  std::atomic<std::int64_t> term{0};
  std::atomic<bool> done{false};
  std::thread sender([&] {
    const auto data = make_ballot(20'000);
    for (std::int64_t step = 1; !done; ++step) {
      a.peers->send(b.identity, term, ballot_frame(step), data);
      std::this_thread::yield();
    }
  });
  for (int i = 1; i <= 60; ++i) {
    term = i;
    a.peers->open_links(record_of(i, {&a, &b}), a.identity);
    ASSERT_TRUE(a.wait_opened(static_cast<std::size_t>(i)));
    if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(i % 8));
    const std::lock_guard lock(driver);
    b.peers->close_links();
    closed = i;
    late = 0;
  }
  done = true;
  sender.join();
  b.peers.reset();
  EXPECT_LE(most_late, 1);
  EXPECT_EQ(a.lost.size(), 0u);
}

TEST(PeerLinks, DestroyingWhileEverythingIsUnderWayIsBounded) {
  for (int round = 0; round < 12; ++round) {
    TestPeer a(0), b(1);
    const auto records = make_records(3);
    b.serve = [&](const Fetch& fetch) {
      FetchReply reply;
      reply.from = fetch.from;
      for (const Record& record : records)
        reply.records.push_back(std::make_shared<const Record>(record));
      return reply;
    };
    const TermRecord record = record_of(1, {&a, &b});
    a.peers->open_links(record, a.identity);
    b.peers->open_links(record, b.identity);
    if (round % 3 != 0) {
      ASSERT_TRUE(a.wait_opened());
      const auto data = make_ballot(1u << 20);
      for (int step = 1; step < 6; ++step) a.peers->send(b.identity, 1, ballot_frame(step), data);
      a.peers->fetch(b.source(), {kTestStart, 0, {}}, Deadline::in(10s));
    }
    const Stopwatch watch;
    (round % 2 == 0 ? a : b).peers.reset();
    (round % 2 == 0 ? b : a).peers.reset();
    EXPECT_LT(watch.elapsed(), 10.0);
  }
}

TEST(PeerLinks, OptionsThatCannotWorkAreRefused) {
  PeersOptions options;
  options.run = "run";
  options.listen = "0.0.0.0:0";
  EXPECT_THROW(make_peers(options, {}), ConfigError);
  options.listen = "127.0.0.1";
  EXPECT_THROW(make_peers(options, {}), ConfigError);
  options.listen = "127.0.0.1:0";
  options.run = "";
  EXPECT_THROW(make_peers(options, {}), ConfigError);
  options.run = "run";
  options.access.tls.ca = "ca.pem";
  EXPECT_THROW(make_peers(options, {}), ConfigError);
  options.access.tls = {};
  const TestPeer there(0);
  options.listen = there.peers->address();
  EXPECT_THROW(make_peers(options, {}), TransportError);
}

}  // namespace
}  // namespace ballot

// A peer in a process of its own that is killed, and one that is stopped.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <thread>

#include "core/error.h"
#include "tests/runtime/peers_support.h"

extern char** environ;

namespace ballot {
namespace {

using test::ballot_frame;
using test::make_ballot;
using test::TestPeer;
using testing::HasSubstr;
using namespace std::chrono_literals;

constexpr int kTellAt = 5;   // the child's end of a pipe: its address
constexpr int kLivesBy = 6;  // and of another: it ends when this is closed
const char* const kFetchFrom = "BALLOT_TEST_PEER_FETCHES_FROM";  // an address, or nobody

// This program again, as a peer that takes whatever comes.
class PeerProcess {
 public:
  explicit PeerProcess(const std::string& fetch_from = "nobody") {
    int told[2], life[2];
    require(::pipe2(told, O_CLOEXEC) == 0 && ::pipe2(life, O_CLOEXEC) == 0, "no pipes");
    life_ = life[1];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, told[1], kTellAt);
    posix_spawn_file_actions_adddup2(&actions, life[0], kLivesBy);
    std::string program = "/proc/self/exe", filter = "--gtest_filter=PeerProcess.DISABLED_Child",
                disabled = "--gtest_also_run_disabled_tests", brief = "--gtest_brief=1";
    char* arguments[] = {program.data(), filter.data(), disabled.data(), brief.data(), nullptr};
    std::vector<char*> environment;
    std::string mark = std::string(kFetchFrom) + "=" + fetch_from;
    for (char** one = environ; *one != nullptr; ++one) environment.push_back(*one);
    environment.push_back(mark.data());
    environment.push_back(nullptr);
    const int failed =
        ::posix_spawn(&id_, program.c_str(), &actions, nullptr, arguments, environment.data());
    posix_spawn_file_actions_destroy(&actions);
    ::close(told[1]);
    ::close(life[0]);
    require(failed == 0, "no process: {}", failed);
    char buffer[200];
    const ssize_t count = ::read(told[0], buffer, sizeof buffer);
    ::close(told[0]);
    require(count > 0, "the peer's process says nothing");
    address_.assign(buffer, static_cast<std::size_t>(count));
  }
  PeerProcess(const PeerProcess&) = delete;
  ~PeerProcess() {
    send(SIGKILL);
    ::waitpid(id_, nullptr, 0);
    ::close(life_);
  }
  void send(int signal) const { ::kill(id_, signal); }
  TermWorker in_record() const { return {{1, 1}, address_, 1}; }
  Source source() const { return {{1, 1}, address_, 0}; }

 private:
  pid_t id_ = -1;
  int life_ = -1;
  std::string address_;
};

TermRecord record_with(const TestPeer& a, const PeerProcess& b) {
  TermRecord record = test::record_of(1, {&a});
  record.workers.push_back(b.in_record());
  return record;
}

TEST(PeerProcess, DISABLED_Child) {
  const char* fetch_from = std::getenv(kFetchFrom);
  if (fetch_from == nullptr) GTEST_SKIP() << "is started by the tests below";
  const TestPeer peer(1);
  if (fetch_from != std::string("nobody"))
    peer.peers->fetch({{0, 1}, fetch_from, 0}, {kTestStart, 0, {}}, Deadline::in(1h));
  const std::string address = peer.peers->address();
  ASSERT_EQ(::write(kTellAt, address.data(), address.size()), static_cast<ssize_t>(address.size()));
  ::close(kTellAt);
  char byte = 0;
  while (::read(kLivesBy, &byte, 1) > 0) {
  }
}

TEST(PeerProcess, KilledIsLostLongBeforeThePatienceEnds) {
  TestPeer a(0, [](PeersOptions& options) { options.link_patience = 1h; });
  const PeerProcess b;
  a.peers->open_links(record_with(a, b), a.identity);
  ASSERT_TRUE(a.wait_opened());
  const auto data = make_ballot(1u << 20);
  for (std::int64_t step = 1; step < 4; ++step) a.peers->send({1, 1}, 1, ballot_frame(step), data);
  a.peers->fetch(b.source(), {kTestStart, 0, {}}, Deadline::in(1h));
  b.send(SIGKILL);
  const TimePoint killed = std::chrono::steady_clock::now();
  ASSERT_TRUE(a.wait([&] { return !a.lost.empty() && a.replies.size() + a.failures.size() == 1; }));
  EXPECT_THAT(a.lost[0].why, HasSubstr("Connection refused"));
  RecordProperty("milliseconds", static_cast<int>(1000 * seconds(a.lost[0].at - killed)));
}

// Its kernel goes on taking connections and, up to a bound, bytes: only keepalive tells.
TEST(PeerProcess, StoppedIsLostByKeepaliveAndWhatWaitsToBeWrittenHoldsUpNothing) {
  TestPeer a(0, [](PeersOptions& options) {
    options.link_patience = 300ms;
    options.keepalive = 1s;
  });
  const PeerProcess b;
  a.peers->open_links(record_with(a, b), a.identity);
  ASSERT_TRUE(a.wait_opened());
  b.send(SIGSTOP);
  auto data = make_ballot(8u << 20);
  const std::weak_ptr<const BallotData> seen = data;
  a.peers->send({1, 1}, 1, ballot_frame(1), data);
  data.reset();
  ASSERT_TRUE(a.wait([&] { return !a.lost.empty(); }));
  EXPECT_THAT(a.lost[0].why, HasSubstr("no link to"));
  a.peers.reset();
  EXPECT_TRUE(seen.expired());
}

// The sockets are full, so some of what is sent is lent.
void wait_until_nothing_leaves(const Peers& peers) {
  const Deadline deadline = Deadline::in(20s);
  std::uint64_t sent = 0;
  const auto stands = [&] {
    const std::uint64_t before = std::exchange(sent, peers.traffic().sent);
    return sent == before && sent > (1u << 20);
  };
  while (!stands() && !deadline.passed()) std::this_thread::sleep_for(50ms);
}

TEST(PeerProcess, StoppedWhileItFetchesDoesNotHoldUpTheEnd) {
  TestPeer a(0);
  RecordShape shape;
  shape.chunks = 1;
  Record large = make_record(kTestStart, 1, shape);
  large.chunks[0].begin = 0;
  large.chunks[0].end = std::int64_t{512} << 20;
  large.chunks[0].bits.assign(std::size_t{8} << 20, 7);
  large.chunks[0].held_blocks.clear();
  large.seal();
  const auto record = std::make_shared<const Record>(std::move(large));
  std::promise<const PeerProcess*> started;
  a.serve = [&, fetching = started.get_future().share()](const Fetch& fetch) {
    fetching.get()->send(SIGSTOP);
    FetchReply reply;
    reply.from = fetch.from;
    reply.records = {record};
    return reply;
  };
  const PeerProcess b(a.peers->address());
  started.set_value(&b);
  wait_until_nothing_leaves(*a.peers);
  const Stopwatch watch;
  a.peers.reset();
  EXPECT_LT(watch.elapsed(), 3.0);
}

TEST(PeerProcess, StoppedDoesNotHoldUpTheEnd) {
  const PeerProcess b;
  auto data = make_ballot(8u << 20);
  const std::weak_ptr<const BallotData> seen = data;
  {
    TestPeer a(0);
    a.peers->open_links(record_with(a, b), a.identity);
    ASSERT_TRUE(a.wait_opened());
    b.send(SIGSTOP);
    a.peers->send({1, 1}, 1, ballot_frame(1), data);
    a.peers->fetch(b.source(), {kTestStart, 0, {}}, Deadline::in(1h));
    data.reset();
    wait_until_nothing_leaves(*a.peers);
    const Stopwatch watch;
    a.peers.reset();
    EXPECT_LT(watch.elapsed(), 3.0);
  }
  b.send(SIGCONT);
}

}  // namespace
}  // namespace ballot

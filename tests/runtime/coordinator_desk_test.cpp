// The desk without sockets: what it says while rows are under way, refused, unclear or lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "core/error.h"
#include "runtime/coordinator/coordinator_desk.h"
#include "tests/runtime/coordinator_messages.h"
#include "tests/support/pulsing_worker.h"

namespace ballot {
namespace {

using test::within;
using testing::HasSubstr;
using namespace std::chrono_literals;

// A store that does what it is told with the next writes and reads.
struct Faults {
  std::mutex mutex;
  std::condition_variable changed;
  bool held = false;        // writes wait
  int unclear_written = 0;  // so many are done, and their answer is lost
  int unclear_lost = 0;     // so many are not done, and nobody knows
  int unreadable = 0;       // so many reads fail
  bool fsync_fails = false;
  bool full = false;  // nothing can be written
  int writes = 0;
};

class FaultyStore final : public RowStore {
 public:
  FaultyStore(std::unique_ptr<RowStore> store, Faults& faults)
      : store_(std::move(store)), faults_(faults) {}
  Row load() override {
    const std::lock_guard lock(faults_.mutex);
    if (faults_.unreadable > 0 && faults_.unreadable-- > 0) throw FileError("the disk is away");
    return store_->load();
  }
  WriteAnswer write(const Row& row) override {
    std::unique_lock lock(faults_.mutex);
    ++faults_.writes;
    faults_.changed.wait(lock, [&] { return !faults_.held; });
    if (faults_.full) return {Written::refused, "the disk is full"};
    if (faults_.fsync_fails) throw FileError("fsync of the row failed");
    if (faults_.unclear_lost > 0 && faults_.unclear_lost-- > 0) return {Written::unclear, "lost"};
    const WriteAnswer answer = store_->write(row);
    if (faults_.unclear_written > 0 && faults_.unclear_written-- > 0)
      return {Written::unclear, "the answer is lost"};
    return answer;
  }
  std::string name() const override { return "a faulty store"; }

 private:
  std::unique_ptr<RowStore> store_;
  Faults& faults_;
};

class Call final : public PulseCall {
 public:
  void answer(const Order& order) override {
    const std::lock_guard lock(mutex);
    orders.push_back(order);
  }
  void take_next() override {
    const std::lock_guard lock(mutex);
    ++taken;
  }
  void end(const CallEnd& why) override {
    const std::lock_guard lock(mutex);
    ended = why;
  }
  std::mutex mutex;
  std::vector<Order> orders;
  int taken = 0;
  std::optional<CallEnd> ended;
};

// Stands still unless it is moved.
class HandClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(Duration(nanoseconds_)); }
  void move(Duration by) { nanoseconds_ += by.count(); }

 private:
  std::atomic<std::int64_t> nanoseconds_ = std::chrono::nanoseconds(1h).count();
};

class Desk : public testing::Test {
 protected:
  void start(const Clock& clock = system_clock()) {
    DeskOptions options;
    options.coordinator.run = "run";
    options.coordinator.membership.heartbeat_timeout = 60s;
    options.coordinator.membership.stream_grace = 50ms;
    options.beat = 5ms;
    desk = std::make_unique<CoordinatorDesk>(
        options, std::make_unique<FaultyStore>(open_memory_store(row), faults), refusals, clock);
  }
  CoordinatorDesk::JoinOutcome join(std::int32_t worker, Duration patience = 10s,
                                    std::uint64_t nonce = 1) {
    Join join;
    join.run = "run";
    join.worker = worker;
    join.nonce = nonce;
    join.address = "127.0.0.1:1";
    join.config = test::run_config_digest();
    join.version = "0";
    std::promise<CoordinatorDesk::JoinOutcome> outcome;
    desk->join(join, "a test", Deadline::in(patience),
               [&](const CoordinatorDesk::JoinOutcome& value) { outcome.set_value(value); });
    return outcome.get_future().get();
  }
  Pulse joining(Identity identity) {
    Pulse pulse;
    pulse.identity = identity;
    pulse.sequence = ++sequence;
    pulse.address = "127.0.0.1:1";
    pulse.has_commit = true;
    return pulse;
  }
  // Pulses until the order holds, and gives it.
  template <class Holds>
  Order pulse_until(const std::shared_ptr<Call>& call, Pulse pulse, const Holds& holds) {
    Order found;
    EXPECT_TRUE(within(10s, [&] {
      pulse.sequence = ++sequence;
      desk->pulse(call, pulse, "a test");
      const std::lock_guard lock(call->mutex);
      if (call->orders.empty() || !holds(call->orders.back())) return false;
      found = call->orders.back();
      return true;
    }));
    return found;
  }
  ServiceStatus status() {
    std::promise<ServiceStatus> answer;
    desk->status([&](const ServiceStatus* value) { answer.set_value(*value); });
    return answer.get_future().get();
  }
  void hold(bool held) {
    const std::lock_guard lock(faults.mutex);
    faults.held = held;
    faults.changed.notify_all();
  }
  Row stored() { return open_memory_store(row)->load(); }

  std::shared_ptr<MemoryRow> row = make_memory_row();
  Faults faults;
  Refusals refusals{system_clock()};
  std::unique_ptr<CoordinatorDesk> desk;
  std::int64_t sequence = 0;
};

TEST_F(Desk, SaysNothingOfARowBeforeItIsDurable) {
  start();
  hold(true);
  const auto early = join(0, 50ms);
  ASSERT_TRUE(std::holds_alternative<CallEnd>(early));
  EXPECT_EQ(std::get<CallEnd>(early).kind, CallEnd::Kind::unavailable);
  hold(false);
  const auto late = join(0);
  ASSERT_TRUE(std::holds_alternative<Identity>(late));
  const Identity me = std::get<Identity>(late);
  EXPECT_EQ(me.incarnation, stored().incarnations.at(0));

  hold(true);
  const int writes = [&] {
    const std::lock_guard lock(faults.mutex);
    return faults.writes;
  }();
  const auto call = std::make_shared<Call>();
  desk->pulse(call, joining(me), "a test");
  ASSERT_TRUE(within(10s, [&] {
    const std::lock_guard lock(faults.mutex);
    return faults.writes > writes;  // of the first term
  }));
  Order order = pulse_until(call, joining(me), [](const Order&) { return true; });
  EXPECT_FALSE(order.record.has_value());
  EXPECT_FALSE(stored().term.has_value());
  hold(false);
  order = pulse_until(call, joining(me), [](const Order& o) { return o.record.has_value(); });
  EXPECT_EQ(order.record->term, 1);
  EXPECT_EQ(stored().term->term, 1);
}

TEST_F(Desk, AnOrderThatBringsATermSaysWhyItBegan) {
  start();
  const Identity me = std::get<Identity>(join(0));
  const auto call = std::make_shared<Call>();
  const Order order =
      pulse_until(call, joining(me), [](const Order& o) { return o.record.has_value(); });
  ASSERT_EQ(status().changes.size(), 1u);
  EXPECT_FALSE(order.reason.empty());
  EXPECT_EQ(order.reason, status().changes[0].reason);
  const std::lock_guard lock(call->mutex);
  for (const Order& other : call->orders)
    EXPECT_EQ(other.reason.empty(), !other.record.has_value());
}

TEST_F(Desk, KeepsTheNewestFiguresOfTheRecord) {
  start();
  EXPECT_FALSE(status().recorded.has_value());
  const Identity me = std::get<Identity>(join(0));
  const auto call = std::make_shared<Call>();
  pulse_until(call, joining(me), [](const Order& o) { return o.record.has_value(); });
  const auto tell = [&](std::int64_t step) {
    Pulse pulse = joining(me);
    pulse.recorded = test::full_recorded();
    pulse.recorded->step = step;
    const auto orders = [&] {
      const std::lock_guard lock(call->mutex);
      return call->orders.size();
    };
    const std::size_t before = orders();
    desk->pulse(call, pulse, "a test");
    ASSERT_TRUE(within(10s, [&] { return orders() > before; }));
  };
  tell(41);
  EXPECT_EQ(status().recorded, test::full_recorded());
  tell(44);
  EXPECT_EQ(status().recorded->step, 44);
  tell(42);  // of one that wrote it before
  EXPECT_EQ(status().recorded->step, 44);
}

TEST_F(Desk, AWriteWhoseAnswerIsLostIsReadBackBeforeAnythingIsSaid) {
  start();
  faults.unclear_written = 1;
  EXPECT_EQ(std::get<Identity>(join(3)).worker, 3);
  // Whether the number had been given is not remembered by a nonce alone: it may be given anew,
  // but never twice.
  const std::int64_t given = stored().incarnations.at(3);
  EXPECT_GE(given, 1);
  EXPECT_EQ(std::get<Identity>(join(3, 10s, 2)).incarnation, given + 1);
}

TEST_F(Desk, AWriteThatWasLostIsMadeAgain) {
  start();
  faults.unclear_lost = 2;
  EXPECT_EQ(std::get<Identity>(join(3)), (Identity{3, 1}));
  EXPECT_EQ(stored().incarnations.at(3), 1);
}

TEST_F(Desk, ARivalsRowIsTakenOverAndNothingOfItIsUndone) {
  start();
  EXPECT_EQ(std::get<Identity>(join(0)), (Identity{0, 1}));
  const auto rival = open_memory_store(row);
  Row theirs = rival->load();
  theirs.incarnations[7] = 5;
  EXPECT_EQ(rival->write(theirs).written, Written::yes);
  EXPECT_EQ(std::get<Identity>(join(7)), (Identity{7, 6}));
  EXPECT_EQ(std::get<Identity>(join(0, 10s, 2)), (Identity{0, 2}));
}

TEST_F(Desk, ARowThatCannotBeReadForAWhileIsTriedAgainAndSaid) {
  start();
  ASSERT_TRUE(within(10s, [&] { return desk->serving(); }));
  {
    const std::lock_guard lock(faults.mutex);
    faults.unclear_lost = 1;
    faults.unreadable = 5;
  }
  std::future<CoordinatorDesk::JoinOutcome> joined =
      std::async(std::launch::async, [&] { return join(2); });
  EXPECT_TRUE(within(10s, [&] {
    return status().coordinator.reason.find("the disk is away") != std::string::npos;
  })) << status().coordinator.reason;
  EXPECT_FALSE(desk->serving());
  EXPECT_EQ(std::get<Identity>(joined.get()), (Identity{2, 1}));
  EXPECT_TRUE(within(10s, [&] { return desk->serving(); }));
}

TEST_F(Desk, AFullDiskIsSaidAndTriedAgainButNotAllTheTime) {
  start();
  faults.full = true;
  const auto refused = join(0, 400ms);
  ASSERT_TRUE(std::holds_alternative<CallEnd>(refused));
  EXPECT_EQ(std::get<CallEnd>(refused).text, "the disk is full");
  EXPECT_THAT(status().coordinator.reason, HasSubstr("the disk is full"));
  {
    const std::lock_guard lock(faults.mutex);
    EXPECT_LE(faults.writes, 5);
    faults.full = false;
  }
  EXPECT_TRUE(std::holds_alternative<Identity>(join(0)));
  EXPECT_THAT(status().coordinator.reason, testing::Not(HasSubstr("full")));
}

// The store outlives the desk that has left it behind, and what it still does harms nobody.
TEST_F(Desk, EndsThoughTheDiskHangs) {
  struct Hung {
    std::shared_ptr<MemoryRow> row = make_memory_row();
    Faults faults;
    ~Hung() {
      const std::lock_guard lock(faults.mutex);
      EXPECT_EQ(faults.writes, 1);
    }
  };
  class HungStore final : public RowStore {
   public:
    explicit HungStore(std::shared_ptr<Hung> hung)
        : hung_(std::move(hung)), store_(open_memory_store(hung_->row), hung_->faults) {}
    Row load() override { return store_.load(); }
    WriteAnswer write(const Row& row) override { return store_.write(row); }
    std::string name() const override { return "a hung store"; }

   private:
    std::shared_ptr<Hung> hung_;
    FaultyStore store_;
  };
  auto hung = std::make_shared<Hung>();
  hung->faults.held = true;
  DeskOptions options;
  options.coordinator.run = "run";
  options.longest_write = 20ms;
  options.beat = 5ms;
  desk = std::make_unique<CoordinatorDesk>(options, std::make_unique<HungStore>(hung), refusals,
                                           system_clock());
  EXPECT_TRUE(std::holds_alternative<CallEnd>(join(0, 50ms)));
  desk.reset();  // not for ever
  const std::weak_ptr<Hung> left = hung;
  {
    const std::lock_guard lock(hung->faults.mutex);
    hung->faults.held = false;
    hung->faults.changed.notify_all();
  }
  hung.reset();
  EXPECT_TRUE(within(10s, [&] { return left.expired(); }));
}

TEST_F(Desk, AnOrderToSealDoesNotWaitForAPulse) {
  start();
  const auto one = std::make_shared<Call>(), other = std::make_shared<Call>();
  EXPECT_EQ(std::get<Identity>(join(0)), (Identity{0, 1}));
  pulse_until(one, joining({0, 1}), [](const Order& o) { return o.record.has_value(); });
  Pulse pulse = joining({0, 1});
  pulse.state = WorkerState::voting;
  pulse.term = 1;
  pulse.has_start = true;
  pulse_until(one, pulse, [](const Order& o) { return !o.record; });
  EXPECT_EQ(std::get<Identity>(join(1)), (Identity{1, 1}));
  Pulse late = joining({1, 1});
  late.term = 1;
  late.ready = true;
  desk->pulse(other, late, "a test");
  // The first one has said all it has to say.
  EXPECT_TRUE(within(10s, [&] {
    const std::lock_guard lock(one->mutex);
    return one->orders.back().seal_at.has_value();
  }));
  pulse.state = WorkerState::sealed;
  pulse.sequence = ++sequence;
  desk->pulse(one, pulse, "a test");
  for (const auto& call : {one, other})
    EXPECT_TRUE(within(10s, [&] {
      const std::lock_guard lock(call->mutex);
      return call->orders.back().record && call->orders.back().record->term == 2;
    }));
}

// kill -9: the stream ends, a peer misses it, and nobody waits for its silence to last 60 s.
TEST_F(Desk, WhoseStreamBreaksAndIsSuspectedIsNotWaitedFor) {
  Row running;
  running.term.emplace();
  running.term->term = 1;
  running.term->config = test::run_config_digest();
  for (const std::int32_t w : {0, 1}) {
    running.term->workers.push_back({{w, 1}, "127.0.0.1:1", w});
    running.incarnations[w] = 1;
  }
  ASSERT_EQ(open_memory_store(row)->write(running).written, Written::yes);
  start();
  const auto one = std::make_shared<Call>(), other = std::make_shared<Call>();
  Pulse pulses[] = {joining({0, 1}), joining({1, 1})};
  for (Pulse& pulse : pulses) {
    pulse.state = WorkerState::voting;
    pulse.term = 1;
    pulse.has_start = true;
  }
  pulse_until(one, pulses[0], [](const Order&) { return true; });
  pulse_until(other, pulses[1], [](const Order&) { return true; });
  desk->closed(other.get());
  pulses[0].state = WorkerState::sealed;
  pulses[0].suspects = {{1, "connection reset"}};
  const Order order =
      pulse_until(one, pulses[0], [](const Order& o) { return o.record.has_value(); });
  EXPECT_EQ(order.record->term, 2);
  EXPECT_EQ(order.record->workers.size(), 1u);
  EXPECT_THAT(status().changes.back().reason, HasSubstr("worker 0 suspects worker 1"));
}

TEST_F(Desk, AFailedFsyncEndsItAndTellsEveryCall) {
  start();
  EXPECT_TRUE(std::holds_alternative<Identity>(join(0)));
  const auto call = std::make_shared<Call>();
  pulse_until(call, joining({0, 1}), [](const Order& o) { return o.record.has_value(); });
  {
    const std::lock_guard lock(faults.mutex);
    faults.fsync_fails = true;
  }
  const auto refused = join(1);
  ASSERT_TRUE(std::holds_alternative<CallEnd>(refused));
  EXPECT_THAT(std::get<CallEnd>(refused).text, HasSubstr("fsync of the row failed"));
  EXPECT_THROW(desk->wait(Deadline::in(10s)), FileError);
  {
    const std::lock_guard lock(call->mutex);
    ASSERT_TRUE(call->ended.has_value());
    EXPECT_THAT(call->ended->text, HasSubstr("fsync of the row failed"));
  }
  EXPECT_TRUE(std::holds_alternative<CallEnd>(join(2)));  // after the end
}

TEST_F(Desk, AnIncarnationThatNobodyGaveIsSentToJoin) {
  start();
  EXPECT_EQ(std::get<Identity>(join(0)), (Identity{0, 1}));
  const auto call = std::make_shared<Call>();
  const Order order = pulse_until(call, joining({9, 4}), [](const Order& o) { return o.rejoin; });
  EXPECT_EQ(order.incarnation, 4);
  for (const WorkerStatus& worker : status().coordinator.workers)
    EXPECT_NE(worker.identity.worker, 9);
  EXPECT_GE(status().refusals["fenced"], 1);
}

TEST_F(Desk, AStreamSpeaksForOneWorkerOnly) {
  start();
  EXPECT_EQ(std::get<Identity>(join(0)), (Identity{0, 1}));
  EXPECT_EQ(std::get<Identity>(join(1)), (Identity{1, 1}));
  const auto call = std::make_shared<Call>(), again = std::make_shared<Call>();
  pulse_until(call, joining({0, 1}), [](const Order&) { return true; });
  desk->pulse(call, joining({1, 1}), "a test");
  ASSERT_TRUE(within(10s, [&] {
    const std::lock_guard lock(call->mutex);
    return call->ended.has_value();
  }));
  EXPECT_EQ(call->ended->kind, CallEnd::Kind::malformed);
  EXPECT_THAT(call->ended->text, HasSubstr("worker 1, incarnation 1 on the stream of worker 0"));
  EXPECT_EQ(status().refusals["malformed"], 1);
}

TEST_F(Desk, AWorkerThatDialsAgainReplacesItsOldStream) {
  start();
  EXPECT_EQ(std::get<Identity>(join(0)), (Identity{0, 1}));
  const auto old = std::make_shared<Call>(), fresh = std::make_shared<Call>();
  pulse_until(old, joining({0, 1}), [](const Order&) { return true; });
  pulse_until(fresh, joining({0, 1}), [](const Order&) { return true; });
  const std::lock_guard lock(old->mutex);
  ASSERT_TRUE(old->ended.has_value());
  EXPECT_EQ(old->ended->kind, CallEnd::Kind::replaced);
}

TEST_F(Desk, AnotherRunOrConfigurationIsRefusedByName) {
  start();
  EXPECT_EQ(std::get<Identity>(join(0)), (Identity{0, 1}));
  Join join;
  join.worker = 1;
  join.run = "another";
  join.config = test::run_config_digest();
  const auto ask = [&] {
    std::promise<CoordinatorDesk::JoinOutcome> outcome;
    desk->join(join, "a test", Deadline::in(10s),
               [&](const CoordinatorDesk::JoinOutcome& value) { outcome.set_value(value); });
    return std::get<CallEnd>(outcome.get_future().get()).text;
  };
  EXPECT_THAT(ask(), HasSubstr("run \"another\", this coordinator serves \"run\""));
  join.run = "run";
  join.config = {1, 2};
  EXPECT_THAT(ask(), HasSubstr("00000000000000010000000000000002"));
  EXPECT_EQ(status().refusals["join"], 2);
}

TEST_F(Desk, GivesNoMoreNumbersThanThereAre) {
  Row full;
  for (std::int32_t worker = 0; worker < kMostWorkers; ++worker) full.incarnations[worker] = 1;
  ASSERT_EQ(open_memory_store(row)->write(full).written, Written::yes);
  start();
  const auto any = join(-1);
  ASSERT_TRUE(std::holds_alternative<CallEnd>(any));
  EXPECT_THAT(std::get<CallEnd>(any).text, HasSubstr("all 4096 worker numbers"));
  EXPECT_EQ(std::get<Identity>(join(17)), (Identity{17, 2}));
}

TEST_F(Desk, AWorkerOfALaterTermThanTheRowsIsNamedInTheStatus) {
  start();
  const auto call = std::make_shared<Call>();
  Pulse pulse = joining({2, 3});
  pulse.term = 5;
  pulse.state = WorkerState::voting;
  EXPECT_TRUE(within(10s, [&] {
    pulse.sequence = ++sequence;
    if (sequence % 8 == 1) desk->pulse(call, pulse, "a test");  // each has the row read anew
    return status().coordinator.reason.find("the store is older than the run") != std::string::npos;
  })) << status().coordinator.reason;
  const std::lock_guard lock(call->mutex);
  EXPECT_TRUE(call->orders.empty());
}

// Time is the clock's that it is given: nothing here takes the minutes it speaks of.
TEST_F(Desk, WhoIsSilentForATimeoutOfItsClockIsSentAway) {
  HandClock clock;
  start(clock);
  const auto one = std::make_shared<Call>(), other = std::make_shared<Call>();
  EXPECT_EQ(std::get<Identity>(join(0)), (Identity{0, 1}));
  pulse_until(one, joining({0, 1}), [](const Order& o) { return o.record.has_value(); });
  Pulse pulse = joining({0, 1});
  pulse.state = WorkerState::voting;
  pulse.term = 1;
  pulse.has_start = true;
  // A second one joins while the first is told to seal: both are in term 2.
  EXPECT_EQ(std::get<Identity>(join(1)), (Identity{1, 1}));
  Pulse late = joining({1, 1});
  late.term = 1;
  late.ready = true;
  desk->pulse(other, late, "a test");
  pulse_until(one, pulse, [](const Order& o) { return o.seal_at.has_value(); });
  pulse.state = WorkerState::sealed;
  pulse_until(one, pulse, [](const Order& o) { return o.record && o.record->term == 2; });
  pulse.state = WorkerState::voting;
  pulse.term = 2;
  const TimePoint last = clock.now();
  pulse_until(one, pulse, [&](const Order& o) {
    clock.move(500ms);
    return o.seal_at == 0;
  });
  EXPECT_GE(clock.now() - last, 60s);
  pulse.state = WorkerState::sealed;
  const Order order =
      pulse_until(one, pulse, [](const Order& o) { return o.record && o.record->term == 3; });
  EXPECT_EQ(order.record->workers.size(), 1u);
  EXPECT_THAT(status().changes.back().reason, HasSubstr("worker 1"));
}

TEST_F(Desk, ARowThatCannotBeReadIsNoEmptyOne) {
  Faults broken;
  broken.unreadable = 1;
  Refusals counts{system_clock()};
  EXPECT_THROW(
      CoordinatorDesk(DeskOptions{}, std::make_unique<FaultyStore>(open_memory_store(row), broken),
                      counts, system_clock()),
      FileError);
}

}  // namespace
}  // namespace ballot

// Two desks with one row, of which one leads: what the other one says, and how it takes over.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "core/error.h"
#include "runtime/coordinator/coordinator_desk.h"
#include "tests/support/pulsing_worker.h"

namespace ballot {
namespace {

using test::within;
using testing::HasSubstr;
using namespace std::chrono_literals;

class Told final : public Leadership {
 public:
  explicit Told(bool leads) : leads_(leads) {}
  bool leads() const override { return leads_; }
  std::string standing() const override { return "stands by: somebody else leads"; }
  void tell(bool leads) { leads_ = leads; }

 private:
  std::atomic<bool> leads_;
};

class Call final : public PulseCall {
 public:
  void answer(const Order& order) override {
    const std::lock_guard lock(mutex_);
    order_ = order;
  }
  void take_next() override {}
  void end(const CallEnd& why) override {
    const std::lock_guard lock(mutex_);
    end_ = why;
  }
  std::optional<Order> order() const {
    const std::lock_guard lock(mutex_);
    return order_;
  }
  std::string ended() const {
    const std::lock_guard lock(mutex_);
    return end_ ? end_->text : "";
  }

 private:
  mutable std::mutex mutex_;
  std::optional<Order> order_;
  std::optional<CallEnd> end_;
};

// Counts what it is asked for, and holds writes back where it is told to.
class WatchedStore final : public RowStore {
 public:
  struct Seen {
    std::atomic<int> asked = 0;  // loads and writes
    std::atomic<int> writes = 0;
    std::atomic<bool> held = false;
  };
  WatchedStore(std::unique_ptr<RowStore> store, Seen& seen)
      : store_(std::move(store)), seen_(seen) {}
  Row load() override {
    ++seen_.asked;
    return store_->load();
  }
  WriteAnswer write(const Row& row) override {
    ++seen_.asked;
    ++seen_.writes;
    EXPECT_TRUE(within(20s, [this] { return !seen_.held; }));
    return store_->write(row);
  }
  std::string name() const override { return "a watched row"; }

 private:
  std::unique_ptr<RowStore> store_;
  Seen& seen_;
};

struct Coordinator {
  Coordinator(const std::shared_ptr<MemoryRow>& row, bool leads)
      : leadership(std::make_shared<Told>(leads)) {
    DeskOptions options;
    options.coordinator.run = "run";
    options.coordinator.membership.heartbeat_timeout = 60s;
    options.beat = 5ms;
    options.leadership = leadership;
    desk = std::make_unique<CoordinatorDesk>(
        options, std::make_unique<WatchedStore>(open_memory_store(row), seen), refusals,
        system_clock());
  }
  CoordinatorDesk::JoinOutcome join(std::int32_t worker, Digest config, std::uint64_t nonce = 1) {
    Join join;
    join.run = "run";
    join.worker = worker;
    join.nonce = nonce;
    join.address = "127.0.0.1:1";
    join.config = config;
    join.version = "0";
    std::promise<CoordinatorDesk::JoinOutcome> outcome;
    desk->join(join, "a test", Deadline::in(10s),
               [&](const CoordinatorDesk::JoinOutcome& value) { outcome.set_value(value); });
    return outcome.get_future().get();
  }
  std::shared_ptr<Call> pulse(Identity identity, std::int64_t term = 0) {
    const auto call = std::make_shared<Call>();
    Pulse pulse;
    pulse.identity = identity;
    pulse.sequence = ++sequence;
    pulse.address = "127.0.0.1:1";
    pulse.has_commit = true;
    pulse.term = term;
    if (term > 0) pulse.state = WorkerState::voting;
    desk->pulse(call, pulse, "a test");
    return call;
  }
  // The term that this worker, which joins, is told of.
  std::int64_t begin_term(Identity identity) {
    std::int64_t term = 0;
    EXPECT_TRUE(within(10s, [&] {
      const auto call = pulse(identity);
      within(50ms, [&] { return call->order().has_value() || !call->ended().empty(); });
      const std::optional<Order> order = call->order();
      if (order && order->record) term = order->record->term;
      return term > 0;
    }));
    return term;
  }
  ServiceStatus status() {
    std::promise<ServiceStatus> answer;
    desk->status([&](const ServiceStatus* value) { answer.set_value(*value); });
    return answer.get_future().get();
  }

  Refusals refusals{system_clock()};
  WatchedStore::Seen seen;
  std::shared_ptr<Told> leadership;
  std::unique_ptr<CoordinatorDesk> desk;
  std::int64_t sequence = 0;
};

std::string refusal(const CoordinatorDesk::JoinOutcome& outcome) {
  const auto* end = std::get_if<CallEnd>(&outcome);
  return end == nullptr ? "accepted" : end->text;
}

const Digest kConfig{1, 2}, kOther{3, 4};

TEST(Leadership, WhoeverDoesNotLeadAnswersNobodyAndSaysWhoDoes) {
  Coordinator standby(make_memory_row(), false);
  const int asked = standby.seen.asked;
  EXPECT_THAT(refusal(standby.join(0, kConfig)), HasSubstr("somebody else leads"));
  const auto call = standby.pulse({0, 1});
  EXPECT_TRUE(within(10s, [&] { return !call->ended().empty(); }));
  EXPECT_THAT(call->ended(), HasSubstr("somebody else leads"));
  EXPECT_FALSE(call->order().has_value());
  const ServiceStatus status = standby.status();
  EXPECT_FALSE(status.coordinator.leading);
  EXPECT_THAT(status.coordinator.reason, HasSubstr("somebody else leads"));
  EXPECT_FALSE(standby.desk->serving());
  EXPECT_EQ(standby.seen.asked, asked) << "it needs no row";
}

TEST(Leadership, WhoeverTakesOverGoesOnFromTheRowWithTheSameTerm) {
  const auto row = make_memory_row();
  Coordinator one(row, true), other(row, false);
  const Identity worker = std::get<Identity>(one.join(0, kConfig));
  const std::int64_t term = one.begin_term(worker);
  const auto call = one.pulse(worker, term);
  EXPECT_TRUE(within(10s, [&] { return call->order().has_value(); }));

  one.leadership->tell(false);
  EXPECT_TRUE(within(10s, [&] { return !call->ended().empty(); }));
  EXPECT_THAT(call->ended(), HasSubstr("somebody else leads"));
  EXPECT_FALSE(one.desk->serving());

  other.leadership->tell(true);
  EXPECT_TRUE(within(10s, [&] { return other.desk->serving(); }));
  const auto again = other.pulse(worker, term);
  EXPECT_TRUE(within(10s, [&] { return again->order().has_value(); }));
  EXPECT_FALSE(again->order()->rejoin);
  EXPECT_EQ(other.status().coordinator.term, term);
  // The configuration is the run's, though the first worker joined somewhere else.
  EXPECT_THAT(refusal(other.join(1, kOther, 2)), HasSubstr(to_string(kConfig)));
  EXPECT_EQ(refusal(other.join(1, kConfig, 3)), "accepted");
}

// Its first worker was another one's, and the other one's term is what counts.
TEST(Leadership, AnEarlierLeaderTakesUpWhatTheLaterOneBegan) {
  const auto row = make_memory_row();
  Coordinator one(row, true), other(row, false);
  EXPECT_EQ(refusal(one.join(0, kOther)), "accepted");  // but no term yet
  one.leadership->tell(false);
  other.leadership->tell(true);
  EXPECT_TRUE(within(10s, [&] { return other.desk->serving(); }));
  const Identity worker = std::get<Identity>(other.join(1, kConfig));
  EXPECT_EQ(other.begin_term(worker), 1);
  other.leadership->tell(false);
  one.leadership->tell(true);
  EXPECT_TRUE(within(10s, [&] { return one.desk->serving(); }));
  EXPECT_THAT(refusal(one.join(2, kOther, 2)), HasSubstr(to_string(kConfig)));
  EXPECT_EQ(refusal(one.join(2, kConfig, 3)), "accepted");
}

TEST(Leadership, LostWhileARowIsBeingWrittenItSaysNothingOfIt) {
  const auto row = make_memory_row();
  Coordinator one(row, true);
  EXPECT_TRUE(within(10s, [&] { return one.desk->serving(); }));
  one.seen.held = true;
  const int before = one.seen.writes;
  auto outcome = std::async(std::launch::async, [&] { return one.join(0, kConfig); });
  EXPECT_TRUE(within(10s, [&] { return one.seen.writes > before; }));
  one.leadership->tell(false);
  EXPECT_THAT(refusal(outcome.get()), HasSubstr("somebody else leads"));
  one.seen.held = false;
  EXPECT_TRUE(within(10s, [&] { return open_memory_store(row)->load().revision == 1; }));
  // Leading again it reads, and gives the next incarnation.
  one.leadership->tell(true);
  EXPECT_TRUE(within(10s, [&] { return one.desk->serving(); }));
  const auto given = one.join(0, kConfig, 2);
  ASSERT_EQ(refusal(given), "accepted");
  EXPECT_EQ(std::get<Identity>(given).incarnation, 2);
}

}  // namespace
}  // namespace ballot

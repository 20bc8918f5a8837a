#include "runtime/protocol/coordinator_core.h"

#include <fmt/format.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace ballot {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

struct Coordinator : testing::Test {
  Coordinator() {
    options.run = "run";
    options.config = {1, 2};
    options.membership.start_workers = 2;
    options.membership.min_workers = 2;
    core.emplace(options, Row{}, now);
    core->lead(true, now);
    core->loaded(now, stored);
  }
  // One beat with a store that works; whether a row was written.
  bool beat() {
    const auto row = core->beat(now);
    if (!row) return false;
    EXPECT_EQ(row->revision, stored.revision);
    stored = *row;
    ++stored.revision;
    core->wrote(now);
    return true;
  }
  Join ask(std::int32_t worker, std::uint64_t nonce) {
    Join join;
    join.run = "run";
    join.worker = worker;
    join.nonce = nonce;
    join.config = {1, 2};
    return join;
  }
  Identity join(std::int32_t worker, std::uint64_t nonce) {
    EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, ask(worker, nonce))));
    beat();
    const JoinAnswer answer = core->join(now, ask(worker, nonce));
    return std::get<Identity>(answer);
  }
  Pulse pulse(const Identity& identity, WorkerState state = WorkerState::joining,
              std::int64_t term = 0) {
    Pulse p;
    p.identity = identity;
    p.sequence = ++sequence;
    p.state = state;
    p.term = term;
    p.told = stored.commit;
    p.has_commit = true;
    p.has_start = state != WorkerState::joining;
    p.held = p.durable = {0, {5, 5}};
    return p;
  }
  void first_term() {
    for (const std::int32_t w : {0, 1}) core->pulse(now, pulse(join(w, 10 + w)));
    ASSERT_TRUE(beat());
    ASSERT_TRUE(stored.term);
  }

  TimePoint now{seconds(100)};
  CoordinatorOptions options;
  Row stored;
  std::optional<CoordinatorCore> core;
  std::int64_t sequence = 0;
};

TEST_F(Coordinator, AnIncarnationIsGivenOnlyWhenItIsDurable) {
  EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, ask(3, 7))));
  const auto row = core->beat(now);
  ASSERT_TRUE(row);
  EXPECT_EQ(row->incarnations.at(3), 1);
  EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, ask(3, 7))));
  core->wrote(now);
  EXPECT_EQ(std::get<Identity>(core->join(now, ask(3, 7))), (Identity{3, 1}));
  EXPECT_EQ(std::get<Identity>(core->join(now, ask(3, 7))), (Identity{3, 1}));  // asked again
}

// A late repetition of an older try must not fence the one that goes on.
TEST_F(Coordinator, ARepeatedJoinSpendsNoIncarnationHoweverLateItComes) {
  EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, ask(3, 7))));
  ASSERT_TRUE(core->beat(now));  // its row is under way
  for (const std::uint64_t nonce : {8, 7, 8, 7})
    EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, ask(3, nonce))));
  EXPECT_FALSE(core->beat(now));  // nothing else is written meanwhile
  stored.incarnations[3] = 1;
  ++stored.revision;
  core->wrote(now);
  ASSERT_TRUE(beat());
  EXPECT_FALSE(beat());
  EXPECT_EQ(std::get<Identity>(core->join(now, ask(3, 8))), (Identity{3, 2}));
  EXPECT_EQ(std::get<Identity>(core->join(now, ask(3, 7))), (Identity{3, 1}));
  EXPECT_FALSE(beat());
  EXPECT_EQ(stored.incarnations.at(3), 2);
}

TEST_F(Coordinator, AnUnclearJoinIsDecidedAnew) {
  EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, ask(3, 7))));
  ASSERT_TRUE(core->beat(now));
  core->unclear();
  stored.incarnations[3] = 1;  // it had been written
  ++stored.revision;
  core->loaded(now, stored);
  ASSERT_TRUE(beat());
  EXPECT_EQ(std::get<Identity>(core->join(now, ask(3, 7))), (Identity{3, 2}));
}

TEST_F(Coordinator, AnIncarnationThatNobodyGaveIsToldToJoinOnceTheRowWasReadAnew) {
  first_term();
  EXPECT_FALSE(core->pulse(now, pulse({9, 4})));
  EXPECT_TRUE(core->wants_read());
  EXPECT_FALSE(core->must_read());  // others are answered meanwhile
  EXPECT_TRUE(core->pulse(now, pulse({0, 1}, WorkerState::voting, 1)));
  core->loaded(now, stored);
  const auto order = core->pulse(now, pulse({9, 4}));
  ASSERT_TRUE(order);
  EXPECT_TRUE(order->rejoin);
  for (const WorkerStatus& worker : core->status(now).workers) EXPECT_NE(worker.identity.worker, 9);
}

TEST_F(Coordinator, OneThatAnotherCoordinatorGaveIsLetInOnceItIsRead) {
  first_term();
  EXPECT_FALSE(core->pulse(now, pulse({9, 4})));
  stored.incarnations[9] = 4;
  ++stored.revision;
  core->loaded(now, stored);
  const auto order = core->pulse(now, pulse({9, 4}));
  ASSERT_TRUE(order);
  EXPECT_FALSE(order->rejoin);
}

// What one worker says of a later term stops changes of term only for as long as it is there.
TEST_F(Coordinator, ATermThatNeverWasIsBelievedForAWhile) {
  first_term();
  Pulse bogus = pulse({0, 1}, WorkerState::voting, 9);
  EXPECT_FALSE(core->pulse(now, bogus));
  core->loaded(now, stored);
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse({w, 1}, WorkerState::voting, 1));
  core->pulse(now, bogus);
  core->loaded(now, stored);
  beat();
  EXPECT_THAT(core->status(now).reason, HasSubstr("worker 0 knows of term 9"));
  const auto patience = options.membership.heartbeat_timeout + options.membership.cold_wait;
  for (Duration waited{}; waited < patience + seconds(2); waited += seconds(1)) {
    now += seconds(1);
    core->pulse(now, pulse({1, 1}, WorkerState::voting, 1));
    beat();
  }
  EXPECT_THAT(core->status(now).reason, HasSubstr("worker 0 fell silent"));
}

TEST_F(Coordinator, AnExpelledWorkersTermIsNotBelieved) {
  first_term();
  core->pulse(now, pulse({0, 1}, WorkerState::voting, 1));
  core->pulse(now, pulse({0, 1}, WorkerState::voting, 9));
  core->loaded(now, stored);
  core->pulse(now, pulse({1, 1}, WorkerState::voting, 1));
  core->expel(0, "it makes up terms");
  beat();
  EXPECT_EQ(core->status(now).decision, "seal");
}

// What a worker is told between its pulses.
TEST_F(Coordinator, AnOrderToSealIsUrgentAndAMovedCommitIsNot) {
  first_term();
  Order before = *core->pulse(now, pulse({0, 1}, WorkerState::voting, 1));
  core->pulse(now, pulse({1, 1}, WorkerState::voting, 1));
  beat();
  const std::int64_t news = core->news();
  Pulse suspicious = pulse({1, 1}, WorkerState::sealed, 1);
  suspicious.suspects = {{0, "no verdict of step 1"}};
  core->pulse(now, suspicious);
  beat();
  EXPECT_GT(core->news(), news);
  const auto order = core->order_again(now, {0, 1});
  ASSERT_TRUE(order);
  EXPECT_EQ(order->seal_at, 0);
  EXPECT_TRUE(is_urgent(*order, before, WorkerState::voting));
  EXPECT_FALSE(is_urgent(*order, *order, WorkerState::voting));
  before = *order;
  before.commit.step += 1;
  EXPECT_FALSE(is_urgent(*order, before, WorkerState::voting));
  EXPECT_TRUE(is_urgent(*order, before, WorkerState::sealed));
  EXPECT_FALSE(core->order_again(now, {0, 2}));
}

TEST_F(Coordinator, ACheckpointIsPublishedByOneAndThenToldToAll) {
  first_term();
  const Position third{3, {5, 8}};
  const auto voting = [&](std::int32_t w) {
    Pulse p = pulse({w, 1}, WorkerState::voting, 1);
    p.held = p.durable = third;
    p.checkpoints = {{third, {1, 1}, {fmt::format("share-{}", w)}, w, 2}};
    return p;
  };
  for (const std::int32_t w : {0, 1}) EXPECT_FALSE(core->pulse(now, voting(w))->publish);
  EXPECT_TRUE(beat());
  EXPECT_EQ(stored.commit, third);
  EXPECT_FALSE(core->pulse(now, voting(1))->publish);  // proves it
  const auto order = core->pulse(now, voting(0));
  ASSERT_TRUE(order->publish);
  EXPECT_EQ(order->publish->files.size(), 2u);
  EXPECT_TRUE(order->checkpoints.empty());
  Pulse done = voting(0);
  done.published = third;
  EXPECT_FALSE(core->pulse(now, done)->publish);
  EXPECT_TRUE(beat());
  ASSERT_EQ(stored.checkpoints.size(), 1u);
  EXPECT_EQ(stored.checkpoints[0].position, third);
  EXPECT_EQ(core->pulse(now, voting(1))->checkpoints, (std::vector<Position>{third}));
  EXPECT_FALSE(beat());
}

TEST_F(Coordinator, AWorkerWithWrongParametersIsExpelledAndToldToRebuildThem) {
  options.membership.start_workers = 3;
  core.emplace(options, stored, now);
  core->lead(true, now);
  core->loaded(now, stored);
  for (const std::int32_t w : {0, 1, 2}) core->pulse(now, pulse(join(w, 10 + w)));
  ASSERT_TRUE(beat());
  const auto voting = [&](const Identity& identity, std::uint64_t digest) {
    Pulse p = pulse(identity, WorkerState::voting, 1);
    p.parameters = {{{4, {5, 6}}, {0, digest}}};
    return p;
  };
  for (const std::int32_t w : {0, 1, 2}) core->pulse(now, voting({w, 1}, w == 1 ? 9 : 8));
  beat();
  EXPECT_THAT(core->status(now).reason,
              HasSubstr("worker 1 is expelled: its parameters after step 4 are not those of "
                        "workers 0, 2"));
  EXPECT_TRUE(core->order_again(now, {1, 1})->rewind);
  EXPECT_FALSE(core->order_again(now, {0, 1})->rewind);
  const Identity again = join(1, 77);
  EXPECT_FALSE(core->pulse(now, pulse(again))->rewind);
}

TEST_F(Coordinator, AVoterThatMostOthersAccuseGoesAndOnlyAnotherProcessOfItComesBack) {
  options.membership.start_workers = 4;
  core.emplace(options, stored, now);
  core->lead(true, now);
  core->loaded(now, stored);
  for (const std::int32_t w : {0, 1, 2, 3}) core->pulse(now, pulse(join(w, 10 + w)));
  ASSERT_TRUE(beat());
  const auto accuse = [&](std::int32_t worker, std::int32_t whom) {
    Pulse p = pulse({worker, 1}, WorkerState::voting, 1);
    p.judgement = {0.6, {{whom, "it is at chance"}, {whom, "it is at chance"}}};
    core->pulse(now, p);
    beat();
  };
  core->pulse(now, pulse({3, 1}, WorkerState::voting, 1));
  accuse(1, 0);  // the bad one itself says what it likes
  accuse(0, 1);
  accuse(2, 1);
  EXPECT_EQ(core->status(now).decision, "steady");  // two of four
  accuse(3, 1);
  EXPECT_THAT(core->status(now).reason, HasSubstr("worker 1 is expelled: it is at chance"));
  EXPECT_EQ(core->status(now).workers[0].agreement, 0.6);
  EXPECT_EQ(stored.sent_away.at(1), (SentAwayWorker{1, "it is at chance"}));
  Join again = ask(1, 77);
  again.again = true;
  const JoinAnswer answer = core->join(now, again);
  ASSERT_TRUE(std::holds_alternative<JoinRefused>(answer));
  EXPECT_THAT(std::get<JoinRefused>(answer).reason,
              HasSubstr("worker 1 was sent away: it is at chance"));
  EXPECT_TRUE(std::get<JoinRefused>(answer).sent_away);
  EXPECT_EQ(join(1, 78).incarnation, 2);
  EXPECT_TRUE(stored.sent_away.empty());
  accuse(2, 1);  // of the one before: not of this one
  again.nonce = 79;
  EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, again)));
}

// What it was is in the row: no restart lets a bad voter in again.
TEST_F(Coordinator, WhoWasSentAwayStaysAwayWhenTheCoordinatorIsStartedAgain) {
  first_term();
  const Identity third = join(2, 12);
  EXPECT_EQ(core->expel(2, "its disk fails"), "");
  EXPECT_TRUE(beat());
  core.emplace(options, Row{}, now);
  core->lead(true, now);
  core->loaded(now, stored);
  const auto told = core->pulse(now, pulse(third));
  ASSERT_TRUE(told);
  EXPECT_TRUE(told->rejoin);
  Join again = ask(2, 13);
  again.again = true;
  const JoinAnswer answer = core->join(now, again);
  ASSERT_TRUE(std::holds_alternative<JoinRefused>(answer));
  EXPECT_THAT(std::get<JoinRefused>(answer).reason, HasSubstr("its disk fails"));
  // It is in no term meanwhile, whatever it says.
  Pulse ready = pulse({2, 1});
  ready.ready = true;
  ready.term = 1;
  core->pulse(now, ready);
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse({w, 1}, WorkerState::voting, 1));
  beat();
  EXPECT_EQ(core->status(now).decision, "steady");
  EXPECT_EQ(join(2, 14).incarnation, 2);  // its process was started anew
  EXPECT_FALSE(core->pulse(now, pulse({2, 2}))->rejoin);
}

TEST_F(Coordinator, AnExpulsionIsWrittenAgainWhereItsRowWasRefused) {
  first_term();
  core->expel(1, "a test");
  const auto row = core->beat(now);
  ASSERT_TRUE(row);
  EXPECT_TRUE(row->sent_away.contains(1));
  ++stored.revision;  // another coordinator wrote
  core->refused(now, stored);
  EXPECT_TRUE(beat());
  EXPECT_TRUE(stored.sent_away.contains(1));
  core->beat(now);
  EXPECT_EQ(core->expel(7, "a test"), "there has never been a worker 7 in this run");
}

// Without it nobody would vote at all.
TEST_F(Coordinator, AgreementSendsNobodyAwayBelowMinWorkers) {
  options.membership.start_workers = options.membership.min_workers = 3;
  core.emplace(options, stored, now);
  core->lead(true, now);
  core->loaded(now, stored);
  for (const std::int32_t w : {0, 1, 2}) core->pulse(now, pulse(join(w, 10 + w)));
  ASSERT_TRUE(beat());
  const auto accuse = [&](std::int32_t worker) {
    Pulse p = pulse({worker, 1}, WorkerState::voting, 1);
    p.judgement = {0.6, {{1, "it is at chance"}}};
    core->pulse(now, p);
  };
  accuse(0);
  accuse(2);
  core->pulse(now, pulse({1, 1}, WorkerState::voting, 1));
  EXPECT_FALSE(beat());
  EXPECT_EQ(core->status(now).decision, "steady");
  EXPECT_EQ(core->status(now).reason,
            "worker 1 is not sent away, although it is at chance: 2 workers would be left, the "
            "least is 3");
  // One more is ready: there are enough without it.
  const Identity fourth = join(3, 13);
  Pulse ready = pulse(fourth);
  ready.ready = true;
  ready.term = 1;
  core->pulse(now, ready);
  EXPECT_TRUE(beat());
  EXPECT_TRUE(stored.sent_away.contains(1));
  EXPECT_THAT(core->status(now).reason, HasSubstr("worker 1 is expelled: it is at chance"));
}

// An operator is obeyed, and told what the run waits for.
TEST_F(Coordinator, AnOperatorMaySendAwayWhomTheRunNeeds) {
  first_term();
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse({w, 1}, WorkerState::voting, 1));
  core->expel(1, "its disk fails");
  EXPECT_TRUE(beat());
  EXPECT_THAT(core->status(now).reason, HasSubstr("worker 1 is expelled: its disk fails"));
  for (const std::int32_t w : {0, 1}) {
    const auto told = core->pulse(now, pulse({w, 1}, WorkerState::sealed, 1));
    EXPECT_EQ(told->rejoin, w == 1);  // and learns why when it asks to join
  }
  beat();
  EXPECT_EQ(core->status(now).decision, "wait");
  EXPECT_THAT(
      core->status(now).reason,
      HasSubstr("1 of 2 workers that have step 0 are here; worker 1 was sent away: its disk "
                "fails"));
}

TEST_F(Coordinator, OrdersTellTheRunsLengthOnceItIsDurable) {
  Join first = ask(0, 1);
  first.steps = 100;
  core->join(now, first);
  const auto row = core->beat(now);
  ASSERT_TRUE(row);
  EXPECT_EQ(row->steps, 100);
  stored = *row;
  ++stored.revision;
  core->wrote(now);
  EXPECT_EQ(core->pulse(now, pulse({0, 1}))->steps, 100);
}

// A length that no row took is not remembered: another row may have another one.
TEST_F(Coordinator, ALengthIsForgottenWithTheRowThatItWasJudgedBy) {
  const auto asks = [&](std::uint64_t nonce, std::int64_t steps) {
    Join join = ask(0, nonce);
    join.steps = steps;
    return core->join(now, join);
  };
  Row other = stored;
  other.steps = 50;
  other.revision = 9;
  asks(1, 100);
  ASSERT_TRUE(core->beat(now));
  core->refused(now, other);
  stored = other;
  EXPECT_FALSE(beat());  // nothing to write before it asks again
  EXPECT_EQ(core->status(now).steps, 50);
  asks(1, 100);
  core->lead(false, now);
  core->lead(true, now);
  core->loaded(now, stored);
  EXPECT_FALSE(beat());
  now += seconds(11);
  asks(2, 100);
  EXPECT_TRUE(beat());
  EXPECT_EQ(stored.steps, 100);
  EXPECT_EQ(stored.incarnations.at(0), 1);
}

// No majority: both rebuild, and the run goes on by itself.
TEST_F(Coordinator, TwoWithDifferentParametersAreBothToldToReplay) {
  first_term();
  const auto voting = [&](const Identity& identity, std::uint64_t digest) {
    Pulse p = pulse(identity, WorkerState::voting, 1);
    p.parameters = {{{4, {5, 6}}, {0, digest}}};
    return p;
  };
  for (const std::int32_t w : {0, 1}) core->pulse(now, voting({w, 1}, 8 + w));
  beat();
  for (const std::int32_t w : {0, 1}) EXPECT_TRUE(core->order_again(now, {w, 1})->rewind);
  EXPECT_THAT(core->status(now).reason, HasSubstr("no majority judges: replay does"));
  for (const std::int32_t w : {0, 1}) {
    Pulse back = pulse(join(w, 20 + w));
    back.parameters = {{{4, {5, 6}}, {0, 8}}};
    back.rebuilt = Rebuilt{{4, {5, 6}}, 4 * w};
    EXPECT_FALSE(core->pulse(now, back)->rewind);
  }
  beat();
  EXPECT_THAT(core->status(now).reason,
              HasSubstr("worker 0's were right, worker 1's were wrong from step 4 on"));
  ASSERT_TRUE(stored.term);
  EXPECT_EQ(stored.term->term, 2);
  EXPECT_EQ(stored.term->workers.size(), 2u);
}

TEST_F(Coordinator, EveryNewStartIsANewIncarnationAndFencesTheOld) {
  const Identity old = join(3, 7), young = join(3, 8);
  EXPECT_EQ(young.incarnation, old.incarnation + 1);
  const auto order = core->pulse(now, pulse(old));
  ASSERT_TRUE(order);
  EXPECT_TRUE(order->rejoin);
  EXPECT_EQ(order->incarnation, old.incarnation);
}

TEST_F(Coordinator, WorkersWithoutANumberGetTheFirstFreeOne) {
  EXPECT_EQ(join(0, 1).worker, 0);
  EXPECT_EQ(join(-1, 2).worker, 1);
  EXPECT_EQ(join(-1, 3).worker, 2);
}

TEST_F(Coordinator, AnotherRunOrConfigurationIsRefusedWithBoth) {
  Join wrong = ask(0, 1);
  wrong.run = "other";
  EXPECT_THAT(std::get<JoinRefused>(core->join(now, wrong)).reason,
              HasSubstr("run \"other\", this coordinator serves \"run\""));
  wrong = ask(0, 1);
  wrong.config = {3, 4};
  EXPECT_THAT(std::get<JoinRefused>(core->join(now, wrong)).reason,
              HasSubstr("digest 00000000000000030000000000000004, the run's has "
                        "00000000000000010000000000000002"));
}

TEST_F(Coordinator, ARunsLengthIsWhatAllItsWorkersHave) {
  const auto refusal = [&](std::int32_t worker, std::uint64_t nonce, std::int64_t steps) {
    Join join = ask(worker, nonce);
    join.steps = steps;
    const JoinAnswer answer = core->join(now, join);
    const auto* refused = std::get_if<JoinRefused>(&answer);
    return refused == nullptr ? std::string() : refused->reason;
  };
  EXPECT_EQ(refusal(0, 1, 100), "");
  EXPECT_EQ(refusal(1, 2, 100), "");
  beat();
  EXPECT_EQ(stored.steps, 100);
  EXPECT_EQ(core->status(now).steps, 100);
  core->pulse(now, pulse({0, 1}));
  EXPECT_THAT(refusal(1, 3, 200), HasSubstr("train.steps = 200, the run's is 100 and worker 0"));
  EXPECT_EQ(refusal(1, 4, 0), "");  // it does not say
  now += seconds(11);               // nobody is there any more
  EXPECT_EQ(refusal(1, 5, 200), "");
  EXPECT_THAT(refusal(0, 6, 100), HasSubstr("the run's is 200"));
  beat();
  EXPECT_EQ(stored.steps, 200);

  // Reached: longer at any time, shorter than what is committed never.
  stored.commit = {200, {5, 5}};
  stored.checkpoints = {{stored.commit, {}, {}, 0, 2}};
  core->loaded(now, stored);
  core->pulse(now, pulse({0, 1}));
  EXPECT_THAT(refusal(1, 7, 150), HasSubstr("step 200 is committed"));
  EXPECT_EQ(refusal(1, 8, 300), "");
  EXPECT_THAT(refusal(2, 9, 200), HasSubstr("the run's is 300"));
  beat();
  EXPECT_EQ(stored.steps, 300);
}

TEST_F(Coordinator, AWorkerWhoseStreamBrokeIsNamedToNobodyAsASource) {
  first_term();
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse({w, 1}, WorkerState::voting, 1));
  const Identity third = join(2, 30);
  EXPECT_EQ(core->pulse(now, pulse(third))->sources.size(), 2u);
  core->stream_broken(now, {0, 1});
  const auto order = core->pulse(now, pulse(third));
  ASSERT_EQ(order->sources.size(), 1u);
  EXPECT_EQ(order->sources[0].identity.worker, 1);
}

TEST_F(Coordinator, ATermIsNotShownBeforeItsRowIsDurable) {
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse(join(w, 10 + w)));
  ASSERT_TRUE(core->beat(now));
  EXPECT_FALSE(core->pulse(now, pulse({0, 1}))->record);
  core->wrote(now);
  const auto order = core->pulse(now, pulse({0, 1}));
  ASSERT_TRUE(order->record);
  EXPECT_EQ(order->record->term, 1);
  EXPECT_EQ(order->record->config, (Digest{1, 2}));
}

TEST_F(Coordinator, AnUnclearWriteIsReadBeforeItSpeaksAgain) {
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse(join(w, 10 + w)));
  const auto row = core->beat(now);
  ASSERT_TRUE(row);
  core->unclear();
  EXPECT_TRUE(core->must_read());
  EXPECT_FALSE(core->pulse(now, pulse({0, 1})));
  EXPECT_FALSE(core->beat(now));
  Row read = *row;  // it had been written after all
  ++read.revision;
  core->loaded(now, read);
  EXPECT_TRUE(core->pulse(now, pulse({0, 1}))->record);
}

TEST_F(Coordinator, ARefusedWriteGivesWayToWhatIsStored) {
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse(join(w, 10 + w)));
  ASSERT_TRUE(core->beat(now));
  Row other = stored;
  other.revision += 5;
  other.incarnations[9] = 4;
  core->refused(now, other);
  EXPECT_EQ(core->row().revision, other.revision);
  const auto again = core->beat(now);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->revision, other.revision);
  EXPECT_EQ(again->incarnations.at(9), 4);
}

TEST_F(Coordinator, SealIsOrderedToVotersOfTheTermAndEndsWithIt) {
  first_term();
  core->pulse(now, pulse({0, 1}, WorkerState::voting, 1));
  Pulse suspicious = pulse({1, 1}, WorkerState::sealed, 1);
  suspicious.suspects = {{0, "no verdict of step 1"}};
  core->pulse(now, suspicious);
  EXPECT_FALSE(beat());
  const auto order = core->pulse(now, pulse({0, 1}, WorkerState::voting, 1));
  ASSERT_TRUE(order->seal_at);
  EXPECT_EQ(*order->seal_at, 0);
  EXPECT_EQ(order->term, 1);
  EXPECT_THAT(core->status(now).reason, HasSubstr("worker 1 suspects worker 0"));
  core->pulse(now, pulse({0, 1}, WorkerState::sealed, 1));
  EXPECT_TRUE(beat());
  EXPECT_EQ(stored.term->term, 2);
  EXPECT_FALSE(core->pulse(now, pulse({0, 1}, WorkerState::voting, 2))->seal_at);
}

TEST_F(Coordinator, CommitIsWrittenWhenItIsDurableEverywhere) {
  first_term();
  for (const std::int32_t w : {0, 1}) {
    Pulse p = pulse({w, 1}, WorkerState::voting, 1);
    p.held = p.durable = {3 + w, {5, static_cast<std::uint64_t>(8 + w)}};
    core->pulse(now, p);
  }
  EXPECT_TRUE(beat());
  EXPECT_EQ(stored.commit, (Position{3, {5, 8}}));
  EXPECT_EQ(core->pulse(now, pulse({0, 1}, WorkerState::voting, 1))->commit, stored.commit);
}

TEST_F(Coordinator, OneThatWasStoppedCallsNobodyLate) {
  first_term();
  for (const std::int32_t w : {0, 1}) core->pulse(now, pulse({w, 1}, WorkerState::voting, 1));
  beat();
  now += seconds(60);
  EXPECT_FALSE(beat());
  EXPECT_EQ(core->status(now).decision, "steady");
  for (int i = 0; i < 12; ++i) {
    now += seconds(1);
    beat();
  }
  EXPECT_EQ(core->status(now).decision, "wait");
  EXPECT_THAT(core->status(now).reason, HasSubstr("workers 0, 1 fell silent"));
}

// Found by the simulation: a leader that only waits would never notice that another one wrote.
TEST_F(Coordinator, APulseThatKnowsOfALaterRowMakesItRead) {
  first_term();
  Pulse p = pulse({0, 1}, WorkerState::voting, 1);
  p.told = {4, {5, 9}};
  EXPECT_FALSE(core->pulse(now, p));
  EXPECT_TRUE(core->must_read());
  Row later = stored;
  ++later.revision;
  later.commit = p.told;
  core->loaded(now, later);
  EXPECT_EQ(core->pulse(now, p)->commit, later.commit);
}

TEST_F(Coordinator, WhoDoesNotLeadDoesNotAnswer) {
  first_term();
  core->lead(false, now);
  EXPECT_FALSE(core->pulse(now, pulse({0, 1}, WorkerState::voting, 1)));
  EXPECT_FALSE(core->beat(now));
  EXPECT_TRUE(std::holds_alternative<JoinPending>(core->join(now, ask(5, 1))));
}

TEST_F(Coordinator, AnOvertakenPulseChangesNothing) {
  first_term();
  const Pulse late = pulse({0, 1}, WorkerState::voting, 1);
  core->pulse(now, pulse({0, 1}, WorkerState::sealed, 1));
  core->pulse(now, late);
  EXPECT_EQ(core->status(now).workers[0].state, WorkerState::sealed);
}

TEST_F(Coordinator, TheLastToLeaveIsDismissedOnceAllOfItIsDurable) {
  first_term();
  Pulse first = pulse({0, 1}, WorkerState::sealed, 1), last = pulse({1, 1}, WorkerState::sealed, 1);
  first.leaving = last.leaving = true;
  last.held = {1, {5, 6}};
  core->pulse(now, first);
  EXPECT_FALSE(core->pulse(now, last)->dismissed);
  last.durable = last.held;
  last.sequence = ++sequence;
  EXPECT_TRUE(core->pulse(now, last)->dismissed);
}

TEST_F(Coordinator, StatusNamesThoseNotHeardYet) {
  first_term();
  core.emplace(options, stored, now);
  core->lead(true, now);
  core->loaded(now, stored);
  const CoordinatorStatus status = core->status(now);
  ASSERT_EQ(status.workers.size(), 2u);
  EXPECT_THAT(status.workers[1].stage, HasSubstr("not heard"));
  EXPECT_FALSE(status.workers[1].silent);
  EXPECT_EQ(status.term, 1);
}

TEST_F(Coordinator, OutcomesWithoutAWriteAreOurMistake) {
  EXPECT_THROW(core->wrote(now), LogicError);
  EXPECT_THROW(core->unclear(), LogicError);
}

}  // namespace
}  // namespace ballot

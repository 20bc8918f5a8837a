#include "runtime/protocol/worker_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace ballot {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

template <class T>
std::vector<T> only(const std::vector<Action>& actions) {
  std::vector<T> some;
  for (const Action& a : actions)
    if (const T* one = std::get_if<T>(&a)) some.push_back(*one);
  return some;
}

// Worker 1 of workers 0 and 1 (and 2): the others are what the test says.
struct Worker : testing::Test {
  Worker() {
    options.run = "run";
    options.per_voter = 2;
    options.exchange_timeout = seconds(10);
    core.emplace(options, Recovered{History(genesis), {}});
    core->take();
    core->joined(now, {1, 5});
    core->take();
  }
  static Identity id(std::int32_t worker) { return {worker, 5}; }
  TermRecord record(std::int64_t term, const Position& start,
                    std::initializer_list<std::int32_t> workers) {
    TermRecord r;
    r.term = term;
    r.start = start;
    for (const std::int32_t w : workers)
      r.workers.push_back({id(w), "", static_cast<std::int32_t>(r.workers.size())});
    r.sources = {0};
    return r;
  }
  void order(const TermRecord& r) {
    Order o;
    o.incarnation = 5;
    o.term = r.term;
    o.record = r;
    core->ordered(now, o);
  }
  void order_seal(std::int64_t at, std::int64_t term = 1) {
    Order o;
    o.incarnation = 5;
    o.term = term;
    o.seal_at = at;
    core->ordered(now, o);
  }
  Hello hello(std::int32_t worker, std::int64_t term = 1) { return {"run", term, id(worker)}; }
  ChunkVerdict chunk(int number) {
    ChunkVerdict v;
    v.verdict.begin = 512 * number;
    v.verdict.end = 512 * (number + 1);
    v.verdict.bits.assign(8, 7);
    v.verdict.digest = v.verdict.body_digest();
    return v;
  }
  // The other's chunk of the next step.
  void other_verdict(std::int64_t term = 1) {
    ChunkVerdict v = chunk(0);
    v.verdict.counted = {3};
    core->verdict(now, hello(0, term), {core->held().step + 1, 0, core->held(), std::move(v)});
  }
  void own_ballot() {
    const auto compute = only<ComputeBallot>(core->take());
    ASSERT_EQ(compute.size(), 1u);
    core->ballot_ready(now, compute[0].step, compute[0].base, compute[0].samples);
  }
  void other_ballot(std::int64_t term = 1) {
    core->ballot(now, hello(0, term),
                 {core->held().step + 1, 1, 0, core->held(),
                  SampleRange{4 * core->held().step, 4 * core->held().step + 2},
                  std::make_shared<BallotData>()});
  }
  void decide(std::int64_t term = 1) { core->decided(now, term, core->held().step + 1, chunk(1)); }
  void whole_step() {
    own_ballot();
    other_ballot();
    decide();
    other_verdict();
  }

  Position genesis{0, {7, 7}};
  TimePoint now{seconds(50)};
  WorkerOptions options;
  std::optional<WorkerCore> core;
};

CheckpointFact share_of(const Position& position) {
  return {position, {1, 1}, {"share-1"}, 1, 2};
}

// A planned change of term never waits for a step that the run does not have.
TEST_F(Worker, SealsAfterTheLastStepWhatIsOrderedForALaterOne) {
  options.last_step = 1;
  core.emplace(options, Recovered{History(genesis), {}});
  core->take();
  core->joined(now, id(1));
  order(record(1, genesis, {0, 1}));
  order_seal(3);
  EXPECT_EQ(core->state(), WorkerState::voting);
  whole_step();
  EXPECT_EQ(core->held().step, 1);
  EXPECT_EQ(core->state(), WorkerState::sealed);
}

TEST_F(Worker, TellsItsSharesUntilTheyArePublished) {
  order(record(1, genesis, {0, 1}));
  whole_step();
  const Position first = core->held();
  core->take();
  core->checkpoint_written(now, share_of(first));
  EXPECT_EQ(only<PulseNow>(core->take()).size(), 1u);
  EXPECT_THAT(core->pulse(now).checkpoints, ElementsAre(share_of(first)));
  core->checkpoint_written(now, share_of({1, {6, 6}}));  // of a step that was voted again
  EXPECT_THAT(core->pulse(now).checkpoints, ElementsAre(share_of(first)));
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.commit = first;
  o.checkpoints = {first};
  core->ordered(now, o);
  EXPECT_THAT(core->pulse(now).checkpoints, testing::IsEmpty());
  core->checkpoint_written(now, share_of(first));  // late
  EXPECT_THAT(core->pulse(now).checkpoints, testing::IsEmpty());
  const auto kept = only<CheckpointsKept>(core->take());
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_FALSE(kept[0].older);
  EXPECT_EQ(kept[0].newest, first);
}

TEST_F(Worker, PublishesOnceHoweverOftenItIsTold) {
  order(record(1, genesis, {0, 1}));
  core->take();
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.publish = share_of({4, {8, 8}});
  core->ordered(now, o);
  core->ordered(now, o);
  EXPECT_EQ(only<PublishCheckpoint>(core->take()).size(), 1u);
  core->checkpoint_failed(now, o.publish->position);
  core->ordered(now, o);
  EXPECT_TRUE(only<PublishCheckpoint>(core->take()).empty());
  now += options.publish_pause;
  core->ordered(now, o);
  core->ordered(now, o);
  EXPECT_EQ(only<PublishCheckpoint>(core->take()).size(), 1u);
  core->checkpoint_published(now, o.publish->position);
  EXPECT_EQ(core->pulse(now).published, o.publish->position);
  core->ordered(now, o);  // overtaken by that pulse
  EXPECT_TRUE(only<PublishCheckpoint>(core->take()).empty());
}

TEST_F(Worker, ForgetsWhatLiesBeforeTheOlderCheckpointOnceItHasItDurably) {
  order(record(1, genesis, {0, 1}));
  std::vector<Position> steps{core->held()};
  for (int i = 0; i < 3; ++i) {
    own_ballot();
    core->ballot(now, hello(0),
                 {core->held().step + 1, 1, 0, core->held(),
                  SampleRange{4 * core->held().step, 4 * core->held().step + 2},
                  std::make_shared<BallotData>()});
    decide();
    other_verdict();
    steps.push_back(core->held());
  }
  core->take();
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.commit = steps[3];
  o.checkpoints = {steps[2], steps[3]};
  core->ordered(now, o);
  EXPECT_TRUE(only<CheckpointsKept>(core->take()).empty());
  EXPECT_EQ(core->history().base().step, 0);
  core->synced(steps[2]);
  const auto kept = only<CheckpointsKept>(core->take());
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].older, steps[2]);
  EXPECT_EQ(core->history().base(), steps[2]);
  o.checkpoints = {steps[1], steps[2]};  // of an order that is older
  core->ordered(now, o);
  EXPECT_TRUE(only<CheckpointsKept>(core->take()).empty());
  EXPECT_EQ(core->checkpoints(), (std::vector<Position>{steps[2], steps[3]}));
}

TEST_F(Worker, WithWrongParametersItLeavesRebuildsThemAndJoinsAnew) {
  order(record(1, genesis, {0, 1}));
  whole_step();
  core->applied(core->held(), Digest{3, 3});
  EXPECT_THAT(core->pulse(now).parameters, ElementsAre(ParametersAt{core->held(), Digest{3, 3}}));
  core->take();
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.rewind = true;
  core->ordered(now, o);
  EXPECT_EQ(core->state(), WorkerState::joining);
  const auto actions = core->take();
  const auto rewind = only<Rewind>(actions);
  ASSERT_EQ(rewind.size(), 1u);
  EXPECT_TRUE(rewind[0].rebuild);
  EXPECT_EQ(rewind[0].to, core->held());
  EXPECT_TRUE(only<AskToJoin>(actions).empty());
  core->applied(core->held(), Digest{3, 3});  // of what is thrown away
  Recovered state{History(genesis), {}, Digest{4, 4}};
  core->rewound(now, state);
  EXPECT_EQ(only<AskToJoin>(core->take()).size(), 1u);
  core->joined(now, {1, 6});
  EXPECT_THAT(core->pulse(now).parameters, ElementsAre(ParametersAt{genesis, Digest{4, 4}}));
}

TEST_F(Worker, KeepsDigestsAtStepsThatOthersWillHaveToo) {
  History history(genesis);
  std::vector<Position> at{genesis};
  for (std::int64_t step = 1; step <= 21; ++step) {
    at.push_back({step, {1, static_cast<std::uint64_t>(step)}});
    history.append(at.back(), 1);
  }
  core.emplace(options, Recovered{history, {}});
  core->joined(now, {1, 5});
  for (std::size_t step = 1; step <= 21; ++step)
    core->applied(at[step], Digest{0, static_cast<std::uint64_t>(step)});
  std::vector<std::int64_t> steps;
  for (const ParametersAt& p : core->pulse(now).parameters) steps.push_back(p.position.step);
  EXPECT_THAT(steps, ElementsAre(16, 20, 21));
}

TEST_F(Worker, AStepIsDecidedSentHeldAndFollowedByTheNext) {
  order(record(1, genesis, {0, 1}));
  core->link_opened(now, id(0));
  own_ballot();
  auto actions = core->take();
  ASSERT_EQ(only<SendBallot>(actions).size(), 1u);
  EXPECT_EQ(only<SendBallot>(actions)[0].frame.samples, (SampleRange{2, 4}));
  EXPECT_TRUE(only<DecideChunk>(actions).empty());
  other_ballot();
  actions = core->take();
  ASSERT_EQ(only<DecideChunk>(actions).size(), 1u);
  EXPECT_EQ(only<DecideChunk>(actions)[0].ballots.size(), 2u);
  decide();
  EXPECT_EQ(only<SendVerdict>(core->take()).size(), 1u);
  EXPECT_EQ(core->held().step, 0);
  other_verdict();
  actions = core->take();
  ASSERT_EQ(only<HoldRecord>(actions).size(), 1u);
  const Record& held = *only<HoldRecord>(actions)[0].record;
  EXPECT_EQ(held.position(), core->held());
  EXPECT_THAT(held.chunks[1].counted, ElementsAre(3));
  EXPECT_EQ(core->ledger(), (Ledger{4, {}}));
  ASSERT_EQ(only<ComputeBallot>(actions).size(), 1u);
  EXPECT_EQ(only<ComputeBallot>(actions)[0].samples, (SampleRange{6, 8}));
}

TEST_F(Worker, AfterASealedPulseNothingIsHeld) {
  order(record(1, genesis, {0, 1}));
  own_ballot();
  other_ballot();
  decide();
  order_seal(0);
  const Pulse pulse = core->pulse(now);
  EXPECT_EQ(pulse.state, WorkerState::sealed);
  EXPECT_EQ(pulse.pending, (Pulse::Pending{genesis, {2, 4}}));
  other_verdict();
  decide();
  EXPECT_EQ(core->held(), genesis);
  EXPECT_EQ(core->answer(hello(0)), LinkAnswer::refuse);
}

TEST_F(Worker, ASealAheadWaitsForItsStep) {
  order(record(1, genesis, {0, 1}));
  order_seal(1);
  EXPECT_EQ(core->state(), WorkerState::voting);
  whole_step();
  EXPECT_EQ(core->state(), WorkerState::sealed);
  EXPECT_EQ(core->held().step, 1);
}

TEST_F(Worker, ASealOfAnotherTermOrIncarnationIsNotItsOwn) {
  order(record(2, genesis, {0, 1}));
  order_seal(0, 1);
  EXPECT_EQ(core->state(), WorkerState::voting);
  Order other;
  other.incarnation = 4;
  other.term = 2;
  other.seal_at = 0;
  core->ordered(now, other);
  EXPECT_EQ(core->state(), WorkerState::voting);
}

TEST_F(Worker, TheNextTermTakesTheBallotThatWasKept) {
  order(record(1, genesis, {0, 1}));
  own_ballot();
  order_seal(0);
  core->take();
  TermRecord next = record(2, genesis, {0, 1});
  next.kept = {{1, {2, 4}}};
  order(next);
  EXPECT_TRUE(only<ComputeBallot>(core->take()).empty());
  core->link_opened(now, id(0));
  ASSERT_EQ(only<SendBallot>(core->take()).size(), 1u);
}

TEST_F(Worker, ABallotOfOtherSamplesIsNotCast) {
  order(record(1, genesis, {0, 1}));
  own_ballot();
  order_seal(0);
  core->take();
  TermRecord next = record(2, genesis, {0, 1});
  next.kept = {{0, {2, 4}}};  // another's now
  order(next);
  const auto compute = only<ComputeBallot>(core->take());
  ASSERT_EQ(compute.size(), 1u);
  EXPECT_EQ(compute[0].samples, (SampleRange{0, 2}));
}

TEST_F(Worker, ChunksOfATermDieWithIt) {
  order(record(1, genesis, {0, 1}));
  own_ballot();
  other_verdict();
  order_seal(0);
  order(record(2, genesis, {0, 1}));
  core->take();
  core->ballot(now, hello(0, 2), {1, 1, 0, genesis, {0, 2}, std::make_shared<BallotData>()});
  core->ballot_ready(now, 1, genesis, {2, 4});
  decide(2);
  EXPECT_EQ(core->held(), genesis);
  other_verdict(2);
  EXPECT_EQ(core->held().step, 1);
}

TEST_F(Worker, HellosOfLaterTermsWaitAndOfEarlierOnesAreRefused) {
  EXPECT_EQ(core->answer(hello(0)), LinkAnswer::not_yet);
  order(record(2, genesis, {0, 1}));
  EXPECT_EQ(core->answer(hello(0, 1)), LinkAnswer::refuse);
  EXPECT_EQ(core->answer(hello(0, 2)), LinkAnswer::accept);
  EXPECT_EQ(core->answer(hello(0, 3)), LinkAnswer::not_yet);
  EXPECT_EQ(core->answer({"run", 2, {0, 4}}), LinkAnswer::refuse);  // an old incarnation
  EXPECT_EQ(core->answer({"run", 2, {7, 5}}), LinkAnswer::refuse);
  EXPECT_EQ(core->answer({"other", 2, id(0)}), LinkAnswer::refuse);
}

TEST_F(Worker, AQuorumClosesThePollAfterTheGraceAndTheLateRangeStays) {
  TermRecord r = record(1, genesis, {0, 1});
  r.quorum = 1;
  order(r);
  core->take();  // computes for long
  other_ballot();
  EXPECT_TRUE(only<DecideChunk>(core->take()).empty());
  ASSERT_TRUE(core->next_deadline());
  now = *core->next_deadline();
  core->tick(now);
  ASSERT_EQ(only<DecideChunk>(core->take()).size(), 1u);
  core->ballot_ready(now, 1, genesis, {2, 4});  // after the close
  decide();
  ChunkVerdict v = chunk(0);
  v.verdict.counted = {1};
  core->verdict(now, hello(0), {1, 0, genesis, std::move(v)});
  ASSERT_EQ(core->held().step, 1);
  EXPECT_EQ(core->ledger(), (Ledger{2, {}}));
}

TEST_F(Worker, BlamesTheVotersThatItsOwnPollLacksElseTheOwners) {
  order(record(1, genesis, {0, 1}));
  own_ballot();
  now += seconds(10);
  core->tick(now);
  Pulse pulse = core->pulse(now);
  EXPECT_EQ(pulse.state, WorkerState::sealed);
  EXPECT_THAT(pulse.suspects, ElementsAre(Suspicion{0, "no ballot of step 1"}));
  order(record(2, genesis, {0, 1}));
  core->ballot(now, hello(0, 2), {1, 1, 0, genesis, {0, 2}, std::make_shared<BallotData>()});
  decide(2);
  now += seconds(10);
  core->tick(now);
  EXPECT_THAT(core->pulse(now).suspects, ElementsAre(Suspicion{0, "no verdict of step 1"}));
}

TEST_F(Worker, AReopenedLinkGetsTheBallotAndTheLastVerdictsAgain) {
  order(record(1, genesis, {0, 1}));
  whole_step();
  own_ballot();
  core->take();
  core->link_opened(now, id(0));
  const auto actions = core->take();
  EXPECT_EQ(only<SendBallot>(actions).size(), 1u);
  ASSERT_EQ(only<SendVerdict>(actions).size(), 1u);
  EXPECT_EQ(only<SendVerdict>(actions)[0].frame->step, 1);
}

TEST_F(Worker, ServesNoStepThatMayBeVotedAgain) {
  order(record(1, genesis, {0, 1}));
  whole_step();
  EXPECT_EQ(core->serve({genesis, 0, {}}).reply.vouched, genesis);
  EXPECT_EQ(core->serve({genesis, 0, {}}).to_step, -1);
  whole_step();
  const Serving serving = core->serve({genesis, 0, {}});
  EXPECT_EQ(serving.to_step, 1);
  EXPECT_EQ(serving.reply.term, 1);
  // To a worker of the next term, that term's start.
  EXPECT_EQ(core->serve({genesis, 2, core->held()}).to_step, 2);
  // Of another history: where they part.
  const Serving conflict = core->serve({{1, {9, 9}}, 0, {}});
  EXPECT_EQ(conflict.to_step, -1);
  EXPECT_EQ(conflict.reply.landmarks.front().step, 1);
  EXPECT_EQ(conflict.reply.landmarks.back(), genesis);
}

TEST_F(Worker, AJoinerThatIsAheadOfItsTermsStartGoesBackAndJoinsAnew) {
  order(record(1, genesis, {0, 1}));
  whole_step();
  order_seal(0);
  core->take();
  order(record(2, core->held(), {0}));  // without it
  EXPECT_EQ(only<AskToJoin>(core->take()).size(), 1u);
  core->joined(now, {1, 6});
  TermRecord cold = record(3, genesis, {0, 1});
  cold.workers[1].identity = {1, 6};
  Order o;
  o.incarnation = 6;
  o.term = 3;
  o.record = cold;
  core->ordered(now, o);
  const auto actions = core->take();
  ASSERT_EQ(only<Rewind>(actions).size(), 1u);
  EXPECT_EQ(only<Rewind>(actions)[0].to, genesis);
  EXPECT_FALSE(core->identity());
  core->rewound(now, {History(genesis), {}});
  EXPECT_EQ(only<AskToJoin>(core->take()).size(), 1u);
}

// The head of a fast run is somewhere else whenever its records have come.
TEST_F(Worker, AJoinerThatTheHeadOutrunsIsReadyAfterAFewTries) {
  int pulses = 0;
  std::int64_t tries = 0, head = 50, durable = 0;
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.sources = {{id(0), "a", 0}};
  o.head = head;
  core->ordered(now, o);
  auto asked = only<SendFetch>(core->take());
  while (!core->ready()) {
    ASSERT_LT(++tries, 10);
    ASSERT_EQ(asked.size(), 1u);
    FetchReply reply;
    reply.from = asked[0].fetch.from;
    reply.term = 1;
    Position position = reply.from;
    while (position.step < head - 1) {
      auto record = std::make_shared<Record>();
      record->step = position.step + 1;
      record->term = 1;
      record->previous = position.digest;
      position = record->position();
      reply.records.push_back(std::move(record));
    }
    reply.vouched = position;
    head += 20;  // meanwhile, and it is told of a later commit
    o.head = head;
    o.commit = {head - 30, {1, 1}};
    core->ordered(now, o);
    core->fetched(now, id(0), reply);
    const auto actions = core->take();
    asked = only<SendFetch>(actions);
    for (const HoldRecord& hold : only<HoldRecord>(actions)) core->applied(hold.position);
    core->synced(*core->history().at(durable));  // one fsync behind
    durable = core->held().step;
    pulses += only<PulseNow>(core->take()).size() > 0;
  }
  EXPECT_EQ(tries, 4);  // 4, 8, 16, 32 steps
  EXPECT_EQ(pulses, 1);
  EXPECT_TRUE(core->pulse(now).ready);
}

TEST_F(Worker, AJoinerWithMuchToApplyIsNotReady) {
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.sources = {{id(0), "a", 0}};
  o.head = 20;
  core->ordered(now, o);
  FetchReply reply{genesis, 1, {}, genesis, {}, {}};
  for (int i = 0; i < 20; ++i) {
    auto record = std::make_shared<Record>();
    record->step = reply.vouched.step + 1;
    record->term = 1;
    record->previous = reply.vouched.digest;
    reply.vouched = record->position();
    reply.records.push_back(std::move(record));
  }
  core->fetched(now, id(0), reply);
  core->synced(core->held());
  EXPECT_FALSE(core->ready());
  core->take();
  core->applied(*core->history().at(11));
  EXPECT_FALSE(core->ready());
  core->applied(*core->history().at(12));
  EXPECT_TRUE(core->ready());
  EXPECT_EQ(only<PulseNow>(core->take()).size(), 1u);
}

TEST_F(Worker, AnotherSourceIsAskedAtOnceWhereOneFails) {
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.head = 20;
  o.sources = {{id(0), "a", 20}, {id(2), "b", 20}, {id(3), "c", 20}};
  core->ordered(now, o);
  auto asked = only<SendFetch>(core->take());
  ASSERT_EQ(asked.size(), 1u);
  const Source first = asked[0].source;
  core->fetch_failed(now, first.identity);
  asked = only<SendFetch>(core->take());
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_NE(asked[0].source, first);
  // The coordinator knows it as dead: its answer is not waited for.
  std::erase(o.sources, asked[0].source);
  core->ordered(now, o);
  asked = only<SendFetch>(core->take());
  ASSERT_EQ(asked.size(), 1u);
  core->fetch_failed(now, asked[0].source.identity);
  EXPECT_TRUE(only<SendFetch>(core->take()).empty());  // all of them: after a pause
  now += options.fetch_pause;
  core->tick(now);
  EXPECT_EQ(only<SendFetch>(core->take()).size(), 1u);
}

TEST_F(Worker, OneThatComesBackAfterTheRunHasEndedLoadsItsCheckpoint) {
  options.last_step = 30;
  core.emplace(options, Recovered{History(genesis), {}});
  core->take();
  core->joined(now, {1, 5});
  core->take();
  Order o;
  o.incarnation = 5;
  o.term = 4;
  o.head = 30;
  o.commit = {30, {3, 3}};
  o.checkpoints = {{20, {2, 2}}};
  core->ordered(now, o);
  EXPECT_TRUE(only<LoadCheckpoint>(core->take()).empty());
  o.checkpoints = {{20, {2, 2}}, o.commit};
  core->ordered(now, o);
  EXPECT_EQ(only<LoadCheckpoint>(core->take()).size(), 1u);
  core->ordered(now, o);
  EXPECT_TRUE(only<LoadCheckpoint>(core->take()).empty());
  core->rewound(now, {History(o.commit, 4), {}});
  const auto kept = only<CheckpointsKept>(core->take());
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].newest, o.commit);
  core->ordered(now, o);
  EXPECT_TRUE(core->take().empty());
}

TEST_F(Worker, AfterTheLastStepItComputesNoBallotAndWaitsForItsCheckpoint) {
  options.last_step = 1;
  core.emplace(options, Recovered{History(genesis), {}});
  core->take();
  core->joined(now, id(1));
  order(record(1, genesis, {0, 1}));
  core->link_opened(now, id(0));
  own_ballot();
  other_ballot();
  decide();
  other_verdict();
  EXPECT_EQ(core->held().step, 1);
  EXPECT_TRUE(only<ComputeBallot>(core->take()).empty());
  EXPECT_EQ(core->stage(), "waiting for the checkpoint of the last step");
  EXPECT_FALSE(core->has_ended());
  core->applied(core->held());
  core->synced(core->held());
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.commit = core->held();
  core->ordered(now, o);
  EXPECT_FALSE(core->has_ended());
  o.checkpoints = {core->held()};
  core->ordered(now, o);
  EXPECT_TRUE(core->has_ended());
}

// Its configuration is another one than the run's: it votes in no further step.
TEST_F(Worker, OneWithAnotherLengthThanTheRunsIsTold) {
  options.last_step = 10;
  core.emplace(options, Recovered{History(genesis), {}});
  core->take();
  core->joined(now, id(1));
  core->take();
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.record = record(1, genesis, {0, 1});
  o.steps = 12;
  core->ordered(now, o);
  core->ordered(now, o);
  const auto actions = core->take();
  ASSERT_EQ(only<OtherLength>(actions).size(), 1u);
  EXPECT_EQ(only<OtherLength>(actions)[0].steps, 12);
  EXPECT_EQ(core->state(), WorkerState::joining);  // in no term of that run
  EXPECT_TRUE(only<ComputeBallot>(actions).empty());
}

// One that has reached its own end is done, wherever the others go on to.
TEST_F(Worker, OneWhoseEndIsPublishedDoesNotMindALongerRun) {
  options.last_step = 1;
  core.emplace(options, Recovered{History(genesis), {}});
  core->take();
  core->joined(now, id(1));
  order(record(1, genesis, {0, 1}));
  core->link_opened(now, id(0));
  own_ballot();
  other_ballot();
  decide();
  other_verdict();
  core->applied(core->held());
  core->synced(core->held());
  core->take();
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.commit = core->held();
  o.checkpoints = {core->held()};
  o.steps = 20;
  core->ordered(now, o);
  EXPECT_TRUE(only<OtherLength>(core->take()).empty());
  EXPECT_TRUE(core->has_ended());
}

TEST_F(Worker, CommitIsReportedByWhatItsHistoryContains) {
  order(record(1, genesis, {0, 1}));
  whole_step();
  Order o;
  o.incarnation = 5;
  o.term = 1;
  o.commit = core->held();
  core->ordered(now, o);
  EXPECT_TRUE(core->pulse(now).has_commit);
  o.commit = {2, {3, 3}};
  core->ordered(now, o);
  EXPECT_FALSE(core->pulse(now).has_commit);
  EXPECT_EQ(core->pulse(now).told, o.commit);
  o.commit = {1, {}};  // of an earlier coordinator
  core->ordered(now, o);
  EXPECT_EQ(core->pulse(now).told.step, 2);
}

TEST_F(Worker, DurableMovesWithTheSyncOfItsOwnHistory) {
  order(record(1, genesis, {0, 1}));
  whole_step();
  EXPECT_EQ(core->durable(), genesis);
  core->synced({1, {3, 3}});
  EXPECT_EQ(core->durable(), genesis);
  core->synced(core->held());
  EXPECT_EQ(core->pulse(now).durable, core->held());
}

TEST(WorkerHistory, LandmarksAreDenseThenSparseAndEndAtTheBase) {
  History history({10, {1, 10}}, 3);
  for (std::uint64_t s = 11; s <= 60; ++s)
    history.append({static_cast<std::int64_t>(s), {1, s}}, 3);
  std::vector<std::int64_t> steps;
  for (const Position& p : history.landmarks(50)) steps.push_back(p.step);
  EXPECT_THAT(steps, ElementsAre(50, 49, 48, 47, 46, 45, 44, 43, 42, 34, 18, 10));
  history.cut_after(20);
  EXPECT_EQ(history.last(), (Position{20, {1, 20}}));
  history.forget_before(15);
  EXPECT_FALSE(history.contains({12, {1, 12}}));
  EXPECT_TRUE(history.contains({15, {1, 15}}));
  EXPECT_THROW(history.append({30, {}}, 3), LogicError);
}

}  // namespace
}  // namespace ballot

#include "runtime/protocol/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace ballot {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

Position at(std::int64_t step, std::uint64_t branch = 0) {
  return {step, {branch, static_cast<std::uint64_t>(step) + 1}};
}

// Three workers in term 4 that began at step 10; commit 11; all hold and have made durable 12.
struct Membership : testing::Test {
  Membership() {
    options.heartbeat_timeout = seconds(10);
    options.seal_timeout = seconds(5);
    options.cold_wait = seconds(60);
    options.suspicion_window = seconds(100);
    TermRecord record;
    record.term = 4;
    record.start = at(10);
    for (std::int32_t w : {1, 2, 3}) {
      record.workers.push_back({{w, 7}, "", w - 1});
      row.incarnations[w] = 7;
    }
    row.term = record;
    row.commit = at(11);
    view.started = now;
    for (std::int32_t w : {1, 2, 3}) hear(w);
    now += seconds(30);
    for (std::int32_t w : {1, 2, 3}) view.heard[w].at = now;
  }

  Pulse& hear(std::int32_t worker, std::int64_t incarnation = 7) {
    Pulse p;
    p.identity = {worker, incarnation};
    p.state = WorkerState::voting;
    p.term = 4;
    p.held = p.durable = at(12);
    p.applied = 12;
    p.held_term = 4;
    p.told = row.commit;
    p.has_commit = p.has_start = true;
    view.heard[worker] = {p, now};
    return view.heard[worker].pulse;
  }
  Pulse& pulse(std::int32_t worker) { return view.heard[worker].pulse; }
  void seal(std::int32_t worker, std::int64_t step) {
    pulse(worker).state = WorkerState::sealed;
    pulse(worker).held = at(step);
  }
  void silence(std::int32_t worker) { view.heard[worker].at = now - seconds(11); }
  Pulse& joiner(std::int32_t worker, std::int64_t step) {
    Pulse& p = hear(worker, 8);
    p.state = WorkerState::joining;
    p.has_start = false;
    p.held = p.durable = at(step);
    p.ready = true;
    row.incarnations[worker] = 8;
    return p;
  }
  void order_seal(std::int64_t step = 0) { view.seal = View::Seal{step, now, "a reason"}; }
  Decision decide() const { return next(now, row, view, options); }
  std::vector<std::int32_t> workers(const Decision& d) const {
    std::vector<std::int32_t> all;
    for (const TermWorker& w : d.record->workers) all.push_back(w.identity.worker);
    return all;
  }

  TimePoint now{seconds(1000)};
  Row row;
  View view;
  MembershipOptions options;
};

TEST_F(Membership, SteadyCommitsWhatIsDurableOnAllDisks) {
  pulse(2).durable = at(11);
  EXPECT_EQ(decide().kind, Decision::Kind::steady);
  EXPECT_EQ(decide().commit, at(11));
  pulse(2).durable = at(12);
  EXPECT_EQ(decide().commit, at(12));
}

TEST_F(Membership, AWorkerThatHasNotReachedTheStartHoldsTheCommit) {
  pulse(2).has_start = false;  // its step 12 may be another's
  EXPECT_EQ(decide().commit, at(11));
}

TEST_F(Membership, APulseOfAnEarlierTermHoldsTheCommit) {
  pulse(2).term = 3;
  EXPECT_EQ(decide().commit, at(11));
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 to hear of the term"));
}

// Killed: its connections ended, long before its silence would tell.
TEST_F(Membership, AWorkerThatIsSuspectedAndWhoseStreamBrokeIsNotWaitedFor) {
  seal(1, 12);
  pulse(1).suspects = {{3, "connection reset"}};
  order_seal();
  seal(2, 12);
  EXPECT_THAT(decide().reason, HasSubstr("worker 3 to seal"));
  view.broken[3] = {{3, 7}, now};
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  now += options.stream_grace;
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_THAT(workers(d), ElementsAre(1, 2));
}

TEST_F(Membership, ABrokenStreamAloneSaysNothing) {
  view.broken[3] = {{3, 7}, now};
  now += options.stream_grace;
  EXPECT_EQ(decide().kind, Decision::Kind::steady);
  pulse(1).suspects = {{3, "late"}};  // by one that is not sealed: it only says so
  EXPECT_TRUE(is_live(now, row.term->workers[2], row, view, options));
  seal(1, 12);
  EXPECT_FALSE(is_live(now, row.term->workers[2], row, view, options));
  view.broken[3].identity.incarnation = 6;
  EXPECT_TRUE(is_live(now, row.term->workers[2], row, view, options));
}

// Of two that are killed at once the first is suspected, and nobody looks for the second any more.
TEST_F(Membership, ALongBreakIsSilenceWhileEverybodyIsToSealNow) {
  view.broken[2] = view.broken[3] = {{3, 7}, now};
  view.broken[2].identity.worker = 2;
  now += kLongBreak * options.stream_grace;
  EXPECT_EQ(decide().kind, Decision::Kind::steady);
  order_seal(20);  // planned: nobody waits
  EXPECT_TRUE(is_live(now, row.term->workers[1], row, view, options));
  seal(1, 20);
  EXPECT_FALSE(is_live(now, row.term->workers[1], row, view, options));
  pulse(1).state = WorkerState::voting;
  order_seal();
  seal(1, 12);
  pulse(1).suspects = {{3, "connection reset"}};
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_THAT(workers(d), ElementsAre(1));
  now -= std::chrono::milliseconds(1);
  view.seal->since = now;
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 to seal"));
}

TEST_F(Membership, AnEndedRunChangesNoTermAnyMoreAndSaysSo) {
  row.steps = 11;
  row.checkpoints.push_back({at(8), {}, {}, 0, 3});
  for (const std::int32_t w : {1, 2, 3}) silence(w);
  EXPECT_EQ(decide().kind, Decision::Kind::seal);  // what it is worth is not published yet
  row.checkpoints.push_back({at(11), {}, {}, 0, 3});
  EXPECT_EQ(decide().kind, Decision::Kind::steady);
  EXPECT_THAT(decide().reason, HasSubstr("the run has ended: step 11 of 11"));
  joiner(4, 3);
  order_seal();
  EXPECT_EQ(decide().kind, Decision::Kind::steady);
  row.steps = 20;  // made longer
  EXPECT_NE(decide().kind, Decision::Kind::steady);
}

// It may still vote: a cold start waits for it as for any other.
TEST_F(Membership, NothingBeginsColdWithoutAWorkerThatIsOnlyCutOff) {
  options.min_workers = 3;
  view.broken[3] = {{3, 7}, now};
  now += options.stream_grace;
  for (std::int32_t w : {1, 2}) {
    view.heard[w].at = now;
    seal(w, 12);
    pulse(w).suspects = {{3, "connection reset"}};
  }
  order_seal();
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("worker 3 to come back"));
}

TEST_F(Membership, ASilentWorkerSealsTheTermNow) {
  silence(3);
  const Decision d = decide();
  EXPECT_EQ(d.kind, Decision::Kind::seal);
  EXPECT_EQ(d.seal_at, 0);
  EXPECT_THAT(d.reason, HasSubstr("worker 3 fell silent"));
}

TEST_F(Membership, AYoungCoordinatorCallsNobodyLate) {
  silence(3);
  view.heard.erase(2);
  view.started = now - seconds(9);
  EXPECT_EQ(decide().kind, Decision::Kind::steady);
  view.started = now - seconds(11);
  EXPECT_EQ(decide().kind, Decision::Kind::seal);
}

TEST_F(Membership, ARestartedWorkerIsGoneFromTheTerm) {
  joiner(3, 12).ready = false;
  EXPECT_THAT(decide().reason, HasSubstr("worker 3 fell silent or restarted"));
  EXPECT_EQ(decide().kind, Decision::Kind::seal);
}

TEST_F(Membership, ASealedWorkerOrASuspicionSealsTheTermNow) {
  seal(2, 12);
  EXPECT_EQ(decide().kind, Decision::Kind::seal);
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 is sealed"));
  pulse(2).suspects = {{3, "no ballot of step 13"}};
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 suspects worker 3: no ballot of step 13"));
}

TEST_F(Membership, ALaggingWorkerSealsTheTermNow) {
  pulse(1).held = at(40);
  pulse(1).applied = 23;
  EXPECT_THAT(decide().reason, HasSubstr("worker 1 is 17 steps behind in applying"));
}

TEST_F(Membership, JoinsAndLeavesAreTwoStepsAhead) {
  joiner(4, 11);
  pulse(2).held = at(13);
  EXPECT_EQ(decide().kind, Decision::Kind::seal);
  EXPECT_EQ(decide().seal_at, 15);
  EXPECT_THAT(decide().reason, HasSubstr("worker 4 joins"));
  view.heard.erase(4);
  pulse(1).leaving = true;
  EXPECT_EQ(decide().seal_at, 15);
  EXPECT_THAT(decide().reason, HasSubstr("worker 1 leaves"));
}

TEST_F(Membership, AJoinerThatNobodyOfThisTermVouchedForIsNotReady) {
  joiner(4, 11).term = 3;
  EXPECT_EQ(decide().kind, Decision::Kind::steady);
}

TEST_F(Membership, WaitsForTheSealedPulsesOfTheLiveUntilTheTimeout) {
  silence(3);
  order_seal();
  seal(1, 12);
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 to seal"));
  now += seconds(5);
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_THAT(workers(d), ElementsAre(1));
}

TEST_F(Membership, TheNextTermStartsAtTheGreatestReport) {
  silence(3);
  order_seal();
  seal(1, 12);
  seal(2, 13);
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_EQ(d.record->term, 5);
  EXPECT_EQ(d.record->start, at(13));
  EXPECT_THAT(d.record->sources, ElementsAre(2));
  EXPECT_THAT(workers(d), ElementsAre(1, 2));
  EXPECT_EQ(d.record->workers[1].voter, 1);
}

TEST_F(Membership, BallotsCastOnTheStartKeepTheirRange) {
  silence(3);
  order_seal();
  seal(1, 12);
  seal(2, 12);
  pulse(1).pending = Pulse::Pending{at(12), {6, 8}};
  pulse(2).pending = Pulse::Pending{at(11), {2, 4}};  // on another base
  EXPECT_THAT(decide().record->kept, ElementsAre(VoterRange{0, {6, 8}}));
}

TEST_F(Membership, TwoBallotsOfOneRangeAreNotBothKept) {
  silence(3);
  order_seal();
  seal(1, 12);
  seal(2, 12);
  pulse(1).pending = Pulse::Pending{at(12), {6, 8}};
  pulse(2).pending = Pulse::Pending{at(12), {6, 8}};
  EXPECT_THAT(decide().record->kept, ElementsAre(VoterRange{0, {6, 8}}));
}

TEST_F(Membership, WaitsUntilTheSealedHaveHeardOfTheCommit) {
  order_seal();
  for (std::int32_t w : {1, 2, 3}) seal(w, 12);
  pulse(2).told = at(10);
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 to hear of commit 11"));
}

TEST_F(Membership, APlannedSealWaitsForTheSlowAndIsHurriedByTheDead) {
  joiner(4, 12);
  order_seal(14);
  seal(1, 14);
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("workers 2, 3 to seal after step 14"));
  silence(3);
  EXPECT_EQ(decide().kind, Decision::Kind::seal);
  EXPECT_EQ(decide().seal_at, 0);
}

TEST_F(Membership, SuspicionsAreForgivenOnceInAWindow) {
  order_seal();
  for (std::int32_t w : {1, 2, 3}) seal(w, 12);
  pulse(1).suspects = {{3, "x"}};
  pulse(2).suspects = {{3, "x"}};
  pulse(3).suspects = {{1, "x"}};
  EXPECT_THAT(workers(decide()), ElementsAre(1, 2, 3));
  EXPECT_TRUE(decide().suspicions);
  view.last_pardoned = now - seconds(50);
  EXPECT_THAT(workers(decide()), ElementsAre(1, 2));
  view.last_pardoned = now - seconds(101);
  EXPECT_THAT(workers(decide()), ElementsAre(1, 2, 3));
}

TEST_F(Membership, OfTwoThatSuspectEachOtherTheLatestToJoinGoes) {
  order_seal();
  for (std::int32_t w : {1, 2, 3}) seal(w, 12);
  row.term->workers[0].identity.incarnation = 9;
  row.incarnations[1] = 9;
  pulse(1).identity.incarnation = 9;
  pulse(1).suspects = {{2, "x"}};
  pulse(2).suspects = {{1, "x"}};
  view.last_pardoned = now;
  EXPECT_THAT(workers(decide()), ElementsAre(2, 3));
}

TEST_F(Membership, SuspicionsDoNotStopTheRunForWantOfWorkers) {
  options.min_workers = 3;
  order_seal();
  for (std::int32_t w : {1, 2, 3}) seal(w, 12);
  pulse(1).suspects = {{2, "x"}};
  view.last_pardoned = now;
  EXPECT_THAT(workers(decide()), ElementsAre(1, 2, 3));
}

TEST_F(Membership, AnExpelledWorkerIsLeftOut) {
  view.expelled[2] = "its replica differs";
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 is expelled: its replica differs"));
  order_seal();
  for (std::int32_t w : {1, 2, 3}) seal(w, 12);
  EXPECT_THAT(workers(decide()), ElementsAre(1, 3));
}

TEST_F(Membership, NobodyIsWaitedForWhoWasSentAwayAndHasSealed) {
  options.min_workers = 2;
  order_seal();
  view.expelled[2] = "its disk fails";
  view.sent_away = {2};
  for (std::int32_t w : {1, 2, 3}) seal(w, 12);
  silence(2);
  silence(3);
  EXPECT_THAT(decide().reason, HasSubstr("worker 3 to come back"));
  EXPECT_THAT(decide().reason, Not(HasSubstr("2")));
  joiner(3, 12);
  EXPECT_THAT(workers(decide()), ElementsAre(1, 3));
  // One that may still vote is.
  pulse(2).state = WorkerState::voting;
  pulse(3).ready = false;
  EXPECT_THAT(decide().reason, HasSubstr("worker 2 to come back"));
}

TEST_F(Membership, ColdWaitsForAllToComeBackOrTheColdWait) {
  for (std::int32_t w : {1, 2}) joiner(w, 12).ready = false;
  silence(3);
  order_seal();
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("worker 3 to come back"));
  now += seconds(60);
  for (std::int32_t w : {1, 2}) view.heard[w].at = now;
  ASSERT_EQ(decide().kind, Decision::Kind::term);
  EXPECT_THAT(workers(decide()), ElementsAre(1, 2));
}

TEST_F(Membership, ColdStartsAtTheBestJournalThatHasTheCommit) {
  joiner(1, 11);
  joiner(2, 30).has_commit = false;  // longer, and on another branch
  joiner(3, 13).held_term = 4;
  pulse(1).held_term = 4;
  order_seal();
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_EQ(d.record->start, at(13));
  EXPECT_THAT(workers(d), ElementsAre(1, 3));
  EXPECT_THAT(d.record->sources, ElementsAre(3));
}

TEST_F(Membership, ALaterTermsRecordIsBetterThanALongerHistory) {
  joiner(1, 12).held_term = 4;
  joiner(2, 14).held_term = 3;
  joiner(3, 11).held_term = 3;
  order_seal();
  EXPECT_EQ(decide().record->start, at(12));
}

TEST_F(Membership, NobodyWithTheCommitIsWaitedForByName) {
  for (std::int32_t w : {1, 2, 3}) joiner(w, 5).has_commit = false;
  order_seal();
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("a worker that has the committed step 11"));
  EXPECT_THAT(decide().reason, HasSubstr("workers 1, 2, 3 lack it"));
  options.without_commit = true;
  EXPECT_EQ(decide().kind, Decision::Kind::term);
}

TEST_F(Membership, TwoJoinersDoNotGoOnWithoutTheCommit) {
  for (std::int32_t w : {1, 2, 3}) silence(w);
  joiner(4, 8).has_commit = false;
  joiner(5, 9).has_commit = false;
  order_seal();
  now += seconds(61);
  for (std::int32_t w : {4, 5}) view.heard[w].at = now;
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
}

TEST_F(Membership, TooFewOfTheTermGoOnWithThoseWhoCameBackAndHaveTheCommit) {
  options.min_workers = 2;
  silence(3);
  seal(1, 11);
  joiner(2, 12).ready = false;  // ahead of the only survivor: nobody can vouch for it
  order_seal();
  now += seconds(60);
  for (std::int32_t w : {1, 2}) view.heard[w].at = now;
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_EQ(d.record->start, at(12));
  EXPECT_THAT(workers(d), ElementsAre(1, 2));
}

TEST_F(Membership, ALiveWorkerThatDoesNotSealIsNotStartedCold) {
  silence(2);
  silence(3);
  joiner(4, 12);
  order_seal();
  now += seconds(100);
  for (std::int32_t w : {1, 4}) view.heard[w].at = now;
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("worker 1 to seal"));
}

TEST_F(Membership, FewerThanMinWorkersWait) {
  options.min_workers = 3;
  silence(2);
  silence(3);
  seal(1, 12);
  order_seal();
  now += seconds(60);
  view.heard[1].at = now;
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("1 of 3 workers that have step 11 are here"));
}

TEST_F(Membership, ARowOlderThanAWorkersTermIsRefused) {
  pulse(2).term = 6;
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("the row ends with term 4, worker 2 knows of term 6"));
}

TEST_F(Membership, RecoveringAnOldRowBeginsAboveEveryTermSeen) {
  options.recover = true;
  for (std::int32_t w : {1, 2, 3}) {
    pulse(w).term = 6;
    pulse(w).told = at(20);
    seal(w, 20 + w);
  }
  pulse(3).told = at(19);
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  now += seconds(61);
  for (std::int32_t w : {1, 2, 3}) view.heard[w].at = now;
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_EQ(d.record->term, 7);
  EXPECT_EQ(d.commit, at(20));
  EXPECT_EQ(d.record->start, at(22));
  EXPECT_THAT(workers(d), ElementsAre(1, 2));
}

TEST_F(Membership, TheFirstTermWaitsForItsWorkers) {
  row.term.reset();
  row.commit = {};
  view.heard.clear();
  options.start_workers = 2;
  joiner(1, 0).held_term = 0;
  pulse(1).term = 0;
  pulse(1).told = {};
  EXPECT_THAT(decide().reason, HasSubstr("1 of 2 workers have joined"));
  joiner(2, 0).held_term = 0;
  pulse(2).term = 0;
  pulse(2).told = {};
  const Decision d = decide();
  ASSERT_EQ(d.kind, Decision::Kind::term);
  EXPECT_EQ(d.record->term, 1);
  EXPECT_THAT(d.record->kept, IsEmpty());
}

TEST_F(Membership, TheFirstTermDoesNotWaitForOneThatWasSentAway) {
  row.term.reset();
  row.commit = {};
  view.heard.clear();
  options.start_workers = 3;
  options.min_workers = 2;
  for (const int worker : {1, 2}) {
    joiner(worker, 0).held_term = 0;
    pulse(worker).term = 0;
    pulse(worker).told = {};
  }
  EXPECT_THAT(decide().reason, HasSubstr("2 of 3 workers have joined"));
  view.expelled[3] = "a test";
  view.sent_away = {3};
  ASSERT_EQ(decide().kind, Decision::Kind::term);
  EXPECT_THAT(workers(decide()), ElementsAre(1, 2));
  view.expelled[2] = "a test";  // never with fewer than --min-workers
  view.sent_away = {2, 3};
  EXPECT_THAT(decide().reason, HasSubstr("1 of 2 workers have joined"));
}

TEST_F(Membership, AnEmptyRowDoesNotBeginAnewBelowAJournal) {
  row = {};
  view.heard.clear();
  joiner(1, 12).term = 0;
  pulse(1).held_term = 4;
  EXPECT_EQ(decide().kind, Decision::Kind::wait);
  EXPECT_THAT(decide().reason, HasSubstr("the store is older than the run"));
}

}  // namespace
}  // namespace ballot

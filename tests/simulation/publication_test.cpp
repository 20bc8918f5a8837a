// Who publishes which checkpoint, from what pulses say.
#include "runtime/protocol/publication.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

namespace ballot {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

Position at(std::int64_t step, std::uint64_t branch = 0) {
  return {step, {branch, static_cast<std::uint64_t>(step) + 1}};
}

// Workers 1, 2, 3 of term 4, which began at step 10; step 12 is committed.
struct PublicationOf : testing::Test {
  PublicationOf() {
    TermRecord record;
    record.term = 4;
    record.start = at(10);
    for (std::int32_t w : {1, 2, 3}) record.workers.push_back({{w, 7}, "", w - 1});
    row.term = record;
    row.commit = at(12);
    publication.follow(row);
  }
  static CheckpointFact share(std::int32_t number, const Position& position = at(12),
                              std::uint64_t digest = 5) {
    return {position, {0, digest}, {fmt::format("share-{}", number)}, number, 3};
  }
  Pulse pulse(std::int32_t worker) const {
    Pulse p;
    p.identity = {worker, 7};
    p.state = WorkerState::voting;
    p.term = 4;
    p.told = row.commit;
    p.has_commit = p.has_start = true;
    return p;
  }
  void tell(std::int32_t worker, std::vector<CheckpointFact> facts) {
    Pulse p = pulse(worker);
    p.checkpoints = std::move(facts);
    publication.hear(p, row);
  }
  void tell_all(const Position& position) {
    for (std::int32_t w : {1, 2, 3}) tell(w, {share(w - 1, position)});
  }
  void name() {
    publication.name_writer(now, row, [&](std::int32_t worker) -> std::optional<Identity> {
      if (away.contains(worker)) return std::nullopt;
      return Identity{worker, restarted.contains(worker) ? 8 : 7};
    });
  }
  std::vector<std::int32_t> named() const {
    std::vector<std::int32_t> workers;
    for (std::int32_t w : {1, 2, 3})
      for (std::int64_t incarnation : {7, 8})
        if (publication.order_to({w, incarnation})) workers.push_back(w);
    return workers;
  }
  void done(std::int32_t worker, const Position& position) {
    Pulse p = pulse(worker);
    p.published = position;
    publication.hear(p, row);
  }

  TimePoint now{seconds(1000)};
  Row row;
  std::set<std::int32_t> away, restarted;
  Publication publication{seconds(60), {}};
};

TEST_F(PublicationOf, AWholeAndCommittedCheckpointGoesToItsLowestWriter) {
  tell(2, {share(1)});
  tell(3, {share(2)});
  name();
  EXPECT_TRUE(named().empty());  // a share is missing
  tell(1, {share(0)});
  name();
  EXPECT_THAT(named(), ElementsAre(1));
  const CheckpointFact fact = *publication.order_to({1, 7});
  EXPECT_EQ(fact.position, at(12));
  EXPECT_THAT(fact.files, ElementsAre("share-0", "share-1", "share-2"));
  EXPECT_FALSE(publication.published(row));
  done(1, at(12));
  EXPECT_TRUE(named().empty());
  ASSERT_TRUE(publication.published(row));
  EXPECT_TRUE(publication.published(row)->files.empty());
  row.checkpoints.push_back(*publication.published(row));
  publication.follow(row);
  EXPECT_FALSE(publication.published(row));
  tell_all(at(12));  // overtaken on their way
  name();
  EXPECT_TRUE(named().empty());
}

TEST_F(PublicationOf, NoStepIsPublishedBeforeItIsCommitted) {
  tell_all(at(14));
  name();
  EXPECT_TRUE(named().empty());
  row.commit = at(14);
  name();
  EXPECT_TRUE(named().empty());  // no worker that has the commit has said that it is before it
  publication.hear(pulse(3), row);
  name();
  EXPECT_THAT(named(), ElementsAre(1));
}

TEST_F(PublicationOf, TheCommitOfAWorkerOfAnotherHistoryProvesNothing) {
  tell_all(at(14));
  row.commit = at(14);
  Pulse p = pulse(3);
  p.has_commit = false;
  publication.hear(p, row);
  p = pulse(2);
  p.identity.incarnation = 8;  // not in the term
  publication.hear(p, row);
  name();
  EXPECT_TRUE(named().empty());
}

TEST_F(PublicationOf, SharesOfWorkersThatAreGoneStillCount) {
  tell_all(at(12));
  away = {1, 2};
  name();
  EXPECT_THAT(named(), ElementsAre(3));
}

TEST_F(PublicationOf, AWriterThatFallsSilentOrRestartsOrTakesTooLongIsReplaced) {
  tell_all(at(12));
  name();
  away = {1};
  name();
  EXPECT_THAT(named(), ElementsAre(2));
  away.clear();
  restarted = {2};
  name();
  EXPECT_THAT(named(), ElementsAre(2));  // as it is now
  EXPECT_TRUE(publication.order_to({2, 8}));
  now += seconds(61);
  name();
  EXPECT_THAT(named(), ElementsAre(3));
  now += seconds(61);
  name();
  EXPECT_THAT(named(), ElementsAre(1));
  done(2, at(12));  // the one before had done it after all
  EXPECT_TRUE(publication.published(row));
}

TEST_F(PublicationOf, WhoseParametersDifferIsNamedAndNothingIsPublished) {
  tell(1, {share(0)});
  tell(2, {share(1, at(12), 6)});
  EXPECT_EQ(publication.finding(), "");
  tell(3, {share(2)});
  name();
  EXPECT_TRUE(named().empty());
  EXPECT_EQ(publication.finding(),
            "checkpoint 12 is not published: the parameters of worker 2 are not those of the "
            "majority");
  row.commit = at(16);
  tell_all(at(16));  // it was healed
  name();
  EXPECT_EQ(publication.finding(), "");
  EXPECT_THAT(named(), ElementsAre(1));
}

TEST_F(PublicationOf, WithTwoThatDifferNobodyIsToBlameAndNothingIsPublished) {
  CheckpointFact one = share(0), other = share(1, at(12), 6);
  one.shares = other.shares = 2;
  tell(1, {one});
  tell(2, {other});
  name();
  EXPECT_TRUE(named().empty());
  EXPECT_THAT(publication.finding(),
              HasSubstr("the parameters of workers 1, 2 differ, and no digest has a majority"));
}

TEST_F(PublicationOf, AHistoryThatATermLeftIsForgotten) {
  tell_all(at(14, 1));
  Row next = row;
  next.term->term = 5;
  next.term->start = at(13);
  next.commit = at(13);
  publication.follow(next);
  row = next;
  row.commit = at(14);
  for (std::int32_t w : {1, 2, 3}) {
    Pulse p = pulse(w);
    p.term = 5;
    publication.hear(p, row);
  }
  name();
  EXPECT_TRUE(named().empty());
}

// Steps that are fast against the commit: many checkpoints wait for it.
TEST_F(PublicationOf, WhatIsWholeWaitsForTheCommitAndWhatNeverGetsWholeGivesWay) {
  tell(1, {share(0, at(13))});  // and no other
  for (std::int64_t step = 14; step < 60; ++step) tell_all(at(step));
  row.commit = at(20);
  publication.hear(pulse(1), row);
  name();
  ASSERT_THAT(named(), ElementsAre(1));
  EXPECT_EQ(publication.order_to({1, 7})->position, at(20));
}

TEST_F(PublicationOf, TooManyFilesAreSaidAndNotPublished) {
  std::vector<CheckpointFact> shares = {share(0), share(1), share(2)};
  for (CheckpointFact& fact : shares) fact.files.resize(kMostPublishedFiles / 2, "f");
  for (std::int32_t w : {1, 2, 3}) tell(w, {shares[static_cast<std::size_t>(w) - 1]});
  name();
  EXPECT_TRUE(named().empty());
  EXPECT_THAT(publication.finding(), HasSubstr("6144 files, expected at most 4096"));
}

}  // namespace
}  // namespace ballot

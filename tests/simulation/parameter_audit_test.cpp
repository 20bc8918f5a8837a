#include "runtime/protocol/parameter_audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ballot {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

struct Audit : testing::Test {
  // What worker `worker` says of its parameters: a digest for each of some steps.
  void say(std::int32_t worker, std::vector<std::pair<std::int64_t, std::uint64_t>> digests,
           std::int64_t incarnation = 1) {
    Pulse pulse;
    pulse.identity = {worker, incarnation};
    for (const auto& [step, digest] : digests)
      pulse.parameters.push_back({{step, {1, static_cast<std::uint64_t>(step)}}, {0, digest}});
    pulses[worker] = pulse;
  }
  void look() {
    std::vector<const Pulse*> all;
    for (const auto& [worker, pulse] : pulses) all.push_back(&pulse);
    audit.look(all, term);
  }
  void rebuilt(std::int32_t worker, std::int64_t wrong_from) {
    pulses[worker].rebuilt = Rebuilt{pulses[worker].parameters.back().position, wrong_from};
  }
  std::set<Identity> term;
  std::map<std::int32_t, Pulse> pulses;
  ParameterAudit audit;
};

TEST_F(Audit, EqualParametersAreNoFinding) {
  say(0, {{4, 40}, {7, 70}});
  say(1, {{4, 40}, {8, 80}});
  say(2, {{8, 80}});
  look();
  EXPECT_THAT(audit.wrong(), IsEmpty());
  EXPECT_EQ(audit.finding(), "");
}

TEST_F(Audit, AMajorityNamesWhoIsWrongAndAfterWhichStep) {
  say(0, {{4, 40}, {8, 80}});
  say(1, {{4, 40}, {8, 81}});
  say(2, {{4, 40}, {8, 80}});
  look();
  ASSERT_EQ(audit.wrong().size(), 1u);
  EXPECT_EQ(audit.wrong().at({1, 1}), "its parameters after step 8 are not those of workers 0, 2");
  EXPECT_EQ(audit.finding(), "");
  say(1, {{8, 80}}, 2);  // rebuilt, as another incarnation
  look();
  EXPECT_THAT(audit.wrong(), IsEmpty());
}

TEST_F(Audit, OtherPositionsAreNotCompared) {
  say(0, {{4, 40}});
  say(1, {{5, 41}});
  pulses[2] = pulses[0];
  pulses[2].identity = {2, 1};
  pulses[2].parameters[0].position.digest.high = 9;  // step 4 of another history
  pulses[2].parameters[0].digest = {0, 99};
  look();
  EXPECT_THAT(audit.wrong(), IsEmpty());
  EXPECT_EQ(audit.finding(), "");
}

TEST_F(Audit, TwoThatDifferAreBothNamedUntilTheyAgreeAgain) {
  say(0, {{8, 80}});
  say(1, {{8, 81}});
  look();
  EXPECT_THAT(audit.wrong(), IsEmpty());
  EXPECT_EQ(audit.finding(),
            "after step 8 the parameters of workers 0, 1 differ, no majority judges");
  say(0, {{16, 160}});
  say(1, {{17, 171}});
  look();  // nothing in common: nothing new
  EXPECT_THAT(audit.finding(), HasSubstr("after step 8"));
  say(0, {{20, 200}});
  say(1, {{20, 201}});
  look();
  EXPECT_THAT(audit.finding(), HasSubstr("after step 8"));  // the text stays
  say(0, {{24, 240}});
  say(1, {{24, 240}});
  look();
  EXPECT_EQ(audit.finding(), "");
}

TEST_F(Audit, AThirdWorkerJudges) {
  say(0, {{8, 80}});
  say(1, {{8, 81}});
  look();
  say(2, {{8, 81}});
  look();
  EXPECT_EQ(audit.wrong().size(), 1u);
  EXPECT_TRUE(audit.wrong().contains({0, 1}));
  EXPECT_EQ(audit.finding(), "");
}

TEST_F(Audit, WhoIsGoneDiffersFromNobody) {
  say(0, {{8, 80}});
  say(1, {{8, 81}});
  look();
  pulses.erase(1);
  look();
  EXPECT_EQ(audit.finding(), "");
}

// Two that differ: each replays what it has, and then they agree.
TEST_F(Audit, WhereNoMajorityJudgesReplayDoes) {
  term = {{0, 1}, {1, 1}};
  say(0, {{8, 80}});
  say(1, {{8, 81}});
  look();
  EXPECT_EQ(audit.to_replay().size(), 2u);
  EXPECT_EQ(
      audit.to_replay().at({0, 1}),
      "after step 8 the parameters of workers 0, 1 differ and no majority judges: replay does");
  look();  // they have not heard yet
  EXPECT_EQ(audit.to_replay().size(), 2u);
  say(0, {{9, 90}}, 2);
  rebuilt(0, 0);
  say(1, {{9, 90}}, 2);
  rebuilt(1, 7);
  look();
  EXPECT_EQ(
      audit.finding(),
      "replay of differing parameters: worker 0's were right, worker 1's were wrong from step "
      "7 on");
  term = {{0, 2}, {1, 2}};
  for (const std::int32_t w : {0, 1}) say(w, {{110, 100}}, 2);
  look();
  EXPECT_EQ(audit.finding(), "");
  EXPECT_THAT(audit.to_replay(), IsEmpty());
  // And some day again.
  say(0, {{120, 200}}, 2);
  say(1, {{120, 201}}, 2);
  look();
  EXPECT_EQ(audit.to_replay().size(), 2u);
}

TEST_F(Audit, WhoStillDifferAfterReplayAreNotSentAgain) {
  term = {{0, 1}, {1, 1}};
  say(0, {{8, 80}});
  say(1, {{8, 81}});
  look();
  term = {{0, 2}, {1, 2}};
  for (std::int64_t step = 9; step < 30; ++step) {
    for (const std::int32_t w : {0, 1}) {
      say(w, {{step, static_cast<std::uint64_t>(10 * step + w)}}, 2);
      rebuilt(w, 0);
    }
    look();
    EXPECT_THAT(audit.to_replay(), IsEmpty()) << step;
    EXPECT_THAT(audit.finding(), HasSubstr("differ, after replay too"));
    EXPECT_THAT(audit.finding(), HasSubstr("worker 0's were right, worker 1's were right"));
  }
}

// A third may be on its way to tell of the same position, and judge.
TEST_F(Audit, NobodyIsSentToReplayBeforeAllOfTheTermHaveTold) {
  term = {{0, 1}, {1, 1}, {2, 1}};
  say(0, {{8, 80}});
  say(1, {{8, 81}});
  say(2, {{7, 70}});
  look();
  EXPECT_THAT(audit.to_replay(), IsEmpty());
  EXPECT_THAT(audit.finding(), HasSubstr("no majority judges"));
  say(2, {{8, 80}});
  look();
  EXPECT_THAT(audit.to_replay(), IsEmpty());
  EXPECT_TRUE(audit.wrong().contains({1, 1}));
}

TEST_F(Audit, TwoAgainstTwoAllReplay) {
  term = {{0, 1}, {1, 1}, {2, 1}, {3, 1}};
  for (const std::int32_t w : {0, 1, 2, 3}) say(w, {{7, 70}});
  for (const std::int32_t w : {0, 1, 2, 3}) {
    say(w, {{8, 80u + static_cast<std::uint64_t>(w % 2)}});
    look();
    EXPECT_EQ(audit.to_replay().size(), w == 3 ? 4u : 0u);
    EXPECT_TRUE(w == 2 || audit.wrong().empty());
  }
}

}  // namespace
}  // namespace ballot

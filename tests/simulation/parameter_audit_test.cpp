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
    audit.look(all);
  }
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

}  // namespace
}  // namespace ballot

#include "runtime/protocol/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "core/error.h"

namespace ballot {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Ledger, EmptyHandsOutTheFirstSamplesInTheOrderOfVoters) {
  EXPECT_THAT(assignment({}, 3, 2, {}),
              ElementsAre(VoterRange{0, {0, 2}}, VoterRange{1, {2, 4}}, VoterRange{2, {4, 6}}));
}

// H7 of the protocol: with one counter a re-vote would skip 0 or repeat 2.
TEST(Ledger, ARevoteWithKeptRangesNeitherSkipsNorRepeats) {
  const std::vector<VoterRange> kept = {{0, {1, 2}}, {1, {2, 3}}};
  const auto drawn = assignment({}, 2, 1, kept);
  EXPECT_THAT(drawn, ElementsAre(VoterRange{0, {1, 2}}, VoterRange{1, {2, 3}}));
  const Ledger after = remove_counted({}, drawn, std::vector<std::uint64_t>{0b11});
  EXPECT_EQ(after, (Ledger{3, {{0, 1}}}));
  EXPECT_THAT(assignment(after, 2, 1, {}),
              ElementsAre(VoterRange{0, {0, 1}}, VoterRange{1, {3, 4}}));
}

TEST(Ledger, ALateVotersRangeIsTheFirstOfTheNextStep) {
  const auto drawn = assignment({}, 3, 2, {});
  const Ledger after = remove_counted({}, drawn, std::vector<std::uint64_t>{0b101});
  EXPECT_EQ(after, (Ledger{6, {{2, 4}}}));
  EXPECT_EQ(assignment(after, 1, 2, {}).front().samples, (SampleRange{2, 4}));
}

TEST(Ledger, WhatWasDrawnBeyondTheFurthestUsedSampleIsNotRemembered) {
  const auto drawn = assignment({}, 3, 2, {});
  EXPECT_EQ(remove_counted({}, drawn, std::vector<std::uint64_t>{0b001}), (Ledger{2, {}}));
  EXPECT_EQ(remove_counted({}, drawn, std::vector<std::uint64_t>{0}), Ledger{});
}

TEST(Ledger, AShortStretchGivesAShortRange) {
  const Ledger ledger{10, {{3, 4}}};
  EXPECT_THAT(assignment(ledger, 2, 4, {}),
              ElementsAre(VoterRange{0, {3, 4}}, VoterRange{1, {10, 14}}));
}

TEST(Ledger, AUsedOrTwiceKeptRangeIsOurMistake) {
  const Ledger ledger{4, {}};
  EXPECT_THAT(
      [&] {
        assignment(ledger, 1, 1, std::vector<VoterRange>{{0, {2, 3}}});
      },
      ThrowsMessage<LogicError>(HasSubstr("voter 0 keeps [2, 3)")));
  EXPECT_THAT(
      [&] {
        assignment({}, 2, 1, std::vector<VoterRange>{{0, {2, 3}}, {1, {2, 3}}});
      },
      ThrowsMessage<LogicError>(HasSubstr("kept twice")));
  EXPECT_THAT(
      [&] {
        remove_counted(ledger, std::vector<VoterRange>{{0, {2, 3}}}, std::vector<std::uint64_t>{1});
      },
      ThrowsMessage<LogicError>(HasSubstr("[2, 3), which was used before")));
}

// I9 along any history: voters come and go (4 -> 1 -> 4), some are late, some keep what they drew
// for a step that was voted again.
RC_GTEST_PROP(Ledger, NothingIsCountedTwiceAndUsedPlusUnusedIsAllBelowTheCounter, ()) {
  const std::int64_t per_voter = *rc::gen::inRange(1, 5);
  Ledger ledger;
  std::set<std::int64_t> used;
  const int steps = *rc::gen::inRange(1, 40);
  for (int step = 0; step < steps; ++step) {
    const std::int32_t voters = *rc::gen::element(4, 1, 4, 3, 2);
    std::vector<VoterRange> kept;
    if (*rc::gen::arbitrary<bool>()) {
      // A first try with other voters: some survive it with what they drew.
      const std::int32_t before = *rc::gen::inRange(1, 5);
      std::int32_t voter = 0;
      for (const VoterRange& drawn : assignment(ledger, before, per_voter, {}))
        if (voter < voters && *rc::gen::arbitrary<bool>()) kept.push_back({voter++, drawn.samples});
    }
    const auto drawn = assignment(ledger, voters, per_voter, kept);
    const auto counted = static_cast<std::uint64_t>(*rc::gen::inRange(0, 1 << voters));
    for (const VoterRange& d : drawn) {
      RC_ASSERT(d.samples.count() == per_voter);
      RC_ASSERT(is_unused(ledger, d.samples));
      for (std::int64_t s = d.samples.begin; s < d.samples.end; ++s)
        if (counted >> d.voter & 1) RC_ASSERT(used.insert(s).second);
    }
    ledger = remove_counted(ledger, drawn, std::vector<std::uint64_t>{counted});
    std::set<std::int64_t> all = used;
    std::int64_t last = -1;
    for (const SampleRange& r : ledger.unused) {
      RC_ASSERT(r.begin > last && r.count() > 0);  // ascending, not touching
      last = r.end;
      for (std::int64_t s = r.begin; s < r.end; ++s) RC_ASSERT(all.insert(s).second);
    }
    RC_ASSERT(static_cast<std::int64_t>(all.size()) == ledger.next);
    if (!all.empty()) RC_ASSERT(*all.begin() == 0 && *all.rbegin() == ledger.next - 1);
  }
}

RC_GTEST_PROP(Ledger, WhatWasLeftBehindIsUsedFirst, ()) {
  Ledger ledger{40, {{0, 4}, {8, 12}, {20, 24}}};
  const std::int32_t voters = *rc::gen::inRange(1, 5);
  int steps = 0;
  for (; !ledger.unused.empty(); ++steps)
    ledger = remove_counted(ledger, assignment(ledger, voters, 4, {}),
                            std::vector<std::uint64_t>{~0ull});
  RC_ASSERT(steps == (3 + voters - 1) / voters);
}

}  // namespace
}  // namespace ballot

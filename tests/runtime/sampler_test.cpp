#include "runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>
#include <set>

#include "core/error.h"

namespace ballot {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<std::int32_t> counting(std::int64_t count) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

RC_GTEST_PROP(Sampler, ASampleIsAWindowAndItsSuccessors, ()) {
  const std::int64_t length = *rc::gen::inRange(1, 20);
  const std::int64_t sequences = *rc::gen::inRange(1, 5);
  const std::vector<std::int32_t> tokens = counting(length + *rc::gen::inRange(1, 100));
  const Sampler sampler(tokens, length, *rc::gen::arbitrary<std::uint64_t>(), "data");
  TokenBatch batch;
  sampler.draw(*rc::gen::inRange(0, 1000), sequences, batch);
  RC_ASSERT(batch.sequences == sequences);
  RC_ASSERT(batch.length == length);
  RC_ASSERT(batch.inputs.size() == static_cast<std::size_t>(sequences * length));
  for (std::int64_t row = 0; row < sequences; ++row)
    for (std::int64_t t = 0; t < length; ++t) {
      const std::size_t i = static_cast<std::size_t>(row * length + t);
      RC_ASSERT(batch.inputs[i] == batch.inputs[static_cast<std::size_t>(row * length)] + t);
      RC_ASSERT(batch.targets[i] == batch.inputs[i] + 1);
      RC_ASSERT(batch.targets[i] < static_cast<std::int32_t>(tokens.size()));
    }
}

RC_GTEST_PROP(Sampler, HowIdsAreDividedAmongWorkersChangesNothing, ()) {
  const std::vector<std::int32_t> tokens = counting(1000);
  const Sampler sampler(tokens, 7, *rc::gen::arbitrary<std::uint64_t>(), "data");
  const std::int64_t first = *rc::gen::inRange(0, 100000), count = *rc::gen::inRange(2, 20);
  const std::int64_t cut = *rc::gen::inRange<std::int64_t>(1, count);
  TokenBatch whole, left, right;
  sampler.draw(first, count, whole);
  sampler.draw(first, cut, left);
  sampler.draw(first + cut, count - cut, right);
  left.inputs.insert(left.inputs.end(), right.inputs.begin(), right.inputs.end());
  RC_ASSERT(left.inputs == whole.inputs);
}

TEST(Sampler, SamplesAreTheSameForever) {
  const std::vector<std::int32_t> tokens = counting(1'000'000);
  const Sampler sampler(tokens, 64, 42, "data");
  // Written down once: a change would change every run that is resumed.
  EXPECT_EQ(sampler.start(0), 473662);
  EXPECT_EQ(sampler.start(1), 915595);
  EXPECT_EQ(sampler.start(1'000'000'000'000), 619746);
}

TEST(Sampler, StartsAreUniformAndReachBothEnds) {
  const std::vector<std::int32_t> tokens = counting(20);  // 10 starts of length 10
  const Sampler sampler(tokens, 10, 3, "data");
  std::vector<int> seen(10);
  constexpr int kDraws = 100'000;
  for (int id = 0; id < kDraws; ++id) ++seen.at(static_cast<std::size_t>(sampler.start(id)));
  double chi = 0;
  for (const int count : seen)
    chi += (count - kDraws / 10.0) * (count - kDraws / 10.0) / (kDraws / 10.0);
  EXPECT_LT(chi, 27.9) << "nine degrees of freedom: one in a thousand";
}

TEST(Sampler, AnotherSeedIsAnotherOrder) {
  const std::vector<std::int32_t> tokens = counting(1'000'000);
  const Sampler a(tokens, 10, 1, "data"), b(tokens, 10, 2, "data");
  int same = 0;
  for (int id = 0; id < 1000; ++id) same += a.start(id) == b.start(id);
  EXPECT_LT(same, 3);
}

TEST(Sampler, OneWindowIsEnoughOneTokenLessIsNot) {
  const std::vector<std::int32_t> tokens = counting(9);
  TokenBatch batch;
  Sampler(tokens, 8, 1, "data").draw(5, 1, batch);
  EXPECT_EQ(batch.targets.back(), 8);
  EXPECT_THAT(
      [&] { Sampler(tokens, 9, 1, "train.txt"); },
      ThrowsMessage<DataError>(HasSubstr("train.txt has 9 tokens, a window of 9 needs 10")));
  EXPECT_THROW(Sampler({}, 1, 1, "data"), DataError);
}

TEST(Sampler, DrawingAgainReusesTheMemory) {
  const std::vector<std::int32_t> tokens = counting(100);
  const Sampler sampler(tokens, 8, 1, "data");
  TokenBatch batch;
  sampler.draw(0, 4, batch);
  const std::int32_t* memory = batch.inputs.data();
  sampler.draw(4, 4, batch);
  EXPECT_EQ(batch.inputs.data(), memory);
}

TEST(EvaluationWindows, CoverTheStreamOnceAndDropTheRemainder) {
  const std::vector<std::int32_t> tokens = counting(24);  // 23 targets: 4 windows of 5, 3 left
  const EvaluationWindows windows(tokens, 5, 0, "data");
  ASSERT_EQ(windows.count(), 4);
  TokenBatch batch;
  windows.fill(0, 4, batch);
  EXPECT_EQ(batch.inputs, counting(20));
  for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(batch.targets[i], batch.inputs[i] + 1);
}

TEST(EvaluationWindows, AnExactFitIsWhole) {
  EXPECT_EQ(EvaluationWindows(counting(21), 5, 0, "data").count(), 4);
  EXPECT_EQ(EvaluationWindows(counting(20), 5, 0, "data").count(), 3)
      << "the last token has no successor";
}

RC_GTEST_PROP(EvaluationWindows, ALimitSpreadsThemWithoutRepeats, ()) {
  const std::int64_t all = *rc::gen::inRange(1, 200), limit = *rc::gen::inRange(1, 250), length = 3;
  const std::vector<std::int32_t> tokens = counting(all * length + 1);
  const EvaluationWindows windows(tokens, length, limit, "data");
  RC_ASSERT(windows.count() == std::min(limit, all));
  TokenBatch batch;
  std::int64_t before = -1, smallest = all, largest = 0;
  for (std::int64_t k = 0; k < windows.count(); ++k) {
    windows.fill(k, 1, batch);
    RC_ASSERT(batch.inputs[0] % length == 0);
    const std::int64_t window = batch.inputs[0] / length;
    if (k > 0)
      smallest = std::min(smallest, window - before), largest = std::max(largest, window - before);
    RC_ASSERT(window > before);
    before = window;
  }
  if (windows.count() > 1) RC_ASSERT(largest - smallest <= 1);
}

TEST(EvaluationWindows, OutOfRangeIsOurMistakeTooFewTokensTheDatas) {
  const std::vector<std::int32_t> tokens = counting(21);
  const EvaluationWindows windows(tokens, 5, 0, "data");
  TokenBatch batch;
  EXPECT_THROW(windows.fill(3, 2, batch), LogicError);
  EXPECT_THROW(windows.fill(-1, 1, batch), LogicError);
  EXPECT_THROW(EvaluationWindows(counting(5), 5, 0, "data"), DataError);
}

}  // namespace
}  // namespace ballot

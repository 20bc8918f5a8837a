// The schedule: edges, the recipe, bounds.

#include "optim/schedule.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace ballot {
namespace {

using Shape = RateSchedule::Shape;

TEST(RateSchedule, IsTheRecipeOfTheOrientationRuns) {
  const RateSchedule schedule{
      .shape = Shape::cosine, .steps = 150, .warmup_steps = 15, .final_factor = 0.1};
  for (int t = 0; t < 150; ++t) {
    const double recipe =
        std::min(1.0, (t + 1) / 15.0) * (0.1 + 0.45 * (1 + std::cos(std::numbers::pi * t / 150)));
    // The cosine is our own, so that every processor computes the same bits; libm's is within an
    // ulp or two.
    EXPECT_NEAR(schedule.factor(t), recipe, 4e-16) << "step " << t;
  }
}

TEST(RateSchedule, WarmUpReachesOneAtItsLastStep) {
  const RateSchedule schedule{
      .shape = Shape::constant, .steps = 100, .warmup_steps = 4, .final_factor = 0.1};
  EXPECT_EQ(schedule.factor(0), 0.25);
  EXPECT_EQ(schedule.factor(2), 0.75);
  EXPECT_EQ(schedule.factor(3), 1.0);
  EXPECT_EQ(schedule.factor(4), 1.0);
  EXPECT_EQ(schedule.factor(99), 1.0);
}

TEST(RateSchedule, WithoutWarmUpTheFirstStepIsThePeak) {
  for (const Shape shape : {Shape::constant, Shape::linear, Shape::cosine})
    for (const int warmup : {0, 1})
      EXPECT_EQ((RateSchedule{shape, 10, warmup, 0.1}.factor(0)), 1.0);
}

TEST(RateSchedule, EndsAtTheFinalFactorAndStaysThere) {
  for (const Shape shape : {Shape::linear, Shape::cosine}) {
    const RateSchedule schedule{
        .shape = shape, .steps = 10, .warmup_steps = 0, .final_factor = 0.1};
    EXPECT_GT(schedule.factor(9), 0.1);
    EXPECT_NEAR(schedule.factor(10), 0.1, 1e-15);
    EXPECT_EQ(schedule.factor(10), schedule.factor(1000));
  }
}

TEST(RateSchedule, LinearIsHalfWayInTheMiddle) {
  EXPECT_DOUBLE_EQ((RateSchedule{Shape::linear, 10, 0, 0.1}.factor(5)), 0.55);
  EXPECT_DOUBLE_EQ((RateSchedule{Shape::cosine, 10, 0, 0.1}.factor(5)), 0.55);
}

TEST(RateSchedule, RefusesNegativeStepsAndEmptyRuns) {
  EXPECT_THROW((RateSchedule{Shape::linear, 10, 0, 0.1}.factor(-1)), LogicError);
  EXPECT_THROW((RateSchedule{Shape::linear, 0, 0, 0.1}.factor(0)), LogicError);
}

RC_GTEST_PROP(RateSchedule, StaysBetweenZeroAndOneAndFallsAfterWarmUp, ()) {
  const auto shape = *rc::gen::element(Shape::constant, Shape::linear, Shape::cosine);
  const auto steps = *rc::gen::inRange<std::int64_t>(1, 2000);
  const auto warmup = *rc::gen::inRange<std::int64_t>(0, steps + 1);
  const double final_factor = *rc::gen::inRange(0, 101) / 100.0;
  const RateSchedule schedule{shape, steps, warmup, final_factor};
  double before = 2;
  for (std::int64_t step = 0; step <= steps; ++step) {
    const double factor = schedule.factor(step);
    RC_ASSERT(factor >= 0.0);
    RC_ASSERT(factor <= 1.0);
    if (step + 1 > warmup) RC_ASSERT(factor <= before + 1e-15);
    if (step + 1 >= warmup) before = factor;
    if (warmup == 0) RC_ASSERT(factor >= final_factor - 1e-15);
  }
}

}  // namespace
}  // namespace ballot

// All voters leave with the same momenta, the mean of what they came with.
#include "runtime/momentum_average.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/bfloat16.h"
#include "tests/runtime/checkpoint_support.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;

std::vector<float> momentum_values(const ParameterState& s) {
  std::vector<float> values;
  const Tensor& m = s.momentum.view();
  for (std::int64_t i = 0; i < s.parameter->extent(); ++i)
    values.push_back(m.type == DType::f32 ? m.f32()[i] : to_float(m.bf16()[i]));
  return values;
}

TEST(MomentumAverage, GivesEveryVoterTheMeanAndLeavesWhatIsReplicated) {
  for (const std::int64_t piece : {std::int64_t{100}, std::int64_t{1} << 22}) {
    constexpr int kVoters = 3;
    std::vector<std::vector<std::vector<float>>> before(kVoters), after(kVoters);
    std::vector<std::vector<bool>> is_private(kVoters);
    run_loopback(kVoters, [&](Transport& transport) {
      const auto rank = static_cast<std::size_t>(transport.rank());
      SmallState mine(7, transport.rank());
      for (ParameterState& s : mine.state().states()) {
        // Of an ordinary size: the mean of random bits is anything.
        const Tensor& m = s.momentum.view();
        for (std::int64_t r = 0; r < s.parameter->shape.rows; ++r)
          for (std::int64_t c = 0; c < s.parameter->shape.cols; ++c) {
            const std::int64_t i = r * s.parameter->row_stride + c;
            const auto value = static_cast<float>(
                std::sin(static_cast<double>(i + 100 * (s.is_private ? transport.rank() : 0))));
            if (m.type == DType::f32)
              m.f32()[i] = value;
            else
              m.bf16()[i] = to_bfloat16(value);
          }
        before[rank].push_back(momentum_values(s));
        is_private[rank].push_back(s.is_private);
      }
      int asked = 0;
      MomentumAverage average(mine.state(), transport, piece);
      average.before_change([&](const Parameter&, Changing what) {
        EXPECT_EQ(what, Changing::state);
        ++asked;
      });
      average.average(5, Deadline::in(60s));
      EXPECT_GE(asked, 3);
      for (const ParameterState& s : mine.state().states())
        after[rank].push_back(momentum_values(s));
    });
    for (std::size_t t = 0; t < before[0].size(); ++t)
      for (std::size_t i = 0; i < before[0][t].size(); ++i) {
        double mean = 0, rounding = 0;
        for (int v = 0; v < kVoters; ++v) {
          ASSERT_EQ(after[static_cast<std::size_t>(v)][t][i], after[0][t][i]);
          const double one = before[static_cast<std::size_t>(v)][t][i];
          mean += one / kVoters;
          rounding += std::abs(one) / kVoters / 256;
        }
        if (is_private[0][t]) {
          ASSERT_NEAR(after[0][t][i], mean, rounding + std::abs(mean) / 128) << t << " " << i;
        } else {
          ASSERT_EQ(after[0][t][i], before[0][t][i]) << t << " " << i;
        }
      }
  }
}

// Counted by the transport as any other byte, in the steps in which it happens and no other.
TEST(MomentumAverage, HappensEverySoManyStepsOfARun) {
  const TinyRun tiny;
  const auto plain = train_on(3, tiny.run("plain"));
  const auto averaged = train_on(3, tiny.run("averaged", "", {"vote.average_momentum_every=3"}));
  EXPECT_EQ(averaged[0].digest, averaged[2].digest);
  EXPECT_NE(averaged[0].digest, plain[0].digest);
  const auto steps = metrics_of(tiny.path("averaged"), "step");
  ASSERT_EQ(steps.size(), 6u);
  const auto sent = [&](std::size_t step) {
    return steps[step - 1]["comm/wire_bytes_tx"].get<double>();
  };
  const double voted = metrics_of(tiny.path("averaged"), "run").at(0)["voted_parameters"];
  EXPECT_EQ(sent(1), sent(2));
  EXPECT_NEAR(sent(3), sent(6), 1024);  // the last one saves too
  EXPECT_GE(sent(3) - sent(2), voted * 4 * 2 / 3);
  EXPECT_LT(sent(3) - sent(2), voted * 4 * 2 / 3 * 1.3 + 4096);  // rows' padding, headers
}

}  // namespace
}  // namespace ballot

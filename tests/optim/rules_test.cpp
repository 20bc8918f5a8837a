// What no stored trajectory holds: ties, zeros, abstentions, voted embeddings, Signum and SGD,
// against a float64 truth.

#include <gtest/gtest.h>

#include <cstring>

#include "collectives/transport/loopback_transport.h"
#include "collectives/vote.h"
#include "optim/direction.h"
#include "optim/direction_reference.h"
#include "optim/replicated_update.h"
#include "optim/replicated_update_reference.h"
#include "tests/optim/matrices.h"

namespace ballot {
namespace {

constexpr std::uint64_t kSeed = 42;
const Deadline kDeadline = Deadline::in(std::chrono::seconds(100));

ParameterGroup voted(Rule rule, double decay) {
  ParameterGroup group = default_group(rule);
  group.newton_schulz = false;
  group.rate = 1e-2;
  group.weight_decay = decay;
  return group;
}

// The gradient of (step, voter); real elements in row order.
using Gradients = std::function<std::vector<double>(int step, int voter)>;
struct Training {
  ParameterGroup group;
  ParameterKind kind = ParameterKind::hidden_matrix;
  std::int64_t rows = 1, cols = 1;
  int voters = 1, steps = 1;
  Ties ties = Ties::coin;
  bool silence_zero_rows = false;  // embedding_rows = seen
  Gradients gradients;
};

std::vector<double> start_of(const Training& run) {
  return random_normal(run.rows * run.cols, 77, 0.02);
}

// Every voter's weights after the run, through the real vote.
std::vector<std::vector<float>> train(const Training& run) {
  std::vector<std::vector<float>> weights(run.voters);
  run_loopback(run.voters, [&](Transport& transport) {
    Team team(1);
    Stream stream;
    const std::vector<ParameterShape> shapes{{"w", run.kind, run.rows, run.cols}};
    const ParameterArena arena(shapes, DType::f32);
    const Parameter& w = arena.parameters()[0];
    const BallotLayout layout({segment_of(w)});
    const BallotSegment& segment = layout.segments()[0];
    fill(w.value, start_of(run));
    PaddedMatrix momentum(run.rows, run.cols), direction(run.rows, run.cols);
    std::vector<std::uint8_t> silent(run.silence_zero_rows ? run.rows : 0);
    Ballot ballot(layout);
    const auto vote = make_vote(ballot, transport, {.seed = kSeed, .ties = run.ties}, kDeadline);
    for (int step = 0; step < run.steps; ++step) {
      fill(w.gradient, run.gradients(step, transport.rank()));
      scan_gradient(w.gradient, silent, stream);
      find_direction(run.group, w.gradient, momentum, direction, nullptr, stream);
      cast_ballot(direction, segment, {.seed = kSeed, .step = step, .voter = transport.rank()},
                  silent, ballot, stream);
      const Verdict& verdict = vote->elect(step, kDeadline);
      apply_verdict(verdict, segment, rate_factors(run.group, 1, run.rows, run.cols), w, stream);
    }
    weights[transport.rank()] = elements(w.value);
  });
  return weights;
}

// The same in float64, from the rules as written: one element at a time, coins from the shared
// hash.
std::vector<double> train_in_float64(const Training& run) {
  const std::int64_t count = run.rows * run.cols, stride = (run.cols + 63) / 64 * 64;
  std::int64_t block = 64;
  while (block < 512 && stride % (2 * block) == 0) block *= 2;
  std::vector<double> w = start_of(run);
  for (double& e : w) e = static_cast<float>(e);
  std::vector<std::vector<double>> momentum(run.voters, std::vector<double>(count, 0.0));
  const double scale = run.group.rule == Rule::olion ? 0.2 : 1.0;
  const double decay = run.group.rate * run.group.weight_decay, rate = run.group.rate * scale;
  const auto coin = [](std::uint64_t word, std::int64_t at) {
    return ((word >> (at % 64)) & 1) != 0;
  };
  for (int step = 0; step < run.steps; ++step) {
    std::vector<int> negative(count, 0), ballots(count, 0);
    for (int voter = 0; voter < run.voters; ++voter) {
      const std::vector<double> g = run.gradients(step, voter);
      std::vector<double> u(count);
      for (std::int64_t i = 0; i < count; ++i)
        u[i] = direction_reference<double>(run.group, static_cast<float>(g[i]), momentum[voter][i]);
      for (std::int64_t row = 0; row < run.rows; ++row) {
        bool seen = false;
        for (std::int64_t j = 0; j < run.cols; ++j) seen |= g[row * run.cols + j] != 0;
        for (std::int64_t first = 0; first < run.cols; first += block) {
          const std::int64_t last = std::min(run.cols, first + block);
          bool votes = false;
          for (std::int64_t j = first; j < last; ++j) votes |= u[row * run.cols + j] != 0;
          if (!votes || (run.silence_zero_rows && !seen)) continue;
          for (std::int64_t j = first; j < last; ++j) {
            const std::int64_t i = row * run.cols + j, at = row * stride + j;
            ++ballots[i];
            negative[i] += u[i] != 0 ? u[i] < 0 : coin(zero_coins(kSeed, step, at / 64, voter), at);
          }
        }
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = i / run.cols * stride + i % run.cols;
      const bool tie = 2 * negative[i] == ballots[i];
      const bool down =
          tie ? coin(tie_coins(kSeed, step, at / 64), at) : 2 * negative[i] > ballots[i];
      const bool held = ballots[i] == 0 || (tie && run.ties == Ties::hold);
      w[i] = verdict_reference<double>(w[i], down, held, decay, rate);
    }
  }
  return w;
}

void expect_same(const Training& run) {
  const std::vector<double> truth = train_in_float64(run);
  const std::vector<std::vector<float>> weights = train(run);
  for (int voter = 0; voter < run.voters; ++voter) {
    EXPECT_EQ(weights[voter], weights[0]);
    for (std::size_t i = 0; i < truth.size(); ++i)
      ASSERT_NEAR(weights[voter][i], truth[i], 1e-6) << "voter " << voter << " element " << i;
  }
}

Gradients random_gradients(std::int64_t count) {
  return [count](int step, int voter) { return random_normal(count, 1000 * step + voter + 1); };
}

// Half of the voters say the opposite of the other half: every element is a tie.
Gradients opposite_gradients(std::int64_t count) {
  return [count](int step, int voter) {
    std::vector<double> g = random_normal(count, 1000 * step + voter / 2);
    if (voter % 2 == 1)
      for (double& e : g) e = -e;
    return g;
  };
}

TEST(Rules, SignRulesWithoutNewtonSchulzFollowFloat64) {
  for (const Rule rule : {Rule::olion, Rule::lion, Rule::signum})
    for (const int voters : {1, 2, 3, 4})
      expect_same({.group = voted(rule, 0.1),
                   .rows = 5,
                   .cols = 70,
                   .voters = voters,
                   .steps = 10,
                   .gradients = random_gradients(350)});
}

TEST(Rules, OppositeBallotsTieAndFallToTheSharedCoin) {
  for (const int voters : {2, 4})
    expect_same({.group = voted(Rule::signum, 0.1),
                 .rows = 4,
                 .cols = 100,
                 .voters = voters,
                 .steps = 5,
                 .gradients = opposite_gradients(400)});
}

TEST(Rules, ATieThatHoldsMovesNothingButDecay) {
  for (const int voters : {2, 4}) {
    Training run{.group = voted(Rule::signum, 0),
                 .rows = 4,
                 .cols = 100,
                 .voters = voters,
                 .steps = 5,
                 .ties = Ties::hold,
                 .gradients = opposite_gradients(400)};
    const std::vector<double> start = start_of(run);
    EXPECT_EQ(train(run)[0], std::vector<float>(start.begin(), start.end()));
    run.group.weight_decay = 0.1;
    expect_same(run);
  }
}

TEST(Rules, AZeroInAVotingBlockTakesItsVotersCoin) {
  const Gradients zeros = [](int step, int voter) {
    std::vector<double> g = random_normal(3 * 130, 10 * step + voter);
    for (std::size_t i = voter; i < g.size(); i += 3) g[i] = i % 2 == 0 ? 0.0 : -0.0;
    return g;
  };
  for (const int voters : {1, 3})
    expect_same({.group = voted(Rule::signum, 0.1),
                 .rows = 3,
                 .cols = 130,
                 .voters = voters,
                 .steps = 4,
                 .gradients = zeros});
}

TEST(Rules, AnAbstainingBlockIsNotCounted) {
  // Voter v abstains from blocks v, v + 3, ...; block 9 and on has no ballot at all and is held.
  const Gradients sparse = [](int step, int voter) {
    std::vector<double> g = random_normal(4 * 192, 10 * step + voter);
    for (std::size_t i = 0; i < g.size(); ++i)
      if (i / 64 % 3 == static_cast<std::size_t>(voter) || i / 64 >= 9) g[i] = 0;
    return g;
  };
  const Training run{.group = voted(Rule::olion, 0.1),
                     .rows = 4,
                     .cols = 192,
                     .voters = 3,
                     .steps = 6,
                     .gradients = sparse};
  expect_same(run);
  Training still = run;
  still.group.weight_decay = 0;
  const std::vector<double> start = start_of(run);
  const std::vector<float> after = train(still)[0];
  for (std::size_t i = 9 * 64; i < after.size(); ++i)
    EXPECT_EQ(after[i], static_cast<float>(start[i]));
}

// An untied table: rows 0-1 always seen, row 2 only in the first step (its momentum lives on), the
// others never.
class VotedEmbedding : public testing::TestWithParam<int> {
 protected:
  Training run(double decay, int steps) const {
    const std::int64_t cols = GetParam();
    return {.group = voted(Rule::olion, decay),
            .kind = ParameterKind::embedding,
            .rows = 6,
            .cols = cols,
            .voters = 2,
            .steps = steps,
            .silence_zero_rows = true,
            .gradients = [cols](int step, int voter) {
              std::vector<double> g(6 * cols, 0.0);
              const std::vector<double> x = random_normal(3 * cols, 10 * step + voter);
              std::copy(x.begin(), x.begin() + (step == 0 ? 3 : 2) * cols, g.begin());
              return g;
            }};
  }
};

TEST_P(VotedEmbedding, FollowsFloat64WithFactorOneFifth) {
  expect_same(run(0.1, 10));
}

TEST_P(VotedEmbedding, UnseenRowsKeepEveryBitForAHundredSteps) {
  const std::int64_t cols = GetParam();
  const Training after_one = run(0, 1), after_all = run(0, 100);
  const std::vector<double> start = start_of(after_one);
  const std::vector<float> first = train(after_one)[0], last = train(after_all)[0];
  std::vector<float> before(start.begin(), start.end());
  EXPECT_EQ(std::memcmp(&before[3 * cols], &last[3 * cols], 3 * cols * sizeof(float)), 0);
  // Row 2 stays where its one step left it, whatever its momentum says.
  EXPECT_EQ(std::memcmp(&first[2 * cols], &last[2 * cols], cols * sizeof(float)), 0);
  for (std::int64_t j = 0; j < 3 * cols; ++j)
    EXPECT_NEAR(std::abs(first[j] - before[j]), 0.2 * 1e-2, 1e-7);
}

TEST_P(VotedEmbedding, UnseenRowsOnlyDecay) {
  const std::int64_t cols = GetParam();
  const Training decayed = run(0.1, 100);
  const std::vector<double> start = start_of(decayed);
  const std::vector<float> last = train(decayed)[0];
  const float decay = static_cast<float>(1e-2 * 0.1);
  for (std::int64_t i = 3 * cols; i < 6 * cols; ++i) {
    float p = static_cast<float>(start[i]);
    for (int step = 0; step < 100; ++step) p = decay_reference(p, decay);
    ASSERT_EQ(last[i], p);
    ASSERT_NEAR(p, start[i] * std::pow(1 - 1e-3, 100), 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(HiddenSizes, VotedEmbedding, testing::Values(192, 576, 768));

TEST(Rules, SgdFollowsFloat64WithAndWithoutMomentum) {
  for (const double momentum : {0.0, 0.9}) {
    ParameterGroup group = default_group(Rule::sgd);
    group.momentum = momentum;
    group.rate = 1e-2;
    group.weight_decay = 0.1;
    Stream stream;
    const std::vector<ParameterShape> shapes{{"w", ParameterKind::hidden_matrix, 5, 70}};
    const ParameterArena arena(shapes, DType::f32);
    const Parameter& w = arena.parameters()[0];
    std::vector<double> truth = random_normal(350, 8, 0.02), m(350, 0.0);
    fill(w.value, truth);
    PaddedMatrix first(5, 70), direction(5, 70);
    for (int step = 0; step < 20; ++step) {
      const std::vector<double> g = random_normal(350, 50 + step);
      fill(w.gradient, g);
      find_direction(group, w.gradient, first, direction, nullptr, stream);
      apply_direction(direction, rate_factors(group, 1, 5, 70), w, stream);
      for (int i = 0; i < 350; ++i)
        truth[i] = dense_reference<double>(truth[i], direction_reference<double>(group, g[i], m[i]),
                                           1e-3, 1e-2);
    }
    const std::vector<float> result = elements(w.value);
    for (int i = 0; i < 350; ++i) EXPECT_NEAR(result[i], truth[i], 1e-6);
  }
}

}  // namespace
}  // namespace ballot

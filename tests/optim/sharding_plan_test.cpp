// Who does Newton-Schulz on what, and that a matrix cut among members comes out as an uncut one.
#include "optim/sharding_plan.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <mutex>

#include "collectives/transport/loopback_transport.h"
#include "optim/member_gram_sum.h"
#include "optim/newton_schulz.h"
#include "optim/newton_schulz_reference.h"
#include "tests/optim/matrices.h"

namespace ballot {
namespace {

// Llama 3.1 8B (Dubey et al. 2024, table 3): 32 layers, width 4096, 8 key/value heads of 128,
// feed-forward 14336.
std::vector<ShardedMatrix> llama_8b(int layers = 32) {
  std::vector<ShardedMatrix> all;
  for (int layer = 0; layer < layers; ++layer)
    for (const auto& [rows, cols] : std::vector<std::pair<int, int>>{{4096, 4096},
                                                                     {1024, 4096},
                                                                     {1024, 4096},
                                                                     {4096, 4096},
                                                                     {14336, 4096},
                                                                     {14336, 4096},
                                                                     {4096, 14336}})
      all.push_back({"matrix", rows, cols, 5});
  all.push_back({"embedding", 128256, 4096, 0});
  all.push_back({"head", 128256, 4096, 0});
  return all;
}

void expect_whole(const ShardingPlan& plan, const std::vector<ShardedMatrix>& matrices,
                  int members) {
  ASSERT_EQ(plan.parts.size(), matrices.size());
  std::vector<std::int64_t> elements(static_cast<std::size_t>(members));
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const std::int64_t longer = std::max(matrices[i].rows, matrices[i].cols);
    std::int64_t at = 0;
    std::vector<bool> used(static_cast<std::size_t>(members));
    for (const MatrixPart& part : plan.parts[i]) {
      ASSERT_EQ(part.begin, at);
      ASSERT_LT(part.begin, part.end);
      ASSERT_TRUE(part.end == longer || part.end % 64 == 0);
      ASSERT_GE(part.member, 0);
      ASSERT_LT(part.member, members);
      ASSERT_FALSE(used[static_cast<std::size_t>(part.member)]) << "two parts at one member";
      used[static_cast<std::size_t>(part.member)] = true;
      elements[static_cast<std::size_t>(part.member)] +=
          part.count() * std::min(matrices[i].rows, matrices[i].cols);
      at = part.end;
    }
    ASSERT_EQ(at, longer);
  }
  EXPECT_EQ(elements, plan.elements);
}

TEST(ShardingPlan, OfAnEightBillionModelIsWithinATenthOfTheLowerBound) {
  const std::vector<ShardedMatrix> matrices = llama_8b();
  for (const int members : {1, 2, 4, 8, 16, 64}) {
    const ShardingPlan plan = plan_sharding(matrices, members);
    expect_whole(plan, matrices, members);
    EXPECT_LE(plan.longest(), 1.1 * plan.lower_bound()) << members << " members";
    EXPECT_LE(plan.speed_up(), members * 1.0000001);
  }
}

TEST(ShardingPlan, CutsWhatWouldHoldUpTheOthers) {
  const std::vector<ShardedMatrix> one = {{"large", 4096, 16384, 5}};
  const ShardingPlan cut = plan_sharding(one, 4);
  expect_whole(cut, one, 4);
  EXPECT_EQ(cut.parts[0].size(), 4u);
  // A A of every part remains: 4 s^2 l + 2 s^3 against 4 s^2 l / 4 + 2 s^3 with l = 4 s. The sums
  // cost a little.
  EXPECT_NEAR(cut.speed_up(), 18.0 / 6.0, 0.02);
  EXPECT_LT(cut.speed_up(), 18.0 / 6.0);
  const ShardingPlan whole = plan_sharding(one, 4, false);
  expect_whole(whole, one, 4);
  EXPECT_EQ(whole.parts[0].size(), 1u);
  // Two layers for sixteen members: a down or up matrix is too large for one.
  const std::vector<ShardedMatrix> few = llama_8b(2);
  EXPECT_LT(plan_sharding(few, 16).longest(), 0.6 * plan_sharding(few, 16, false).longest());
}

TEST(ShardingPlan, CutsNeitherWhatMayNotBeNorWhatTheSumsWouldCostMoreThan) {
  std::vector<ShardedMatrix> one = {{"large", 4096, 16384, 5}};
  one[0].may_cut = false;
  EXPECT_EQ(plan_sharding(one, 4).parts[0].size(), 1u);
  EXPECT_EQ(plan_sharding(std::vector<ShardedMatrix>{{"small", 64, 256, 5}}, 4).parts[0].size(),
            1u);
  // One unit of alignment is one part.
  EXPECT_EQ(
      plan_sharding(std::vector<ShardedMatrix>{{"one", 1024, 2048, 5, 2048}}, 4).parts[0].size(),
      1u);
}

RC_GTEST_PROP(ShardingPlans, CoverEveryMatrixOnceAndAreNoWorseThanOneMember, ()) {
  const int members = *rc::gen::inRange(1, 12);
  std::vector<ShardedMatrix> matrices;
  for (int i = *rc::gen::inRange(0, 20); i > 0; --i)
    matrices.push_back({"matrix", *rc::gen::inRange(1, 700), *rc::gen::inRange(1, 700),
                        *rc::gen::elementOf(std::vector<int>{0, 5})});
  const ShardingPlan plan = plan_sharding(matrices, members);
  expect_whole(plan, matrices, members);
  RC_ASSERT(!testing::Test::HasFatalFailure());
  RC_ASSERT(plan.longest() <= plan.total * (1 + 1e-12));
  RC_ASSERT(plan.longest() >= plan.lower_bound() * (1 - 1e-12));
  const ShardingPlan again = plan_sharding(matrices, members);
  for (std::size_t i = 0; i < matrices.size(); ++i)
    for (std::size_t k = 0; k < plan.parts[i].size(); ++k)
      RC_ASSERT(plan.parts[i][k].member == again.parts[i][k].member);
}

// Every member orthogonalizes its part; put together they are compared with float64 and with the
// uncut matrix.
class CutMatrix : public testing::TestWithParam<std::tuple<int, bool, DType>> {};

TEST_P(CutMatrix, ComesOutAsAnUncutOneToRounding) {
  const auto [members, wide, type] = GetParam();
  if (type == DType::bf16 && !has_bf16()) GTEST_SKIP() << "no bf16 products here";
  const std::int64_t side = 72, longer = 400;
  const std::int64_t rows = wide ? side : longer, cols = wide ? longer : side;
  const std::vector<double> start = random_normal(rows * cols, 5);
  const std::vector<double> truth = newton_schulz_reference(start, rows, cols, 5);
  PaddedMatrix uncut(rows, cols);
  fill(uncut, start);
  Stream stream;
  NewtonSchulz(side, rows * cols, type).orthogonalize(uncut, 5, stream);

  PaddedMatrix whole(rows, cols);
  fill(whole, start);
  const ShardedMatrix matrix{"matrix", rows, cols, 5};
  std::vector<MatrixPart> parts;
  for (int m = 0; m < members; ++m)
    parts.push_back({m, longer * m / members / 16 * 16,
                     m + 1 == members ? longer : longer * (m + 1) / members / 16 * 16});
  run_loopback(members, [&](Transport& transport) {
    Stream mine;
    const MatrixPart& part = parts[static_cast<std::size_t>(transport.rank())];
    const std::int64_t sides[] = {side, side};
    MemberGramSum sums(sides, transport, std::chrono::seconds(60));
    NewtonSchulz newton_schulz(side, side * part.count(), type);
    const Tensor all = whole.view();
    Tensor view = all;
    if (wide) {
      view.data += part.begin * 4;
      view.extent[1] = part.count();
    } else {
      view = all.rows(part.begin, part.end);
    }
    newton_schulz.orthogonalize_part(view, wide, 5, sums, mine);
  });
  const std::vector<float> result = elements(whole), single = elements(uncut);
  const double tolerance = type == DType::f32 ? 5e-6 : 0.05;
  double most = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    ASSERT_NEAR(result[i], truth[i], tolerance);
    most = std::max(most, std::abs(static_cast<double>(result[i]) - single[i]));
  }
  EXPECT_LE(most, type == DType::f32 ? 1e-5 : 0.05);
  EXPECT_TRUE(whole.padding_is_zero());
}

INSTANTIATE_TEST_SUITE_P(Members, CutMatrix,
                         testing::Combine(testing::Values(1, 2, 3, 4), testing::Bool(),
                                          testing::Values(DType::f32, DType::bf16)));

}  // namespace
}  // namespace ballot

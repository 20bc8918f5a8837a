// Fresh parameters: the stated distribution, a pure function of the seed, padding untouched.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "models/llama/llama_model.h"
#include "tests/models/llama_support.h"

namespace ballot::test {
namespace {

LlamaConfig wide_llama() {
  LlamaConfig config = small_llama(200, 4, 2, 50, false);
  config.layers = 8;
  return config;
}

TEST(InitializeLlama, MatricesAreNormalAndResidualBranchesSmaller) {
  const LlamaConfig config = wide_llama();
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  initialize_llama(config, arena, 3);
  for (const Parameter& p : arena.parameters()) {
    const std::vector<double> x = unpadded(p.value);
    if (p.shape.kind == ParameterKind::vector) {
      EXPECT_EQ(x, std::vector<double>(200, 1.0)) << p.shape.name;
      continue;
    }
    const bool residual =
        p.shape.name.ends_with("o_proj.weight") || p.shape.name.ends_with("down_proj.weight");
    const double deviation = 0.02 / (residual ? 4.0 : 1.0);
    double sum = 0, squares = 0, fourths = 0;
    for (const double value : x) {
      const double z = value / deviation;
      sum += z;
      squares += z * z;
      fourths += z * z * z * z;
    }
    const double count = static_cast<double>(x.size()), error = 5 / std::sqrt(count);  // five sigma
    EXPECT_NEAR(sum / count, 0.0, error) << p.shape.name;
    EXPECT_NEAR(squares / count, 1.0, std::sqrt(2.0) * error) << p.shape.name;
    EXPECT_NEAR(fourths / count, 3.0, std::sqrt(96.0) * error) << p.shape.name;
  }
}

TEST(InitializeLlama, IsAPureFunctionOfTheSeed) {
  const LlamaConfig config = wide_llama();
  const int before = thread_count();
  std::vector<reference::Parameters<double>> results;
  for (const auto& [threads, seed] : {std::pair{1, 3}, std::pair{3, 3}, std::pair{2, 4}}) {
    set_thread_count(threads);
    const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
    initialize_llama(config, arena, seed);
    results.push_back(values_of(arena));
  }
  set_thread_count(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_NE(results[0].at("lm_head.weight"), results[2].at("lm_head.weight"));
  EXPECT_NE(results[0].at("lm_head.weight"), results[0].at("model.embed_tokens.weight"));
}

TEST(InitializeLlama, LeavesPaddingZeroAndRefreshesWhatProductsRead) {
  const LlamaConfig config = wide_llama();
  const ParameterArena arena(llama_parameter_shapes(config), DType::bf16);
  initialize_llama(config, arena, 3);
  for (const Parameter& p : arena.parameters())
    for (std::int64_t i = 0; i < p.extent(); ++i) {
      if (i % p.row_stride >= p.shape.cols) {
        ASSERT_EQ(p.value.f32()[i], 0.0f) << p.shape.name;
      }
      ASSERT_EQ(p.compute.bf16()[i].bits, to_bfloat16(p.value.f32()[i]).bits) << p.shape.name;
    }
}

}  // namespace
}  // namespace ballot::test

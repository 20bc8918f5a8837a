// The GPT-2's loss and gradient against its reference and the complex step through it.
#include "models/gpt2/gpt2_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/parallel.h"
#include "models/gpt2/gpt2_reference.h"
#include "tests/models/llama_support.h"

namespace ballot::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr std::int64_t kVocabulary = 19;
constexpr std::int64_t kPositions = 140;

struct Case {
  const char* name;
  std::int64_t hidden, heads;
  bool tied;
  std::int64_t sequences, length;
  std::vector<std::int32_t> documents = {};  // where they begin in every row; empty: one a row
};

Gpt2Config small_gpt2(std::int64_t hidden, std::int64_t heads, bool tied) {
  Gpt2Config config;
  config.hidden_size = hidden;
  config.intermediate_size = 2 * hidden + 8;
  config.layers = 2;
  config.heads = heads;
  config.head_size = hidden / heads;
  config.vocabulary = kVocabulary;
  config.max_positions = kPositions;
  config.tied_head = tied;
  return config;
}

TokenBatch batch_of(const Case& c, std::uint64_t seed) {
  LlamaConfig tokens;  // whose vocabulary they are of
  tokens.vocabulary = kVocabulary;
  TokenBatch batch = random_batch(tokens, c.sequences, c.length, seed);
  if (c.documents.empty()) return batch;
  for (std::int64_t n = 0; n < c.sequences * c.length; ++n) {
    const auto position = static_cast<std::int32_t>(n % c.length);
    batch.document_starts.push_back(*std::prev(std::ranges::upper_bound(c.documents, position)));
  }
  return batch;
}

// Matrices large enough that every path matters, gains around one, biases around nothing.
void fill(const ParameterArena& arena) {
  fill_parameters(arena, 1);
  for (const Parameter& p : arena.parameters())
    if (p.shape.name.ends_with(".bias"))
      for (std::int64_t c = 0; c < p.shape.cols; ++c) p.value.f32()[c] -= 1.0f;
}

class Gpt2 : public ::testing::TestWithParam<Case> {
 protected:
  const Case c = GetParam();
  const Gpt2Config config = small_gpt2(c.hidden, c.heads, c.tied);
  const TokenBatch batch = batch_of(c, 5);
};

template <class S>
S reference_loss(const Gpt2Config& config, const std::map<std::string, std::vector<S>>& values,
                 const TokenBatch& batch) {
  return reference::Gpt2<S>(config, values).loss(batch);
}

TEST_P(Gpt2, GradientIsTheComplexStepOfTheReference) {
  const ParameterArena arena(gpt2_parameter_shapes(config), DType::f32);
  fill(arena);
  const std::unique_ptr<Model> model = make_gpt2(config, arena);
  RecordingSink sink;
  const Loss loss = model->differentiate({&batch, 1}, sink);
  const reference::Parameters<double> values = values_of(arena), gradients = gradients_of(arena);
  const double want_loss = reference_loss(config, values, batch);
  EXPECT_EQ(loss.tokens,
            std::ranges::count_if(batch.targets, [](std::int32_t t) { return t != kNoTarget; }));
  EXPECT_NEAR(loss.sum, want_loss, 2e-6 * want_loss);
  EXPECT_NEAR(model->evaluate(batch).sum, loss.sum, 1e-6 * want_loss);
  const Tensor logits = model->logits(batch);
  EXPECT_LT(
      relative_error(from_tensor(logits), reference::Gpt2<double>(config, values).logits(batch)),
      3e-6);

  for (const Parameter& p : arena.parameters()) {
    // Along its own gradient (size) and a random direction (the rest), both of length one.
    const std::string& name = p.shape.name;
    const std::vector<double>& g = gradients.at(name);
    const std::vector<double> random = random_values(g.size(), 77 + p.index);
    reference::Parameters<Complex> z = to_complex(values);
    double along = 0;
    ASSERT_GT(norm(g), 0) << name;
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double direction = g[i] / norm(g) + random[i] / norm(random);
      z[name][i] += Complex(0, direction * kComplexStep);
      along += g[i] * direction;
    }
    const double want =
        reference_loss(config, z, batch).imag() / kComplexStep / static_cast<double>(loss.tokens);
    EXPECT_NEAR(along, want, 1e-5 * gradient_scale(gradients, name)) << name;
    const std::size_t i = mix64(p.index) % g.size();
    z = to_complex(values);
    z[name][i] += Complex(0, kComplexStep);
    EXPECT_NEAR(
        g[i],
        reference_loss(config, z, batch).imag() / kComplexStep / static_cast<double>(loss.tokens),
        2e-5 * gradient_scale(gradients, name))
        << name << " element " << i;
  }
}

TEST_P(Gpt2, ReportsEachGradientOnceWhenItIsFinalAndTheTokenTableLast) {
  const ParameterArena arena(gpt2_parameter_shapes(config), DType::f32);
  fill(arena);
  RecordingSink sink;
  const std::vector<TokenBatch> batches = {batch, batch_of({"", 0, 0, false, 1, 9}, 6)};
  make_gpt2(config, arena)->differentiate(batches, sink);
  std::vector<std::string> expected;
  for (const Parameter& p : arena.parameters()) expected.push_back(p.shape.name);
  EXPECT_EQ(sink.names, expected);  // the arena is in backward order
  EXPECT_EQ(sink.names.back(), "transformer.wte.weight");
  EXPECT_EQ(sink.gradients, gradients_of(arena));
}

TEST_P(Gpt2, MicroBatchesAddUpToOneBigBatch) {
  const ParameterArena arena(gpt2_parameter_shapes(config), DType::f32);
  fill(arena);
  const std::unique_ptr<Model> model = make_gpt2(config, arena);
  RecordingSink whole, parts;
  Case four = c;
  four.sequences = 4;
  const TokenBatch big = batch_of(four, 9);
  const auto rows_of = [&](const std::vector<std::int32_t>& all, std::int64_t first,
                           std::int64_t last) -> std::vector<std::int32_t> {
    if (all.empty()) return {};
    return {all.begin() + first * c.length, all.begin() + last * c.length};
  };
  std::vector<TokenBatch> micro_batches;
  for (const auto& [first, last] : {std::pair{0, 1}, std::pair{1, 4}})
    micro_batches.push_back({last - first, c.length, rows_of(big.inputs, first, last),
                             rows_of(big.targets, first, last),
                             rows_of(big.document_starts, first, last)});
  const Loss one = model->differentiate({&big, 1}, whole);
  const Loss several = model->differentiate(micro_batches, parts);
  EXPECT_EQ(one.tokens, several.tokens);
  EXPECT_NEAR(one.sum, several.sum, 1e-6 * one.sum);
  for (const auto& [name, gradient] : whole.gradients)
    EXPECT_LT(gradient_error(parts.gradients, whole.gradients, name), 2e-6) << name;
}

// The same kernels in the same order: nothing but memory and time may differ.
TEST_P(Gpt2, RecomputedLayersGiveTheSameBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    if (type == DType::bf16 && !has_bf16()) continue;
    const ParameterArena arena(gpt2_parameter_shapes(config), type);
    fill(arena);
    const std::vector<TokenBatch> batches = {batch, batch_of({"", 0, 0, false, 1, 9}, 6)};
    RecordingSink kept, again;
    const Loss loss = make_gpt2(config, arena)->differentiate(batches, kept);
    const std::unique_ptr<Model> model = make_gpt2(config, arena);
    const ActivationMemory before = *model->training_memory(4, 9);
    model->recompute_layers(true);
    EXPECT_EQ(model->differentiate(batches, again).sum, loss.sum);
    EXPECT_EQ(again.names, kept.names);
    EXPECT_EQ(again.gradients, kept.gradients) << to_string(type);
    if (config.layers > 1) {
      EXPECT_LT(model->training_memory(4, 9)->layers_bytes, before.layers_bytes / 2);
    }
  }
}

TEST_P(Gpt2, GradientDependsOnTheNumberOfThreadsByRoundingOnly) {
  const ParameterArena arena(gpt2_parameter_shapes(config), DType::f32);
  fill(arena);
  const std::unique_ptr<Model> model = make_gpt2(config, arena);
  const int before = thread_count();
  std::vector<reference::Parameters<double>> results;
  for (const int threads : {1, 2, 2}) {
    set_thread_count(threads);
    RecordingSink sink;
    model->differentiate({&batch, 1}, sink);
    results.push_back(sink.gradients);
  }
  set_thread_count(before);
  EXPECT_EQ(results[1], results[2]) << "the same team must give the same bits";
  for (const auto& [name, gradient] : results[0])
    EXPECT_LT(gradient_error(results[1], results[0], name), 2e-6) << name;
}

// bf16 keeps 8 bits: each of about 20 roundings a path crosses adds 2^-9 of noise to a gradient.
TEST_P(Gpt2, Bf16StaysNearFp32) {
  if (!has_bf16()) GTEST_SKIP() << "needs bf16 products (AVX-512)";
  const ParameterArena exact(gpt2_parameter_shapes(config), DType::f32);
  const ParameterArena arena(gpt2_parameter_shapes(config), DType::bf16);
  for (const ParameterArena* each : {&exact, &arena}) fill(*each);
  RecordingSink want, got;
  const Loss exact_loss = make_gpt2(config, exact)->differentiate({&batch, 1}, want);
  const Loss loss = make_gpt2(config, arena)->differentiate({&batch, 1}, got);
  EXPECT_NEAR(loss.mean(), exact_loss.mean(), 0.02 * exact_loss.mean());
  for (const auto& [name, gradient] : want.gradients)
    EXPECT_LT(gradient_error(got.gradients, want.gradients, name), 0.06) << name;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Gpt2,
                         ::testing::Values(Case{"padded_rows", 40, 4, false, 2, 7},
                                           Case{"tied", 40, 2, true, 2, 7},
                                           Case{"whole_rows", 64, 2, true, 1, 33},
                                           Case{"long", 24, 1, false, 1, 130},
                                           Case{"documents", 24, 3, true, 2, 21, {0, 1, 8, 20}}),
                         [](const auto& instance) { return std::string(instance.param.name); });

class Gpt2Batches : public ::testing::Test {
 protected:
  const Gpt2Config config = small_gpt2(40, 4, false);
  const ParameterArena arena{gpt2_parameter_shapes(config), DType::f32};
  const std::unique_ptr<Model> model = [this] {
    fill(arena);
    return make_gpt2(config, arena);
  }();
  const Case plain{"", 40, 4, false, 2, 7};
  RecordingSink sink;
};

TEST_F(Gpt2Batches, DocumentsOfARowAreWhatTheyAreAlone) {
  const TokenBatch packed = batch_of({"", 40, 4, false, 1, 12, {0, 5, 9}}, 3);
  const std::vector<double> together = from_tensor(model->logits(packed));
  std::size_t n = 0;
  for (const std::int32_t length : {5, 4, 3}) {
    const auto begin = packed.inputs.begin() + static_cast<long>(n);
    const std::vector<double> alone =
        from_tensor(model->logits({1, length, {begin, begin + length}, {}, {}}));
    for (std::size_t i = 0; i < alone.size(); ++i)
      ASSERT_NEAR(together[n * kVocabulary + i], alone[i], 2e-5) << n << " " << i;
    n += static_cast<std::size_t>(length);
  }
}

TEST_F(Gpt2Batches, GradientIsZeroWhereNothingIsCounted) {
  TokenBatch batch = batch_of(plain, 1);
  model->differentiate({&batch, 1}, sink);  // leaves something behind
  std::ranges::fill(batch.targets, kNoTarget);
  RecordingSink zero;
  const Loss loss = model->differentiate({&batch, 1}, zero);
  EXPECT_EQ(loss.tokens, 0);
  EXPECT_EQ(zero.names, sink.names);
  for (const auto& [name, gradient] : zero.gradients) EXPECT_EQ(norm(gradient), 0.0) << name;
}

TEST_F(Gpt2Batches, AShorterBatchAfterALongerOneGivesTheSameBits) {
  const TokenBatch small = batch_of(plain, 1), large = batch_of({"", 0, 0, false, 3, 40}, 2);
  model->differentiate({&small, 1}, sink);
  RecordingSink other, again;
  model->differentiate({&large, 1}, other);
  model->evaluate(large);
  model->differentiate({&small, 1}, again);
  EXPECT_EQ(sink.gradients, again.gradients);
}

TEST_F(Gpt2Batches, PositionsThatNoSequenceReachesGetNoGradient) {
  const TokenBatch batch = batch_of(plain, 1);
  model->differentiate({&batch, 1}, sink);
  const std::vector<double>& g = sink.gradients.at("transformer.wpe.weight");
  for (std::int64_t position = 0; position < kPositions; ++position) {
    const auto begin = g.begin() + position * 40;
    EXPECT_EQ(norm({begin, begin + 40}) > 0, position < plain.length) << position;
  }
}

TEST_F(Gpt2Batches, WhatIsFrozenIsNotReportedAndTheRestIsAsBefore) {
  const TokenBatch batch = batch_of(plain, 1);
  model->differentiate({&batch, 1}, sink);
  std::vector<ParameterShape> shapes = gpt2_parameter_shapes(config);
  std::set<std::string> frozen;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (i % 3 != 1 && !shapes[i].name.ends_with("wte.weight")) continue;
    shapes[i].frozen = true;
    frozen.insert(shapes[i].name);
  }
  const ParameterArena some(shapes, DType::f32);
  fill(some);
  RecordingSink fewer;
  make_gpt2(config, some)->differentiate({&batch, 1}, fewer);
  EXPECT_EQ(fewer.names.size() + frozen.size(), sink.names.size());
  for (const auto& [name, gradient] : sink.gradients) {
    if (frozen.contains(name)) {
      EXPECT_FALSE(fewer.gradients.contains(name)) << name;
    } else {
      EXPECT_EQ(fewer.gradients.at(name), gradient) << name;
    }
  }
}

TEST_F(Gpt2Batches, RefusesWhatItHasNoRowsFor) {
  TokenBatch batch = batch_of(plain, 1);
  batch.inputs[3] = kVocabulary;
  EXPECT_THROW(model->differentiate({&batch, 1}, sink), DataError);
  const TokenBatch longer = batch_of({"", 0, 0, false, 1, kPositions + 1}, 1);
  EXPECT_THAT([&] { model->logits(longer); },
              ThrowsMessage<DataError>(HasSubstr("more than 140 tokens")));
  // Positions begin again with each document.
  const TokenBatch two = batch_of({"", 0, 0, false, 1, kPositions + 1, {0, kPositions}}, 1);
  EXPECT_NO_THROW(model->logits(two));
  EXPECT_TRUE(sink.names.empty());
}

TEST_F(Gpt2Batches, TextsThatGrowHaveTheLogitsOfWholeOnes) {
  const TokenBatch batch = batch_of({"", 0, 0, false, 2, 30}, 4);
  const std::unique_ptr<Generation> texts = model->start(2, 40);
  const auto tokens = [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
    const auto first = batch.inputs.begin() + row * 30;
    return std::vector<std::int32_t>(first + begin, first + end);
  };
  const auto expect_last = [&](const Tensor& logits, std::int64_t row, std::int64_t length) {
    const std::vector<double> got = from_tensor(logits), want = [&] {
      return from_tensor(model->logits({1, length, tokens(row, 0, length), {}, {}}));
    }();
    for (std::int64_t i = 0; i < kVocabulary; ++i)
      ASSERT_NEAR(got[static_cast<std::size_t>(row * kVocabulary + i)],
                  want[static_cast<std::size_t>((length - 1) * kVocabulary + i)], 2e-5)
          << row << " " << length << " " << i;
  };
  // Prompts of different lengths, then token by token, one text ahead of the other.
  std::vector<std::vector<std::int32_t>> next = {tokens(0, 0, 11), tokens(1, 0, 3)};
  OwnedTensor kept(DType::f32, {2, kVocabulary});
  for (std::int64_t step = 0; step < 12; ++step) {
    const Tensor logits = texts->extend(next);
    std::copy(logits.f32(), logits.f32() + 2 * kVocabulary, kept.view().f32());
    EXPECT_EQ(texts->length(0), 11 + step);
    EXPECT_EQ(texts->length(1), 3 + step);
    expect_last(kept, 0, 11 + step);
    expect_last(kept, 1, 3 + step);
    next = {tokens(0, 11 + step, 12 + step), tokens(1, 3 + step, 4 + step)};
  }
  EXPECT_THROW(texts->extend({}), LogicError);
  EXPECT_THROW(model->start(1, kPositions + 1), DataError);
}

TEST_F(Gpt2Batches, IsRefusedByAnyDeviceButTheCpu) {
  EXPECT_THAT(
      [&] {
        make_gpt2(config, arena, Device{Device::Kind::cuda, 0});
      },
      ThrowsMessage<Unavailable>(AllOf(HasSubstr("GPT-2"), HasSubstr("cuda"))));
}

TEST_F(Gpt2Batches, FlopsCountEveryProductOnce) {
  // Weights of products: 2 layers and the head; attention sees (T + 1) / 2 keys on average.
  const double weights = 2 * (40 * 120 + 40 * 40 + 2 * 40 * 88) + 19 * 40;
  EXPECT_DOUBLE_EQ(model->flops_per_token(7), 6 * weights + 12 * 2 * 40 * 4.0);
}

TEST(InitializeGpt2, GainsAreOneBiasesZeroAndResidualBranchesSmaller) {
  Gpt2Config config = small_gpt2(64, 2, true);
  config.layers = 8;
  const ParameterArena arena(gpt2_parameter_shapes(config), DType::f32);
  initialize_gpt2(config, arena, 3);
  for (const auto& [name, x] : values_of(arena)) {
    const double root_mean_square = norm(x) / std::sqrt(static_cast<double>(x.size()));
    if (name.ends_with(".bias")) {
      EXPECT_EQ(norm(x), 0.0) << name;
    } else if (name.find("ln_") != std::string::npos) {
      EXPECT_EQ(x, std::vector<double>(x.size(), 1.0)) << name;
    } else {
      const double want = name.ends_with("c_proj.weight") ? 0.005 : 0.02;
      EXPECT_NEAR(root_mean_square / want, 1.0, 5 / std::sqrt(2.0 * static_cast<double>(x.size())))
          << name;
    }
  }
}

}  // namespace
}  // namespace ballot::test

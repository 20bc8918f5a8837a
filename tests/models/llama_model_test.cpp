// The Llama's loss and gradient against its reference and the complex step through it.
#include "models/llama/llama_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "core/clock.h"
#include "core/error.h"
#include "core/parallel.h"
#include "tests/models/llama_support.h"

namespace ballot::test {
namespace {

struct Case {
  const char* name;
  std::int64_t hidden, heads, key_value_heads, head_size;
  bool tied;
  std::int64_t sequences, length;
  RopeScaling scaling = {};
  bool biases = false;
  std::vector<std::int64_t> documents = {};  // their lengths; none: one a row
};

class Llama : public ::testing::TestWithParam<Case> {
 protected:
  const Case c = GetParam();
  const LlamaConfig config = [this] {
    LlamaConfig made = small_llama(c.hidden, c.heads, c.key_value_heads, c.head_size, c.tied);
    made.rope_scaling = c.scaling;
    made.attention_bias = made.mlp_bias = c.biases;
    return made;
  }();
  const TokenBatch batch = [this] {
    TokenBatch made = random_batch(config, c.sequences, c.length, 5);
    made.document_starts = pack_documents(c.sequences, c.length, c.documents);
    return made;
  }();
};

TEST_P(Llama, GradientIsTheComplexStepOfTheReference) {
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  fill_parameters(arena, 1);
  const std::unique_ptr<Model> model = make_llama(config, arena);
  RecordingSink sink;
  const Loss loss = model->differentiate({&batch, 1}, sink);
  const reference::Parameters<double> values = values_of(arena), gradients = gradients_of(arena);
  const double want_loss = reference::llama_loss(config, values, batch);
  EXPECT_EQ(loss.tokens,
            std::ranges::count_if(batch.targets, [](std::int32_t t) { return t != kNoTarget; }));
  EXPECT_NEAR(loss.sum, want_loss, 2e-6 * want_loss);
  EXPECT_NEAR(model->evaluate(batch).sum, loss.sum, 1e-6 * want_loss);
  const Tensor logits = model->logits(batch);
  EXPECT_LT(relative_error(from_tensor(logits), reference::llama_logits(config, values, batch)),
            3e-6);

  for (const Parameter& p : arena.parameters()) {
    // Along its own gradient (size) and a random direction (the rest), both of length one.
    const std::string& name = p.shape.name;
    const std::vector<double>& g = gradients.at(name);
    const std::vector<double> random = random_values(g.size(), 77 + p.index);
    reference::Parameters<Complex> z = to_complex(values);
    double along = 0;
    // With one token a sequence nothing depends on queries and keys: exactly zero.
    const bool idle =
        c.length == 1 && (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight"));
    ASSERT_EQ(norm(g) == 0, idle) << name;
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double direction = (idle ? 0.0 : g[i] / norm(g)) + random[i] / norm(random);
      z[name][i] += Complex(0, direction * kComplexStep);
      along += g[i] * direction;
    }
    const double want = reference::llama_loss(config, z, batch).imag() / kComplexStep /
                        static_cast<double>(loss.tokens);
    EXPECT_NEAR(along, want, 1e-5 * gradient_scale(gradients, name)) << name;
    if (p.index % 3 != 0) continue;
    const std::size_t i = mix64(p.index) % g.size();
    z = to_complex(values);
    z[name][i] += Complex(0, kComplexStep);
    EXPECT_NEAR(g[i],
                reference::llama_loss(config, z, batch).imag() / kComplexStep /
                    static_cast<double>(loss.tokens),
                2e-5 * gradient_scale(gradients, name))
        << name << " element " << i;
  }
}

TEST_P(Llama, ReportsEachGradientOnceWhenItIsFinalAndTheTableLast) {
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  fill_parameters(arena, 1);
  const std::unique_ptr<Model> model = make_llama(config, arena);
  RecordingSink sink;
  const std::vector<TokenBatch> batches = {batch, random_batch(config, 1, 9, 6)};
  model->differentiate(batches, sink);
  std::vector<std::string> expected;
  for (const Parameter& p : arena.parameters()) expected.push_back(p.shape.name);
  EXPECT_EQ(sink.names, expected);  // the arena is in backward order
  EXPECT_EQ(sink.names.back(), "model.embed_tokens.weight");
  EXPECT_EQ(sink.gradients, gradients_of(arena));
}

TEST_P(Llama, MicroBatchesAddUpToOneBigBatch) {
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  fill_parameters(arena, 1);
  const std::unique_ptr<Model> model = make_llama(config, arena);
  RecordingSink whole, parts;
  TokenBatch big = random_batch(config, 4, c.length, 9);
  for (std::int64_t n = 0; n < c.length; ++n)
    if (n % 3 != 0) big.targets[n] = kNoTarget;  // uneven: a mean of means would be wrong
  const Loss one = model->differentiate({&big, 1}, whole);
  std::vector<TokenBatch> micro_batches;
  for (const auto& [first, last] : {std::pair{0, 1}, std::pair{1, 3}, std::pair{3, 4}})
    micro_batches.push_back(
        {last - first,
         c.length,
         {big.inputs.begin() + first * c.length, big.inputs.begin() + last * c.length},
         {big.targets.begin() + first * c.length, big.targets.begin() + last * c.length}});
  const Loss several = model->differentiate(micro_batches, parts);
  EXPECT_EQ(one.tokens, several.tokens);
  EXPECT_NEAR(one.sum, several.sum, 1e-6 * one.sum);
  for (const auto& [name, gradient] : whole.gradients)
    // A key's bias turns no score but by its rotation: its gradient is the little that is left of
    // large terms.
    EXPECT_LT(gradient_error(parts.gradients, whole.gradients, name),
              name.ends_with("k_proj.bias") ? 1e-5 : 2e-6)
        << name;
}

// The same kernels in the same order: nothing but memory and time may differ.
TEST_P(Llama, RecomputedLayersGiveTheSameBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    if (type == DType::bf16 && !has_bf16()) continue;
    const ParameterArena arena(llama_parameter_shapes(config), type);
    fill_parameters(arena, 1);
    const std::vector<TokenBatch> batches = {batch, random_batch(config, 1, 9, 6)};
    RecordingSink kept, again;
    const Loss loss = make_llama(config, arena)->differentiate(batches, kept);
    const std::unique_ptr<Model> model = make_llama(config, arena);
    model->recompute_layers(true);
    EXPECT_EQ(model->differentiate(batches, again).sum, loss.sum);
    EXPECT_EQ(again.names, kept.names);
    for (const auto& [name, gradient] : kept.gradients)
      EXPECT_EQ(again.gradients.at(name), gradient) << name << ", " << to_string(type);
  }
}

// Whatever is frozen, the rest has the gradients that it has when all is trained.
TEST_P(Llama, FrozenParametersHaveNoGradientAndChangeNoOther) {
  const ParameterArena whole(llama_parameter_shapes(config), DType::f32);
  fill_parameters(whole, 1);
  RecordingSink want;
  make_llama(config, whole)->differentiate({&batch, 1}, want);
  const std::vector<std::function<bool(const ParameterShape&)>> rules = {
      [](const ParameterShape& p) { return p.kind == ParameterKind::embedding; },
      [](const ParameterShape& p) { return p.kind != ParameterKind::vector; },
      [](const ParameterShape& p) { return p.kind == ParameterKind::vector; },
      [](const ParameterShape& p) { return p.name.find("layers.0.") != std::string::npos; },
      [](const ParameterShape& p) { return p.name.find("layers.1.mlp") == std::string::npos; },
      [](const ParameterShape& p) { return p.name.find("k_proj.weight") != std::string::npos; },
      [](const ParameterShape& p) { return p.name != "model.norm.weight"; }};
  for (std::size_t rule = 0; rule < rules.size(); ++rule) {
    std::vector<ParameterShape> shapes = llama_parameter_shapes(config);
    std::vector<std::string> trained;
    for (ParameterShape& shape : shapes) {
      shape.frozen = rules[rule](shape);
      if (!shape.frozen) trained.push_back(shape.name);
    }
    const ParameterArena arena(shapes, DType::f32);
    fill_parameters(arena, 1);
    for (const bool recompute : {false, true}) {
      const std::unique_ptr<Model> model = make_llama(config, arena);
      model->recompute_layers(recompute);
      RecordingSink got;
      const std::vector<TokenBatch> twice = {batch, batch};
      model->differentiate(twice, got);  // leaves something behind
      got = {};
      model->differentiate({&batch, 1}, got);
      EXPECT_EQ(got.names, trained) << rule;
      for (const auto& [name, gradient] : got.gradients)
        EXPECT_LT(gradient_error(got.gradients, want.gradients, name), 2e-6)
            << name << ", rule " << rule;
    }
    for (const Parameter& p : arena.parameters())
      EXPECT_EQ(p.gradient.data == nullptr, p.shape.frozen) << p.shape.name;
  }
}

// One token at a time, or all at once, or in uneven pieces: the logits are those of the whole.
TEST_P(Llama, GeneratingGivesTheLogitsOfTheWholeForward) {
  TokenBatch texts_of_one = batch;
  texts_of_one.document_starts.clear();  // a text that grows is one document
  for (const DType type : {DType::f32, DType::bf16}) {
    if (type == DType::bf16 && !has_bf16()) continue;
    const double tolerance = type == DType::f32 ? 5e-6 : 0.03;
    const ParameterArena arena(llama_parameter_shapes(config), type);
    fill_parameters(arena, 1);
    const std::unique_ptr<Model> model = make_llama(config, arena);
    const std::vector<double> whole = from_tensor(model->logits(texts_of_one));
    const std::unique_ptr<Generation> texts = model->start(c.sequences, c.length);
    std::vector<std::int64_t> done(static_cast<std::size_t>(c.sequences));
    for (std::uint64_t turn = 0; *std::ranges::min_element(done) < c.length; ++turn) {
      std::vector<std::vector<std::int32_t>> tokens(done.size());
      for (std::size_t i = 0; i < done.size(); ++i) {
        // Sequences are of different lengths on the way; now and then one rests.
        const std::int64_t count =
            std::min<std::int64_t>(hash64(3, turn, i) % (turn < 3 ? 6 : 2), c.length - done[i]);
        const auto begin = batch.inputs.begin() + static_cast<std::int64_t>(i) * c.length + done[i];
        tokens[i].assign(begin, begin + count);
        done[i] += count;
      }
      if (std::ranges::all_of(tokens, [](const auto& list) { return list.empty(); })) continue;
      const std::vector<double> got = from_tensor(texts->extend(tokens));
      for (std::size_t i = 0; i < done.size(); ++i) {
        EXPECT_EQ(texts->length(static_cast<std::int64_t>(i)), done[i]);
        if (tokens[i].empty()) continue;
        const std::int64_t row = static_cast<std::int64_t>(i) * c.length + done[i] - 1;
        const std::int64_t v = config.vocabulary;
        EXPECT_LT(relative_error({got.begin() + static_cast<std::int64_t>(i) * v,
                                  got.begin() + static_cast<std::int64_t>(i + 1) * v},
                                 {whole.begin() + row * v, whole.begin() + (row + 1) * v}),
                  tolerance)
            << "text " << i << ", position " << done[i] - 1 << ", " << to_string(type);
      }
    }
  }
}

TEST_P(Llama, PaddingOfGradientsStaysZero) {
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  fill_parameters(arena, 1);
  RecordingSink sink;
  const std::vector<TokenBatch> batches = {batch, batch};
  make_llama(config, arena)->differentiate(batches, sink);
  const Parameter& last = arena.parameters().back();
  const Parameter& first = arena.parameters().front();
  std::set<std::int64_t> real;
  for (const Parameter& p : arena.parameters())
    for (std::int64_t i = 0; i < p.count(); ++i)
      real.insert(p.offset + i / p.shape.cols * p.row_stride + i % p.shape.cols);
  for (std::int64_t i = 0; i < last.offset + last.extent(); ++i)
    if (!real.contains(i)) {
      ASSERT_EQ(first.gradient.f32()[i], 0.0f) << i;
    }
}

TEST_P(Llama, GradientDependsOnTheNumberOfThreadsByRoundingOnly) {
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  fill_parameters(arena, 1);
  const std::unique_ptr<Model> model = make_llama(config, arena);
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
TEST_P(Llama, Bf16StaysNearFp32) {
  if (!has_bf16()) GTEST_SKIP() << "needs bf16 products (AVX-512)";
  const ParameterArena exact(llama_parameter_shapes(config), DType::f32);
  const ParameterArena arena(llama_parameter_shapes(config), DType::bf16);
  fill_parameters(exact, 1);
  fill_parameters(arena, 1);
  RecordingSink want, got;
  const Loss exact_loss = make_llama(config, exact)->differentiate({&batch, 1}, want);
  const Loss loss = make_llama(config, arena)->differentiate({&batch, 1}, got);
  EXPECT_NEAR(loss.mean(), exact_loss.mean(), 0.02 * exact_loss.mean());
  for (const auto& [name, gradient] : want.gradients)
    EXPECT_LT(gradient_error(got.gradients, want.gradients, name), 0.06) << name;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Llama,
    ::testing::Values(
        Case{"padded_rows", 40, 4, 2, 16, false, 2, 7}, Case{"tied", 40, 2, 2, 16, true, 2, 7},
        Case{"one_token", 64, 2, 1, 32, false, 3, 1},
        Case{"three_to_one", 48, 3, 1, 64, true, 1, 33}, Case{"long", 40, 2, 1, 32, false, 1, 130},
        Case{"apart_in_the_arena", 24, 3, 1, 4, false, 2, 9},
        Case{"scaled", 40, 4, 2, 16, false, 1, 21, {RopeScaling::Type::llama3, 8, 1, 4, 16}},
        Case{"biases", 40, 4, 2, 16, false, 2, 7, {}, true},
        Case{"biases_tied", 24, 3, 1, 4, true, 1, 9, {}, true},
        Case{"documents", 40, 4, 2, 16, false, 2, 21, {}, false, {5, 1, 9}}),
    [](const auto& instance) { return std::string(instance.param.name); });

class LlamaBatches : public ::testing::Test {
 protected:
  const LlamaConfig config = small_llama(40, 4, 2, 16, false);
  const ParameterArena arena{llama_parameter_shapes(config), DType::f32};
  const std::unique_ptr<Model> model = [this] {
    fill_parameters(arena, 1);
    return make_llama(config, arena);
  }();
  RecordingSink sink;
};

TEST_F(LlamaBatches, GradientIsZeroWhereNothingIsCounted) {
  TokenBatch batch = random_batch(config, 2, 7, 1);
  model->differentiate({&batch, 1}, sink);  // leaves something behind
  std::ranges::fill(batch.targets, kNoTarget);
  RecordingSink zero;
  const Loss loss = model->differentiate({&batch, 1}, zero);
  EXPECT_EQ(loss.tokens, 0);
  EXPECT_EQ(loss.sum, 0.0);
  EXPECT_EQ(loss.mean(), 0.0);
  EXPECT_EQ(zero.names, sink.names);
  for (const auto& [name, gradient] : zero.gradients) EXPECT_EQ(norm(gradient), 0.0) << name;
  EXPECT_EQ(model->evaluate(batch).tokens, 0);
}

TEST_F(LlamaBatches, AShorterBatchAfterALongerOneGivesTheSameBits) {
  const TokenBatch small = random_batch(config, 2, 7, 1), large = random_batch(config, 3, 40, 2);
  model->differentiate({&small, 1}, sink);
  RecordingSink other, again;
  model->differentiate({&large, 1}, other);
  model->evaluate(large);
  model->differentiate({&small, 1}, again);
  EXPECT_EQ(sink.gradients, again.gradients);
}

TEST_F(LlamaBatches, EvaluationChangesNoGradient) {
  const TokenBatch batch = random_batch(config, 2, 7, 1);
  model->differentiate({&batch, 1}, sink);
  model->evaluate(random_batch(config, 3, 20, 2));
  model->logits(random_batch(config, 1, 5, 3));
  EXPECT_EQ(gradients_of(arena), sink.gradients);
}

TEST_F(LlamaBatches, TokensOutsideTheVocabularyAreADataError) {
  TokenBatch batch = random_batch(config, 1, 7, 1);
  batch.inputs[3] = 19;
  EXPECT_THROW(model->differentiate({&batch, 1}, sink), DataError);
  EXPECT_THROW(model->logits(batch), DataError);
  batch.inputs[3] = -1;
  EXPECT_THROW(model->evaluate(batch), DataError);
  batch.inputs[3] = 18;
  batch.targets[2] = 19;
  EXPECT_THROW(model->differentiate({&batch, 1}, sink), DataError);
  batch.targets[2] = -2;
  EXPECT_THROW(model->evaluate(batch), DataError);
  batch.targets.pop_back();
  EXPECT_THROW(model->evaluate(batch), LogicError);
  EXPECT_TRUE(sink.names.empty());
}

// The sum over a packed row is the sum over its documents.
TEST_F(LlamaBatches, APackedRowIsItsDocumentsApart) {
  TokenBatch packed = random_batch(config, 1, 33, 4);
  packed.document_starts = pack_documents(1, 33, {9, 1, 16, 7});
  std::vector<TokenBatch> apart;
  for (const auto& [first, last] :
       {std::pair{0, 9}, std::pair{9, 10}, std::pair{10, 26}, std::pair{26, 33}})
    apart.push_back({1,
                     last - first,
                     {packed.inputs.begin() + first, packed.inputs.begin() + last},
                     {packed.targets.begin() + first, packed.targets.begin() + last}});
  RecordingSink whole, parts;
  const Loss one = model->differentiate({&packed, 1}, whole);
  const Loss several = model->differentiate(apart, parts);
  EXPECT_EQ(one.tokens, several.tokens);
  EXPECT_NEAR(one.sum, several.sum, 1e-6 * one.sum);
  for (const auto& [name, gradient] : whole.gradients)
    EXPECT_LT(gradient_error(parts.gradients, whole.gradients, name), 3e-6) << name;
  TokenBatch joined = packed;
  joined.document_starts.clear();
  EXPECT_GT(std::abs(model->evaluate(joined).sum - one.sum), 1e-3) << "it would not be seen";
}

TEST_F(LlamaBatches, DocumentStartsThatCannotBeAreADataError) {
  TokenBatch batch = random_batch(config, 2, 5, 1);
  const auto refused = [&](std::vector<std::int32_t> starts) {
    batch.document_starts = std::move(starts);
    EXPECT_THROW(model->evaluate(batch), DataError);
    EXPECT_THROW(model->differentiate({&batch, 1}, sink), DataError);
  };
  refused({0, 0, 0, 0, 0, 1, 1, 1, 1, 1});  // a row begins with a document
  refused({0, 0, 3, 3, 3, 0, 0, 0, 0, 0});  // begins later than it is
  refused({0, 0, 1, 1, 1, 0, 0, 0, 0, 0});  // begins where none begins
  refused({0, 0, 2, 0, 0, 0, 0, 0, 0, 0});  // an earlier one goes on
  refused({0, 0, -1, 0, 0, 0, 0, 0, 0, 0});
  batch.document_starts = {0, 0, 2, 2, 2, 0, 1, 2, 3, 4};
  EXPECT_GT(model->evaluate(batch).tokens, 0);
  batch.document_starts.pop_back();
  EXPECT_THROW(model->evaluate(batch), LogicError);
}

TEST_F(LlamaBatches, TextsKnowTheirRoom) {
  const std::unique_ptr<Generation> texts = model->start(2, 3);
  texts->extend(std::vector<std::vector<std::int32_t>>{{1, 2, 3}, {4}});
  EXPECT_THROW(texts->extend(std::vector<std::vector<std::int32_t>>{{1}, {4}}), LogicError);
  EXPECT_THROW(texts->extend(std::vector<std::vector<std::int32_t>>{{}, {19}}), DataError);
  EXPECT_THROW(texts->extend(std::vector<std::vector<std::int32_t>>{{}}), LogicError);
  EXPECT_EQ(texts->length(0), 3);
  EXPECT_EQ(texts->length(1), 1);
}

TEST_F(LlamaBatches, TheMemoryThatIsForetoldIsWhatALayerLessOrMoreTakes) {
  const ActivationMemory all = *model->training_memory(2, 64);
  model->recompute_layers(true);
  const ActivationMemory inputs = *model->training_memory(2, 64);
  EXPECT_EQ(inputs.layers_bytes, 2 * 2 * 64 * 40 * 4);  // L N C of f32
  EXPECT_LT(inputs.total(), all.total());
  EXPECT_EQ(all.layers_bytes - inputs.layers_bytes, 2 * (inputs.shared_bytes - all.shared_bytes));
  EXPECT_EQ(all.scratch_bytes, inputs.scratch_bytes);
}

// Long texts and large vocabularies: neither logits nor scores of a whole batch exist.
TEST(LlamaMemory, GrowsLinearlyWithTheLengthAndHoldsNoLogitsOfABatch) {
  LlamaConfig config = small_llama(8, 2, 1, 4, true);
  config.vocabulary = 128256;
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  const std::unique_ptr<Model> model = make_llama(config, arena);
  const auto bytes = [&](std::int64_t length) {
    return model->training_memory(1, length)->total();
  };
  EXPECT_LT(bytes(8192), 8192 * config.vocabulary * 4 / 16);
  EXPECT_LE(bytes(8192) - bytes(4096), 5 * (bytes(4096) - bytes(2048)) / 2);
}

TEST_F(LlamaBatches, TheSinksTimeIsNobodys) {
  struct SlowSink : GradientSink {
    void ready(const Parameter&, Stream&) override {
      const Stopwatch watch;
      while (watch.elapsed() < 0.01) continue;
    }
  } slow;
  const TokenBatch batch = random_batch(config, 1, 7, 1);
  model->differentiate({&batch, 1}, sink);
  const Stopwatch watch;
  model->differentiate({&batch, 1}, slow);
  const double elapsed = watch.elapsed();
  const double in_sink = 0.01 * static_cast<double>(arena.parameters().size());
  EXPECT_GT(model->times().forward, 0);
  EXPECT_GT(model->times().backward, 0);
  EXPECT_LE(model->times().forward + model->times().backward, elapsed - in_sink);
}

TEST_F(LlamaBatches, FlopsCountEveryProductOnce) {
  // Weights of products: 2 layers and the head; attention sees (T + 1) / 2 keys on average.
  const double weights = 2 * (40 * 64 * 2 + 2 * 40 * 32 + 3 * 40 * 48) + 19 * 40;
  EXPECT_DOUBLE_EQ(model->flops_per_token(7), 6 * weights + 12 * 2 * 64 * 4.0);
}

}  // namespace
}  // namespace ballot::test

// The model's ops on CUDA against their references in double precision and the CPU's ops, on every
// executor of the plugin. Outputs hold NaN before; sizes lie on both sides of vectors, warps and
// blocks.
#include <gtest/gtest.h>

#include <limits>

#include "models/model.h"
#include "models/ops/attention.h"
#include "models/ops/attention_reference.h"
#include "models/ops/cross_entropy.h"
#include "models/ops/cross_entropy_reference.h"
#include "models/ops/cuda_model_ops.h"
#include "models/ops/embedding.h"
#include "models/ops/embedding_reference.h"
#include "models/ops/rms_norm.h"
#include "models/ops/rms_norm_reference.h"
#include "models/ops/swiglu.h"
#include "models/ops/swiglu_reference.h"
#include "tests/cuda/device_tensor.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

std::vector<float> to_floats(const std::vector<double>& x) {
  return {x.begin(), x.end()};
}
std::vector<double> to_doubles(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

DeviceTensor on_device(const std::vector<double>& x, std::int64_t rows, DType type = DType::f32,
                       std::int64_t padding = 0) {
  return {type, {rows, static_cast<std::int64_t>(x.size()) / rows}, to_floats(x), padding};
}
DeviceTensor poisoned(std::int64_t rows, std::int64_t cols, DType type = DType::f32) {
  return {type, {rows, cols}, std::vector<float>(rows * cols, kPoison)};
}
DeviceArray<float> poisoned_array(std::int64_t count) {
  return DeviceArray<float>(std::vector<float>(count, kPoison));
}

// d(weights . forward(x)) along `direction`, by complex step.
template <class Forward>
double derivative_along(const Forward& forward, const std::vector<double>& x,
                        const std::vector<double>& direction, const std::vector<double>& weights) {
  std::vector<Complex> z = to_complex(x);
  for (std::size_t i = 0; i < z.size(); ++i) z[i] += Complex(0, direction[i] * kComplexStep);
  const std::vector<Complex> y = forward(z);
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i].imag() * weights[i];
  return sum / kComplexStep;
}

// `got` is the gradient of weights . forward at x, as far as three random directions can tell.
template <class Forward>
void expect_gradient(const std::vector<double>& got, const Forward& forward,
                     const std::vector<double>& x, const std::vector<double>& weights,
                     double tolerance) {
  ASSERT_EQ(got.size(), x.size());
  for (std::uint64_t sample = 0; sample < 3; ++sample) {
    const std::vector<double> direction = random_values(x.size(), 100 + sample);
    double along = 0;
    for (std::size_t i = 0; i < x.size(); ++i) along += got[i] * direction[i];
    EXPECT_NEAR(along, derivative_along(forward, x, direction, weights),
                tolerance * (norm(got) * norm(direction) / 3 + 0.1 * norm(weights)));
  }
}

// relative_error, or how large x is where nothing is expected.
double error_of(const std::vector<double>& x, const std::vector<double>& y) {
  return norm(y) == 0 ? norm(x) : relative_error(x, y);
}

struct Matrix {
  std::int64_t rows, cols;
};

// ---- Embedding ----

class CudaEmbedding : public ::testing::TestWithParam<Matrix> {
 protected:
  static constexpr std::int64_t kTokens = 300;
  const std::int64_t rows = GetParam().rows, cols = GetParam().cols;
  Stream stream{cuda_device()};
  // Some often, some never; a few many times in a row.
  std::vector<std::int32_t> tokens = [&] {
    std::vector<std::int32_t> t;
    for (std::int64_t n = 0; n < rows; ++n)
      t.push_back(n % 3 == 0 ? 7 : static_cast<std::int32_t>(mix64(n / 2) % (kTokens - 1)));
    return t;
  }();
};

TEST_P(CudaEmbedding, GathersRowsOfAPaddedTable) {
  const std::vector<double> values = random_values(kTokens * cols, 1, 1.0, true);
  const DeviceArray<std::int32_t> t(tokens);
  for (const DType type : {DType::f32, DType::bf16})
    for (const std::int64_t padding : {0, 5, 64}) {
      const DeviceTensor table = on_device(values, kTokens, type, padding);
      const DeviceTensor x = poisoned(rows, cols);
      embedding(table, {t.data(), t.count()}, x, stream);
      EXPECT_EQ(to_doubles(x.read(stream)), reference::embedding(values, cols, tokens))
          << to_string(type) << " with padding " << padding;
    }
}

TEST_P(CudaEmbedding, AddsGradientsWithTheCpusBits) {
  const DeviceArray<std::int32_t> t(tokens);
  const std::vector<double> dx = random_values(rows * cols, 2);
  const std::vector<double> before = random_values(kTokens * cols, 3);  // what a tied head left
  const OwnedTensor want = to_tensor(before, kTokens);
  Stream host;
  embedding_backward(tokens, to_tensor(dx, rows), want, nullptr, host);
  for (const std::int64_t padding : {0, 3, 64}) {
    const DeviceTensor dtable = on_device(before, kTokens, DType::f32, padding);
    const Buffer scratch(embedding_scratch_bytes(rows, cuda_device()), cuda_device());
    embedding_backward({t.data(), t.count()}, on_device(dx, rows), dtable, scratch.data(), stream);
    EXPECT_EQ(to_doubles(dtable.read(stream)), from_tensor(want)) << "with padding " << padding;
    EXPECT_TRUE(dtable.padding_is_untouched(stream));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaEmbedding,
                         ::testing::Values(Matrix{1, 1}, Matrix{31, 4}, Matrix{33, 31},
                                           Matrix{255, 8}, Matrix{257, 33}, Matrix{1100, 12},
                                           Matrix{9, 1028}));

TEST(CudaEmbeddingVocabulary, SortsTokensOfEverySize) {
  Stream stream(cuda_device());
  for (const std::int64_t vocabulary : {1, 2, 16, 17, 4096, 70000}) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t n = 0; n < 600; ++n)
      tokens.push_back(static_cast<std::int32_t>(mix64(n % 200) % vocabulary));
    tokens.back() = static_cast<std::int32_t>(vocabulary - 1);
    const std::vector<double> dx = random_values(tokens.size(), 4);
    const OwnedTensor want(DType::f32, {vocabulary, 1});
    Stream host;
    embedding_backward(tokens, to_tensor(dx, 600), want, nullptr, host);
    const DeviceArray<std::int32_t> t(tokens);
    const DeviceTensor dtable(DType::f32, {vocabulary, 1});
    const Buffer scratch(embedding_scratch_bytes(600, cuda_device()), cuda_device());
    embedding_backward({t.data(), t.count()}, on_device(dx, 600), dtable, scratch.data(), stream);
    EXPECT_EQ(to_doubles(dtable.read(stream)), from_tensor(want)) << vocabulary;
  }
}

// ---- RMSNorm ----

class CudaRmsNorm : public ::testing::TestWithParam<Matrix> {
 protected:
  static constexpr double kEpsilon = 1e-5;
  const std::int64_t rows = GetParam().rows, cols = GetParam().cols;
  const std::vector<double> x = random_values(rows * cols, 1, 2.0);
  const std::vector<double> addend = random_values(rows * cols, 2, 1.0);
  const std::vector<double> gain = random_values(cols, 3, 1.5);
  const std::vector<double> dy = random_values(rows * cols, 4, 1.0);
  Stream stream{cuda_device()};
};

TEST_P(CudaRmsNorm, AddsThenNormalizesLikeTheReference) {
  std::vector<double> sum(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) sum[i] = static_cast<float>(x[i] + addend[i]);
  const std::vector<double> want = reference::rms_norm(sum, gain, kEpsilon);
  const DeviceTensor tx = on_device(x, rows), tg = on_device(gain, 1);
  const DeviceTensor y = poisoned(rows, cols), rounded = poisoned(rows, cols, DType::bf16);
  const DeviceArray<float> r = poisoned_array(rows);
  rms_norm(tx, on_device(addend, rows), tg, kEpsilon, y, r.data(), stream);
  EXPECT_EQ(to_doubles(tx.read(stream)), sum);
  EXPECT_LT(relative_error(to_doubles(y.read(stream)), want), 5e-7);
  rms_norm(tx, {}, tg, kEpsilon, rounded, r.data(), stream);
  EXPECT_EQ(to_doubles(tx.read(stream)), sum) << "nothing to add must leave x alone";
  EXPECT_LT(relative_error(to_doubles(rounded.read(stream)), want), 0x1p-8);
}

TEST_P(CudaRmsNorm, GradientIsTheReferences) {
  const DeviceTensor tx = on_device(x, rows), tg = on_device(gain, 1), tdy = on_device(dy, rows);
  const DeviceTensor y = poisoned(rows, cols), again = poisoned(rows, cols);
  const DeviceTensor dx = poisoned(rows, cols), dgain = poisoned(1, cols);
  const DeviceTensor rounded = poisoned(rows, cols, DType::bf16);
  const DeviceArray<float> r = poisoned_array(rows);
  const DeviceArray<float> partials = poisoned_array(rms_norm_partials(rows, cols, cuda_device()));
  rms_norm(tx, {}, tg, kEpsilon, y, r.data(), stream);
  const auto backward = [&](Accumulate accumulate, const Tensor& copy, const Tensor& recomputed) {
    rms_norm_backward(tx, r.data(), tg, tdy, {dx, accumulate, copy, recomputed, dgain, accumulate},
                      partials.data(), stream);
  };
  backward(Accumulate::no, rounded, again);
  const std::vector<double> got = to_doubles(dx.read(stream));
  const std::vector<double> got_gain = to_doubles(dgain.read(stream));
  expect_gradient(
      got, [&](const auto& z) { return reference::rms_norm(z, to_complex(gain), kEpsilon); }, x, dy,
      1e-6);
  expect_gradient(
      got_gain, [&](const auto& z) { return reference::rms_norm(to_complex(x), z, kEpsilon); },
      gain, dy, 1e-6);
  EXPECT_EQ(again.read(stream), y.read(stream));
  EXPECT_LT(relative_error(to_doubles(rounded.read(stream)), got), 0x1p-8);

  const OwnedTensor cpu_dx(DType::f32, {rows, cols}), cpu_dgain(DType::f32, {1, cols});
  const OwnedTensor cpu_x = to_tensor(x, rows), cpu_gain = to_tensor(gain, 1);
  std::vector<float> cpu_r(rows), cpu_partials(rms_norm_partials(rows, cols, Device{}));
  Stream host;
  rms_norm(cpu_x, {}, cpu_gain, kEpsilon, to_tensor(x, rows), cpu_r.data(), host);
  rms_norm_backward(cpu_x, cpu_r.data(), cpu_gain, to_tensor(dy, rows),
                    {cpu_dx, Accumulate::no, {}, {}, cpu_dgain, Accumulate::no},
                    cpu_partials.data(), host);
  EXPECT_LT(
      norm(got) < 1e-4 ? norm(from_tensor(cpu_dx)) / 1e3 : relative_error(got, from_tensor(cpu_dx)),
      2e-6);
  EXPECT_LT(relative_error(got_gain, from_tensor(cpu_dgain)), 2e-6);

  backward(Accumulate::yes, {}, {});
  std::vector<double> twice = got, twice_gain = got_gain;
  for (double& value : twice) value *= 2;
  for (double& value : twice_gain) value *= 2;
  EXPECT_LT(relative_error(to_doubles(dx.read(stream)), twice), 1e-6);
  EXPECT_LT(relative_error(to_doubles(dgain.read(stream)), twice_gain), 1e-6);
  const DeviceTensor coarse = poisoned(rows, cols, DType::bf16);
  backward(Accumulate::no, {}, coarse);
  EXPECT_EQ(to_doubles(dx.read(stream)), got) << "the same bits every time";
  EXPECT_EQ(to_doubles(dgain.read(stream)), got_gain);
  EXPECT_LT(relative_error(to_doubles(coarse.read(stream)), to_doubles(y.read(stream))), 0x1p-8);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaRmsNorm,
                         ::testing::Values(Matrix{1, 1}, Matrix{3, 31}, Matrix{33, 32},
                                           Matrix{17, 255}, Matrix{16, 257}, Matrix{530, 8},
                                           Matrix{5, 1028}, Matrix{3, 4096}, Matrix{3, 8192},
                                           Matrix{3, 8196}));

// ---- SwiGLU ----

class CudaSwiglu : public ::testing::TestWithParam<Matrix> {
 protected:
  const std::int64_t rows = GetParam().rows, cols = GetParam().cols;
  Stream stream{cuda_device()};

  void expect_the_references(DType type, double bound, double gradient_bound) {
    const std::vector<double> x = random_values(rows * 2 * cols, 1, 8.0, true);
    const std::vector<double> dact = random_values(rows * cols, 2, 1.0, true);
    const std::vector<double> want = reference::swiglu(x, cols);
    const DeviceTensor up_gate = on_device(x, rows, type), act = poisoned(rows, cols, type);
    swiglu(up_gate, act, stream);
    EXPECT_LT(relative_error(to_doubles(act.read(stream)), want), bound);

    // Element by element, so one complex step serves all ups and one all gates.
    std::vector<double> want_gradient(x.size());
    for (const std::int64_t part : {0, 1}) {
      std::vector<Complex> z = to_complex(x);
      for (std::int64_t n = 0; n < rows; ++n)
        for (std::int64_t c = 0; c < cols; ++c)
          z[(2 * n + part) * cols + c] += Complex(0, kComplexStep);
      const std::vector<Complex> y = reference::swiglu(z, cols);
      for (std::int64_t n = 0; n < rows; ++n)
        for (std::int64_t c = 0; c < cols; ++c)
          want_gradient[(2 * n + part) * cols + c] =
              dact[n * cols + c] * y[n * cols + c].imag() / kComplexStep;
    }
    const DeviceTensor in_place = on_device(dact, rows, type);
    swiglu_backward(up_gate, in_place, stream);
    EXPECT_LT(relative_error(to_doubles(in_place.read(stream)), want), bound);
    EXPECT_LT(relative_error(to_doubles(up_gate.read(stream)), want_gradient), gradient_bound);
  }
};

TEST_P(CudaSwiglu, FollowsTheReferenceInFp32) {
  expect_the_references(DType::f32, 3e-7, 1e-6);
}
TEST_P(CudaSwiglu, RoundsOnceEachWayInBf16) {
  expect_the_references(DType::bf16, 0x1p-8, 0x1p-8);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaSwiglu,
                         ::testing::Values(Matrix{1, 1}, Matrix{5, 31}, Matrix{33, 32},
                                           Matrix{3, 255}, Matrix{2, 257}, Matrix{3, 2056},
                                           Matrix{65, 8}));

// ---- Cross-entropy ----

class CudaCrossEntropy : public ::testing::TestWithParam<Matrix> {
 protected:
  const std::int64_t rows = GetParam().rows, classes = GetParam().cols;
  const std::vector<double> x = random_values(rows * classes, 1, 12.0);
  const std::vector<std::int32_t> targets = [&] {
    std::vector<std::int32_t> t;
    for (std::int64_t n = 0; n < rows; ++n)
      t.push_back(n % 4 == 2 ? kNoTarget : static_cast<std::int32_t>(mix64(n) % classes));
    return t;
  }();
  static constexpr double kScale = 0.125;
  Stream stream{cuda_device()};
};

TEST_P(CudaCrossEntropy, LossAndGradientFollowTheReference) {
  const auto forward = [&](const auto& z) {
    return std::vector{reference::cross_entropy(z, targets)};
  };
  const DeviceArray<std::int32_t> t(targets);
  const std::span<const std::int32_t> span(t.data(), t.count());
  const DeviceTensor logits = on_device(x, rows);
  const std::vector<double> poison(rows + 1, kPoison);
  const DeviceArray<double> losses(poison), fused(poison), coarse(poison);
  cross_entropy(logits, span, losses.data(), stream);
  const double want = forward(x)[0];
  const double sum = sum_losses(losses.data(), rows, stream);
  EXPECT_NEAR(sum, want, 1e-6 * static_cast<double>(rows));
  const std::vector<double> each = losses.read(stream);
  double in_order = 0;
  for (std::int64_t n = 0; n < rows; ++n) {
    const std::vector<double> row(x.begin() + n * classes, x.begin() + (n + 1) * classes);
    EXPECT_NEAR(each[n], reference::cross_entropy(row, {targets[n]}), 2e-6) << n;
    in_order += each[n];
  }
  EXPECT_NEAR(sum, in_order, 1e-12 * in_order);
  EXPECT_EQ(each[rows], sum);

  cross_entropy_with_gradient(logits, span, kScale, fused.data(), logits, stream);
  EXPECT_EQ(sum_losses(fused.data(), rows, stream), sum);
  const std::vector<double> got = to_doubles(logits.read(stream));
  expect_gradient(got, forward, x, {kScale}, 1e-6);
  const OwnedTensor cpu = to_tensor(x, rows);
  std::vector<double> cpu_losses(rows);
  Stream host;
  cross_entropy_with_gradient(cpu, targets, kScale, cpu_losses.data(), cpu, host);
  EXPECT_LT(error_of(got, from_tensor(cpu)), 1e-6);

  const DeviceTensor again = on_device(x, rows), rounded = poisoned(rows, classes, DType::bf16);
  cross_entropy_with_gradient(again, span, kScale, coarse.data(), rounded, stream);
  EXPECT_EQ(sum_losses(coarse.data(), rows, stream), sum);
  EXPECT_LT(error_of(to_doubles(rounded.read(stream)), got), 0x1p-8);
}

INSTANTIATE_TEST_SUITE_P(Classes, CudaCrossEntropy,
                         ::testing::Values(Matrix{9, 1}, Matrix{9, 2}, Matrix{5, 31},
                                           Matrix{33, 32}, Matrix{6, 33}, Matrix{3, 255},
                                           Matrix{5, 257}, Matrix{1, 4096}, Matrix{3, 4100},
                                           Matrix{1, 33000}));

TEST(CudaCrossEntropyRows, SurviveLogitsThatOverflowExp) {
  Stream stream(cuda_device());
  const DeviceTensor logits = on_device({500.0, -500.0, 499.0, 0.0}, 1);
  const DeviceArray<std::int32_t> targets(std::vector<std::int32_t>{2});
  const DeviceArray<double> losses(2);
  cross_entropy_with_gradient(logits, {targets.data(), 1}, 1.0f, losses.data(), logits, stream);
  EXPECT_NEAR(sum_losses(losses.data(), 1, stream), std::log1p(std::exp(1.0)), 1e-6);
  for (const float value : logits.read(stream)) EXPECT_TRUE(std::isfinite(value));
}

TEST(CudaCrossEntropyRows, ManyLossesAddUp) {
  Stream stream(cuda_device());
  for (const std::int64_t count : {1, 1023, 1024, 1025, 5000}) {
    std::vector<double> losses(count + 1, kPoison);
    double want = 0;
    for (std::int64_t n = 0; n < count; ++n) want += losses[n] = static_cast<double>(n % 17);
    const DeviceArray<double> on_gpu(losses);
    EXPECT_EQ(sum_losses(on_gpu.data(), count, stream), want);  // integers: exact in any order
  }
}

// ---- Attention ----

constexpr double kTheta = 10000.0;

struct AttentionCase {
  AttentionShape shape;
  std::vector<std::int64_t> documents = {};  // their lengths; none: one a row
};

class CudaAttention : public ::testing::TestWithParam<AttentionCase> {
 protected:
  struct Result {
    std::vector<double> output, gradient, log_sum_exp;
  };
  const std::vector<std::int32_t> starts =
      pack_documents(GetParam().shape.sequences, GetParam().shape.length, GetParam().documents);
  const DeviceArray<std::int32_t> device_starts{starts.empty() ? std::vector<std::int32_t>{0}
                                                               : starts};
  const AttentionShape shape = with_starts(starts.data());  // for the host
  const AttentionShape device_shape = with_starts(device_starts.data());
  AttentionShape with_starts(const std::int32_t* where) const {
    AttentionShape made = GetParam().shape;
    if (!starts.empty()) made.document_starts = where;
    return made;
  }
  const std::int64_t rows = shape.sequences * shape.length;
  const std::int64_t width = shape.heads * shape.head_size;
  const std::vector<double> x = random_values(rows * shape.width(), 1, 2.0, true);
  const std::vector<double> dy = random_values(rows * width, 2, 1.0, true);
  Stream stream{cuda_device()};

  void TearDown() override { cuda_model_ops().set_attention_score_bytes(std::int64_t{64} << 20); }

  Result run(DType type) { return run(type, x, dy); }
  Result run(DType type, const std::vector<double>& input, const std::vector<double>& weights) {
    RopeTable rope(rope_frequencies(shape.head_size, kTheta), cuda_device());
    rope.extend((shape.length + 1) / 2, stream);
    rope.extend(shape.length, stream);
    const DeviceTensor vkq = on_device(input, rows, type), doutput = on_device(weights, rows, type);
    const DeviceTensor output = poisoned(rows, width, type);
    const DeviceArray<float> lse = poisoned_array(rows * shape.heads);
    const Buffer scratch(attention_scratch_bytes(shape, type, cuda_device()), cuda_device());
    const DeviceArray<float> poison =
        poisoned_array(static_cast<std::int64_t>(scratch.size_bytes() / sizeof(float)));
    const auto spoil = [&] {
      copy_bytes(scratch.data(), cuda_device(), poison.data(), cuda_device(),
                 poison.count() * sizeof(float), stream);
    };
    spoil();
    attention(device_shape, rope, vkq, output, lse.data(), scratch.data(), stream);
    EXPECT_EQ(to_doubles(vkq.read(stream)), input) << "the forward must not write its input";
    spoil();
    attention_backward(device_shape, rope, vkq, output, doutput, lse.data(), scratch.data(),
                       stream);
    return {to_doubles(output.read(stream)), to_doubles(vkq.read(stream)),
            to_doubles(lse.read(stream))};
  }
  Result run_on_cpu() const {
    Stream host;
    RopeTable rope(rope_frequencies(shape.head_size, kTheta));
    rope.extend(shape.length, host);
    const OwnedTensor vkq = to_tensor(x, rows), output(DType::f32, {rows, width});
    std::vector<float> lse(rows * shape.heads);
    const Buffer scratch(attention_scratch_bytes(shape, DType::f32, Device{}));
    attention(shape, rope, vkq, output, lse.data(), scratch.data(), host);
    attention_backward(shape, rope, vkq, output, to_tensor(dy, rows), lse.data(), scratch.data(),
                       host);
    return {from_tensor(output), from_tensor(vkq), to_doubles(lse)};
  }
};

// With one token a sequence nothing depends on queries and keys: exactly zero, not to rounding.
TEST_P(CudaAttention, OneKeyHasNoScoreGradient) {
  if (shape.length > 1) GTEST_SKIP() << "of sequences of one token";
  // Values of all 24 bits: the products of short ones are exact in any order of adding.
  const std::vector<double> fine = random_values(x.size(), 3, 2.0),
                            fine_dy = random_values(dy.size(), 4);
  for (const DType type : {DType::f32, DType::bf16}) {
    const bool full = type == DType::f32;
    const std::vector<double> gradient = run(type, full ? fine : x, full ? fine_dy : dy).gradient;
    for (std::size_t i = 0; i < gradient.size(); ++i)
      if (static_cast<std::int64_t>(i) % shape.width() >= shape.key_value_heads * shape.head_size) {
        EXPECT_EQ(gradient[i], 0.0) << i;
      }
  }
}

TEST_P(CudaAttention, FollowsTheReferenceInFp32) {
  const Result got = run(DType::f32), cpu = run_on_cpu();
  if (shape.length < 600) {
    EXPECT_LT(relative_error(got.output, reference::attention(shape, kTheta, x)), 1e-6);
  }
  if (shape.length < 300) {
    expect_gradient(
        got.gradient, [&](const auto& z) { return reference::attention(shape, kTheta, z); }, x, dy,
        1e-5);
  }
  EXPECT_LT(relative_error(got.output, cpu.output), 2e-6);
  EXPECT_LT(relative_error(got.gradient, cpu.gradient), 3e-6);
  for (std::size_t i = 0; i < cpu.log_sum_exp.size(); ++i)
    EXPECT_NEAR(got.log_sum_exp[i], cpu.log_sum_exp[i], 3e-6) << i;
}

// Operands of each product carry 2^-9 relative errors; a handful of them in a row stays below 2^-6.
TEST_P(CudaAttention, StaysNearTheCpusFp32InBf16) {
  const Result got = run(DType::bf16), cpu = run_on_cpu();
  EXPECT_LT(relative_error(got.output, cpu.output), 0x1p-7);
  EXPECT_LT(relative_error(got.gradient, cpu.gradient), 0x1p-6);
}

TEST_P(CudaAttention, SmallScratchGivesTheSameAndTwiceTheSameBits) {
  if (shape.length > 300) GTEST_SKIP() << "the short shapes show it";
  const Result whole = run(DType::f32);
  for (const std::int64_t bytes : {1, 4 * 64 * 16 * 3, 64 << 10}) {
    cuda_model_ops().set_attention_score_bytes(bytes);
    const Result got = run(DType::f32), again = run(DType::f32);
    EXPECT_LT(relative_error(got.output, whole.output), 1e-6) << bytes;
    EXPECT_LT(relative_error(got.gradient, whole.gradient), 2e-6) << bytes;
    EXPECT_EQ(got.output, again.output);
    EXPECT_EQ(got.gradient, again.gradient);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaAttention,
    ::testing::Values(AttentionCase{{1, 1, 1, 1, 2}}, AttentionCase{{2, 1, 4, 2, 16}},
                      AttentionCase{{3, 7, 6, 2, 16}}, AttentionCase{{1, 130, 3, 3, 16}},
                      AttentionCase{{2, 31, 4, 1, 8}}, AttentionCase{{1, 67, 3, 1, 64}},
                      AttentionCase{{2, 33, 2, 2, 10}}, AttentionCase{{1, 257, 2, 1, 4}},
                      // Rows in 8 and 16 pieces of registers, and in none.
                      AttentionCase{{1, 530, 1, 1, 2}}, AttentionCase{{1, 1030, 1, 1, 2}},
                      AttentionCase{{1, 2055, 1, 1, 2}},
                      // Several documents a row, in each of these ways too.
                      AttentionCase{{2, 33, 2, 2, 10}, {5, 1, 12}},
                      AttentionCase{{1, 257, 2, 1, 4}, {128, 1, 60}},
                      AttentionCase{{1, 530, 1, 1, 2}, {3, 300}},
                      AttentionCase{{1, 2055, 1, 1, 2}, {700, 41}}));

// Later keys must not reach earlier queries: exactly, not to rounding.
TEST(CudaAttentionMask, OutputDoesNotChangeWhenTheFutureDoes) {
  const AttentionShape shape{1, 150, 2, 1, 16};
  Stream stream(cuda_device());
  RopeTable rope(rope_frequencies(shape.head_size, kTheta), cuda_device());
  rope.extend(shape.length, stream);
  const Buffer scratch(attention_scratch_bytes(shape, DType::f32, cuda_device()), cuda_device());
  const DeviceArray<float> lse(shape.length * shape.heads);
  std::vector<double> x = random_values(shape.length * shape.width(), 1);
  const DeviceTensor before = poisoned(150, 32), after = poisoned(150, 32);
  attention(shape, rope, on_device(x, 150), before, lse.data(), scratch.data(), stream);
  for (std::size_t i = 131 * shape.width(); i < x.size(); ++i) x[i] = -3 * x[i];
  attention(shape, rope, on_device(x, 150), after, lse.data(), scratch.data(), stream);
  const std::vector<float> a = before.read(stream), b = after.read(stream);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 131 * 32, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 131 * 32, a.end(), b.begin() + 131 * 32));
}

}  // namespace
}  // namespace ballot::test

// The Llama on CUDA against the CPU's, and against PyTorch's golden values of the pretrained tiny
// Llama: logits, loss and every gradient.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "core/copy.h"
#include "core/error.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/safetensors.h"
#include "tests/cuda/device_tensor.h"
#include "tests/models/llama_support.h"

namespace ballot::test {
namespace {

// Reads each gradient when it is reported, in the order of the stream.
struct StreamSink : GradientSink {
  double mean_loss = 0;
  std::vector<std::string> names;
  reference::Parameters<double> gradients;
  void loss_known(double mean) override { mean_loss = mean; }
  void ready(const Parameter& parameter, Stream& stream) override {
    names.push_back(parameter.shape.name);
    stream.synchronize();
    gradients[parameter.shape.name] = unpadded(parameter.gradient);
  }
};

std::vector<double> read(const Tensor& x) {
  const HostBytes host(x);
  const auto* values = reinterpret_cast<const float*>(host.data());
  return {values, values + x.count()};
}

struct Case {
  const char* name;
  std::int64_t hidden, heads, key_value_heads, head_size;
  bool tied;
  std::int64_t sequences, length;
};

class CudaLlama : public ::testing::TestWithParam<Case> {
 protected:
  const Case c = GetParam();
  const LlamaConfig config = small_llama(c.hidden, c.heads, c.key_value_heads, c.head_size, c.tied);
  const std::vector<TokenBatch> batches = {random_batch(config, c.sequences, c.length, 5),
                                           random_batch(config, 1, 9, 6)};

  struct Run {
    explicit Run(const LlamaConfig& config, DType compute, Device device)
        : arena(llama_parameter_shapes(config), compute, device) {
      fill_parameters(arena, 1);
      model = make_llama(config, arena, device);
    }
    ParameterArena arena;
    std::unique_ptr<Model> model;
    StreamSink sink;
  };
};

TEST_P(CudaLlama, FollowsTheCpuInFp32) {
  Run cpu(config, DType::f32, {}), gpu(config, DType::f32, cuda_device());
  const Loss want = cpu.model->differentiate(batches, cpu.sink);
  const Loss loss = gpu.model->differentiate(batches, gpu.sink);
  EXPECT_EQ(loss.tokens, want.tokens);
  EXPECT_NEAR(loss.sum, want.sum, 2e-6 * want.sum);
  EXPECT_NEAR(gpu.sink.mean_loss, cpu.sink.mean_loss, 2e-6 * cpu.sink.mean_loss);
  EXPECT_EQ(gpu.sink.names, cpu.sink.names);
  for (const auto& [name, gradient] : cpu.sink.gradients)
    EXPECT_LT(gradient_error(gpu.sink.gradients, cpu.sink.gradients, name), 5e-6) << name;

  const TokenBatch& batch = batches.front();
  EXPECT_NEAR(gpu.model->evaluate(batch).sum, cpu.model->evaluate(batch).sum, 2e-6 * want.sum);
  EXPECT_LT(relative_error(read(gpu.model->logits(batch)), read(cpu.model->logits(batch))), 5e-6);
  EXPECT_EQ(gradients_of(gpu.arena), gpu.sink.gradients) << "evaluation changes no gradient";

  StreamSink again;
  EXPECT_EQ(gpu.model->differentiate(batches, again).sum, loss.sum);
  EXPECT_EQ(again.gradients, gpu.sink.gradients) << "the same bits every time";
}

// bf16 keeps 8 bits: each of about 20 roundings a path crosses adds 2^-9 of noise to a gradient.
TEST_P(CudaLlama, StaysNearTheCpusFp32InBf16) {
  Run cpu(config, DType::f32, {}), gpu(config, DType::bf16, cuda_device());
  const Loss want = cpu.model->differentiate(batches, cpu.sink);
  const Loss loss = gpu.model->differentiate(batches, gpu.sink);
  EXPECT_NEAR(loss.mean(), want.mean(), 0.02 * want.mean());
  for (const auto& [name, gradient] : cpu.sink.gradients)
    EXPECT_LT(gradient_error(gpu.sink.gradients, cpu.sink.gradients, name), 0.06) << name;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaLlama,
                         ::testing::Values(Case{"padded_rows", 40, 4, 2, 16, false, 2, 7},
                                           Case{"tied", 40, 2, 2, 16, true, 2, 7},
                                           Case{"one_token", 64, 2, 1, 32, false, 3, 1},
                                           Case{"three_to_one", 48, 3, 1, 64, true, 1, 33},
                                           Case{"long", 40, 2, 1, 32, false, 1, 130},
                                           Case{"apart_in_the_arena", 24, 3, 1, 4, false, 2, 9}),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(CudaLlamaBatches, PaddingOfGradientsStaysZeroAndNothingCountedGivesZero) {
  const LlamaConfig config = small_llama(40, 4, 2, 16, false);
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32, cuda_device());
  fill_parameters(arena, 1);
  const std::unique_ptr<Model> model = make_llama(config, arena, cuda_device());
  TokenBatch batch = random_batch(config, 2, 7, 5);
  StreamSink sink;
  model->differentiate({&batch, 1}, sink);
  for (const Parameter& p : arena.parameters()) {
    const HostBytes host(make_matrix(p.gradient.data, DType::f32, p.shape.rows, p.row_stride,
                                     p.row_stride, cuda_device()));
    const auto* gradient = reinterpret_cast<const float*>(host.data());
    for (std::int64_t i = 0; i < p.extent(); ++i)
      if (i % p.row_stride >= p.shape.cols) {
        ASSERT_EQ(gradient[i], 0.0f) << p.shape.name << " " << i;
      }
  }
  std::ranges::fill(batch.targets, kNoTarget);
  EXPECT_EQ(model->differentiate({&batch, 1}, sink).tokens, 0);
  for (const auto& [name, gradient] : sink.gradients) EXPECT_EQ(norm(gradient), 0.0) << name;
}

TEST(CudaLlamaBatches, ParametersElsewhereAreRefused) {
  const LlamaConfig config = small_llama(40, 4, 2, 16, false);
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  EXPECT_THROW(make_llama(config, arena, cuda_device()), LogicError);
}

TEST(CudaLlamaInitialization, IsTheCpus) {
  const LlamaConfig config = small_llama(40, 4, 2, 16, true);
  const ParameterArena cpu(llama_parameter_shapes(config), DType::bf16);
  const ParameterArena gpu(llama_parameter_shapes(config), DType::bf16, cuda_device());
  initialize_llama(config, cpu, 3);
  initialize_llama(config, gpu, 3);
  EXPECT_EQ(values_of(gpu), values_of(cpu));
}

// ---- The pretrained tiny Llama ----

const std::string kFolder = BALLOT_SHARED_DATA "/llama-tiny-shakespeare";

std::vector<double> read_values(const StoredTensor& tensor) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < tensor.count(); ++i) {
    const auto read_as = [&]<class T>(T value) {
      std::memcpy(&value, tensor.bytes.data() + i * sizeof(T), sizeof(T));
      return static_cast<double>(value);
    };
    if (tensor.type == StoredType::f32)
      values.push_back(read_as(float{}));
    else if (tensor.type == StoredType::i64)
      values.push_back(read_as(std::int64_t{}));
    else
      values.push_back(read_as(std::int32_t{}));
  }
  return values;
}

class CudaLlamaGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kFolder))
      GTEST_SKIP() << "no test data at " << kFolder << " (a user's clone has none)";
  }
  // Norm-wise distances of logits, loss and every gradient from PyTorch's.
  static void expect_near_golden(DType compute, double logits_bound, double loss_bound,
                                 double gradient_bound) {
    const std::unique_ptr<Architecture> architecture = read_architecture(kFolder);
    const ParameterArena arena(architecture->parameter_shapes(), compute, cuda_device());
    load_parameters(kFolder, arena);
    const SafetensorsReader golden(kFolder + "/golden.safetensors");
    const std::vector<double> tokens = read_values(golden.get("tokens"));
    TokenBatch batch{2, 64, {}, {}};
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t t = 0; t < 64; ++t) {
        batch.inputs.push_back(static_cast<std::int32_t>(tokens[b * 65 + t]));
        batch.targets.push_back(static_cast<std::int32_t>(tokens[b * 65 + t + 1]));
      }
    const std::unique_ptr<Model> model = architecture->make_model(arena, cuda_device());
    EXPECT_LT(relative_error(read(model->logits(batch)), read_values(golden.get("logits"))),
              logits_bound);
    StreamSink sink;
    const Loss loss = model->differentiate({&batch, 1}, sink);
    EXPECT_EQ(loss.tokens, 128);
    const double want = read_values(golden.get("loss"))[0];
    EXPECT_NEAR(loss.mean(), want, loss_bound * want);
    EXPECT_EQ(sink.gradients.size(), 6u * 9 + 3);
    for (const auto& [name, gradient] : sink.gradients)
      EXPECT_LT(relative_error(gradient, read_values(golden.get("grad." + name))), gradient_bound)
          << name;
  }
};

TEST_F(CudaLlamaGolden, Fp32AgreesWithPyTorch) {
  expect_near_golden(DType::f32, 1e-4, 1e-4, 1e-4);
}

// The bound of the CPU's test: 60 roundings each way, sqrt(120) * 2^-9 = 2 % norm-wise; twice that.
TEST_F(CudaLlamaGolden, Bf16StaysWithinItsRoundings) {
  expect_near_golden(DType::bf16, 0.02, 0.005, 0.04);
}

}  // namespace
}  // namespace ballot::test

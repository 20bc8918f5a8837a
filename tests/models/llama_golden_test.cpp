// The Llama against PyTorch's logits, loss, gradients and greedy continuation of a real pretrained
// model.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/architecture.h"
#include "models/llama/llama_model.h"
#include "models/model_folder.h"
#include "models/safetensors.h"
#include "tests/models/llama_support.h"

namespace ballot::test {
namespace {

const std::string kFolder = BALLOT_SHARED_DATA "/llama-tiny-shakespeare";

template <class T>
std::vector<double> read_as(const StoredTensor& tensor) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < tensor.count(); ++i) {
    T value;
    std::memcpy(&value, tensor.bytes.data() + i * sizeof(T), sizeof(T));
    values.push_back(static_cast<double>(value));
  }
  return values;
}

std::vector<double> read_values(const StoredTensor& tensor) {
  switch (tensor.type) {
    case StoredType::f32:
      return read_as<float>(tensor);
    case StoredType::i64:
      return read_as<std::int64_t>(tensor);
    case StoredType::i32:
      return read_as<std::int32_t>(tensor);
    default:
      throw std::runtime_error("golden tensor of a type this test does not read: " + tensor.name);
  }
}

class LlamaGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kFolder))
      GTEST_SKIP() << "no test data at " << kFolder << " (a user's clone has none)";
  }
  // Norm-wise distances of logits, loss and every gradient from PyTorch's.
  static void expect_near_golden(DType compute, double logits_bound, double loss_bound,
                                 double gradient_bound) {
    const std::unique_ptr<Architecture> architecture = read_architecture(kFolder);
    const ParameterArena arena(architecture->parameter_shapes(), compute);
    load_parameters(kFolder, arena);
    arena.refresh_compute();
    const SafetensorsReader golden(kFolder + "/golden.safetensors");
    const std::vector<double> tokens = read_values(golden.get("tokens"));
    TokenBatch batch{2, 64, {}, {}};
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t t = 0; t < 64; ++t) {
        batch.inputs.push_back(static_cast<std::int32_t>(tokens[b * 65 + t]));
        batch.targets.push_back(static_cast<std::int32_t>(tokens[b * 65 + t + 1]));
      }
    const std::unique_ptr<Model> model = architecture->make_model(arena);
    EXPECT_LT(relative_error(from_tensor(model->logits(batch)), read_values(golden.get("logits"))),
              logits_bound);
    RecordingSink sink;
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

TEST_F(LlamaGolden, Fp32AgreesWithPyTorch) {
  expect_near_golden(DType::f32, 1e-4, 1e-4, 1e-4);
}

// A product's two operands are rounded to 8 bits (relative 2^-9 each, unbiased): after the 6
// layers' roughly 60 roundings forward and as many back, sqrt(120) * 2^-9 = 2 % norm-wise; twice
// that is the bound.
TEST_F(LlamaGolden, Bf16StaysWithinItsRoundings) {
  if (!has_bf16()) GTEST_SKIP() << "needs bf16 products (AVX-512)";
  expect_near_golden(DType::bf16, 0.02, 0.005, 0.04);
}

TEST_F(LlamaGolden, GreedyContinuationIsPyTorchs) {
  const nlohmann::json greedy = nlohmann::json::parse(std::ifstream(kFolder + "/greedy.json"));
  const std::vector<std::int32_t> want = greedy.at("ids");
  const std::string prompt = greedy.at("prompt");
  const std::unique_ptr<Architecture> architecture = read_architecture(kFolder);
  const ParameterArena arena(architecture->parameter_shapes(), DType::f32);
  load_parameters(kFolder, arena);
  const std::unique_ptr<Model> model = architecture->make_model(arena);
  std::vector<std::int32_t> ids = {256};
  for (const char byte : prompt) ids.push_back(static_cast<unsigned char>(byte));
  while (ids.size() < want.size()) {
    const Tensor logits = model->logits({1, static_cast<std::int64_t>(ids.size()), ids, {}});
    const float* last = logits.f32() + (logits.extent[0] - 1) * logits.extent[1];
    ids.push_back(
        static_cast<std::int32_t>(std::max_element(last, last + logits.extent[1]) - last));
  }
  EXPECT_EQ(ids, want);
}

}  // namespace
}  // namespace ballot::test

#include "models/gpt2/gpt2_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace ballot {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

json small() {
  return json::parse(
      R"({"model_type":"gpt2","n_embd":64,"n_layer":2,"n_head":4,"vocab_size":258})");
}
json with(const char* key, json value) {
  json config = small();
  config[key] = std::move(value);
  return config;
}
Gpt2Config parse(const json& config) {
  return parse_gpt2_config(config.dump(), "config.json");
}
void expect_refused(const json& config, const std::string& what) {
  SCOPED_TRACE(config.dump());
  EXPECT_THAT([&] { parse(config); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("config.json"), HasSubstr(what))));
}

TEST(Gpt2Config, AbsentKeysHaveTheDefaultsOfTransformers) {
  const Gpt2Config parsed = parse(small());
  EXPECT_EQ(parsed.intermediate_size, 256);
  EXPECT_EQ(parsed.head_size, 16);
  EXPECT_EQ(parsed.max_positions, 1024);
  EXPECT_EQ(parsed.layer_norm_epsilon, 1e-5);
  EXPECT_EQ(parsed.initializer_range, 0.02);
  EXPECT_TRUE(parsed.tied_head);
  EXPECT_EQ(parsed.bos_token, -1) << "50256 is none of 258";
  EXPECT_TRUE(parsed.eos_tokens.empty());
  const Gpt2Config large = parse(with("vocab_size", 50257));
  EXPECT_EQ(large.bos_token, 50256);
  EXPECT_EQ(large.eos_tokens, std::vector<std::int64_t>{50256});
}

TEST(Gpt2Config, EveryEndTokenIsRead) {
  EXPECT_EQ(parse(with("eos_token_id", 7)).eos_tokens, std::vector<std::int64_t>{7});
  EXPECT_EQ(parse(with("eos_token_id", {7, 9, 7})).eos_tokens, (std::vector<std::int64_t>{7, 9}));
  EXPECT_TRUE(parse(with("eos_token_id", nullptr)).eos_tokens.empty());
  EXPECT_TRUE(parse(with("eos_token_id", 50256)).eos_tokens.empty()) << "nobody chose one";
  EXPECT_EQ(parse(with("bos_token_id", 50256)).bos_token, -1);
  expect_refused(with("bos_token_id", 50255), "bos_token_id is 50255");
  expect_refused(with("eos_token_id", {7, 258}), "eos_token_id is 258, expected a token");
}

TEST(Gpt2Config, RefusesWhatIsNotSupportedByName) {
  expect_refused(with("activation_function", "gelu"),
                 "activation_function = \"gelu\" is not supported, expected \"gelu_new\"");
  expect_refused(with("add_cross_attention", true), "add_cross_attention = true");
  expect_refused(with("scale_attn_weights", false), "scale_attn_weights = false");
  expect_refused(with("scale_attn_by_inverse_layer_idx", true),
                 "scale_attn_by_inverse_layer_idx = true");
  expect_refused(with("quantization_config", json::object()), "quantization_config");
  expect_refused(with("n_head", 3), "n_embd is 64, expected a multiple of n_head 3");
  expect_refused(with("n_head", 64), "n_embd / n_head is 1, expected an even head size");
  expect_refused(with("n_positions", 0), "n_positions is 0");
  expect_refused(with("dtype", 3), "dtype is 3");
  expect_refused(with("model_type", "llama"), "expected \"gpt2\"");
  EXPECT_NO_THROW(parse(with("activation_function", "gelu_pytorch_tanh")));
  EXPECT_NO_THROW(parse(with("reorder_and_upcast_attn", true)));
  EXPECT_NO_THROW(parse(with("resid_pdrop", 0.1)));
}

TEST(Gpt2Config, EverythingWrongIsToldAtOnce) {
  json config = small();
  config["n_embd"] = -1;
  config["n_layer"] = "two";
  config.erase("vocab_size");
  config["activation_function"] = "relu";
  EXPECT_THAT([&] { parse(config); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("n_embd is -1"), HasSubstr("n_layer is"),
                                             HasSubstr("vocab_size is missing"),
                                             HasSubstr("activation_function"))));
}

TEST(Gpt2Config, WrittenIsRead) {
  json given = small();
  given["n_inner"] = 100;
  given["n_positions"] = 77;
  given["tie_word_embeddings"] = false;
  given["bos_token_id"] = 3;
  given["eos_token_id"] = {4, 5};
  given["layer_norm_epsilon"] = 3e-6;
  const Gpt2Config config = parse(given);
  const Gpt2Config again = parse_gpt2_config(to_json(config), "config.json");
  EXPECT_EQ(to_json(again), to_json(config));
  EXPECT_EQ(again.intermediate_size, 100);
  EXPECT_EQ(again.max_positions, 77);
  EXPECT_FALSE(again.tied_head);
  EXPECT_EQ(again.bos_token, 3);
  EXPECT_EQ(again.eos_tokens, (std::vector<std::int64_t>{4, 5}));
  EXPECT_EQ(again.layer_norm_epsilon, 3e-6);
}

TEST(Gpt2Config, ShapesAreInBackwardOrderAndAsTheCheckpointsStoreThem) {
  const std::vector<ParameterShape> shapes = gpt2_parameter_shapes(parse(small()));
  EXPECT_EQ(shapes.size(), 2u + 2 * 12 + 2);
  EXPECT_EQ(shapes.front().name, "transformer.ln_f.weight");
  EXPECT_EQ(shapes[2].name, "transformer.h.1.mlp.c_proj.weight");
  EXPECT_EQ(shapes.back().name, "transformer.wte.weight");
  EXPECT_TRUE(shapes.back().tied);
  std::map<std::string, ParameterShape> by_name;
  for (const ParameterShape& shape : shapes) by_name.emplace(shape.name, shape);
  const ParameterShape& attention = by_name.at("transformer.h.0.attn.c_attn.weight");
  EXPECT_EQ(attention.rows, 64);
  EXPECT_EQ(attention.cols, 192);
  EXPECT_EQ(attention.kind, ParameterKind::hidden_matrix);
  EXPECT_EQ(by_name.at("transformer.h.0.attn.c_attn.bias").cols, 192);
  EXPECT_EQ(by_name.at("transformer.h.0.attn.c_attn.bias").kind, ParameterKind::vector);
  EXPECT_EQ(by_name.at("transformer.h.1.mlp.c_proj.weight").rows, 256);
  EXPECT_EQ(by_name.at("transformer.wpe.weight").kind, ParameterKind::embedding);
  EXPECT_FALSE(by_name.at("transformer.wpe.weight").tied);
  const std::vector<ParameterShape> untied =
      gpt2_parameter_shapes(parse(with("tie_word_embeddings", false)));
  EXPECT_EQ(untied.front().name, "lm_head.weight");
  EXPECT_EQ(untied.front().kind, ParameterKind::head);
  EXPECT_FALSE(untied.back().tied);
}

}  // namespace
}  // namespace ballot

#include "models/llama/llama_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>

#include "core/error.h"
#include "core/file.h"

namespace ballot {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

json small() {
  return json::parse(
      R"({"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,
    "num_attention_heads":4,"num_key_value_heads":2,"vocab_size":258})");
}
json with(const char* key, json value) {
  json config = small();
  config[key] = std::move(value);
  return config;
}
LlamaConfig parse(const json& config) {
  return parse_llama_config(config.dump(), "config.json");
}
void expect_refused(const json& config, const std::string& what) {
  SCOPED_TRACE(config.dump());
  EXPECT_THAT([&] { parse(config); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("config.json"), HasSubstr(what))));
}

TEST(LlamaConfig, AbsentKeysHaveTheDefaultsOfTransformers) {
  json config = small();
  config.erase("num_key_value_heads");
  const LlamaConfig parsed = parse(config);
  EXPECT_EQ(parsed.key_value_heads, 4);
  EXPECT_EQ(parsed.head_size, 16);
  EXPECT_EQ(parsed.max_positions, 2048);
  EXPECT_EQ(parsed.rope_theta, 10000.0);
  EXPECT_EQ(parsed.rms_norm_epsilon, 1e-6);
  EXPECT_EQ(parsed.initializer_range, 0.02);
  EXPECT_FALSE(parsed.tied_head);
  EXPECT_EQ(parsed.bos_token, 1);
  EXPECT_EQ(parsed.eos_tokens, std::vector<std::int64_t>{2});
}

TEST(LlamaConfig, NullIsAbsent) {
  json config = small();
  for (const char* key : {"head_dim", "rope_scaling", "rope_parameters", "rope_theta",
                          "attention_bias", "num_key_value_heads", "torch_dtype"})
    config[key] = nullptr;
  EXPECT_EQ(parse(config).head_size, 16);
  config["bos_token_id"] = nullptr;
  EXPECT_EQ(parse(config).bos_token, -1) << "null says that there is none";
}

TEST(LlamaConfig, ReadsTheTinyModel) {
  const std::string path = BALLOT_SHARED_DATA "/llama-tiny-shakespeare/config.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "needs " << path;
  const LlamaConfig config = parse_llama_config(read_file(path), path);
  EXPECT_EQ(config.hidden_size, 192);
  EXPECT_EQ(config.intermediate_size, 512);
  EXPECT_EQ(config.layers, 6);
  EXPECT_EQ(config.heads, 6);
  EXPECT_EQ(config.key_value_heads, 2);
  EXPECT_EQ(config.head_size, 32);
  EXPECT_EQ(config.vocabulary, 258);
  EXPECT_EQ(config.max_positions, 256);
  EXPECT_EQ(config.rms_norm_epsilon, 1e-5);
  EXPECT_EQ(config.bos_token, 256);
  EXPECT_EQ(config.eos_tokens, std::vector<std::int64_t>{257});
}

TEST(LlamaConfig, EndTokensMayBeSeveralOneOrNone) {
  using Tokens = std::vector<std::int64_t>;
  EXPECT_EQ(parse(with("eos_token_id", {7, 8, 9})).eos_tokens, (Tokens{7, 8, 9}));
  EXPECT_EQ(parse(with("eos_token_id", 7)).eos_tokens, Tokens{7});
  EXPECT_EQ(parse(with("eos_token_id", nullptr)).eos_tokens, Tokens{});
  expect_refused(with("eos_token_id", {7, 258}), "eos_token_id is");
  EXPECT_EQ(parse(with("eos_token_id", json::array())).eos_tokens, Tokens{});
  expect_refused(with("eos_token_id", {258}), "expected a token in [0, 258)");
  expect_refused(with("bos_token_id", -1), "bos_token_id is -1");
}

TEST(LlamaConfig, HeadSizeMayBeStated) {
  const LlamaConfig config = parse(with("head_dim", 32));
  EXPECT_EQ(config.head_size, 32);
  for (const ParameterShape& shape : llama_parameter_shapes(config))
    if (shape.name == "model.layers.0.self_attn.o_proj.weight") {
      EXPECT_EQ(shape.rows, 64);
      EXPECT_EQ(shape.cols, 128);
    }
}

TEST(LlamaConfig, RefusesWhatIsNotSupportedByName) {
  for (const char* type : {"dynamic", "yarn", "longrope"})
    expect_refused(with("rope_scaling", {{"type", type}, {"factor", 2.0}}),
                   fmt::format("rope_scaling.type = \"{}\" is not supported, expected \"default\", "
                               "\"linear\" or \"llama3\"",
                               type)
                       .c_str());
  expect_refused(with("rope_scaling", {{"factor", 2.0}}), "rope_scaling without a rope_type");
  expect_refused(with("rope_scaling", 2), "rope_scaling is 2");
  expect_refused(with("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}),
                 "rope_parameters.rope_type");
  expect_refused(with("attention_bias", 1), "attention_bias is 1, expected true or false");
  expect_refused(with("mlp_bias", "yes"), "mlp_bias is \"yes\"");
  expect_refused(with("torch_dtype", 16), "torch_dtype is 16");
  expect_refused(with("dtype", 16), "dtype is 16");
  expect_refused(with("hidden_act", "gelu"),
                 "hidden_act = \"gelu\" is not supported, expected \"silu\"");
  expect_refused(with("pretraining_tp", 2), "pretraining_tp = 2");
  expect_refused(with("attention_dropout", 0.1), "attention_dropout = 0.1");
  expect_refused(with("quantization_config", {{"bits", 4}}), "quantization_config");
  expect_refused(with("partial_rotary_factor", 0.5), "partial_rotary_factor");
  expect_refused(with("model_type", "gpt2"), "model_type \"gpt2\" is not supported");
  json nameless = small();
  nameless.erase("model_type");
  expect_refused(nameless, "no model_type");
}

TEST(LlamaConfig, TheNewerRopeKeyIsRead) {
  EXPECT_EQ(parse(with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}))
                .rope_theta,
            500000.0);
  EXPECT_EQ(parse(with("rope_scaling", {{"rope_type", "default"}})).rope_theta, 10000.0);
  json both = with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}});
  both["rope_theta"] = 5e5;
  EXPECT_EQ(parse(both).rope_theta, 5e5);
  both["rope_theta"] = 1e4;
  expect_refused(both, "expected one value");
}

TEST(LlamaConfig, RopeScalingOfTheLlamasIsReadFromTheOlderAndTheNewerKey) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const RopeScaling expected{RopeScaling::Type::llama3, 32, 1, 4, 8192};
  EXPECT_EQ(parse(with("rope_scaling", llama3)).rope_scaling, expected);
  json newer = llama3;
  newer["rope_theta"] = 5e5;
  EXPECT_EQ(parse(with("rope_parameters", newer)).rope_scaling, expected);
  EXPECT_EQ(parse(with("rope_parameters", newer)).rope_theta, 5e5);
  json both = with("rope_parameters", newer);
  both["rope_scaling"] = llama3;
  EXPECT_EQ(parse(both).rope_scaling, expected);
  both["rope_scaling"]["factor"] = 8.0;
  expect_refused(both, "rope_scaling and rope_parameters differ");
  EXPECT_EQ(parse(with("rope_scaling", {{"type", "linear"}, {"factor", 2}})).rope_scaling,
            (RopeScaling{RopeScaling::Type::linear, 2}));
  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    json broken = llama3;
    broken.erase(key);
    expect_refused(with("rope_scaling", broken),
                   fmt::format("rope_scaling.{} is missing", key).c_str());
    broken[key] = "8";
    expect_refused(with("rope_scaling", broken),
                   fmt::format("rope_scaling.{} is \"8\"", key).c_str());
  }
  json wrong = llama3;
  wrong["low_freq_factor"] = 4.0;
  expect_refused(with("rope_scaling", wrong), "expected less than high_freq_factor");
  wrong = llama3;
  wrong["factor"] = 0.5;
  expect_refused(with("rope_scaling", wrong), "expected 1 or more");
  wrong["type"] = "linear";
  expect_refused(with("rope_scaling", wrong), "expected one value");
}

TEST(LlamaConfig, RefusesNumbersOutOfRange) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "vocab_size", "max_position_embeddings", "num_key_value_heads"}) {
    for (const json& value : {json(0), json(-1), json(1.5), json("64"), json(std::int64_t{1} << 40),
                              json(~std::uint64_t{0}), json::array({64}), json(true)})
      expect_refused(with(key, value), key);
  }
  for (const char* key : {"rope_theta", "rms_norm_eps", "initializer_range"})
    for (const json& value : {json(0), json(-1e-3), json("1"), json(1e300)})
      expect_refused(with(key, value), key);
  expect_refused(with("tie_word_embeddings", 1), "expected true or false");
  expect_refused(with("torch_dtype", 32), "torch_dtype");
}

TEST(LlamaConfig, RefusesHeadsThatDoNotDivide) {
  expect_refused(with("num_attention_heads", 3),
                 "hidden_size is 64, expected a multiple of num_attention_heads 3");
  expect_refused(with("num_key_value_heads", 3), "expected a multiple of num_key_value_heads 3");
  expect_refused(with("head_dim", 15), "even");
  expect_refused(with("hidden_size", 60), "even");
}

TEST(LlamaConfig, EverythingWrongIsToldAtOnce) {
  json config = small();
  config.erase("hidden_size");
  config["vocab_size"] = -5;
  config["mlp_bias"] = 1;
  EXPECT_THAT([&] { parse(config); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("hidden_size is missing"),
                                             HasSubstr("vocab_size is -5"),
                                             HasSubstr("mlp_bias is 1"), Not(HasSubstr("heads")))));
}

TEST(LlamaConfig, WhatIsNotJsonIsCorrupt) {
  for (const std::string text :
       {"", "{", "{\"a\":1,\"a\":2}", "nan", "{\"rope_theta\":1e999}", "{}\x01"})
    EXPECT_THROW(parse_llama_config(text, "config.json"), CorruptFile) << text;
  EXPECT_THROW(parse_llama_config(std::string("{}\0", 3), "config.json"), CorruptFile);
  EXPECT_THROW(parse_llama_config(std::string(1'000'000, '['), "config.json"), CorruptFile);
  EXPECT_THROW(parse_llama_config("[]", "config.json"), DataError);
}

RC_GTEST_PROP(LlamaConfig, WrittenIsRead, ()) {
  LlamaConfig config;
  config.key_value_heads = *rc::gen::inRange(1, 5);
  config.heads = config.key_value_heads * *rc::gen::inRange(1, 5);
  config.head_size = 2 * *rc::gen::inRange(1, 65);
  config.hidden_size = *rc::gen::inRange(1, 1000);
  config.intermediate_size = *rc::gen::inRange(1, 1000);
  config.layers = *rc::gen::inRange(1, 5);
  config.vocabulary = *rc::gen::inRange(10, 1000);
  config.max_positions = *rc::gen::inRange(1, 10000);
  config.rope_theta = *rc::gen::inRange(1, 1000000) / 7.0;
  config.rms_norm_epsilon = 1.0 / *rc::gen::inRange(2, 1000000);
  if (*rc::gen::arbitrary<bool>())
    config.rope_scaling = {RopeScaling::Type::llama3, *rc::gen::inRange(7, 700) / 7.0,
                           *rc::gen::inRange(1, 7) / 7.0, *rc::gen::inRange(8, 70) / 7.0,
                           *rc::gen::inRange(1, 100000)};
  config.tied_head = *rc::gen::arbitrary<bool>();
  config.bos_token = *rc::gen::inRange(-1, 10);
  for (int i = *rc::gen::inRange(0, 3); i > 0; --i)
    config.eos_tokens.push_back(3 * i + *rc::gen::inRange(0, 3));
  config.attention_bias = *rc::gen::arbitrary<bool>();
  config.mlp_bias = *rc::gen::arbitrary<bool>();
  const LlamaConfig again = parse_llama_config(to_json(config), "config.json");
  RC_ASSERT(to_json(again) == to_json(config));
  RC_ASSERT(again.rope_theta == config.rope_theta);
  RC_ASSERT(again.rope_scaling == config.rope_scaling);
  RC_ASSERT(again.rms_norm_epsilon == config.rms_norm_epsilon);
  RC_ASSERT(again.head_size == config.head_size);
  RC_ASSERT(again.tied_head == config.tied_head);
  RC_ASSERT(again.bos_token == config.bos_token);
  RC_ASSERT(again.eos_tokens == config.eos_tokens);
  RC_ASSERT(again.attention_bias == config.attention_bias);
  RC_ASSERT(again.mlp_bias == config.mlp_bias);
}

TEST(LlamaShapes, StandInBackwardOrder) {
  const LlamaConfig config = parse(small());
  std::vector<std::string> names;
  for (const ParameterShape& shape : llama_parameter_shapes(config)) names.push_back(shape.name);
  ASSERT_EQ(names.size(), 2 + 2 * 9 + 1u);
  EXPECT_EQ(names[0], "lm_head.weight");
  EXPECT_EQ(names[1], "model.norm.weight");
  const char* layer[] = {
      "mlp.down_proj",    "mlp.up_proj",      "mlp.gate_proj",    "post_attention_layernorm",
      "self_attn.o_proj", "self_attn.v_proj", "self_attn.k_proj", "self_attn.q_proj",
      "input_layernorm"};
  for (int i = 0; i < 9; ++i) {
    EXPECT_EQ(names[2 + i], fmt::format("model.layers.1.{}.weight", layer[i]));
    EXPECT_EQ(names[11 + i], fmt::format("model.layers.0.{}.weight", layer[i]));
  }
  EXPECT_EQ(names.back(), "model.embed_tokens.weight");
}

TEST(LlamaShapes, BiasesFollowTheWeightsOfTheirProduct) {
  json both = with("attention_bias", true);
  both["mlp_bias"] = true;
  const std::vector<ParameterShape> shapes = llama_parameter_shapes(parse(both));
  ASSERT_EQ(shapes.size(), 2 + 2 * 16 + 1u);
  const char* layer[] = {"mlp.down_proj.weight",
                         "mlp.down_proj.bias",
                         "mlp.up_proj.weight",
                         "mlp.gate_proj.weight",
                         "mlp.up_proj.bias",
                         "mlp.gate_proj.bias",
                         "post_attention_layernorm.weight",
                         "self_attn.o_proj.weight",
                         "self_attn.o_proj.bias",
                         "self_attn.v_proj.weight",
                         "self_attn.k_proj.weight",
                         "self_attn.q_proj.weight",
                         "self_attn.v_proj.bias",
                         "self_attn.k_proj.bias",
                         "self_attn.q_proj.bias",
                         "input_layernorm.weight"};
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(shapes[2 + i].name, fmt::format("model.layers.1.{}", layer[i]));
    const bool bias = shapes[2 + i].name.ends_with(".bias");
    if (bias) {
      EXPECT_EQ(shapes[2 + i].kind, ParameterKind::vector);
      EXPECT_EQ(shapes[2 + i].rows, 1);
    }
  }
  EXPECT_EQ(shapes[2 + 5].cols, 128);  // of the MLP's width
  EXPECT_EQ(shapes[2 + 13].cols, 32);  // of the keys
}

TEST(LlamaShapes, KindsAndExtentsAreThoseOfThePart) {
  for (const ParameterShape& shape : llama_parameter_shapes(parse(small()))) {
    SCOPED_TRACE(shape.name);
    EXPECT_FALSE(shape.tied);
    if (shape.name == "lm_head.weight") {
      EXPECT_EQ(shape.kind, ParameterKind::head);
    } else if (shape.name == "model.embed_tokens.weight") {
      EXPECT_EQ(shape.kind, ParameterKind::embedding);
    } else if (shape.name.find("norm") != std::string::npos) {
      EXPECT_EQ(shape.kind, ParameterKind::vector);
      EXPECT_EQ(shape.rows, 1);
      EXPECT_EQ(shape.cols, 64);
    } else {
      EXPECT_EQ(shape.kind, ParameterKind::hidden_matrix);
    }
    if (shape.name.find("k_proj") != std::string::npos) {
      EXPECT_EQ(shape.rows, 32);
      EXPECT_EQ(shape.cols, 64);
    }
    if (shape.name.find("down_proj") != std::string::npos) {
      EXPECT_EQ(shape.rows, 64);
      EXPECT_EQ(shape.cols, 128);
    }
  }
}

TEST(LlamaShapes, ATiedModelHasNoHead) {
  const std::vector<ParameterShape> shapes =
      llama_parameter_shapes(parse(with("tie_word_embeddings", true)));
  EXPECT_EQ(shapes.front().name, "model.norm.weight");
  EXPECT_TRUE(shapes.back().tied);
}

}  // namespace
}  // namespace ballot

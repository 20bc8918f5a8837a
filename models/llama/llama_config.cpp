#include "models/llama/llama_config.h"

#include <cmath>
#include <optional>

#include "core/error.h"
#include "models/config_reader.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

using nlohmann::json;

// Far above any published Llama, and low enough that no product of extents, layers and bytes leaves
// 63 bits.
constexpr std::int64_t kMaxHidden = std::int64_t{1} << 17;
constexpr std::int64_t kMaxIntermediate = std::int64_t{1} << 20;
constexpr std::int64_t kMaxLayers = std::int64_t{1} << 12;
constexpr std::int64_t kMaxHeads = std::int64_t{1} << 12;
constexpr std::int64_t kMaxHeadSize = std::int64_t{1} << 12;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 30;

// One object of a kind of scaling: {rope_type | type, factor, ...}, of rope_scaling or
// rope_parameters.
RopeScaling read_scaling(ConfigReader& reader, const char* key, const json& rope) {
  using Type = RopeScaling::Type;
  const auto name_of = [&](const char* inner) { return fmt::format("{}.{}", key, inner); };
  RopeScaling scaling;
  std::optional<json> type;
  for (const char* type_key : {"rope_type", "type"}) {
    const auto found = rope.find(type_key);
    if (found == rope.end() || found->is_null()) continue;
    if (type && *type != *found)
      reader.complain("{}.rope_type is {} and {}.type {}, expected one value", key, shown(*type),
                      key, shown(*found));
    type = *found;
    if (*found == "default")
      scaling.type = Type::none;
    else if (*found == "linear")
      scaling.type = Type::linear;
    else if (*found == "llama3")
      scaling.type = Type::llama3;
    else
      reader.complain("{}.{} = {} is not supported, expected \"default\", \"linear\" or \"llama3\"",
                      key, type_key, shown(*found));
  }
  if (!type && std::string(key) == "rope_scaling")
    reader.complain("{} without a rope_type is not supported, expected null", key);
  if (scaling.type == Type::none) return scaling;
  const auto number = [&](const char* inner, double low, double high) {
    const auto found = rope.find(inner);
    if (found != rope.end()) return reader.real_value(name_of(inner).c_str(), *found, 1, low, high);
    reader.complain("{} is missing, expected a number between {} and {}", name_of(inner), low,
                    high);
    return 1.0;
  };
  constexpr double kMost = 1e6;
  scaling.factor = number("factor", 0, kMost);
  if (scaling.factor < 1)
    reader.complain("{} is {}, expected 1 or more", name_of("factor"), scaling.factor);
  if (scaling.type != Type::llama3) return scaling;
  const std::size_t problems = reader.problems.size();
  scaling.low_factor = number("low_freq_factor", 0, kMost);
  scaling.high_factor = number("high_freq_factor", 0, kMost);
  if (problems == reader.problems.size() && scaling.low_factor >= scaling.high_factor)
    reader.complain("{} is {}, expected less than high_freq_factor, {}", name_of("low_freq_factor"),
                    scaling.low_factor, scaling.high_factor);
  const double positions =
      number("original_max_position_embeddings", 0, static_cast<double>(kMaxPositions));
  scaling.original_positions = static_cast<std::int64_t>(positions);
  if (positions != std::floor(positions) || positions < 1)
    reader.complain("{} is {}, expected a whole number",
                    name_of("original_max_position_embeddings"), positions);
  return scaling;
}

// Older files have rope_theta beside rope_scaling {rope_type | type, ...}; newer ones
// rope_parameters {rope_theta, rope_type, ...}.
void read_rope(ConfigReader& reader, LlamaConfig& config) {
  constexpr double kDefault = 10000.0, kLow = 0.0, kHigh = 1e15;
  config.rope_theta = reader.real("rope_theta", kDefault, kLow, kHigh);
  std::optional<RopeScaling> scaling;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* rope = reader.find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) {
      reader.complain("{} is {}, expected an object or null", key, shown(*rope));
      continue;
    }
    const RopeScaling read = read_scaling(reader, key, *rope);
    if (scaling && *scaling != read)
      reader.complain(
          "rope_scaling and rope_parameters differ, expected one of them, or both alike");
    scaling = read;
    if (const auto inner = rope->find("rope_theta"); inner != rope->end()) {
      const double value =
          reader.real_value("rope_parameters.rope_theta", *inner, kDefault, kLow, kHigh);
      if (reader.find("rope_theta") != nullptr && value != config.rope_theta)
        reader.complain("rope_theta is {} and {}.rope_theta {}, expected one value",
                        config.rope_theta, key, value);
      config.rope_theta = value;
    }
  }
  config.rope_scaling = scaling.value_or(RopeScaling{});
}

nlohmann::ordered_json to_json(const RopeScaling& scaling) {
  if (scaling.type == RopeScaling::Type::none) return nullptr;
  if (scaling.type == RopeScaling::Type::linear)
    return {{"rope_type", "linear"}, {"factor", scaling.factor}};
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_factor},
          {"high_freq_factor", scaling.high_factor},
          {"original_max_position_embeddings", scaling.original_positions}};
}

}  // namespace

LlamaConfig parse_llama_config(const std::string& json_text, const std::string& path) {
  const json root = parse_strict_json(json_text, path);
  if (!root.is_object()) throw DataError("{} is {}, expected a JSON object", path, shown(root));
  const auto type = root.find("model_type");
  if (type == root.end()) throw DataError("{} has no model_type, expected \"llama\"", path);
  if (*type != "llama")
    throw DataError("{}: model_type {} is not supported, expected \"llama\"", path, shown(*type));

  ConfigReader reader(root);
  LlamaConfig config;
  config.hidden_size = reader.whole("hidden_size", std::nullopt, 1, kMaxHidden);
  config.intermediate_size = reader.whole("intermediate_size", std::nullopt, 1, kMaxIntermediate);
  config.layers = reader.whole("num_hidden_layers", std::nullopt, 1, kMaxLayers);
  config.heads = reader.whole("num_attention_heads", std::nullopt, 1, kMaxHeads);
  config.key_value_heads = reader.whole("num_key_value_heads", config.heads, 1, kMaxHeads);
  config.vocabulary = reader.whole("vocab_size", std::nullopt, 1, kMaxVocabulary);
  config.max_positions = reader.whole("max_position_embeddings", 2048, 1, kMaxPositions);
  read_rope(reader, config);
  config.rms_norm_epsilon = reader.real("rms_norm_eps", 1e-6, 0.0, 1.0);
  config.initializer_range = reader.real("initializer_range", 0.02, 0.0, 10.0);
  config.tied_head = reader.boolean("tie_word_embeddings", false);
  config.attention_bias = reader.boolean("attention_bias", false);
  config.mlp_bias = reader.boolean("mlp_bias", false);
  config.bos_token = reader.token("bos_token_id", 1, config.vocabulary);
  config.eos_tokens = reader.tokens("eos_token_id", 2, config.vocabulary);

  const bool divided = reader.find("head_dim") == nullptr;
  if (divided && reader.problems.empty() && config.hidden_size % config.heads != 0)
    reader.complain(
        "hidden_size is {}, expected a multiple of num_attention_heads {} (or a head_dim)",
        config.hidden_size, config.heads);
  config.head_size =
      divided ? config.hidden_size / config.heads : reader.whole("head_dim", 2, 2, kMaxHeadSize);
  if (divided && (config.head_size < 2 || config.head_size > kMaxHeadSize) &&
      reader.problems.empty())
    reader.complain("hidden_size / num_attention_heads is {}, expected a head size in [2, {}]",
                    config.head_size, kMaxHeadSize);
  if (reader.problems.empty() && config.head_size % 2 != 0)
    reader.complain("the head size is {}, expected an even number: rotary embedding turns pairs",
                    config.head_size);
  if (config.heads % config.key_value_heads != 0)
    reader.complain("num_attention_heads is {}, expected a multiple of num_key_value_heads {}",
                    config.heads, config.key_value_heads);

  reader.only("hidden_act", "silu");
  reader.only("pretraining_tp", 1);
  reader.only("attention_dropout", 0.0);
  reader.only("partial_rotary_factor", 1.0);
  if (reader.find("quantization_config") != nullptr)
    reader.complain("quantization_config is not supported, expected a model in f32, f16 or bf16");
  for (const char* key :
       {"torch_dtype", "dtype"})  // only told: what counts is each tensor's type in the file
    if (const json* value = reader.find(key); value != nullptr && !value->is_string())
      reader.complain("{} is {}, expected a name like \"bfloat16\"", key, shown(*value));

  if (!reader.problems.empty())
    throw DataError("{}: {}", path, fmt::join(reader.problems, fmt::format("\n{}: ", path)));
  return config;
}

std::string to_json(const LlamaConfig& config) {
  const auto token = [](std::int64_t id) { return id < 0 ? json(nullptr) : json(id); };
  nlohmann::ordered_json root;
  root["architectures"] = {"LlamaForCausalLM"};
  root["model_type"] = "llama";
  root["hidden_size"] = config.hidden_size;
  root["intermediate_size"] = config.intermediate_size;
  root["num_hidden_layers"] = config.layers;
  root["num_attention_heads"] = config.heads;
  root["num_key_value_heads"] = config.key_value_heads;
  root["head_dim"] = config.head_size;
  root["vocab_size"] = config.vocabulary;
  root["max_position_embeddings"] = config.max_positions;
  root["rope_theta"] = config.rope_theta;
  root["rope_scaling"] = to_json(config.rope_scaling);
  root["rms_norm_eps"] = config.rms_norm_epsilon;
  root["tie_word_embeddings"] = config.tied_head;
  root["hidden_act"] = "silu";
  root["attention_bias"] = config.attention_bias;
  root["mlp_bias"] = config.mlp_bias;
  root["bos_token_id"] = token(config.bos_token);
  root["eos_token_id"] = config.eos_tokens.size() > 1
                             ? json(config.eos_tokens)
                             : token(config.eos_tokens.empty() ? -1 : config.eos_tokens.front());
  root["torch_dtype"] = "float32";
  root["initializer_range"] = config.initializer_range;
  return root.dump(2) + "\n";
}

std::vector<ParameterShape> llama_parameter_shapes(const LlamaConfig& config) {
  const std::int64_t width = config.hidden_size;
  const std::int64_t queries = config.heads * config.head_size;
  const std::int64_t keys = config.key_value_heads * config.head_size;
  std::vector<ParameterShape> shapes;
  const auto vector = [&](std::string name, std::int64_t cols) {
    shapes.push_back({std::move(name), ParameterKind::vector, 1, cols});
  };
  struct Part {
    const char* name;
    std::int64_t rows;
  };
  // Linear layers that read the same input.
  const auto linear = [&](const std::string& prefix, std::initializer_list<Part> parts,
                          std::int64_t cols, bool biases) {
    for (const Part& part : parts)
      shapes.push_back(
          {prefix + part.name + ".weight", ParameterKind::hidden_matrix, part.rows, cols});
    if (!biases) return;
    for (const Part& part : parts) vector(prefix + part.name + ".bias", part.rows);
  };

  if (!config.tied_head)
    shapes.push_back({"lm_head.weight", ParameterKind::head, config.vocabulary, width});
  vector("model.norm.weight", width);
  for (std::int64_t layer = config.layers - 1; layer >= 0; --layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const std::int64_t inner = config.intermediate_size;
    linear(prefix, {{"mlp.down_proj", width}}, inner, config.mlp_bias);
    linear(prefix, {{"mlp.up_proj", inner}, {"mlp.gate_proj", inner}}, width, config.mlp_bias);
    vector(prefix + "post_attention_layernorm.weight", width);
    linear(prefix, {{"self_attn.o_proj", width}}, queries, config.attention_bias);
    linear(prefix,
           {{"self_attn.v_proj", keys}, {"self_attn.k_proj", keys}, {"self_attn.q_proj", queries}},
           width, config.attention_bias);
    vector(prefix + "input_layernorm.weight", width);
  }
  shapes.push_back({"model.embed_tokens.weight", ParameterKind::embedding, config.vocabulary, width,
                    config.tied_head});
  return shapes;
}

}  // namespace ballot

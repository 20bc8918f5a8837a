#include "models/llama/llama_config.h"

#include <cmath>
#include <limits>
#include <optional>

#include "core/error.h"
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

// Reads keys one by one and collects what is wrong, so that all of it is told at once.
class ConfigReader {
 public:
  explicit ConfigReader(const json& object) : object_(object) {}

  std::vector<std::string> problems;

  template <class... Args>
  void complain(fmt::format_string<Args...> format, Args&&... args) {
    problems.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  // The value, or nullptr when the key is absent or null: transformers treats both alike.
  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  // A whole number in [low, high]; `low` when it is not one, so that later checks stay harmless.
  std::int64_t whole(const char* key, std::optional<std::int64_t> fallback, std::int64_t low,
                     std::int64_t high) {
    const json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      complain("{} is missing, expected a whole number in [{}, {}]", key, low, high);
      return low;
    }
    if (const std::optional<std::int64_t> number = as_whole(*value);
        number && low <= *number && *number <= high)
      return *number;
    complain("{} is {}, expected a whole number in [{}, {}]", key, shown(*value), low, high);
    return low;
  }

  // A number in (low, high).
  double real(const char* key, double fallback, double low, double high) {
    const json* value = find(key);
    return value == nullptr ? fallback : real_value(key, *value, fallback, low, high);
  }
  double real_value(const char* key, const json& value, double fallback, double low, double high) {
    if (value.is_number() && value.get<double>() > low && value.get<double>() < high)
      return value.get<double>();
    complain("{} is {}, expected a number between {} and {}", key, shown(value), low, high);
    return fallback;
  }

  bool boolean(const char* key, bool fallback) {
    const json* value = find(key);
    if (value == nullptr) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    complain("{} is {}, expected true or false", key, shown(*value));
    return fallback;
  }

  // A key that may only have one value, because nothing else is implemented.
  void only(const char* key, const json& supported) {
    const json* value = find(key);
    if (value != nullptr && *value != supported)
      complain("{} = {} is not supported, expected {}", key, shown(*value), shown(supported));
  }

  // An id or a list of ids, of which the first is taken: the one that transformers' tokenizers
  // write.
  std::int64_t token(const char* key, std::int64_t fallback, std::int64_t vocabulary) {
    const auto found = object_.find(key);
    if (found == object_.end()) return fallback < vocabulary ? fallback : -1;
    if (found->is_null()) return -1;
    const json& value = found->is_array() && !found->empty() ? found->front() : *found;
    if (const std::optional<std::int64_t> id = as_whole(value); id && *id >= 0 && *id < vocabulary)
      return *id;
    complain("{} is {}, expected a token in [0, {})", key, shown(value), vocabulary);
    return -1;
  }

 private:
  static std::optional<std::int64_t> as_whole(const json& value) {
    if (value.is_number_unsigned() &&
        value.get<std::uint64_t>() <=
            static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return static_cast<std::int64_t>(value.get<std::uint64_t>());
    if (value.is_number_integer() && !value.is_number_unsigned()) return value.get<std::int64_t>();
    return std::nullopt;
  }

  const json& object_;
};

// Older files have rope_theta beside rope_scaling {rope_type | type, ...}; newer ones
// rope_parameters {rope_theta, rope_type, ...}.
double read_rope(ConfigReader& reader) {
  constexpr double kDefault = 10000.0, kLow = 0.0, kHigh = 1e15;
  double theta = reader.real("rope_theta", kDefault, kLow, kHigh);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* rope = reader.find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) {
      reader.complain("{} is {}, expected an object or null", key, shown(*rope));
      continue;
    }
    for (const char* type_key : {"rope_type", "type"}) {
      const auto type = rope->find(type_key);
      if (type != rope->end() && *type != "default")
        reader.complain("{}.{} = {} is not supported, expected \"default\"", key, type_key,
                        shown(*type));
    }
    if (std::string(key) == "rope_scaling" && !rope->contains("rope_type") &&
        !rope->contains("type"))
      reader.complain("{} without a rope_type is not supported, expected null", key);
    if (const auto inner = rope->find("rope_theta"); inner != rope->end()) {
      const double value =
          reader.real_value("rope_parameters.rope_theta", *inner, kDefault, kLow, kHigh);
      if (reader.find("rope_theta") != nullptr && value != theta)
        reader.complain("rope_theta is {} and {}.rope_theta {}, expected one value", theta, key,
                        value);
      theta = value;
    }
  }
  return theta;
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
  config.rope_theta = read_rope(reader);
  config.rms_norm_epsilon = reader.real("rms_norm_eps", 1e-6, 0.0, 1.0);
  config.initializer_range = reader.real("initializer_range", 0.02, 0.0, 10.0);
  config.tied_head = reader.boolean("tie_word_embeddings", false);
  config.bos_token = reader.token("bos_token_id", 1, config.vocabulary);
  config.eos_token = reader.token("eos_token_id", 2, config.vocabulary);

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
  reader.only("attention_bias", false);
  reader.only("mlp_bias", false);
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
  root["rms_norm_eps"] = config.rms_norm_epsilon;
  root["tie_word_embeddings"] = config.tied_head;
  root["hidden_act"] = "silu";
  root["attention_bias"] = false;
  root["mlp_bias"] = false;
  root["bos_token_id"] = token(config.bos_token);
  root["eos_token_id"] = token(config.eos_token);
  root["torch_dtype"] = "float32";
  root["initializer_range"] = config.initializer_range;
  return root.dump(2) + "\n";
}

std::vector<ParameterShape> llama_parameter_shapes(const LlamaConfig& config) {
  const std::int64_t width = config.hidden_size;
  const std::int64_t queries = config.heads * config.head_size;
  const std::int64_t keys = config.key_value_heads * config.head_size;
  std::vector<ParameterShape> shapes;
  const auto matrix = [&](std::string name, std::int64_t rows, std::int64_t cols) {
    shapes.push_back({std::move(name), ParameterKind::hidden_matrix, rows, cols});
  };
  const auto vector = [&](std::string name) {
    shapes.push_back({std::move(name), ParameterKind::vector, 1, width});
  };

  if (!config.tied_head)
    shapes.push_back({"lm_head.weight", ParameterKind::head, config.vocabulary, width});
  vector("model.norm.weight");
  for (std::int64_t layer = config.layers - 1; layer >= 0; --layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    matrix(prefix + "mlp.down_proj.weight", width, config.intermediate_size);
    matrix(prefix + "mlp.up_proj.weight", config.intermediate_size, width);
    matrix(prefix + "mlp.gate_proj.weight", config.intermediate_size, width);
    vector(prefix + "post_attention_layernorm.weight");
    matrix(prefix + "self_attn.o_proj.weight", width, queries);
    matrix(prefix + "self_attn.v_proj.weight", keys, width);
    matrix(prefix + "self_attn.k_proj.weight", keys, width);
    matrix(prefix + "self_attn.q_proj.weight", queries, width);
    vector(prefix + "input_layernorm.weight");
  }
  shapes.push_back({"model.embed_tokens.weight", ParameterKind::embedding, config.vocabulary, width,
                    config.tied_head});
  return shapes;
}

}  // namespace ballot

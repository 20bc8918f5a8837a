#include "models/gpt2/gpt2_config.h"

#include "core/error.h"
#include "models/config_reader.h"

namespace ballot {
namespace {

using nlohmann::json;

// Far above any published GPT-2, and low enough that no product of extents, layers and bytes leaves
// 63 bits.
constexpr std::int64_t kMaxHidden = std::int64_t{1} << 17;
constexpr std::int64_t kMaxIntermediate = std::int64_t{1} << 20;
constexpr std::int64_t kMaxLayers = std::int64_t{1} << 12;
constexpr std::int64_t kMaxHeads = std::int64_t{1} << 12;
constexpr std::int64_t kMaxHeadSize = std::int64_t{1} << 12;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 24;

// Three names of one formula.
constexpr const char* kActivations[] = {"gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh"};

void check_activation(ConfigReader& reader) {
  const json* value = reader.find("activation_function");
  if (value == nullptr) return;
  for (const char* name : kActivations)
    if (*value == name) return;
  reader.complain("activation_function = {} is not supported, expected \"{}\"", shown(*value),
                  fmt::join(kActivations, "\" or \""));
}

// The published vocabulary's end of text, which transformers also writes for models of smaller
// vocabularies where nobody chose another: then there is none.
constexpr std::int64_t kEndOfText = 50256;
bool is_unset(const ConfigReader& reader, const char* key, std::int64_t vocabulary) {
  const json* value = reader.find(key);
  return value != nullptr && *value == kEndOfText && vocabulary <= kEndOfText;
}

}  // namespace

Gpt2Config parse_gpt2_config(const std::string& json_text, const std::string& path) {
  const json root = parse_strict_json(json_text, path);
  if (!root.is_object()) throw DataError("{} is {}, expected a JSON object", path, shown(root));
  const auto type = root.find("model_type");
  if (type == root.end()) throw DataError("{} has no model_type, expected \"gpt2\"", path);
  if (*type != "gpt2")
    throw DataError("{}: model_type {} is not supported, expected \"gpt2\"", path, shown(*type));

  ConfigReader reader(root);
  Gpt2Config config;
  config.hidden_size = reader.whole("n_embd", std::nullopt, 1, kMaxHidden);
  config.layers = reader.whole("n_layer", std::nullopt, 1, kMaxLayers);
  config.heads = reader.whole("n_head", std::nullopt, 1, kMaxHeads);
  config.intermediate_size = reader.whole("n_inner", 4 * config.hidden_size, 1, kMaxIntermediate);
  config.vocabulary = reader.whole("vocab_size", std::nullopt, 1, kMaxVocabulary);
  config.max_positions = reader.whole("n_positions", 1024, 1, kMaxPositions);
  config.layer_norm_epsilon = reader.real("layer_norm_epsilon", 1e-5, 0.0, 1.0);
  config.initializer_range = reader.real("initializer_range", 0.02, 0.0, 10.0);
  config.tied_head = reader.boolean("tie_word_embeddings", true);
  if (!is_unset(reader, "bos_token_id", config.vocabulary))
    config.bos_token = reader.token("bos_token_id", kEndOfText, config.vocabulary);
  if (!is_unset(reader, "eos_token_id", config.vocabulary))
    config.eos_tokens = reader.tokens("eos_token_id", kEndOfText, config.vocabulary);

  config.head_size = config.hidden_size / config.heads;
  if (reader.problems.empty() && config.hidden_size % config.heads != 0)
    reader.complain("n_embd is {}, expected a multiple of n_head {}", config.hidden_size,
                    config.heads);
  else if (reader.problems.empty() &&
           (config.head_size % 2 != 0 || config.head_size > kMaxHeadSize))
    reader.complain("n_embd / n_head is {}, expected an even head size of at most {}",
                    config.head_size, kMaxHeadSize);

  check_activation(reader);
  reader.only("scale_attn_weights", true);
  reader.only("scale_attn_by_inverse_layer_idx", false);
  reader.only("add_cross_attention", false);
  // Only where the scores are rounded: the numbers are the same.
  reader.boolean("reorder_and_upcast_attn", false);
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

std::string to_json(const Gpt2Config& config) {
  nlohmann::ordered_json root;
  root["architectures"] = {"GPT2LMHeadModel"};
  root["model_type"] = "gpt2";
  root["n_embd"] = config.hidden_size;
  root["n_inner"] = config.intermediate_size;
  root["n_layer"] = config.layers;
  root["n_head"] = config.heads;
  root["vocab_size"] = config.vocabulary;
  root["n_positions"] = config.max_positions;
  root["n_ctx"] = config.max_positions;  // its older name
  root["layer_norm_epsilon"] = config.layer_norm_epsilon;
  root["tie_word_embeddings"] = config.tied_head;
  root["activation_function"] = "gelu_new";
  root["bos_token_id"] = config.bos_token < 0 ? json(nullptr) : json(config.bos_token);
  const std::vector<std::int64_t>& eos = config.eos_tokens;
  root["eos_token_id"] = eos.empty() ? json(nullptr) : eos.size() == 1 ? json(eos[0]) : json(eos);
  root["torch_dtype"] = "float32";
  root["initializer_range"] = config.initializer_range;
  return root.dump(2) + "\n";
}

std::vector<ParameterShape> gpt2_parameter_shapes(const Gpt2Config& config) {
  const std::int64_t width = config.hidden_size;
  std::vector<ParameterShape> shapes;
  const auto add = [&](std::string name, ParameterKind kind, std::int64_t rows, std::int64_t cols) {
    shapes.push_back({.name = std::move(name), .kind = kind, .rows = rows, .cols = cols});
  };
  const auto norm = [&](const std::string& name) {
    add(name + ".weight", ParameterKind::vector, 1, width);
    add(name + ".bias", ParameterKind::vector, 1, width);
  };
  const auto affine = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    add(name + ".weight", ParameterKind::hidden_matrix, in, out);
    add(name + ".bias", ParameterKind::vector, 1, out);
  };

  if (!config.tied_head) add("lm_head.weight", ParameterKind::head, config.vocabulary, width);
  norm("transformer.ln_f");
  for (std::int64_t layer = config.layers - 1; layer >= 0; --layer) {
    const std::string prefix = fmt::format("transformer.h.{}.", layer);
    affine(prefix + "mlp.c_proj", config.intermediate_size, width);
    affine(prefix + "mlp.c_fc", width, config.intermediate_size);
    norm(prefix + "ln_2");
    affine(prefix + "attn.c_proj", width, width);
    affine(prefix + "attn.c_attn", width, 3 * width);
    norm(prefix + "ln_1");
  }
  add("transformer.wpe.weight", ParameterKind::embedding, config.max_positions, width);
  add("transformer.wte.weight", ParameterKind::embedding, config.vocabulary, width);
  shapes.back().tied = config.tied_head;
  return shapes;
}

}  // namespace ballot

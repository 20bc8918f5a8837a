#include "models/llama/llama_architecture.h"

#include "core/error.h"
#include "models/llama/llama_model.h"

namespace ballot {
namespace {

class LlamaArchitecture final : public Architecture {
 public:
  explicit LlamaArchitecture(const LlamaConfig& config) : config_(config) {}

  std::string model_type() const override { return "llama"; }
  std::vector<ParameterShape> parameter_shapes() const override {
    return llama_parameter_shapes(config_);
  }
  bool runs_on(Device::Kind) const override { return true; }
  std::unique_ptr<Model> make_model(const ParameterArena& arena, Device device) const override {
    return make_llama(config_, arena, device);
  }
  void initialize(const ParameterArena& arena, std::uint64_t seed) const override {
    initialize_llama(config_, arena, seed);
  }
  std::int64_t vocabulary() const override { return config_.vocabulary; }
  std::int64_t max_positions() const override { return config_.max_positions; }
  std::int64_t bos_token() const override { return config_.bos_token; }
  std::vector<std::int64_t> eos_tokens() const override { return config_.eos_tokens; }
  std::string to_json() const override { return ballot::to_json(config_); }

 private:
  LlamaConfig config_;
};

}  // namespace

std::unique_ptr<Architecture> llama_architecture(const LlamaConfig& config) {
  return std::make_unique<LlamaArchitecture>(config);
}

std::unique_ptr<Architecture> parse_llama(const std::string& json_text, const std::string& path) {
  return llama_architecture(parse_llama_config(json_text, path));
}

std::unique_ptr<Architecture> new_llama(const ModelSize& size) {
  LlamaConfig config;
  config.hidden_size = size.hidden;
  config.layers = size.layers;
  config.heads = size.heads;
  config.key_value_heads = size.key_value_heads > 0 ? size.key_value_heads : size.heads;
  if (size.head_size == 0 && (size.heads < 1 || size.hidden % size.heads != 0))
    throw ConfigError("a hidden size of {} is not a multiple of {} heads", size.hidden, size.heads);
  config.head_size = size.head_size > 0 ? size.head_size : size.hidden / size.heads;
  config.intermediate_size =
      size.intermediate > 0 ? size.intermediate : (size.hidden * 8 / 3 + 63) / 64 * 64;
  config.vocabulary = size.vocabulary;
  config.max_positions = size.max_positions;
  config.tied_head = size.tied;
  config.bos_token = size.bos_token;
  if (size.eos_token >= 0) config.eos_tokens = {size.eos_token};
  // The same checks as for any config.json.
  try {
    return parse_llama(to_json(config), "a new Llama");
  } catch (const DataError& error) {
    throw ConfigError("{}", error.what());
  }
}

}  // namespace ballot

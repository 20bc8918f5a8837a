#include "models/gpt2/gpt2_architecture.h"

#include "core/error.h"
#include "models/gpt2/gpt2_model.h"

namespace ballot {
namespace {

class Gpt2Architecture final : public Architecture {
 public:
  explicit Gpt2Architecture(Gpt2Config config) : config_(std::move(config)) {}

  std::string model_type() const override { return "gpt2"; }
  std::vector<ParameterShape> parameter_shapes() const override {
    return gpt2_parameter_shapes(config_);
  }
  bool runs_on(Device::Kind kind) const override { return kind == Device::Kind::cpu; }
  std::unique_ptr<Model> make_model(const ParameterArena& arena, Device device) const override {
    return make_gpt2(config_, arena, device);
  }
  void initialize(const ParameterArena& arena, std::uint64_t seed) const override {
    initialize_gpt2(config_, arena, seed);
  }
  std::int64_t vocabulary() const override { return config_.vocabulary; }
  std::int64_t max_positions() const override { return config_.max_positions; }
  std::int64_t bos_token() const override { return config_.bos_token; }
  std::vector<std::int64_t> eos_tokens() const override { return config_.eos_tokens; }
  std::string to_json() const override { return ballot::to_json(config_); }

 private:
  Gpt2Config config_;
};

}  // namespace

std::unique_ptr<Architecture> gpt2_architecture(const Gpt2Config& config) {
  return std::make_unique<Gpt2Architecture>(config);
}

std::unique_ptr<Architecture> parse_gpt2(const std::string& json_text, const std::string& path) {
  return gpt2_architecture(parse_gpt2_config(json_text, path));
}

std::unique_ptr<Architecture> new_gpt2(const ModelSize& size) {
  if (size.key_value_heads > 0 && size.key_value_heads != size.heads)
    throw ConfigError("a GPT-2 has as many key/value heads as heads: {} and {} cannot be",
                      size.key_value_heads, size.heads);
  if (size.head_size > 0 && size.head_size * size.heads != size.hidden)
    throw ConfigError("a GPT-2's heads share its hidden size {}: {} heads of {} cannot be",
                      size.hidden, size.heads, size.head_size);
  Gpt2Config config;
  config.hidden_size = size.hidden;
  config.layers = size.layers;
  config.heads = size.heads;
  config.intermediate_size = size.intermediate > 0 ? size.intermediate : 4 * size.hidden;
  config.vocabulary = size.vocabulary;
  config.max_positions = size.max_positions;
  config.tied_head = size.tied;
  config.bos_token = size.bos_token;
  if (size.eos_token >= 0) config.eos_tokens = {size.eos_token};
  // The same checks as for any config.json.
  try {
    return parse_gpt2(to_json(config), "a new GPT-2");
  } catch (const DataError& error) {
    throw ConfigError("{}", error.what());
  }
}

}  // namespace ballot

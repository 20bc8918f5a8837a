#include "models/published.h"

namespace ballot {
namespace {

struct Published {
  const char* name;
  const char* model_type;
  ModelSize size;
};

ModelSize llama(std::int64_t hidden, std::int64_t intermediate, std::int64_t layers,
                std::int64_t heads, std::int64_t key_value_heads, std::int64_t head_size,
                std::int64_t vocabulary, bool tied) {
  return {.hidden = hidden,
          .layers = layers,
          .heads = heads,
          .key_value_heads = key_value_heads,
          .head_size = head_size,
          .intermediate = intermediate,
          .vocabulary = vocabulary,
          .max_positions = 131072,
          .tied = tied};
}

const std::vector<Published>& all() {
  static const std::vector<Published> models = {
      {"llama-3.2-1b", "llama", llama(2048, 8192, 16, 32, 8, 64, 128256, true)},
      {"llama-3.2-3b", "llama", llama(3072, 8192, 28, 24, 8, 128, 128256, true)},
      {"llama-3.1-8b", "llama", llama(4096, 14336, 32, 32, 8, 128, 128256, false)},
      {"llama-2-7b", "llama", llama(4096, 11008, 32, 32, 32, 128, 32000, false)},
      {"tinyllama-1.1b", "llama", llama(2048, 5632, 22, 32, 4, 64, 32000, false)},
      {"smollm2-135m", "llama", llama(576, 1536, 30, 9, 3, 64, 49152, true)},
      {"gpt2",
       "gpt2",
       {.hidden = 768,
        .layers = 12,
        .heads = 12,
        .vocabulary = 50257,
        .max_positions = 1024,
        .tied = true}},
  };
  return models;
}

}  // namespace

std::vector<std::string> published_models() {
  std::vector<std::string> names;
  for (const Published& model : all()) names.emplace_back(model.name);
  return names;
}

std::unique_ptr<Architecture> published_model(const std::string& name) {
  for (const Published& model : all())
    if (name == model.name) return new_architecture(model.model_type, model.size);
  return nullptr;
}

}  // namespace ballot

#include "models/llama/llama_generation.h"

#include <cstring>
#include <vector>

#include "core/error.h"
#include "models/growing_texts.h"
#include "models/llama/llama_activations.h"
#include "models/llama/llama_forward.h"
#include "models/llama/llama_weights.h"
#include "models/ops/attention_cache.h"

namespace ballot {
namespace {

class LlamaGeneration final : public Generation {
 public:
  LlamaGeneration(const LlamaConfig& config, const ParameterArena& arena, RopeTable& rope,
                  Stream& stream, std::int64_t sequences, std::int64_t max_length)
      : config_(config),
        shape_{sequences, max_length, config.heads, config.key_value_heads, config.head_size},
        rope_(rope),
        stream_(stream),
        texts_(sequences, max_length, config.vocabulary),
        weights_(config, arena, stream),
        memory_(config, arena.compute(), stream.device()),
        last_(arena.compute(), {sequences, config.hidden_size}),
        logits_(DType::f32, {sequences, config.vocabulary}) {
    for (std::int64_t l = 0; l < config.layers; ++l) caches_.emplace_back(shape_, arena.compute());
    if (!caches_.empty())
      scratch_ =
          Buffer(static_cast<std::size_t>(attention_cached_scratch_bytes(shape_, caches_.front())));
    rope_.extend(max_length, stream_);
  }

  Tensor extend(std::span<const std::vector<std::int32_t>> tokens) override {
    texts_.extend(tokens, [this](const GrowingTexts::Pass& pass) { run(pass); });
    weights_.head.forward(last_, logits_);
    return logits_;
  }

  std::int64_t length(std::int64_t sequence) const override { return texts_.length(sequence); }

 private:
  void run(const GrowingTexts::Pass& pass) {
    const auto rows = static_cast<std::int64_t>(pass.inputs.size());
    memory_.reserve({1, rows, config_.heads, config_.key_value_heads, config_.head_size},
                    Keep::nothing);
    const LlamaForward forward{weights_, memory_, static_cast<float>(config_.rms_norm_epsilon),
                               stream_};
    forward.run(pass.inputs, Keep::nothing, [&](std::int64_t l, const LayerActivations& a) {
      attention_cached(shape_, rope_, a.vkq, pass.where, caches_[static_cast<std::size_t>(l)],
                       a.attended, scratch_.data(), stream_);
    });
    const Tensor h = memory_.h.rows(rows);
    for (const NewPositions& part : pass.where)
      std::memcpy(last_.view().rows(part.sequence, part.sequence + 1).data,
                  h.rows(part.first_row + part.rows - 1, part.first_row + part.rows).data,
                  static_cast<std::size_t>(config_.hidden_size) * size_bytes(h.type));
  }

  const LlamaConfig config_;
  const AttentionShape shape_;  // its length is the longest text
  RopeTable& rope_;
  Stream& stream_;
  GrowingTexts texts_;
  const LlamaWeights weights_;
  LlamaActivations memory_;
  OwnedTensor last_;    // (B, C) the final norm's output at each text's last token
  OwnedTensor logits_;  // (B, V) f32
  std::vector<AttentionCache> caches_;
  Buffer scratch_;
};

}  // namespace

std::unique_ptr<Generation> start_llama_generation(const LlamaConfig& config,
                                                   const ParameterArena& arena, RopeTable& rope,
                                                   Stream& stream, std::int64_t sequences,
                                                   std::int64_t max_length) {
  if (stream.device().kind != Device::Kind::cpu)
    throw Unavailable("generating on {}: a Llama keeps its key/value cache on CPUs only",
                      to_string(stream.device()));
  return std::make_unique<LlamaGeneration>(config, arena, rope, stream, sequences, max_length);
}

}  // namespace ballot

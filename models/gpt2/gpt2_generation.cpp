#include "models/gpt2/gpt2_generation.h"

#include <cstring>
#include <vector>

#include "core/error.h"
#include "models/gpt2/gpt2_forward.h"
#include "models/growing_texts.h"

namespace ballot {
namespace {

class Gpt2Generation final : public Generation {
 public:
  Gpt2Generation(const Gpt2Config& config, const ParameterArena& arena, Stream& stream,
                 std::int64_t sequences, std::int64_t max_length)
      : config_(config),
        shape_{sequences, max_length, config.heads, config.heads, config.head_size},
        stream_(stream),
        texts_(sequences, max_length, config.vocabulary),
        weights_(config, arena, stream),
        memory_(config, arena.compute()),
        rope_(no_rotation(config.head_size)),
        last_(arena.compute(), {sequences, config.hidden_size}),
        logits_(DType::f32, {sequences, config.vocabulary}) {
    for (std::int64_t l = 0; l < config.layers; ++l) caches_.emplace_back(shape_, arena.compute());
    scratch_ =
        Buffer(static_cast<std::size_t>(attention_cached_scratch_bytes(shape_, caches_.front())));
    rope_.extend(max_length, stream_);
  }

  Tensor extend(std::span<const std::vector<std::int32_t>> tokens) override {
    const Gpt2Forward forward{weights_, memory_, static_cast<float>(config_.layer_norm_epsilon),
                              stream_};
    texts_.extend(tokens, [&](const GrowingTexts::Pass& pass) { run(forward, pass); });
    forward.head(last_, logits_);
    return logits_;
  }

  std::int64_t length(std::int64_t sequence) const override { return texts_.length(sequence); }

 private:
  void run(const Gpt2Forward& forward, const GrowingTexts::Pass& pass) {
    const auto rows = static_cast<std::int64_t>(pass.inputs.size());
    std::vector<std::int32_t> places;
    for (const NewPositions& part : pass.where)
      for (std::int64_t i = 0; i < part.rows; ++i)
        places.push_back(static_cast<std::int32_t>(part.position + i));
    memory_.reserve({1, rows, config_.heads, config_.heads, config_.head_size}, Keep::nothing);
    forward.run(
        pass.inputs, places, Keep::nothing, [&](std::int64_t l, const Gpt2LayerActivations& a) {
          attention_cached(shape_, rope_, a.vkq, pass.where, caches_[static_cast<std::size_t>(l)],
                           a.attended, scratch_.data(), stream_);
        });
    const Tensor h = memory_.h.rows(rows);
    for (const NewPositions& part : pass.where)
      std::memcpy(last_.view().rows(part.sequence, part.sequence + 1).data,
                  h.rows(part.first_row + part.rows - 1, part.first_row + part.rows).data,
                  static_cast<std::size_t>(config_.hidden_size) * size_bytes(h.type));
  }

  const Gpt2Config config_;
  const AttentionShape shape_;  // its length is the longest text
  Stream& stream_;
  GrowingTexts texts_;
  const Gpt2Weights weights_;
  Gpt2Activations memory_;
  RopeTable rope_;
  OwnedTensor last_;    // (B, C) the final norm's output at each text's last token
  OwnedTensor logits_;  // (B, V) f32
  std::vector<AttentionCache> caches_;
  Buffer scratch_;
};

}  // namespace

std::unique_ptr<Generation> start_gpt2_generation(const Gpt2Config& config,
                                                  const ParameterArena& arena, Stream& stream,
                                                  std::int64_t sequences, std::int64_t max_length) {
  if (max_length > config.max_positions)
    throw DataError("texts of up to {} tokens: this GPT-2 has {} positions", max_length,
                    config.max_positions);
  return std::make_unique<Gpt2Generation>(config, arena, stream, sequences, max_length);
}

}  // namespace ballot

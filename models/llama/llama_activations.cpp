// Sizes of the activations and when they grow.
#include "models/llama/llama_activations.h"

#include <algorithm>

#include "models/ops/cross_entropy.h"
#include "models/ops/embedding.h"
#include "models/ops/rms_norm.h"

namespace ballot {

LlamaActivations::LlamaActivations(const LlamaConfig& c, DType compute_type, Device where)
    : compute(compute_type),
      device(where),
      x(DType::f32, c.hidden_size),
      r(DType::f32, 1),
      h(compute, c.hidden_size),
      act(compute, c.intermediate_size),
      dx(DType::f32, c.hidden_size),
      dx_rounded(compute, compute == DType::bf16 ? c.hidden_size : 0),
      dh(DType::f32, c.hidden_size),
      dattended(compute, c.heads * c.head_size),
      logits(DType::f32, c.vocabulary),
      dlogits(compute, compute == DType::bf16 ? c.vocabulary : 0),
      all_logits(DType::f32, c.vocabulary),
      idle_gain(DType::f32, c.hidden_size) {
  for (std::int64_t l = 0; l < c.layers; ++l) {
    Layer layer;
    layer.x = GrowingMatrix(DType::f32, c.hidden_size);
    layer.x_mid = GrowingMatrix(DType::f32, c.hidden_size);
    layer.vkq = GrowingMatrix(compute, (2 * c.key_value_heads + c.heads) * c.head_size);
    layer.attended = GrowingMatrix(compute, c.heads * c.head_size);
    layer.up_gate = GrowingMatrix(compute, 2 * c.intermediate_size);
    layer.r = GrowingMatrix(DType::f32, 1);
    layer.r_mid = GrowingMatrix(DType::f32, 1);
    layer.log_sum_exp = GrowingMatrix(DType::f32, c.heads);
    layers_.push_back(std::move(layer));
  }
}

template <class Self, class Visit>
void LlamaActivations::each_buffer(Self& self, const AttentionShape& shape, Keep keep,
                                   const Visit& visit) {
  const std::int64_t rows = shape.sequences * shape.length;
  const auto matrix = [&](auto& m, std::int64_t count, Owner owner) {
    visit(m, m.size_bytes(count), owner);
  };
  for (std::size_t l = 0; l < self.layers_.size(); ++l) {
    auto& layer = self.layers_[l];
    const bool has_own_x = l == 0 || keep != Keep::nothing;
    const bool has_own = l == 0 || keep == Keep::everything;
    if (has_own_x) matrix(layer.x, rows, keep == Keep::nothing ? Owner::shared : Owner::layer);
    if (!has_own) continue;
    const Owner owner = keep == Keep::everything ? Owner::layer : Owner::shared;
    for (auto* m : {&layer.x_mid, &layer.vkq, &layer.attended, &layer.up_gate, &layer.r,
                    &layer.r_mid, &layer.log_sum_exp})
      matrix(*m, rows, owner);
  }
  for (auto* m : {&self.x, &self.r, &self.h, &self.act}) matrix(*m, rows, Owner::shared);
  const std::int64_t chunk =
      std::min(rows, cross_entropy_chunk_rows(self.logits.cols(), self.device));
  matrix(self.logits, chunk, Owner::scratch);
  visit(self.losses, (rows + 1) * 8, Owner::scratch);
  visit(self.attention_scratch, attention_scratch_bytes(shape, self.compute, self.device),
        Owner::scratch);
  if (self.device.kind != Device::Kind::cpu)
    for (auto* tokens : {&self.inputs, &self.targets, &self.document_starts})
      visit(*tokens, rows * 4, Owner::shared);
  if (keep == Keep::nothing) return;
  for (auto* m : {&self.dx, &self.dx_rounded, &self.dh, &self.dattended})
    matrix(*m, rows, Owner::shared);
  matrix(self.dlogits, chunk, Owner::scratch);
  matrix(self.idle_gain, 1, Owner::scratch);
  visit(self.norm_partials, rms_norm_partials(rows, self.dx.cols(), self.device) * 4,
        Owner::scratch);
  visit(self.embedding_scratch, embedding_scratch_bytes(rows, self.device), Owner::scratch);
}

void LlamaActivations::reserve(const AttentionShape& shape, Keep keep) {
  each_buffer(*this, shape, keep, [this]<class B>(B& buffer, std::int64_t bytes, Owner) {
    if constexpr (std::is_same_v<B, Buffer>)
      grow(buffer, bytes, device);
    else
      grow(buffer.buffer(), bytes, device);
  });
}

void LlamaActivations::reserve_all_logits(std::int64_t rows) {
  all_logits.reserve(rows, device);
}

ActivationMemory LlamaActivations::memory(const AttentionShape& shape, Keep keep) const {
  ActivationMemory memory;
  each_buffer(*this, shape, keep, [&memory](const auto&, std::int64_t bytes, Owner owner) {
    (owner == Owner::layer    ? memory.layers_bytes
     : owner == Owner::shared ? memory.shared_bytes
                              : memory.scratch_bytes) += bytes;
  });
  return memory;
}

LayerActivations LlamaActivations::layer(std::int64_t l, std::int64_t rows, Keep keep) const {
  const Layer& all = layers_[static_cast<std::size_t>(keep == Keep::everything ? l : 0)];
  const Layer& own = layers_[static_cast<std::size_t>(keep == Keep::nothing ? 0 : l)];
  return {own.x.rows(rows),        all.x_mid.rows(rows),      all.vkq.rows(rows),
          all.attended.rows(rows), all.up_gate.rows(rows),    all.r.rows(rows),
          all.r_mid.rows(rows),    all.log_sum_exp.rows(rows)};
}

}  // namespace ballot

// Sizes of the activations and when they grow.
#include "models/gpt2/gpt2_activations.h"

#include <algorithm>

#include "models/ops/cross_entropy.h"
#include "models/ops/layer_norm.h"

namespace ballot {

Gpt2Activations::Gpt2Activations(const Gpt2Config& c, DType compute_type)
    : compute(compute_type),
      x(DType::f32, c.hidden_size),
      moments(DType::f32, 2),
      positions(DType::f32, c.hidden_size),
      h(compute, c.hidden_size),
      act(compute, c.intermediate_size),
      dx(DType::f32, c.hidden_size),
      dx_rounded(DType::bf16, compute == DType::bf16 ? c.hidden_size : 0),
      dh(DType::f32, c.hidden_size),
      dattended(compute, c.hidden_size),
      logits(DType::f32, c.vocabulary),
      dlogits(DType::bf16, compute == DType::bf16 ? c.vocabulary : 0),
      all_logits(DType::f32, c.vocabulary),
      partials(DType::f32, 1),
      losses(DType::f32, 2),
      attention_scratch(DType::f32, 1) {
  for (std::int64_t l = 0; l < c.layers; ++l) {
    Layer layer;
    layer.x = GrowingRows(DType::f32, c.hidden_size);
    layer.x_mid = GrowingRows(DType::f32, c.hidden_size);
    layer.vkq = GrowingRows(compute, 3 * c.hidden_size);
    layer.attended = GrowingRows(compute, c.hidden_size);
    layer.z = GrowingRows(compute, c.intermediate_size);
    layer.moments = GrowingRows(DType::f32, 2);
    layer.moments_mid = GrowingRows(DType::f32, 2);
    layer.log_sum_exp = GrowingRows(DType::f32, c.heads);
    layers.push_back(std::move(layer));
  }
}

template <class Self, class Visit>
void Gpt2Activations::each(Self& self, const AttentionShape& shape, bool backward,
                           const Visit& visit) {
  const std::int64_t rows = shape.sequences * shape.length;
  for (std::size_t l = 0; l < (backward ? self.layers.size() : 1); ++l) {
    auto& layer = self.layers[l];
    for (auto* m : {&layer.x, &layer.x_mid, &layer.vkq, &layer.attended, &layer.z, &layer.moments,
                    &layer.moments_mid, &layer.log_sum_exp})
      visit(*m, rows, backward ? Owner::layer : Owner::shared);
  }
  for (auto* m : {&self.x, &self.moments, &self.positions, &self.h, &self.act})
    visit(*m, rows, Owner::shared);
  const std::int64_t chunk = std::min(rows, cross_entropy_chunk_rows(self.logits.cols(), Device{}));
  visit(self.logits, chunk, Owner::scratch);
  visit(self.losses, rows + 1, Owner::scratch);
  visit(self.attention_scratch, (attention_scratch_bytes(shape, self.compute, Device{}) + 3) / 4,
        Owner::scratch);
  if (!backward) return;
  for (auto* m : {&self.dx, &self.dx_rounded, &self.dh, &self.dattended})
    visit(*m, rows, Owner::shared);
  visit(self.dlogits, chunk, Owner::scratch);
  visit(self.partials, layer_norm_partials(rows, self.dx.cols()), Owner::scratch);
}

void Gpt2Activations::reserve(const AttentionShape& shape, bool backward) {
  each(*this, shape, backward,
       [](GrowingRows& memory, std::int64_t rows, Owner) { memory.reserve(rows); });
}

ActivationMemory Gpt2Activations::memory(const AttentionShape& shape) const {
  ActivationMemory memory;
  each(*this, shape, true, [&memory](const GrowingRows& one, std::int64_t rows, Owner owner) {
    (owner == Owner::layer    ? memory.layers_bytes
     : owner == Owner::shared ? memory.shared_bytes
                              : memory.scratch_bytes) += one.size_bytes(rows);
  });
  return memory;
}

}  // namespace ballot

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
    layer.x = GrowingMatrix(DType::f32, c.hidden_size);
    layer.x_mid = GrowingMatrix(DType::f32, c.hidden_size);
    layer.vkq = GrowingMatrix(compute, 3 * c.hidden_size);
    layer.attended = GrowingMatrix(compute, c.hidden_size);
    layer.z = GrowingMatrix(compute, c.intermediate_size);
    layer.moments = GrowingMatrix(DType::f32, 2);
    layer.moments_mid = GrowingMatrix(DType::f32, 2);
    layer.log_sum_exp = GrowingMatrix(DType::f32, c.heads);
    layers_.push_back(std::move(layer));
  }
}

template <class Self, class Visit>
void Gpt2Activations::each(Self& self, const AttentionShape& shape, Keep keep, const Visit& visit) {
  const std::int64_t rows = shape.sequences * shape.length;
  for (std::size_t l = 0; l < self.layers_.size(); ++l) {
    auto& layer = self.layers_[l];
    if (l == 0 || keep != Keep::nothing)
      visit(layer.x, rows, keep == Keep::nothing ? Owner::shared : Owner::layer);
    if (l > 0 && keep != Keep::everything) continue;
    for (auto* m : {&layer.x_mid, &layer.vkq, &layer.attended, &layer.z, &layer.moments,
                    &layer.moments_mid, &layer.log_sum_exp})
      visit(*m, rows, keep == Keep::everything ? Owner::layer : Owner::shared);
  }
  for (auto* m : {&self.x, &self.moments, &self.positions, &self.h, &self.act})
    visit(*m, rows, Owner::shared);
  const std::int64_t chunk = std::min(rows, cross_entropy_chunk_rows(self.logits.cols(), Device{}));
  visit(self.logits, chunk, Owner::scratch);
  visit(self.losses, rows + 1, Owner::scratch);
  visit(self.attention_scratch, (attention_scratch_bytes(shape, self.compute, Device{}) + 3) / 4,
        Owner::scratch);
  if (keep == Keep::nothing) return;
  for (auto* m : {&self.dx, &self.dx_rounded, &self.dh, &self.dattended})
    visit(*m, rows, Owner::shared);
  visit(self.dlogits, chunk, Owner::scratch);
  visit(self.partials, layer_norm_partials(rows, self.dx.cols()), Owner::scratch);
}

void Gpt2Activations::reserve(const AttentionShape& shape, Keep keep) {
  each(*this, shape, keep,
       [](GrowingMatrix& memory, std::int64_t rows, Owner) { memory.reserve(rows); });
}

ActivationMemory Gpt2Activations::memory(const AttentionShape& shape, Keep keep) const {
  ActivationMemory memory;
  each(*this, shape, keep, [&memory](const GrowingMatrix& one, std::int64_t rows, Owner owner) {
    (owner == Owner::layer    ? memory.layers_bytes
     : owner == Owner::shared ? memory.shared_bytes
                              : memory.scratch_bytes) += one.size_bytes(rows);
  });
  return memory;
}

Gpt2LayerActivations Gpt2Activations::layer(std::int64_t l, std::int64_t rows, Keep keep) const {
  const Layer& all = layers_[static_cast<std::size_t>(keep == Keep::everything ? l : 0)];
  const Layer& own = layers_[static_cast<std::size_t>(keep == Keep::nothing ? 0 : l)];
  return {own.x.rows(rows),           all.x_mid.rows(rows),      all.vkq.rows(rows),
          all.attended.rows(rows),    all.z.rows(rows),          all.moments.rows(rows),
          all.moments_mid.rows(rows), all.log_sum_exp.rows(rows)};
}

}  // namespace ballot

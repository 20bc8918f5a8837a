// Sizes of the activations and when they grow.
#include "models/llama/llama_activations.h"

#include "models/ops/cross_entropy.h"
#include "models/ops/embedding.h"
#include "models/ops/rms_norm.h"

namespace ballot {
namespace {

void reserve_bytes(Buffer& buffer, std::int64_t bytes, Device device) {
  if (static_cast<std::int64_t>(buffer.size_bytes()) >= bytes) return;
  buffer = Buffer();  // give back first: both at once may not fit
  buffer = Buffer(static_cast<std::size_t>(bytes), device);
}

}  // namespace

void GrowingMatrix::reserve(std::int64_t rows, Device device) {
  reserve_bytes(buffer_, rows * cols_ * static_cast<std::int64_t>(size_bytes(type_)), device);
}

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
      all_logits(DType::f32, c.vocabulary) {
  for (std::int64_t l = 0; l < c.layers; ++l) {
    LayerActivations layer;
    layer.x = GrowingMatrix(DType::f32, c.hidden_size);
    layer.x_mid = GrowingMatrix(DType::f32, c.hidden_size);
    layer.vkq = GrowingMatrix(compute, (2 * c.key_value_heads + c.heads) * c.head_size);
    layer.attended = GrowingMatrix(compute, c.heads * c.head_size);
    layer.up_gate = GrowingMatrix(compute, 2 * c.intermediate_size);
    layer.r = GrowingMatrix(DType::f32, 1);
    layer.r_mid = GrowingMatrix(DType::f32, 1);
    layer.log_sum_exp = GrowingMatrix(DType::f32, c.heads);
    layers.push_back(std::move(layer));
  }
}

void LlamaActivations::reserve(const AttentionShape& shape, bool backward) {
  const std::int64_t rows = shape.sequences * shape.length;
  for (std::size_t l = 0; l < (backward ? layers.size() : std::min<std::size_t>(1, layers.size()));
       ++l) {
    LayerActivations& layer = layers[l];
    for (GrowingMatrix* matrix : {&layer.x, &layer.x_mid, &layer.vkq, &layer.attended,
                                  &layer.up_gate, &layer.r, &layer.r_mid, &layer.log_sum_exp})
      matrix->reserve(rows, device);
  }
  for (GrowingMatrix* matrix : {&x, &r, &h, &act}) matrix->reserve(rows, device);
  if (backward) {
    for (GrowingMatrix* matrix : {&dx, &dx_rounded, &dh, &dattended}) matrix->reserve(rows, device);
    const std::int64_t cols = dx.rows(0).extent[1];
    reserve_bytes(norm_partials, rms_norm_partials(rows, cols, device) * 4, device);
    reserve_bytes(embedding_scratch, embedding_scratch_bytes(rows, device), device);
  }
  const std::int64_t chunk =
      std::min(rows, cross_entropy_chunk_rows(logits.rows(0).extent[1], device));
  logits.reserve(chunk, device);
  if (backward) dlogits.reserve(chunk, device);
  reserve_bytes(losses, (rows + 1) * 8, device);
  if (device.kind != Device::Kind::cpu)
    for (Buffer* tokens : {&inputs, &targets}) reserve_bytes(*tokens, rows * 4, device);
  reserve_bytes(attention_scratch, attention_scratch_bytes(shape, compute, device), device);
}

}  // namespace ballot

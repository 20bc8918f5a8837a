// The token table on the CPU: gather and ordered scatter.
#include "models/ops/embedding.h"

#include "core/error.h"
#include "core/parallel.h"
#include "models/ops/cuda_model_ops.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED void gather_rows(const float* __restrict table, std::int64_t stride,
                                   const std::int32_t* __restrict tokens, std::int64_t rows,
                                   std::int64_t cols, float* __restrict x) {
  for (std::int64_t n = 0; n < rows; ++n)
    for (std::int64_t c = 0; c < cols; ++c) x[n * cols + c] = table[tokens[n] * stride + c];
}
BALLOT_VECTORIZED void gather_rows(const bfloat16* __restrict table, std::int64_t stride,
                                   const std::int32_t* __restrict tokens, std::int64_t rows,
                                   std::int64_t cols, float* __restrict x) {
  for (std::int64_t n = 0; n < rows; ++n)
    for (std::int64_t c = 0; c < cols; ++c)
      x[n * cols + c] = to_float(table[tokens[n] * stride + c]);
}

// Columns [0, width) of every row.
BALLOT_VECTORIZED void scatter_columns(const std::int32_t* __restrict tokens, std::int64_t rows,
                                       std::int64_t width, const float* __restrict dx,
                                       std::int64_t dx_stride, float* __restrict dtable,
                                       std::int64_t stride) {
  for (std::int64_t n = 0; n < rows; ++n) {
    const float* __restrict source = dx + n * dx_stride;
    float* __restrict target = dtable + tokens[n] * stride;
    for (std::int64_t c = 0; c < width; ++c) target[c] += source[c];
  }
}

}  // namespace

void embedding(const Tensor& table, std::span<const std::int32_t> tokens, const Tensor& x,
               Stream& stream) {
  const std::int64_t cols = x.extent[1];
  require(x.is_contiguous() && table.extent[1] == cols &&
              x.extent[0] == static_cast<std::int64_t>(tokens.size()),
          "embedding of {} tokens from {} into {}", tokens.size(), table.describe(), x.describe());
  if (x.device.kind == Device::Kind::cuda)
    return cuda_model_ops().embedding(table, tokens, x, stream);
  parallel_for(x.extent[0], 16, [&](std::int64_t begin, std::int64_t end) {
    float* target = x.f32() + begin * cols;
    if (table.type == DType::f32)
      gather_rows(table.f32(), table.stride[0], tokens.data() + begin, end - begin, cols, target);
    else
      gather_rows(table.bf16(), table.stride[0], tokens.data() + begin, end - begin, cols, target);
  });
}

void embedding_backward(std::span<const std::int32_t> tokens, const Tensor& dx,
                        const Tensor& dtable, std::byte* scratch, Stream& stream) {
  require(
      dtable.extent[1] == dx.extent[1] && dx.extent[0] == static_cast<std::int64_t>(tokens.size()),
      "embedding_backward of {} tokens and {} into {}", tokens.size(), dx.describe(),
      dtable.describe());
  if (dx.device.kind == Device::Kind::cuda)
    return cuda_model_ops().embedding_backward(tokens, dx, dtable, scratch, stream);
  parallel_for(dx.extent[1], 64, [&](std::int64_t begin, std::int64_t end) {
    scatter_columns(tokens.data(), dx.extent[0], end - begin, dx.f32() + begin, dx.stride[0],
                    dtable.f32() + begin, dtable.stride[0]);
  });
}

std::int64_t embedding_scratch_bytes(std::int64_t rows, Device device) {
  return device.kind == Device::Kind::cuda ? cuda_model_ops().embedding_scratch_bytes(rows) : 0;
}

}  // namespace ballot

// Cross-entropy on the CPU: maximum, exponentials with their sum, then the gradient, while the row
// is in cache.
#include "models/ops/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/copy.h"
#include "core/error.h"
#include "core/parallel.h"
#include "models/model.h"
#include "models/ops/cuda_model_ops.h"
#include "models/ops/vector_math.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED float row_maximum(const float* __restrict x, std::int64_t count) {
  float maximum = x[0];
#pragma omp simd reduction(max : maximum)
  for (std::int64_t i = 0; i < count; ++i) maximum = x[i] > maximum ? x[i] : maximum;
  return maximum;
}

BALLOT_VECTORIZED float sum_exp(const float* __restrict x, float maximum, std::int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += vector_exp(x[i] - maximum);
  return sum;
}

// x <- exp(x - maximum); returns the sum.
BALLOT_VECTORIZED float exp_in_place(float* __restrict x, float maximum, std::int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] = vector_exp(x[i] - maximum);
    sum += x[i];
  }
  return sum;
}

BALLOT_VECTORIZED void scale_in_place(float* __restrict x, float factor, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) x[i] *= factor;
}

BALLOT_VECTORIZED void scale_rounded(const float* __restrict x, float factor,
                                     bfloat16* __restrict y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = to_bfloat16(x[i] * factor);
}

double row_loss(float sum, float maximum, float chosen) {
  return std::log(static_cast<double>(sum)) +
         (static_cast<double>(maximum) - static_cast<double>(chosen));
}

void check(const Tensor& logits, std::span<const std::int32_t> targets) {
  require(logits.is_contiguous() && logits.extent[0] == static_cast<std::int64_t>(targets.size()),
          "cross_entropy of {} with {} targets", logits.describe(), targets.size());
}

}  // namespace

std::int64_t cross_entropy_chunk_rows(std::int64_t vocabulary, Device device) {
  if (device.kind == Device::Kind::cuda)
    return std::max<std::int64_t>(128, (std::int64_t{1} << 30) / (4 * vocabulary) / 128 * 128);
  // Of `bytes` of logits.
  const auto rows = [vocabulary](std::int64_t bytes) { return bytes / (4 * vocabulary) / 16 * 16; };
  return std::max({std::int64_t{16}, rows(std::int64_t{8} << 20),
                   std::min(std::int64_t{256}, rows(std::int64_t{128} << 20))});
}

void cross_entropy(const Tensor& logits, std::span<const std::int32_t> targets, double* losses,
                   Stream& stream) {
  check(logits, targets);
  if (logits.device.kind == Device::Kind::cuda)
    return cuda_model_ops().cross_entropy(logits, targets, losses, stream);
  const std::int64_t classes = logits.extent[1];
  parallel_for(logits.extent[0], 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const float* x = logits.f32() + n * classes;
      losses[n] = 0;
      if (targets[n] == kNoTarget) continue;
      const float maximum = row_maximum(x, classes);
      losses[n] = row_loss(sum_exp(x, maximum, classes), maximum, x[targets[n]]);
    }
  });
}

void cross_entropy_with_gradient(const Tensor& logits, std::span<const std::int32_t> targets,
                                 float scale, double* losses, const Tensor& dlogits,
                                 Stream& stream) {
  check(logits, targets);
  require(dlogits.is_contiguous() && dlogits.count() == logits.count() &&
              (dlogits.type == DType::bf16 || dlogits.data == logits.data),
          "cross_entropy's gradient of {} into {}", logits.describe(), dlogits.describe());
  if (logits.device.kind == Device::Kind::cuda)
    return cuda_model_ops().cross_entropy_with_gradient(logits, targets, scale, losses, dlogits,
                                                        stream);
  const std::int64_t classes = logits.extent[1];
  parallel_for(logits.extent[0], 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      float* x = logits.f32() + n * classes;
      bfloat16* rounded = dlogits.type == DType::bf16 ? dlogits.bf16() + n * classes : nullptr;
      const std::int32_t target = targets[n];
      losses[n] = 0;
      if (target == kNoTarget) {
        if (rounded != nullptr)
          std::fill_n(rounded, classes, bfloat16{0});
        else
          std::fill_n(x, classes, 0.0f);
        continue;
      }
      const float chosen = x[target];
      const float maximum = row_maximum(x, classes);
      const float sum = exp_in_place(x, maximum, classes);
      losses[n] = row_loss(sum, maximum, chosen);
      const float factor = scale / sum;
      const float at_target = x[target] * factor - scale;
      if (rounded != nullptr) {
        scale_rounded(x, factor, rounded, classes);
        rounded[target] = to_bfloat16(at_target);
      } else {
        scale_in_place(x, factor, classes);
        x[target] = at_target;
      }
    }
  });
}

double sum_losses(double* losses, std::int64_t count, Stream& stream) {
  if (stream.device().kind == Device::Kind::cuda) {
    cuda_model_ops().sum_losses(losses, count, stream);
    double sum = 0;
    copy_bytes(&sum, Device{}, losses + count, stream.device(), sizeof(sum), stream);
    stream.synchronize();
    return sum;
  }
  double sum = 0;
  for (std::int64_t n = 0; n < count; ++n) sum += losses[n];
  return sum;
}

}  // namespace ballot

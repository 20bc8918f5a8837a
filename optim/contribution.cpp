#include "optim/contribution.h"

#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED void scale_elements(const float* x, float* y, float scale, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = scale * x[i];
}

}  // namespace

void copy_scaled(const Tensor& gradient, float factor, std::span<float> target) {
  const auto count = static_cast<std::int64_t>(target.size());
  require(gradient.device == Device{} && gradient.rank == 2 &&
              (gradient.stride[1] == 1 || gradient.extent[1] == 1) &&
              count <= gradient.extent[0] * gradient.stride[0],
          "{} elements, on {}, of {}", count, to_string(gradient.device), gradient.describe());
  const float* const source = gradient.f32();
  parallel_for(count, 4096, [&](std::int64_t begin, std::int64_t end) {
    scale_elements(source + begin, target.data() + begin, factor, end - begin);
  });
}

void scale(std::span<float> values, float factor) {
  if (factor == 1.0f) return;
  parallel_for(static_cast<std::int64_t>(values.size()), 4096,
               [&](std::int64_t begin, std::int64_t end) {
                 scale_elements(values.data() + begin, values.data() + begin, factor, end - begin);
               });
}

}  // namespace ballot

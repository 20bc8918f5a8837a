#include "optim/contribution.h"

#include "core/copy.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED void scale_elements(const float* x, float* y, float scale, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = scale * x[i];
}

}  // namespace

void copy_scaled(const Tensor& gradient, float scale, std::span<float> target, Stream& stream) {
  const auto count = static_cast<std::int64_t>(target.size());
  require(gradient.rank == 2 && (gradient.stride[1] == 1 || gradient.extent[1] == 1) &&
              count <= gradient.extent[0] * gradient.stride[0],
          "{} elements of {}", count, gradient.describe());
  const float* source = gradient.f32();
  if (gradient.device.kind == Device::Kind::cuda) {
    // The link is slower than either memory, so the product costs nothing on the host's side.
    copy_bytes(target.data(), Device{}, source, gradient.device, target.size_bytes(), stream);
    stream.synchronize();
    if (scale == 1.0f) return;
    source = target.data();
  }
  parallel_for(count, 4096, [&](std::int64_t begin, std::int64_t end) {
    scale_elements(source + begin, target.data() + begin, scale, end - begin);
  });
}

}  // namespace ballot

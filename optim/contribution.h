// A gradient on its way into a mean: scaled, in host memory, where transports send from.
#pragma once

#include <span>

#include "core/device.h"  // Stream
#include "core/tensor.h"  // Tensor

namespace ballot {

// target[i] = scale * gradient[i] for all elements from the first to the last, with what lies
// between rows. Waits for the stream.
void copy_scaled(const Tensor& gradient, float scale, std::span<float> target, Stream& stream);

}  // namespace ballot

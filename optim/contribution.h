// A gradient on its way into a mean: scaled, in host memory, where transports send from.
#pragma once

#include <span>

#include "core/tensor.h"  // Tensor

namespace ballot {

// target[i] = factor * gradient[i] for all elements from the first to the last, with what lies
// between rows. Of the CPU's memory.
void copy_scaled(const Tensor& gradient, float factor, std::span<float> target);

// values[i] *= factor: of a gradient that has come from a GPU. The link is slower than either
// memory, so the product costs nothing on the host's side.
void scale(std::span<float> values, float factor);

}  // namespace ballot

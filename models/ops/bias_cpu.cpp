// Biases on the CPU.
#include <array>

#include "core/error.h"
#include "core/parallel.h"
#include "models/ops/bias.h"

namespace ballot {
namespace {

constexpr std::int64_t kColumns = 64;  // whose sums a thread holds at a time

#define BALLOT_BIAS(T)                                                                            \
  BALLOT_VECTORIZED void add_rows(T* __restrict y, std::int64_t stride,                           \
                                  const float* __restrict bias, std::int64_t rows,                \
                                  std::int64_t cols) {                                            \
    for (std::int64_t n = 0; n < rows; ++n, y += stride)                                          \
      for (std::int64_t c = 0; c < cols; ++c) y[c] = from_float<T>(to_float(y[c]) + bias[c]);     \
  }                                                                                               \
  BALLOT_VECTORIZED void sum_rows(const T* __restrict dy, std::int64_t stride, std::int64_t rows, \
                                  std::int64_t cols, double* __restrict sums) {                   \
    for (std::int64_t n = 0; n < rows; ++n, dy += stride)                                         \
      for (std::int64_t c = 0; c < cols; ++c) sums[c] += static_cast<double>(to_float(dy[c]));    \
  }
BALLOT_BIAS(float)
BALLOT_BIAS(bfloat16)
#undef BALLOT_BIAS

void check(const Tensor& y, const Tensor& bias) {
  require(y.stride[1] == 1 && y.extent[1] == bias.count() && bias.type == DType::f32 &&
              y.device.kind == Device::Kind::cpu,
          "a bias {} of {} on {}", bias.describe(), y.describe(), to_string(y.device));
}

template <class T>
void add(const Tensor& y, const Tensor& bias) {
  parallel_for(y.extent[0], 16, [&](std::int64_t begin, std::int64_t end) {
    add_rows(y.as<T>() + begin * y.stride[0], y.stride[0], bias.f32(), end - begin, y.extent[1]);
  });
}

template <class T>
void sum(const Tensor& dy, const Tensor& dbias, Accumulate accumulate) {
  parallel_for(dy.extent[1], kColumns, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t first = begin; first < end; first += kColumns) {
      const std::int64_t cols = std::min(kColumns, end - first);
      std::array<double, kColumns> sums{};
      sum_rows(dy.as<T>() + first, dy.stride[0], dy.extent[0], cols, sums.data());
      float* target = dbias.f32() + first;
      for (std::int64_t c = 0; c < cols; ++c)
        target[c] = static_cast<float>(
            sums[static_cast<std::size_t>(c)] +
            (accumulate == Accumulate::yes ? static_cast<double>(target[c]) : 0.0));
    }
  });
}

}  // namespace

void add_bias(const Tensor& y, const Tensor& bias) {
  check(y, bias);
  if (y.type == DType::f32)
    add<float>(y, bias);
  else
    add<bfloat16>(y, bias);
}

void bias_gradient(const Tensor& dy, const Tensor& dbias, Accumulate accumulate) {
  check(dy, dbias);
  if (dy.type == DType::f32)
    sum<float>(dy, dbias, accumulate);
  else
    sum<bfloat16>(dy, dbias, accumulate);
}

}  // namespace ballot

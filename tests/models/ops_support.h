// What the tests of models/ops share: random inputs from a seed, and gradients of references by
// complex step.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "core/hash.h"
#include "core/tensor.h"

namespace ballot::test {

using Complex = std::complex<double>;
inline constexpr double kComplexStep = 1e-30;

// Uniform in (-scale, scale), exactly representable in f32 (and in bf16 with `coarse`).
inline std::vector<double> random_values(std::size_t count, std::uint64_t seed, double scale = 1.0,
                                         bool coarse = false) {
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const float value =
        static_cast<float>(scale * (static_cast<double>(hash64(seed, i, 0) >> 11) * 0x1p-52 - 1.0));
    values[i] = coarse ? to_float(to_bfloat16(value)) : value;
  }
  return values;
}

inline std::vector<Complex> to_complex(const std::vector<double>& x) {
  return {x.begin(), x.end()};
}

// d(weights . forward(x)) / dx[element], without cancellation: Im f(x + ih) / h.
template <class Forward>
double complex_step(const Forward& forward, const std::vector<double>& x,
                    const std::vector<double>& weights, std::size_t element) {
  std::vector<Complex> z = to_complex(x);
  z[element] += Complex(0, kComplexStep);
  const std::vector<Complex> y = forward(z);
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i].imag() * weights[i];
  return sum / kComplexStep;
}

template <class Forward>
std::vector<double> complex_step_gradient(const Forward& forward, const std::vector<double>& x,
                                          const std::vector<double>& weights) {
  std::vector<double> gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) gradient[i] = complex_step(forward, x, weights, i);
  return gradient;
}

template <class T = float>
OwnedTensor to_tensor(const std::vector<double>& x, std::int64_t rows) {
  OwnedTensor tensor(kDType<T>, {rows, static_cast<std::int64_t>(x.size()) / rows});
  for (std::size_t i = 0; i < x.size(); ++i)
    tensor.view().as<T>()[i] = from_float<T>(static_cast<float>(x[i]));
  return tensor;
}

template <class T = float>
std::vector<double> from_tensor(const Tensor& x) {
  std::vector<double> values(static_cast<std::size_t>(x.count()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(x.as<T>()[i]);
  return values;
}

// Where each position's document begins, in rows of `length` filled with documents of these lengths
// over and over; the last of a row is cut. None: one document a row.
inline std::vector<std::int32_t> pack_documents(std::int64_t rows, std::int64_t length,
                                                const std::vector<std::int64_t>& lengths) {
  std::vector<std::int32_t> starts;
  std::size_t next = 0;
  for (std::int64_t row = 0; row < rows && !lengths.empty(); ++row)
    for (std::int64_t begin = 0; begin < length;) {
      const std::int64_t end = std::min(length, begin + lengths[next++ % lengths.size()]);
      starts.insert(starts.end(), static_cast<std::size_t>(end - begin),
                    static_cast<std::int32_t>(begin));
      begin = end;
    }
  return starts;
}

inline double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

// |x - y| / |y|, norm-wise; a NaN anywhere gives NaN, which no bound admits.
inline double relative_error(const std::vector<double>& x, const std::vector<double>& y) {
  std::vector<double> difference(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) difference[i] = x[i] - y[i];
  return x.size() == y.size() ? norm(difference) / norm(y) : std::nan("");
}

}  // namespace ballot::test

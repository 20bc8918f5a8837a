// The slow truth of Newton-Schulz: the published order, plain loops, any scalar.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "optim/newton_schulz_coefficients.h"

namespace ballot {

// x (rows, cols) row by row, without padding.
template <class T>
std::vector<T> newton_schulz_reference(std::vector<T> x, std::int64_t rows, std::int64_t cols,
                                       int steps, Coefficients set = Coefficients::keller) {
  const auto transpose = [](const std::vector<T>& y, std::int64_t m, std::int64_t n) {
    std::vector<T> z(y.size());
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) z[j * m + i] = y[i * n + j];
    return z;
  };
  const auto product = [](const std::vector<T>& y, const std::vector<T>& z, std::int64_t m,
                          std::int64_t k, std::int64_t n) {
    std::vector<T> w(m * n, T(0));
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t l = 0; l < k; ++l)
        for (std::int64_t j = 0; j < n; ++j) w[i * n + j] += y[i * k + l] * z[l * n + j];
    return w;
  };
  if (rows > cols)
    return transpose(newton_schulz_reference(transpose(x, rows, cols), cols, rows, steps, set),
                     cols, rows);
  T norm = 0;
  for (const T& e : x) norm += e * e;
  norm = T(normalization_of(set).factor) * std::sqrt(norm) + T(normalization_of(set).epsilon);
  for (T& e : x) e /= norm;
  for (int step = 0; step < steps; ++step) {
    const Quintic q = quintic_of(set, step);
    const T a = T(q.a), b = T(q.b), c = T(q.c);
    const std::vector<T> gram = product(x, transpose(x, rows, cols), rows, cols, rows);
    std::vector<T> polynomial = product(gram, gram, rows, rows, rows);
    for (std::size_t i = 0; i < gram.size(); ++i) polynomial[i] = b * gram[i] + c * polynomial[i];
    const std::vector<T> moved = product(polynomial, x, rows, rows, cols);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = a * x[i] + moved[i];
  }
  return x;
}

}  // namespace ballot

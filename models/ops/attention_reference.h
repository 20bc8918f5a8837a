// The slow truth of models/ops/attention.h.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "models/ops/attention.h"       // AttentionShape
#include "models/ops/rope_reference.h"  // rope

namespace ballot::reference {

// vkq (N, (2K + H) D) -> output (N, H D).
template <class S>
std::vector<S> attention(const AttentionShape& shape, double theta, const std::vector<S>& vkq,
                         const RopeScaling& scaling = {}) {
  using std::exp;
  using std::real;
  const std::int64_t d = shape.head_size;
  const auto vector_at = [&](std::int64_t row,
                             std::int64_t head) {  // heads counted over [v | k | q]
    const auto begin = vkq.begin() + row * shape.width() + head * d;
    return std::vector<S>(begin, begin + d);
  };
  std::vector<S> output(static_cast<std::size_t>(shape.sequences * shape.length * shape.heads * d));
  for (std::int64_t b = 0; b < shape.sequences; ++b)
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const std::int64_t kv = h / shape.group();
      std::vector<std::vector<S>> keys, values;
      for (std::int64_t t = 0; t < shape.length; ++t) {
        const std::int64_t row = b * shape.length + t;
        keys.push_back(rope(vector_at(row, shape.key_value_heads + kv), t, theta, scaling));
        values.push_back(vector_at(row, kv));
        const std::vector<S> query =
            rope(vector_at(row, 2 * shape.key_value_heads + h), t, theta, scaling);
        std::vector<S> p;
        double maximum = -1e300;
        const std::int64_t start =
            shape.document_starts == nullptr ? 0 : shape.document_starts[row];
        for (auto key = keys.begin() + start; key != keys.end(); ++key) {
          S score = 0.0;
          for (std::int64_t i = 0; i < d; ++i) score += query[i] * (*key)[i];
          p.push_back(score / std::sqrt(static_cast<double>(d)));
          if (real(p.back()) > maximum) maximum = real(p.back());
        }
        S sum = 0.0;
        for (S& value : p) sum += value = exp(value - maximum);
        S* y = output.data() + (row * shape.heads + h) * d;
        for (std::size_t u = 0; u < p.size(); ++u)
          for (std::int64_t i = 0; i < d; ++i) y[i] += p[u] / sum * values[start + u][i];
      }
    }
  return output;
}

}  // namespace ballot::reference

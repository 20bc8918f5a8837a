// What the tests of the Llama share: small configurations, batches, and its parameters as the
// reference reads them.
#pragma once

#include <string>
#include <vector>

#include "core/host_bytes.h"
#include "core/parameter_arena.h"
#include "models/llama/llama_model.h"
#include "models/llama/llama_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {

inline LlamaConfig small_llama(std::int64_t hidden, std::int64_t heads,
                               std::int64_t key_value_heads, std::int64_t head_size, bool tied) {
  LlamaConfig config;
  config.hidden_size = hidden;
  config.intermediate_size = hidden + 8;
  config.layers = 2;
  config.heads = heads;
  config.key_value_heads = key_value_heads;
  config.head_size = head_size;
  config.vocabulary = 19;
  config.max_positions = 256;
  config.tied_head = tied;
  return config;
}

// Tokens from a seed; every fifth position predicts nothing.
inline TokenBatch random_batch(const LlamaConfig& config, std::int64_t sequences,
                               std::int64_t length, std::uint64_t seed) {
  TokenBatch batch{sequences, length, {}, {}};
  for (std::int64_t n = 0; n < sequences * length; ++n) {
    batch.inputs.push_back(static_cast<std::int32_t>(hash64(seed, n, 0) % config.vocabulary));
    batch.targets.push_back(
        n % 5 == 4 ? kNoTarget : static_cast<std::int32_t>(hash64(seed, n, 1) % config.vocabulary));
  }
  return batch;
}

// Matrices large enough that every path matters, gains around one. Padding stays zero.
inline void fill_parameters(const ParameterArena& arena, std::uint64_t seed) {
  for (const Parameter& p : arena.parameters()) {
    const bool gain = p.shape.kind == ParameterKind::vector;
    const double scale =
        p.shape.kind == ParameterKind::embedding ? 1.0 : 2.0 / std::sqrt(p.shape.cols);
    const std::vector<double> values = random_values(p.count(), seed + p.index, gain ? 0.5 : scale);
    const HostBytes host(p.value, HostBytes::Holds::zeros);
    auto* target = reinterpret_cast<float*>(host.data());
    for (std::int64_t i = 0; i < p.count(); ++i)
      target[i / p.shape.cols * p.row_stride + i % p.shape.cols] =
          static_cast<float>(values[i] + (gain ? 1.0 : 0.0));
    host.put_back();
    arena.refresh_compute(p);
  }
}

// A (rows, cols) view without its padding, on whatever device.
inline std::vector<double> unpadded(const Tensor& matrix) {
  std::vector<double> values;
  const HostBytes host(matrix);
  const auto* source = reinterpret_cast<const float*>(host.data());
  for (std::int64_t row = 0; row < matrix.extent[0]; ++row)
    for (std::int64_t col = 0; col < matrix.extent[1]; ++col)
      values.push_back(source[row * matrix.stride[0] + col]);
  return values;
}

inline reference::Parameters<double> values_of(const ParameterArena& arena) {
  reference::Parameters<double> values;
  for (const Parameter& p : arena.parameters()) values[p.shape.name] = unpadded(p.value);
  return values;
}

inline reference::Parameters<double> gradients_of(const ParameterArena& arena) {
  reference::Parameters<double> values;
  for (const Parameter& p : arena.parameters()) values[p.shape.name] = unpadded(p.gradient);
  return values;
}

// What an error in this parameter's gradient is measured against. Never less than a hundredth of
// the largest gradient: where the truth is zero (queries and keys of sequences of one token) a
// quotient would mean nothing.
inline double gradient_scale(const reference::Parameters<double>& gradients,
                             const std::string& name) {
  double largest = 0;
  for (const auto& [other, gradient] : gradients) largest = std::max(largest, norm(gradient));
  return std::max(norm(gradients.at(name)), 0.01 * largest);
}

inline double gradient_error(const reference::Parameters<double>& got,
                             const reference::Parameters<double>& want, const std::string& name) {
  std::vector<double> difference = got.at(name);
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= want.at(name)[i];
  return norm(difference) / gradient_scale(want, name);
}

inline reference::Parameters<Complex> to_complex(const reference::Parameters<double>& values) {
  reference::Parameters<Complex> z;
  for (const auto& [name, x] : values) z[name] = {x.begin(), x.end()};
  return z;
}

// Remembers who reported, and what the gradient was at that moment.
struct RecordingSink : GradientSink {
  std::vector<std::string> names;
  reference::Parameters<double> gradients;
  void ready(const Parameter& parameter, Stream&) override {
    names.push_back(parameter.shape.name);
    gradients[parameter.shape.name] = unpadded(parameter.gradient);
  }
};

}  // namespace ballot::test

// The slow truth of models/gpt2/gpt2_model.h: a GPT-2's loss on any scalar, from parameters by
// name, unpadded.
//
// With std::complex<double> a derivative along any direction is one forward (complex step).
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <complex>
#include <map>
#include <string>
#include <vector>

#include "models/gpt2/gpt2_config.h"
#include "models/model.h"  // TokenBatch
#include "models/ops/cross_entropy_reference.h"
#include "models/ops/gelu_reference.h"
#include "models/ops/layer_norm_reference.h"

namespace ballot::reference {

template <class S>
class Gpt2 {
 public:
  using Matrix = std::vector<S>;  // row by row
  using Parameters = std::map<std::string, Matrix>;

  Gpt2(const Gpt2Config& config, const Parameters& parameters)
      : config_(config), parameters_(parameters) {}

  // (N, V).
  Matrix logits(const TokenBatch& batch) const {
    const std::size_t width = static_cast<std::size_t>(config_.hidden_size);
    const Matrix& tokens = get("transformer.wte.weight");
    const Matrix& places = get("transformer.wpe.weight");
    Matrix x;
    for (std::size_t n = 0; n < batch.inputs.size(); ++n) {
      const std::size_t place = position(batch, n) - document_start(batch, n);
      for (std::size_t c = 0; c < width; ++c)
        x.push_back(tokens[static_cast<std::size_t>(batch.inputs[n]) * width + c] +
                    places[place * width + c]);
    }
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      const std::string prefix = fmt::format("transformer.h.{}.", l);
      const Matrix qkv = affine(norm(x, prefix + "ln_1"), prefix + "attn.c_attn");
      add(x, affine(attend(batch, qkv), prefix + "attn.c_proj"));
      const Matrix act = gelu(affine(norm(x, prefix + "ln_2"), prefix + "mlp.c_fc"));
      add(x, affine(act, prefix + "mlp.c_proj"));
    }
    const Matrix h = norm(x, "transformer.ln_f");
    const Matrix& head = config_.tied_head ? tokens : get("lm_head.weight");
    Matrix y;
    for (auto row = h.begin(); row != h.end(); row += config_.hidden_size)
      for (auto w = head.begin(); w != head.end(); w += config_.hidden_size) {
        S sum = 0.0;
        for (std::int64_t c = 0; c < config_.hidden_size; ++c) sum += row[c] * w[c];
        y.push_back(sum);
      }
    return y;
  }

  // Summed over counted positions.
  S loss(const TokenBatch& batch) const { return cross_entropy(logits(batch), batch.targets); }

 private:
  const Matrix& get(const std::string& name) const { return parameters_.at(name); }

  static std::size_t position(const TokenBatch& batch, std::size_t n) {
    return n % static_cast<std::size_t>(batch.length);
  }
  static std::size_t document_start(const TokenBatch& batch, std::size_t n) {
    return batch.document_starts.empty() ? 0 : static_cast<std::size_t>(batch.document_starts[n]);
  }

  static void add(Matrix& x, const Matrix& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  Matrix norm(const Matrix& x, const std::string& name) const {
    return layer_norm(x, get(name + ".weight"), get(name + ".bias"), config_.layer_norm_epsilon);
  }

  // x W + b, W (in, out).
  Matrix affine(const Matrix& x, const std::string& name) const {
    const Matrix& weight = get(name + ".weight");
    const Matrix& bias = get(name + ".bias");
    const std::size_t out = bias.size(), in = weight.size() / out;
    Matrix y;
    for (std::size_t row = 0; row < x.size(); row += in)
      for (std::size_t o = 0; o < out; ++o) {
        S sum = bias[o];
        for (std::size_t i = 0; i < in; ++i) sum += x[row + i] * weight[i * out + o];
        y.push_back(sum);
      }
    return y;
  }

  // (N, 3C) as [q | k | v] -> (N, C).
  Matrix attend(const TokenBatch& batch, const Matrix& qkv) const {
    using std::exp;
    using std::real;
    const std::size_t width = static_cast<std::size_t>(config_.hidden_size);
    const std::size_t d = static_cast<std::size_t>(config_.head_size);
    Matrix y(qkv.size() / 3);
    for (std::size_t n = 0; n < batch.inputs.size(); ++n)
      for (std::size_t head = 0; head < width; head += d) {
        const std::size_t first = n - position(batch, n) + document_start(batch, n);
        Matrix p;
        double maximum = -1e300;
        for (std::size_t u = first; u <= n; ++u) {
          S score = 0.0;
          for (std::size_t i = head; i < head + d; ++i)
            score += qkv[n * 3 * width + i] * qkv[u * 3 * width + width + i];
          p.push_back(score / std::sqrt(static_cast<double>(d)));
          maximum = std::max(maximum, real(p.back()));
        }
        S sum = 0.0;
        for (S& value : p) sum += value = exp(value - maximum);
        for (std::size_t u = first; u <= n; ++u)
          for (std::size_t i = head; i < head + d; ++i)
            y[n * width + i] += p[u - first] / sum * qkv[u * 3 * width + 2 * width + i];
      }
    return y;
  }

  const Gpt2Config& config_;
  const Parameters& parameters_;
};

}  // namespace ballot::reference

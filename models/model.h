// What the runtime asks of any model: parameters by name, a batch to a loss and its gradient.
//
// A model is told its shapes first (parameter_shapes, no memory), then built over an arena laid out
// by the runtime. It knows neither optimizers nor ballots. Not thread-safe: one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device.h"           // Stream
#include "core/gradient_sink.h"    // GradientSink
#include "core/parameter_arena.h"  // ParameterArena, ParameterShape
#include "core/tensor.h"           // Tensor

namespace ballot {

inline constexpr std::int32_t kNoTarget =
    -1;  // a position that predicts nothing: padding, masked prompt

// (B, T) tokens and what each position must predict; both row by row.
struct TokenBatch {
  std::int64_t sequences = 0;  // B
  std::int64_t length = 0;     // T
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> targets;  // kNoTarget = not counted
};

// Summed over counted positions, in nats.
struct Loss {
  double sum = 0;
  std::int64_t tokens = 0;
  double mean() const { return tokens == 0 ? 0.0 : sum / static_cast<double>(tokens); }
};

class Model {
 public:
  virtual ~Model() = default;

  // Sets every gradient to that of the mean loss over all counted positions of all micro-batches
  // (fp32, accumulated in order), and reports each to `sink` when it is final. Tokens outside the
  // vocabulary throw DataError.
  virtual Loss differentiate(std::span<const TokenBatch> micro_batches, GradientSink& sink) = 0;

  // The loss alone; changes nothing that is trained.
  virtual Loss evaluate(const TokenBatch& batch) = 0;

  // (B * T, V) f32 on the model's device, complete, valid until the next call.
  virtual Tensor logits(const TokenBatch& batch) = 0;

  // Seconds spent in forward and in backward by the last differentiate(); the sink's own time is
  // left out. On a GPU: until the work was given to it, but for the wait for each micro-batch's
  // loss, which is backward's.
  struct Times {
    double forward = 0;
    double backward = 0;
  };
  virtual Times times() const = 0;

  // Its work runs on this stream of its device. A gradient given to the sink is final in this
  // stream's order: on a GPU the sink gives its own work to it, or waits for it.
  virtual Stream& stream() = 0;

  virtual std::int64_t vocabulary() const = 0;
  // Floating-point operations of one token's forward and backward at sequence length T (products
  // only).
  virtual double flops_per_token(std::int64_t length) const = 0;
};

}  // namespace ballot

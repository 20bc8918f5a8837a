// What the runtime asks of any model: parameters by name, a batch to a loss and its gradient.
//
// A model is told its shapes first (parameter_shapes, no memory), then built over an arena laid out
// by the runtime. It knows neither optimizers nor ballots. Not thread-safe: one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
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
  // Where several documents share a row: for each position, the position in its row at which its
  // document begins. Nothing before that is attended to. Empty: one document a row.
  std::vector<std::int32_t> document_starts = {};
};

// LogicError where sizes do not fit; DataError for tokens outside the vocabulary and for document
// starts that are not each a position where a document begins, going on until the next.
void check_tokens(const TokenBatch& batch, std::int64_t vocabulary, bool with_targets);

// Summed over counted positions, in nats.
struct Loss {
  double sum = 0;
  std::int64_t tokens = 0;
  double mean() const { return tokens == 0 ? 0.0 : sum / static_cast<double>(tokens); }
};

// What a batch of some shape takes beside parameters and gradients.
struct ActivationMemory {
  std::int64_t layers_bytes = 0;   // kept for the backward by each layer
  std::int64_t shared_bytes = 0;   // one copy that all layers use in turn
  std::int64_t scratch_bytes = 0;  // of attention, losses and norms
  std::int64_t total() const { return layers_bytes + shared_bytes + scratch_bytes; }
};

// Texts that grow: what a model has computed of their earlier tokens is kept (a key/value cache),
// so that another token costs one position's work. Ends before its model and its parameters do;
// parameters must not change meanwhile.
class Generation {
 public:
  virtual ~Generation() = default;
  // Appends tokens[i] to sequence i; none leaves it as it is. Returns logits (B, V) f32 on the
  // model's device of what follows each sequence, valid until the next call; rows of sequences
  // without new tokens mean nothing. DataError for tokens outside the vocabulary, LogicError beyond
  // max_length.
  virtual Tensor extend(std::span<const std::vector<std::int32_t>> tokens) = 0;
  virtual std::int64_t length(std::int64_t sequence) const = 0;  // tokens so far
};

class Model {
 public:
  virtual ~Model() = default;

  // Sets every gradient to that of the mean loss over all counted positions of all micro-batches
  // (fp32, accumulated in order), and reports each to `sink` when it is final in stream()'s order.
  // Tokens outside the vocabulary throw DataError.
  virtual Loss differentiate(std::span<const TokenBatch> micro_batches, GradientSink& sink) = 0;

  // The loss alone; changes nothing that is trained.
  virtual Loss evaluate(const TokenBatch& batch) = 0;

  // (B * T, V) f32 on the model's device, complete, valid until the next call.
  virtual Tensor logits(const TokenBatch& batch) = 0;

  // `sequences` empty texts of at most `max_length` tokens. The memory is taken here. Unavailable
  // where the model cannot.
  virtual std::unique_ptr<Generation> start(std::int64_t sequences, std::int64_t max_length);

  // Whether the backward computes each layer's forward again from what the layer began with: the
  // same bits, less memory, a third more work. Unavailable where the model cannot.
  virtual void recompute_layers(bool on);
  // Of differentiate() for batches of this shape; none: the model cannot say.
  virtual std::optional<ActivationMemory> training_memory(std::int64_t sequences,
                                                          std::int64_t length) const {
    (void)sequences, (void)length;
    return std::nullopt;
  }

  // Seconds spent in forward and in backward by the last differentiate(); the sink's own time is
  // left out. On a GPU: until the work was given to it, but for the wait for each micro-batch's
  // loss, which is backward's.
  struct Times {
    double forward = 0;
    double backward = 0;
  };
  virtual Times times() const = 0;

  // Its work runs on this stream of its device. A gradient given to the sink is final in this
  // stream's order, which ready() hands on.
  virtual Stream& stream() = 0;

  virtual std::string name() const { return "this model"; }  // for messages: "a Llama"
  virtual std::int64_t vocabulary() const = 0;
  // Floating-point operations of one token's forward and backward at sequence length T (products
  // only).
  virtual double flops_per_token(std::int64_t length) const = 0;
};

}  // namespace ballot

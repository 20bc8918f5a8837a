// The Llama: forward, then backward layer by layer from the last, written as the products and
// passes it consists of.
#include "models/llama/llama_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "models/llama/llama_activations.h"
#include "models/ops/cross_entropy.h"
#include "models/ops/embedding.h"
#include "models/ops/rms_norm.h"
#include "models/ops/rope.h"
#include "models/ops/swiglu.h"

namespace ballot {
namespace {

Tensor columns(Tensor matrix, std::int64_t begin, std::int64_t count) {
  matrix.data += begin * static_cast<std::int64_t>(size_bytes(matrix.type));
  matrix.extent[1] = count;
  return matrix;
}

// A linear layer y = x W^T whose rows may belong to several parameters, in the order of y's
// columns. Parameters that lie one after the other in the arena are one product.
class Linear {
 public:
  Linear(std::initializer_list<const Parameter*> parameters, Stream& stream) : stream_(&stream) {
    std::int64_t column = 0, end = -1;
    for (const Parameter* p : parameters) {
      if (p->offset == end && p->row_stride == pieces_.back().gradient.stride[0]) {
        pieces_.back().weight.extent[0] += p->shape.rows;
        pieces_.back().gradient.extent[0] += p->shape.rows;
      } else {
        pieces_.push_back({p->compute, p->gradient, column});
      }
      column += p->shape.rows;
      end = p->offset + p->extent();
    }
  }

  void forward(const Tensor& x, const Tensor& y) const {
    for (const Piece& piece : pieces_)
      matmul(x, piece.weight.transposed(), part(y, piece), Accumulate::no, *stream_);
  }
  // dx = dy W.
  void input_gradient(const Tensor& dy, const Tensor& dx) const {
    for (const Piece& piece : pieces_)
      matmul(part(dy, piece), piece.weight, dx,
             &piece == pieces_.data() ? Accumulate::no : Accumulate::yes, *stream_);
  }
  // dW = dy^T x, or dW += .
  void weight_gradient(const Tensor& dy, const Tensor& x, Accumulate accumulate) const {
    for (const Piece& piece : pieces_)
      matmul(part(dy, piece).transposed(), x, piece.gradient, accumulate, *stream_);
  }

 private:
  struct Piece {
    Tensor weight, gradient;
    std::int64_t column;
  };
  static Tensor part(const Tensor& y, const Piece& piece) {
    return columns(y, piece.column, piece.weight.extent[0]);
  }

  Stream* stream_;
  std::vector<Piece> pieces_;
};

struct Layer {
  const Parameter *input_norm, *q, *k, *v, *o, *mlp_norm, *gate, *up, *down;
  Linear vkq, output, up_gate, mlp_down;
};

Layer find_layer(const ParameterArena& arena, std::int64_t l, Stream& stream) {
  const auto find = [&](const char* name) {
    return &arena.find(fmt::format("model.layers.{}.{}.weight", l, name));
  };
  const Parameter* q = find("self_attn.q_proj");
  const Parameter* k = find("self_attn.k_proj");
  const Parameter* v = find("self_attn.v_proj");
  const Parameter* o = find("self_attn.o_proj");
  const Parameter* gate = find("mlp.gate_proj");
  const Parameter* up = find("mlp.up_proj");
  const Parameter* down = find("mlp.down_proj");
  return {find("input_layernorm"),
          q,
          k,
          v,
          o,
          find("post_attention_layernorm"),
          gate,
          up,
          down,
          Linear({v, k, q}, stream),
          Linear({o}, stream),
          Linear({up, gate}, stream),
          Linear({down}, stream)};
}

class Llama final : public Model {
 public:
  Llama(const LlamaConfig& config, const ParameterArena& arena, Device device)
      : config_(config),
        arena_(&arena),
        stream_(device),
        table_(&arena.find("model.embed_tokens.weight")),
        head_parameter_(config.tied_head ? table_ : &arena.find("lm_head.weight")),
        final_norm_(&arena.find("model.norm.weight")),
        head_({head_parameter_}, stream_),
        rope_(config.head_size, config.rope_theta),
        memory_(config, arena.compute(), device) {
    for (std::int64_t l = 0; l < config.layers; ++l)
      layers_.push_back(find_layer(arena, l, stream_));
  }

  Loss differentiate(std::span<const TokenBatch> micro_batches, GradientSink& sink) override {
    times_ = {};
    Loss loss;
    for (const TokenBatch& batch : micro_batches) {
      check(batch, true);
      loss.tokens += batch.targets.size() - std::ranges::count(batch.targets, kNoTarget);
    }
    if (loss.tokens == 0) {
      report_zero(sink);
      return loss;
    }
    const float scale = static_cast<float>(1.0 / static_cast<double>(loss.tokens));
    for (const TokenBatch& batch : micro_batches) {
      const Accumulate accumulate =
          &batch == micro_batches.data() ? Accumulate::no : Accumulate::yes;
      const bool last = &batch == &micro_batches.back();
      watch_.lap();
      const AttentionShape shape = prepare(batch, true);
      forward(batch, shape, true);
      loss.sum += head_backward(batch, scale, accumulate);
      if (last) sink.loss_known(loss.mean());
      backward(batch, shape, accumulate, last ? &sink : nullptr);
    }
    return loss;
  }

  Loss evaluate(const TokenBatch& batch) override {
    check(batch, true);
    forward(batch, prepare(batch, false), false);
    Loss loss;
    over_chunks(batch,
                [&](std::int64_t begin, std::int64_t end, std::span<const std::int32_t> targets) {
                  const Tensor logits = memory_.logits.rows(end - begin);
                  head_.forward(memory_.h.rows(row_count(batch)).rows(begin, end), logits);
                  cross_entropy(logits, targets, memory_.losses.data() + begin);
                });
    loss.sum = summed_losses(batch);
    loss.tokens = batch.targets.size() - std::ranges::count(batch.targets, kNoTarget);
    return loss;
  }

  Tensor logits(const TokenBatch& batch) override {
    check(batch, false);
    forward(batch, prepare(batch, false), false);
    const std::int64_t rows = row_count(batch);
    memory_.all_logits.reserve(rows, stream_.device());
    head_.forward(memory_.h.rows(rows), memory_.all_logits.rows(rows));
    return memory_.all_logits.rows(rows);
  }

  Times times() const override { return times_; }
  std::int64_t vocabulary() const override { return config_.vocabulary; }

  // Six per weight of a product; attention's scores and outputs over the (T + 1) / 2 keys seen on
  // average.
  double flops_per_token(std::int64_t length) const override {
    double weights = static_cast<double>(head_parameter_->count());
    for (const Parameter& p : arena_->parameters())
      if (p.shape.kind == ParameterKind::hidden_matrix) weights += static_cast<double>(p.count());
    const double keys = 0.5 * static_cast<double>(length + 1);
    return 6 * weights +
           12 * static_cast<double>(config_.layers * config_.heads * config_.head_size) * keys;
  }

 private:
  static std::int64_t row_count(const TokenBatch& batch) { return batch.sequences * batch.length; }

  void check(const TokenBatch& batch, bool with_targets) const {
    const std::size_t rows = static_cast<std::size_t>(row_count(batch));
    require(batch.sequences > 0 && batch.length > 0 && batch.inputs.size() == rows &&
                (!with_targets || batch.targets.size() == rows),
            "a batch of ({}, {}) with {} inputs and {} targets", batch.sequences, batch.length,
            batch.inputs.size(), batch.targets.size());
    for (const std::int32_t token : batch.inputs)
      if (token < 0 || token >= config_.vocabulary)
        throw DataError("token {} among the inputs, expected 0 to {}", token,
                        config_.vocabulary - 1);
    if (!with_targets) return;
    for (const std::int32_t token : batch.targets)
      if (token != kNoTarget && (token < 0 || token >= config_.vocabulary))
        throw DataError("token {} among the targets, expected 0 to {} or {} for none", token,
                        config_.vocabulary - 1, kNoTarget);
  }

  AttentionShape prepare(const TokenBatch& batch, bool backward) {
    const AttentionShape shape{batch.sequences, batch.length, config_.heads,
                               config_.key_value_heads, config_.head_size};
    memory_.reserve(shape, backward);
    rope_.extend(batch.length);
    return shape;
  }

  void norm(const Tensor& x, const Tensor& addend, const Parameter& gain, const Tensor& r) {
    rms_norm(x, addend, gain.value, static_cast<float>(config_.rms_norm_epsilon),
             memory_.h.rows(x.extent[0]), r.f32());
  }

  // Leaves the final norm's output in memory_.h.
  void forward(const TokenBatch& batch, const AttentionShape& shape, bool keep) {
    const std::int64_t rows = row_count(batch);
    const Tensor h = memory_.h.rows(rows);
    const Tensor act = memory_.act.rows(rows);
    Tensor residual;  // to be added to x by the next norm
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      const Layer& layer = layers_[l];
      const LayerActivations& a = memory_.layer(l, keep);
      const Tensor x = a.x.rows(rows);
      const Tensor x_mid = a.x_mid.rows(rows);
      if (l == 0) embedding(table_->compute, batch.inputs, x);
      norm(x, residual, *layer.input_norm, a.r.rows(rows));
      layer.vkq.forward(h, a.vkq.rows(rows));
      attention(shape, rope_, a.vkq.rows(rows), a.attended.rows(rows),
                a.log_sum_exp.rows(rows).f32(), memory_.attention_scratch.data());
      layer.output.forward(a.attended.rows(rows), x_mid);
      norm(x_mid, x, *layer.mlp_norm, a.r_mid.rows(rows));
      layer.up_gate.forward(h, a.up_gate.rows(rows));
      swiglu(a.up_gate.rows(rows), act);
      layer.mlp_down.forward(act, l + 1 < config_.layers ? memory_.layer(l + 1, keep).x.rows(rows)
                                                         : memory_.x.rows(rows));
      residual = x_mid;
    }
    if (config_.layers == 0) embedding(table_->compute, batch.inputs, memory_.x.rows(rows));
    norm(memory_.x.rows(rows), residual, *final_norm_, memory_.r.rows(rows));
  }

  template <class Body>
  void over_chunks(const TokenBatch& batch, const Body& body) const {
    const std::int64_t rows = row_count(batch);
    const std::int64_t chunk = cross_entropy_chunk_rows(config_.vocabulary);
    for (std::int64_t begin = 0; begin < rows; begin += chunk) {
      const std::int64_t end = std::min(rows, begin + chunk);
      body(begin, end, std::span(batch.targets).subspan(begin, end - begin));
    }
  }

  double summed_losses(const TokenBatch& batch) const {
    double sum = 0;
    for (std::int64_t n = 0; n < row_count(batch); ++n) sum += memory_.losses[n];
    return sum;
  }

  // Logits, losses, the head's gradient and that of its input, chunk by chunk.
  double head_backward(const TokenBatch& batch, float scale, Accumulate accumulate) {
    const std::int64_t rows = row_count(batch);
    over_chunks(batch, [&](std::int64_t begin, std::int64_t end,
                           std::span<const std::int32_t> targets) {
      const Tensor h = memory_.h.rows(rows).rows(begin, end);
      const Tensor logits = memory_.logits.rows(end - begin);
      const Tensor dlogits =
          memory_.compute == DType::f32 ? logits : memory_.dlogits.rows(end - begin);
      head_.forward(h, logits);
      times_.forward += watch_.lap();
      cross_entropy_with_gradient(logits, targets, scale, memory_.losses.data() + begin, dlogits);
      head_.input_gradient(dlogits, memory_.dh.rows(rows).rows(begin, end));
      head_.weight_gradient(dlogits, h, begin == 0 ? accumulate : Accumulate::yes);
      times_.backward += watch_.lap();
    });
    return summed_losses(batch);
  }

  void backward(const TokenBatch& batch, const AttentionShape& shape, Accumulate accumulate,
                GradientSink* sink) {
    const std::int64_t rows = row_count(batch);
    const Tensor h = memory_.h.rows(rows);
    const Tensor act = memory_.act.rows(rows);
    const Tensor dx = memory_.dx.rows(rows);
    const Tensor dh = memory_.dh.rows(rows);
    const Tensor dattended = memory_.dattended.rows(rows);
    const Tensor dx_rounded =
        memory_.compute == DType::bf16 ? memory_.dx_rounded.rows(rows) : Tensor{};
    const Tensor& dy =
        memory_.compute == DType::bf16 ? dx_rounded : dx;  // what products read of dx
    const auto norm_backward = [&](const Tensor& x, const Tensor& r, const Parameter& gain,
                                   Accumulate residual, const Tensor& y) {
      rms_norm_backward(x, r.f32(), gain.value, dh,
                        {dx, residual, dx_rounded, y, gain.gradient, accumulate},
                        memory_.norm_partials.data());
    };

    if (!config_.tied_head) ready(*head_parameter_, sink);
    norm_backward(memory_.x.rows(rows), memory_.r.rows(rows), *final_norm_, Accumulate::no, {});
    ready(*final_norm_, sink);
    for (std::int64_t l = config_.layers - 1; l >= 0; --l) {
      const Layer& layer = layers_[l];
      const LayerActivations& a = memory_.layer(l, true);
      const Tensor up_gate = a.up_gate.rows(rows);
      layer.mlp_down.input_gradient(dy, act);
      swiglu_backward(up_gate, act);
      layer.mlp_down.weight_gradient(dy, act, accumulate);
      ready(*layer.down, sink);
      layer.up_gate.input_gradient(up_gate, dh);
      norm_backward(a.x_mid.rows(rows), a.r_mid.rows(rows), *layer.mlp_norm, Accumulate::yes, h);
      layer.up_gate.weight_gradient(up_gate, h, accumulate);
      for (const Parameter* p : {layer.up, layer.gate, layer.mlp_norm}) ready(*p, sink);

      const Tensor vkq = a.vkq.rows(rows);
      layer.output.input_gradient(dy, dattended);
      layer.output.weight_gradient(dy, a.attended.rows(rows), accumulate);
      ready(*layer.o, sink);
      attention_backward(shape, rope_, vkq, a.attended.rows(rows), dattended,
                         a.log_sum_exp.rows(rows).f32(), memory_.attention_scratch.data());
      layer.vkq.input_gradient(vkq, dh);
      norm_backward(a.x.rows(rows), a.r.rows(rows), *layer.input_norm, Accumulate::yes, h);
      layer.vkq.weight_gradient(vkq, h, accumulate);
      for (const Parameter* p : {layer.v, layer.k, layer.q, layer.input_norm}) ready(*p, sink);
    }
    if (!config_.tied_head && accumulate == Accumulate::no) clear(*table_);
    embedding_backward(batch.inputs, dx, table_->gradient);
    ready(*table_, sink);
  }

  static void clear(const Parameter& parameter) {
    float* gradient = parameter.gradient.f32();
    parallel_for(parameter.extent(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      std::fill(gradient + begin, gradient + end, 0.0f);
    });
  }

  // Nothing is counted: every gradient is zero.
  void report_zero(GradientSink& sink) {
    sink.loss_known(0);
    for (const Parameter& p : arena_->parameters()) {
      clear(p);
      if (&p != table_) sink.ready(p);
    }
    sink.ready(*table_);
  }

  // Time up to here is backward's; the sink's own is nobody's.
  void ready(const Parameter& parameter, GradientSink* sink) {
    times_.backward += watch_.lap();
    if (sink == nullptr) return;
    sink->ready(parameter);
    watch_.lap();
  }

  LlamaConfig config_;
  const ParameterArena* arena_;
  Stream stream_;
  const Parameter* table_;
  const Parameter* head_parameter_;
  const Parameter* final_norm_;
  Linear head_;
  std::vector<Layer> layers_;
  RopeTable rope_;
  LlamaActivations memory_;
  Stopwatch watch_;
  Times times_;
};

}  // namespace

std::unique_ptr<Model> make_llama(const LlamaConfig& config, const ParameterArena& arena,
                                  Device device) {
  return std::make_unique<Llama>(config, arena, device);
}

}  // namespace ballot

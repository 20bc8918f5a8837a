// The Llama: forward, then backward layer by layer from the last, written as the products and
// passes it consists of.
#include "models/llama/llama_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/clock.h"
#include "core/copy.h"
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
        rope_(rope_frequencies(config.head_size, config.rope_theta, config.rope_scaling), device),
        memory_(config, arena.compute(), device) {
    require(arena.device() == device, "a model on {} with its parameters on {}", to_string(device),
            to_string(arena.device()));
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
      const Pass pass = prepare(batch, true);
      forward(pass, true);
      loss.sum += head_backward(pass, scale, accumulate);
      if (last) sink.loss_known(loss.mean());
      backward(pass, accumulate, last ? &sink : nullptr);
    }
    return loss;
  }

  Loss evaluate(const TokenBatch& batch) override {
    check(batch, true);
    const Pass pass = prepare(batch, false);
    forward(pass, false);
    Loss loss;
    over_chunks(pass,
                [&](std::int64_t begin, std::int64_t end, std::span<const std::int32_t> targets) {
                  const Tensor logits = memory_.logits.rows(end - begin);
                  head_.forward(memory_.h.rows(pass.rows).rows(begin, end), logits);
                  cross_entropy(logits, targets, memory_.losses.as<double>() + begin, stream_);
                });
    loss.sum = sum_losses(memory_.losses.as<double>(), pass.rows, stream_);
    loss.tokens = batch.targets.size() - std::ranges::count(batch.targets, kNoTarget);
    return loss;
  }

  Tensor logits(const TokenBatch& batch) override {
    check(batch, false);
    const Pass pass = prepare(batch, false);
    forward(pass, false);
    memory_.all_logits.reserve(pass.rows, stream_.device());
    head_.forward(memory_.h.rows(pass.rows), memory_.all_logits.rows(pass.rows));
    stream_.synchronize();
    return memory_.all_logits.rows(pass.rows);
  }

  Times times() const override { return times_; }
  Stream& stream() override { return stream_; }
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
  // One batch on its way through the model; its tokens lie where the model does.
  struct Pass {
    AttentionShape shape;
    std::int64_t rows;  // N
    std::span<const std::int32_t> inputs, targets;
  };

  void check(const TokenBatch& batch, bool with_targets) const {
    const std::size_t rows = static_cast<std::size_t>(batch.sequences * batch.length);
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

  Pass prepare(const TokenBatch& batch, bool backward) {
    const AttentionShape shape{batch.sequences, batch.length, config_.heads,
                               config_.key_value_heads, config_.head_size};
    memory_.reserve(shape, backward);
    rope_.extend(batch.length, stream_);
    return {shape, batch.sequences * batch.length, on_device(batch.inputs, memory_.inputs),
            on_device(
                std::span(batch.targets).first(std::min(batch.targets.size(), batch.inputs.size())),
                memory_.targets)};
  }

  std::span<const std::int32_t> on_device(std::span<const std::int32_t> tokens,
                                          const Buffer& buffer) {
    if (stream_.device().kind == Device::Kind::cpu) return tokens;
    copy_bytes(buffer.data(), buffer.device(), tokens.data(), Device{},
               tokens.size() * sizeof(std::int32_t), stream_);
    return {buffer.as<std::int32_t>(), tokens.size()};
  }

  void norm(const Tensor& x, const Tensor& addend, const Parameter& gain, const Tensor& r) {
    rms_norm(x, addend, gain.value, static_cast<float>(config_.rms_norm_epsilon),
             memory_.h.rows(x.extent[0]), r.f32(), stream_);
  }

  // Leaves the final norm's output in memory_.h.
  void forward(const Pass& pass, bool keep) {
    const std::int64_t rows = pass.rows;
    const Tensor h = memory_.h.rows(rows);
    const Tensor act = memory_.act.rows(rows);
    Tensor residual;  // to be added to x by the next norm
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      const Layer& layer = layers_[l];
      const LayerActivations& a = memory_.layer(l, keep);
      const Tensor x = a.x.rows(rows);
      const Tensor x_mid = a.x_mid.rows(rows);
      if (l == 0) embedding(table_->compute, pass.inputs, x, stream_);
      norm(x, residual, *layer.input_norm, a.r.rows(rows));
      layer.vkq.forward(h, a.vkq.rows(rows));
      attention(pass.shape, rope_, a.vkq.rows(rows), a.attended.rows(rows),
                a.log_sum_exp.rows(rows).f32(), memory_.attention_scratch.data(), stream_);
      layer.output.forward(a.attended.rows(rows), x_mid);
      norm(x_mid, x, *layer.mlp_norm, a.r_mid.rows(rows));
      layer.up_gate.forward(h, a.up_gate.rows(rows));
      swiglu(a.up_gate.rows(rows), act, stream_);
      layer.mlp_down.forward(act, l + 1 < config_.layers ? memory_.layer(l + 1, keep).x.rows(rows)
                                                         : memory_.x.rows(rows));
      residual = x_mid;
    }
    if (config_.layers == 0) embedding(table_->compute, pass.inputs, memory_.x.rows(rows), stream_);
    norm(memory_.x.rows(rows), residual, *final_norm_, memory_.r.rows(rows));
  }

  template <class Body>
  void over_chunks(const Pass& pass, const Body& body) const {
    const std::int64_t chunk = cross_entropy_chunk_rows(config_.vocabulary, memory_.device);
    for (std::int64_t begin = 0; begin < pass.rows; begin += chunk) {
      const std::int64_t end = std::min(pass.rows, begin + chunk);
      body(begin, end, pass.targets.subspan(begin, end - begin));
    }
  }

  // Logits, losses, the head's gradient and that of its input, chunk by chunk.
  double head_backward(const Pass& pass, float scale, Accumulate accumulate) {
    over_chunks(
        pass, [&](std::int64_t begin, std::int64_t end, std::span<const std::int32_t> targets) {
          const Tensor h = memory_.h.rows(pass.rows).rows(begin, end);
          const Tensor logits = memory_.logits.rows(end - begin);
          const Tensor dlogits =
              memory_.compute == DType::f32 ? logits : memory_.dlogits.rows(end - begin);
          head_.forward(h, logits);
          times_.forward += watch_.lap();
          cross_entropy_with_gradient(logits, targets, scale, memory_.losses.as<double>() + begin,
                                      dlogits, stream_);
          head_.input_gradient(dlogits, memory_.dh.rows(pass.rows).rows(begin, end));
          head_.weight_gradient(dlogits, h, begin == 0 ? accumulate : Accumulate::yes);
          times_.backward += watch_.lap();
        });
    return sum_losses(memory_.losses.as<double>(), pass.rows, stream_);
  }

  void backward(const Pass& pass, Accumulate accumulate, GradientSink* sink) {
    const std::int64_t rows = pass.rows;
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
                        memory_.norm_partials.as<float>(), stream_);
    };

    if (!config_.tied_head) ready(*head_parameter_, sink);
    norm_backward(memory_.x.rows(rows), memory_.r.rows(rows), *final_norm_, Accumulate::no, {});
    ready(*final_norm_, sink);
    for (std::int64_t l = config_.layers - 1; l >= 0; --l) {
      const Layer& layer = layers_[l];
      const LayerActivations& a = memory_.layer(l, true);
      const Tensor up_gate = a.up_gate.rows(rows);
      layer.mlp_down.input_gradient(dy, act);
      swiglu_backward(up_gate, act, stream_);
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
      attention_backward(pass.shape, rope_, vkq, a.attended.rows(rows), dattended,
                         a.log_sum_exp.rows(rows).f32(), memory_.attention_scratch.data(), stream_);
      layer.vkq.input_gradient(vkq, dh);
      norm_backward(a.x.rows(rows), a.r.rows(rows), *layer.input_norm, Accumulate::yes, h);
      layer.vkq.weight_gradient(vkq, h, accumulate);
      for (const Parameter* p : {layer.v, layer.k, layer.q, layer.input_norm}) ready(*p, sink);
    }
    if (!config_.tied_head && accumulate == Accumulate::no) clear(*table_);
    embedding_backward(pass.inputs, dx, table_->gradient, memory_.embedding_scratch.data(),
                       stream_);
    ready(*table_, sink);
  }

  void clear(const Parameter& parameter) {
    float* gradient = parameter.gradient.f32();
    if (stream_.device().kind != Device::Kind::cpu)
      return fill_zero(gradient, static_cast<std::size_t>(parameter.extent()) * sizeof(float),
                       stream_);
    parallel_for(parameter.extent(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      std::fill(gradient + begin, gradient + end, 0.0f);
    });
  }

  // Nothing is counted: every gradient is zero.
  void report_zero(GradientSink& sink) {
    sink.loss_known(0);
    for (const Parameter& p : arena_->parameters()) {
      clear(p);
      stream_.synchronize();
      if (&p != table_) sink.ready(p);
    }
    sink.ready(*table_);
  }

  // Time up to here is backward's; the sink's own is nobody's.
  void ready(const Parameter& parameter, GradientSink* sink) {
    if (sink != nullptr) stream_.synchronize();  // the sink reads it on a stream of its own
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

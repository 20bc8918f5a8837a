// The Llama: forward, then backward layer by layer from the last, written as the products and
// passes it consists of.
#include "models/llama/llama_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/clock.h"
#include "core/copy.h"
#include "core/error.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "models/llama/llama_activations.h"
#include "models/llama/llama_forward.h"
#include "models/llama/llama_generation.h"
#include "models/llama/llama_weights.h"
#include "models/ops/cross_entropy.h"
#include "models/ops/rope.h"

namespace ballot {
namespace {

class Llama final : public Model {
 public:
  Llama(const LlamaConfig& config, const ParameterArena& arena, Device device)
      : config_(config),
        arena_(&arena),
        stream_(device),
        weights_(config, arena, stream_),
        rope_(rope_frequencies(config.head_size, config.rope_theta, config.rope_scaling), device),
        memory_(config, arena.compute(), device) {
    require(arena.device() == device, "a model on {} with its parameters on {}", to_string(device),
            to_string(arena.device()));
    if (device.kind != Device::Kind::cpu && (config.attention_bias || config.mlp_bias))
      throw Unavailable("a Llama with {} = true on {}: biases are added on CPUs only",
                        config.attention_bias ? "attention_bias" : "mlp_bias", to_string(device));
  }

  Loss differentiate(std::span<const TokenBatch> micro_batches, GradientSink& sink) override {
    times_ = {};
    Loss loss;
    for (const TokenBatch& batch : micro_batches) {
      check_tokens(batch, config_.vocabulary, true);
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
      const Pass pass = prepare(batch, recompute_ ? Keep::inputs : Keep::everything);
      forward(pass);
      loss.sum += head_backward(pass, scale, accumulate);
      if (last) sink.loss_known(loss.mean());
      backward(pass, accumulate, last ? &sink : nullptr);
    }
    return loss;
  }

  Loss evaluate(const TokenBatch& batch) override {
    check_tokens(batch, config_.vocabulary, true);
    const Pass pass = prepare(batch, Keep::nothing);
    forward(pass);
    Loss loss;
    over_chunks(pass,
                [&](std::int64_t begin, std::int64_t end, std::span<const std::int32_t> targets) {
                  const Tensor logits = memory_.logits.rows(end - begin);
                  weights_.head.forward(memory_.h.rows(pass.rows).rows(begin, end), logits);
                  cross_entropy(logits, targets, memory_.losses.as<double>() + begin, stream_);
                });
    loss.sum = sum_losses(memory_.losses.as<double>(), pass.rows, stream_);
    loss.tokens = batch.targets.size() - std::ranges::count(batch.targets, kNoTarget);
    return loss;
  }

  Tensor logits(const TokenBatch& batch) override {
    check_tokens(batch, config_.vocabulary, false);
    const Pass pass = prepare(batch, Keep::nothing);
    forward(pass);
    memory_.reserve_all_logits(pass.rows);
    weights_.head.forward(memory_.h.rows(pass.rows), memory_.all_logits.rows(pass.rows));
    stream_.synchronize();
    return memory_.all_logits.rows(pass.rows);
  }

  std::unique_ptr<Generation> start(std::int64_t sequences, std::int64_t max_length) override {
    return start_llama_generation(config_, *arena_, rope_, stream_, sequences, max_length);
  }

  void recompute_layers(bool on) override { recompute_ = on; }
  std::optional<ActivationMemory> training_memory(std::int64_t sequences,
                                                  std::int64_t length) const override {
    return memory_.memory(shape_of(sequences, length),
                          recompute_ ? Keep::inputs : Keep::everything);
  }

  Times times() const override { return times_; }
  Stream& stream() override { return stream_; }
  std::string name() const override { return "a Llama"; }
  std::int64_t vocabulary() const override { return config_.vocabulary; }

  // Six per weight of a product; attention's scores and outputs over the (T + 1) / 2 keys seen on
  // average.
  double flops_per_token(std::int64_t length) const override {
    double weights = static_cast<double>(weights_.head_parameter->count());
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
    Keep keep;
    std::span<const std::int32_t> inputs, targets;
  };

  AttentionShape shape_of(std::int64_t sequences, std::int64_t length) const {
    return {sequences, length, config_.heads, config_.key_value_heads, config_.head_size};
  }

  Pass prepare(const TokenBatch& batch, Keep keep) {
    AttentionShape shape = shape_of(batch.sequences, batch.length);
    memory_.reserve(shape, keep);
    rope_.extend(batch.length, stream_);
    if (!batch.document_starts.empty())
      shape.document_starts = on_device(batch.document_starts, memory_.document_starts).data();
    return {shape, batch.sequences * batch.length, keep, on_device(batch.inputs, memory_.inputs),
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

  LlamaForward forward_pass() {
    return {weights_, memory_, static_cast<float>(config_.rms_norm_epsilon), stream_};
  }

  void attend(const Pass& pass, const LayerActivations& a) {
    attention(pass.shape, rope_, a.vkq, a.attended, a.log_sum_exp.f32(),
              memory_.attention_scratch.data(), stream_);
  }

  // Leaves the final norm's output in memory_.h.
  void forward(const Pass& pass) {
    forward_pass().run(pass.inputs, pass.keep,
                       [&](std::int64_t, const LayerActivations& a) { attend(pass, a); });
  }

  // What the forward left of this layer, or leaves of it now: the same kernels in the same order.
  LayerActivations recall(const Pass& pass, std::int64_t l) {
    const LayerActivations a = memory_.layer(l, pass.rows, pass.keep);
    if (pass.keep == Keep::inputs && l + 1 < config_.layers)
      forward_pass().layer(weights_.layers[static_cast<std::size_t>(l)], a, {},
                           [&](const LayerActivations& of) { attend(pass, of); });
    return a;
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
          weights_.head.forward(h, logits);
          times_.forward += watch_.lap();
          cross_entropy_with_gradient(logits, targets, scale, memory_.losses.as<double>() + begin,
                                      dlogits, stream_);
          weights_.head.input_gradient(dlogits, memory_.dh.rows(pass.rows).rows(begin, end));
          weights_.head.weight_gradient(dlogits, h, begin == 0 ? accumulate : Accumulate::yes);
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
      const Tensor dgain = gain.shape.frozen ? memory_.idle_gain.rows(1) : gain.gradient;
      rms_norm_backward(x, r.f32(), gain.value, dh,
                        {dx, residual, dx_rounded, y, dgain, accumulate},
                        memory_.norm_partials.as<float>(), stream_);
    };

    if (!config_.tied_head) ready(std::array{weights_.head_parameter}, sink);
    norm_backward(memory_.x.rows(rows), memory_.r.rows(rows), *weights_.final_norm, Accumulate::no,
                  {});
    ready(std::array{weights_.final_norm}, sink);
    for (std::int64_t l = config_.layers - 1; l >= weights_.first_trained_layer; --l) {
      const LlamaLayer& layer = weights_.layers[static_cast<std::size_t>(l)];
      const LayerActivations a = recall(pass, l);
      layer.mlp_down.input_gradient(dy, act);
      swiglu_backward(a.up_gate, act, stream_);
      layer.mlp_down.weight_gradient(dy, act, accumulate);
      ready(layer.of_down, sink);
      layer.up_gate.input_gradient(a.up_gate, dh);
      norm_backward(a.x_mid, a.r_mid, *layer.mlp_norm, Accumulate::yes, h);
      layer.up_gate.weight_gradient(a.up_gate, h, accumulate);
      ready(layer.of_up_gate, sink);

      layer.output.input_gradient(dy, dattended);
      layer.output.weight_gradient(dy, a.attended, accumulate);
      ready(layer.of_output, sink);
      attention_backward(pass.shape, rope_, a.vkq, a.attended, dattended, a.log_sum_exp.f32(),
                         memory_.attention_scratch.data(), stream_);
      layer.vkq.input_gradient(a.vkq, dh);
      norm_backward(a.x, a.r, *layer.input_norm, Accumulate::yes, h);
      layer.vkq.weight_gradient(a.vkq, h, accumulate);
      ready(layer.of_vkq, sink);
    }
    if (weights_.table->shape.frozen) return;
    if (!config_.tied_head && accumulate == Accumulate::no) clear(*weights_.table);
    embedding_backward(pass.inputs, dx, weights_.table->gradient, memory_.embedding_scratch.data(),
                       stream_);
    ready(std::array{weights_.table}, sink);
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
      if (p.shape.frozen) continue;
      clear(p);
      if (&p != weights_.table) sink.ready(p, stream_);
    }
    if (!weights_.table->shape.frozen) sink.ready(*weights_.table, stream_);
  }

  // Time up to here is backward's; the sink's own is nobody's.
  void ready(std::span<const Parameter* const> parameters, GradientSink* sink) {
    times_.backward += watch_.lap();
    if (sink == nullptr) return;
    for (const Parameter* p : parameters)
      if (!p->shape.frozen) sink->ready(*p, stream_);
    watch_.lap();
  }

  LlamaConfig config_;
  const ParameterArena* arena_;
  Stream stream_;
  LlamaWeights weights_;
  RopeTable rope_;
  LlamaActivations memory_;
  bool recompute_ = false;
  Stopwatch watch_;
  Times times_;
};

}  // namespace

std::unique_ptr<Model> make_llama(const LlamaConfig& config, const ParameterArena& arena,
                                  Device device) {
  return std::make_unique<Llama>(config, arena, device);
}

}  // namespace ballot

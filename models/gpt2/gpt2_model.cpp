// The GPT-2: forward, then backward layer by layer from the last, written as the products and
// passes it consists of.
#include "models/gpt2/gpt2_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "models/gpt2/gpt2_activations.h"
#include "models/gpt2/gpt2_forward.h"
#include "models/gpt2/gpt2_generation.h"
#include "models/gpt2/gpt2_weights.h"
#include "models/ops/cross_entropy.h"

namespace ballot {
namespace {

class Gpt2 final : public Model {
 public:
  Gpt2(const Gpt2Config& config, const ParameterArena& arena)
      : config_(config),
        arena_(&arena),
        weights_(config, arena, stream_),
        rope_(no_rotation(config.head_size)),
        memory_(config, arena.compute()) {
    require(arena.device() == Device{}, "a GPT-2 on the CPU with its parameters on {}",
            to_string(arena.device()));
  }

  Loss differentiate(std::span<const TokenBatch> micro_batches, GradientSink& sink) override {
    times_ = {};
    Loss loss;
    for (const TokenBatch& batch : micro_batches) {
      check(batch, true);
      loss.tokens += counted(batch);
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
      const Pass pass = prepare(batch, kept());
      forward(pass);
      loss.sum += head_backward(pass, scale, accumulate);
      if (last) sink.loss_known(loss.mean());
      backward(pass, accumulate, last ? &sink : nullptr);
    }
    return loss;
  }

  Loss evaluate(const TokenBatch& batch) override {
    check(batch, true);
    const Pass pass = prepare(batch, Keep::nothing);
    forward(pass);
    over_chunks(pass,
                [&](std::int64_t begin, std::int64_t end, std::span<const std::int32_t> targets) {
                  const Tensor logits = memory_.logits.rows(end - begin);
                  forward_pass().head(memory_.h.rows(pass.rows).rows(begin, end), logits);
                  cross_entropy(logits, targets, losses() + begin, stream_);
                });
    return {sum_losses(losses(), pass.rows, stream_), counted(batch)};
  }

  Tensor logits(const TokenBatch& batch) override {
    check(batch, false);
    const Pass pass = prepare(batch, Keep::nothing);
    forward(pass);
    memory_.all_logits.reserve(pass.rows);
    forward_pass().head(memory_.h.rows(pass.rows), memory_.all_logits.rows(pass.rows));
    return memory_.all_logits.rows(pass.rows);
  }

  std::unique_ptr<Generation> start(std::int64_t sequences, std::int64_t max_length) override {
    return start_gpt2_generation(config_, *arena_, stream_, sequences, max_length);
  }

  void recompute_layers(bool on) override { recompute_ = on; }
  std::optional<ActivationMemory> training_memory(std::int64_t sequences,
                                                  std::int64_t length) const override {
    return memory_.memory(shape_of(sequences, length), kept());
  }

  Times times() const override { return times_; }
  Stream& stream() override { return stream_; }
  std::string name() const override { return "a GPT-2"; }
  std::int64_t vocabulary() const override { return config_.vocabulary; }

  // Six per weight of a product; attention's scores and outputs over the (T + 1) / 2 keys seen on
  // average.
  double flops_per_token(std::int64_t length) const override {
    double weights = static_cast<double>(weights_.head->count());
    for (const Parameter& p : arena_->parameters())
      if (p.shape.kind == ParameterKind::hidden_matrix) weights += static_cast<double>(p.count());
    const double keys = 0.5 * static_cast<double>(length + 1);
    return 6 * weights + 12 * static_cast<double>(config_.layers * config_.hidden_size) * keys;
  }

 private:
  // One batch on its way through the model.
  struct Pass {
    AttentionShape shape;
    std::int64_t rows;  // N
    Keep keep;
    std::span<const std::int32_t> inputs, targets;
  };

  Keep kept() const { return recompute_ ? Keep::inputs : Keep::everything; }

  static std::int64_t counted(const TokenBatch& batch) {
    return static_cast<std::int64_t>(batch.targets.size()) -
           std::ranges::count(batch.targets, kNoTarget);
  }

  // A token's place in its document, which is where the table of positions is read.
  static std::int64_t position_of(const TokenBatch& batch, std::int64_t n) {
    const std::int64_t in_row = n % batch.length;
    return batch.document_starts.empty()
               ? in_row
               : in_row - batch.document_starts[static_cast<std::size_t>(n)];
  }

  void check(const TokenBatch& batch, bool with_targets) const {
    check_tokens(batch, config_.vocabulary, with_targets);
    for (std::int64_t n = 0; n < batch.sequences * batch.length; ++n)
      if (position_of(batch, n) >= config_.max_positions)
        throw DataError("a document of more than {} tokens: this GPT-2 has no further positions",
                        config_.max_positions);
  }

  AttentionShape shape_of(std::int64_t sequences, std::int64_t length) const {
    return {sequences, length, config_.heads, config_.heads, config_.head_size};
  }

  Pass prepare(const TokenBatch& batch, Keep keep) {
    AttentionShape shape = shape_of(batch.sequences, batch.length);
    memory_.reserve(shape, keep);
    rope_.extend(batch.length, stream_);
    if (!batch.document_starts.empty()) shape.document_starts = batch.document_starts.data();
    places_.resize(batch.inputs.size());
    for (std::size_t n = 0; n < places_.size(); ++n)
      places_[n] = static_cast<std::int32_t>(position_of(batch, static_cast<std::int64_t>(n)));
    return {shape, batch.sequences * batch.length, keep, batch.inputs, batch.targets};
  }

  double* losses() const { return reinterpret_cast<double*>(memory_.losses.rows(1).data); }
  std::byte* attention_scratch() const { return memory_.attention_scratch.rows(1).data; }

  Gpt2Forward forward_pass() {
    return {weights_, memory_, static_cast<float>(config_.layer_norm_epsilon), stream_};
  }

  void attend(const Pass& pass, const Gpt2LayerActivations& a) {
    attention(pass.shape, rope_, a.vkq, a.attended, a.log_sum_exp.f32(), attention_scratch(),
              stream_);
  }

  // Leaves the final norm's output in memory_.h.
  void forward(const Pass& pass) {
    forward_pass().run(pass.inputs, places_, pass.keep,
                       [&](std::int64_t, const Gpt2LayerActivations& a) { attend(pass, a); });
  }

  // What the forward left of this layer, or leaves of it now: the same kernels in the same order.
  Gpt2LayerActivations recall(const Pass& pass, std::int64_t l) {
    const Gpt2LayerActivations a = memory_.layer(l, pass.rows, pass.keep);
    if (pass.keep == Keep::inputs && l + 1 < config_.layers)
      forward_pass().layer(weights_.layers[static_cast<std::size_t>(l)], a, {},
                           [&](const Gpt2LayerActivations& of) { attend(pass, of); });
    return a;
  }

  template <class Body>
  void over_chunks(const Pass& pass, const Body& body) const {
    const std::int64_t chunk = cross_entropy_chunk_rows(config_.vocabulary, Device{});
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
          forward_pass().head(h, logits);
          times_.forward += watch_.lap();
          cross_entropy_with_gradient(logits, targets, scale, losses() + begin, dlogits, stream_);
          matmul(dlogits, weights_.head->compute, memory_.dh.rows(pass.rows).rows(begin, end),
                 Accumulate::no, stream_);
          if (!weights_.head->shape.frozen)
            matmul(dlogits.transposed(), h, weights_.head->gradient,
                   begin == 0 ? accumulate : Accumulate::yes, stream_);
          times_.backward += watch_.lap();
        });
    return sum_losses(losses(), pass.rows, stream_);
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
    const auto norm_backward = [&](const Tensor& x, const Tensor& moments, const Gpt2Norm& norm,
                                   Accumulate residual, const Tensor& y) {
      layer_norm_backward(
          x, moments.f32(), norm.gain->value, norm.bias->value, dh,
          {dx, residual, dx_rounded, y, norm.gain->gradient, norm.bias->gradient, accumulate},
          memory_.partials.rows(1).f32());
    };
    const auto ready_all = [&](const Affine& affine) {
      ready(affine.weight(), sink);
      ready(affine.bias(), sink);
    };
    const auto ready_norm = [&](const Gpt2Norm& norm) {
      ready(*norm.gain, sink);
      ready(*norm.bias, sink);
    };

    if (!config_.tied_head) ready(*weights_.head, sink);
    norm_backward(memory_.x.rows(rows), memory_.moments.rows(rows), weights_.final_norm,
                  Accumulate::no, {});
    ready_norm(weights_.final_norm);
    for (std::int64_t l = config_.layers - 1; l >= 0; --l) {
      const Gpt2Layer& layer = weights_.layers[static_cast<std::size_t>(l)];
      const Gpt2LayerActivations a = recall(pass, l);
      layer.mlp_output.input_gradient(dy, act);
      gelu_backward(a.z, act);
      layer.mlp_output.weight_gradient(act, dy, dx, accumulate);
      ready_all(layer.mlp_output);
      layer.fc.input_gradient(a.z, dh);
      norm_backward(a.x_mid, a.moments_mid, layer.before_mlp, Accumulate::yes, h);
      layer.fc.weight_gradient(h, a.z, a.z, accumulate);
      ready_all(layer.fc);
      ready_norm(layer.before_mlp);

      layer.output.input_gradient(dy, dattended);
      layer.output.weight_gradient(a.attended, dy, dx, accumulate);
      ready_all(layer.output);
      attention_backward(pass.shape, rope_, a.vkq, a.attended, dattended, a.log_sum_exp.f32(),
                         attention_scratch(), stream_);
      layer.vkq.input_gradient(a.vkq, dh);
      norm_backward(a.x, a.moments, layer.before_attention, Accumulate::yes, h);
      layer.vkq.weight_gradient(h, a.vkq, a.vkq, accumulate);
      ready_all(layer.vkq);
      ready_norm(layer.before_attention);
    }
    table_gradient(*weights_.positions, places_, dx, accumulate);
    ready(*weights_.positions, sink);
    // A tied table already has the head's part.
    table_gradient(*weights_.tokens, pass.inputs, dx,
                   config_.tied_head ? Accumulate::yes : accumulate);
    ready(*weights_.tokens, sink);
  }

  void table_gradient(const Parameter& table, std::span<const std::int32_t> rows, const Tensor& dx,
                      Accumulate accumulate) {
    if (table.shape.frozen) return;
    if (accumulate == Accumulate::no) clear(table);
    embedding_backward(rows, dx, table.gradient, nullptr, stream_);
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
      if (p.shape.frozen) continue;
      clear(p);
      sink.ready(p, stream_);
    }
  }

  // Time up to here is backward's; the sink's own is nobody's.
  void ready(const Parameter& parameter, GradientSink* sink) {
    times_.backward += watch_.lap();
    if (sink == nullptr || parameter.shape.frozen) return;
    sink->ready(parameter, stream_);
    watch_.lap();
  }

  Gpt2Config config_;
  const ParameterArena* arena_;
  Stream stream_;
  Gpt2Weights weights_;
  RopeTable rope_;
  Gpt2Activations memory_;
  std::vector<std::int32_t> places_;  // of the batch at hand, as position_of()
  bool recompute_ = false;
  Stopwatch watch_;
  Times times_;
};

}  // namespace

std::unique_ptr<Model> make_gpt2(const Gpt2Config& config, const ParameterArena& arena,
                                 Device device) {
  if (device.kind != Device::Kind::cpu)
    throw Unavailable("a GPT-2 on {}: this family runs on CPUs only", to_string(device));
  return std::make_unique<Gpt2>(config, arena);
}

}  // namespace ballot

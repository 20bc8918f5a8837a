// The model's ops on a GPU at the shapes of Llama 3.2 1B and of 8B: each is verified against its
// reference first, then timed, and its rate set against the bound (3.35 TB/s of memory, 989 TFLOP/s
// of dense bf16 products: an H100 SXM).
//
//   cuda_model_bench            all, well under a minute on an H100
//   cuda_model_bench --tiny     the same at sizes that the tests' executors manage
//   cuda_model_bench --only=P   P one of passes, attention, products, model
//   cuda_model_bench --score-mebibytes=N   attention's blocks of scores, to tune them
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>

#include "core/clock.h"
#include "core/copy.h"
#include "core/cuda/cuda_core.h"
#include "core/cuda_backend.h"
#include "core/error.h"
#include "core/matmul.h"
#include "models/llama/llama_model.h"
#include "models/ops/attention.h"
#include "models/ops/attention_reference.h"
#include "models/ops/cross_entropy.h"
#include "models/ops/cross_entropy_reference.h"
#include "models/ops/cuda_model_ops.h"
#include "models/ops/embedding.h"
#include "models/ops/rms_norm.h"
#include "models/ops/rms_norm_reference.h"
#include "models/ops/swiglu.h"
#include "models/ops/swiglu_reference.h"
#include "tests/cuda/device_tensor.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr double kMemoryBound = 3.35e12;  // bytes a second
constexpr double kProductBound = 989e12;  // bf16 operations a second
constexpr double kTheta = 500000.0;
constexpr double kEpsilon = 1e-5;

std::vector<float> to_floats(const std::vector<double>& x) {
  return {x.begin(), x.end()};
}

// ---- Verification: small row counts, the real widths ----

void expect_near(const char* op, const std::vector<float>& got, const std::vector<double>& want,
                 double bound) {
  const double error = relative_error({got.begin(), got.end()}, want);
  if (!(error < bound))
    throw LogicError(fmt::format(
        "{}: relative error {} against the reference, expected less than {}", op, error, bound));
  fmt::print("  {:<28} relative error {:.1e} (bound {:.1e})\n", op, error, bound);
}

// The gradient along one direction, by complex step.
template <class Forward>
void expect_gradient(const char* op, const std::vector<float>& got, const Forward& forward,
                     const std::vector<double>& x, const std::vector<double>& weights,
                     double bound) {
  const std::vector<double> direction = random_values(x.size(), 99);
  std::vector<Complex> z = to_complex(x);
  double along = 0, length = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    z[i] += Complex(0, direction[i] * kComplexStep);
    along += got[i] * direction[i];
    length += static_cast<double>(got[i]) * got[i];
  }
  const std::vector<Complex> y = forward(z);
  double want = 0;
  for (std::size_t i = 0; i < y.size(); ++i) want += y[i].imag() * weights[i] / kComplexStep;
  const double error = std::abs(along - want) / (std::sqrt(length) * norm(direction) / 3);
  if (!(error < bound))
    throw LogicError(
        fmt::format("{}: derivative {} along a direction, the reference's is {}", op, along, want));
  fmt::print("  {:<28} relative error {:.1e} (bound {:.1e})\n", op, error, bound);
}

void verify(const LlamaConfig& c, Stream& stream) {
  const Device device = cuda_device();
  const DType type = DType::bf16;
  fmt::print("verified, bf16:\n");
  {
    const std::int64_t rows = 5, cols = c.hidden_size;
    const std::vector<double> x = random_values(rows * cols, 1), gain = random_values(cols, 2),
                              dy = random_values(rows * cols, 3);
    const DeviceTensor tx(DType::f32, {rows, cols}, to_floats(x)),
        tg(DType::f32, {1, cols}, to_floats(gain)), tdy(DType::f32, {rows, cols}, to_floats(dy)),
        y(type, {rows, cols}), dx(DType::f32, {rows, cols}), dgain(DType::f32, {1, cols});
    const DeviceArray<float> r(rows), partials(rms_norm_partials(rows, cols, device));
    rms_norm(tx, {}, tg, kEpsilon, y, r.data(), stream);
    expect_near("rms_norm", y.read(stream), reference::rms_norm(x, gain, kEpsilon), 0x1p-8);
    rms_norm_backward(tx, r.data(), tg, tdy, {dx, Accumulate::no, {}, {}, dgain, Accumulate::no},
                      partials.data(), stream);
    expect_gradient(
        "rms_norm_backward", dx.read(stream),
        [&](const auto& z) { return reference::rms_norm(z, to_complex(gain), kEpsilon); }, x, dy,
        1e-5);
  }
  {
    const std::int64_t rows = 3, cols = c.intermediate_size;
    const std::vector<double> x = random_values(rows * 2 * cols, 1, 4.0, true),
                              dact = random_values(rows * cols, 2, 1.0, true);
    const DeviceTensor up_gate(type, {rows, 2 * cols}, to_floats(x)), act(type, {rows, cols}),
        in_place(type, {rows, cols}, to_floats(dact));
    swiglu(up_gate, act, stream);
    const auto forward = [&](const auto& z) { return reference::swiglu(z, cols); };
    expect_near("swiglu", act.read(stream), forward(x), 0x1p-8);
    swiglu_backward(up_gate, in_place, stream);
    expect_gradient("swiglu_backward", up_gate.read(stream), forward, x, dact, 0x1p-8);
  }
  {
    const AttentionShape shape{1, c.layers > 1 ? 300 : 40, c.heads / c.key_value_heads, 1,
                               c.head_size};
    const std::int64_t rows = shape.length, width = shape.heads * shape.head_size;
    const std::vector<double> x = random_values(rows * shape.width(), 1, 2.0, true),
                              dy = random_values(rows * width, 2, 1.0, true);
    RopeTable rope(rope_frequencies(shape.head_size, kTheta), device);
    rope.extend(rows, stream);
    const DeviceTensor vkq(type, {rows, shape.width()}, to_floats(x)), output(type, {rows, width}),
        doutput(type, {rows, width}, to_floats(dy));
    const DeviceArray<float> lse(rows * shape.heads);
    const Buffer scratch(attention_scratch_bytes(shape, type, device), device);
    attention(shape, rope, vkq, output, lse.data(), scratch.data(), stream);
    const auto forward = [&](const auto& z) { return reference::attention(shape, kTheta, z); };
    expect_near("attention", output.read(stream), forward(x), 0x1p-7);
    attention_backward(shape, rope, vkq, output, doutput, lse.data(), scratch.data(), stream);
    expect_gradient("attention_backward", vkq.read(stream), forward, x, dy, 0x1p-6);
  }
  {
    const std::int64_t rows = 3, classes = c.vocabulary;
    const std::vector<double> x = random_values(rows * classes, 1, 12.0);
    const std::vector<std::int32_t> targets = {0, static_cast<std::int32_t>(classes - 1),
                                               static_cast<std::int32_t>(classes / 2)};
    const DeviceTensor logits(DType::f32, {rows, classes}, to_floats(x)), d(type, {rows, classes});
    const DeviceArray<std::int32_t> t(targets);
    const DeviceArray<double> losses(rows + 1);
    cross_entropy_with_gradient(logits, {t.data(), t.count()}, 1.0f, losses.data(), d, stream);
    const auto forward = [&](const auto& z) {
      return std::vector{reference::cross_entropy(z, targets)};
    };
    expect_near("cross_entropy", {static_cast<float>(sum_losses(losses.data(), rows, stream))},
                forward(x), 1e-6);
    expect_gradient("cross_entropy_with_gradient", d.read(stream), forward, x, {1.0}, 0x1p-8);
  }
  {
    const std::int64_t rows = 200, cols = c.hidden_size, vocabulary = c.vocabulary;
    std::vector<std::int32_t> tokens;
    for (std::int64_t n = 0; n < rows; ++n)
      tokens.push_back(static_cast<std::int32_t>(mix64(n % 70) % vocabulary));
    const std::vector<double> dx = random_values(rows * cols, 2);
    const DeviceTensor tdx(DType::f32, {rows, cols}, to_floats(dx)),
        dtable(DType::f32, {vocabulary, cols});
    const DeviceTensor back(DType::f32, {rows, cols});
    const DeviceArray<std::int32_t> t(tokens);
    const Buffer scratch(embedding_scratch_bytes(rows, device), device);
    embedding_backward({t.data(), t.count()}, tdx, dtable, scratch.data(), stream);
    embedding(dtable, {t.data(), t.count()}, back, stream);
    std::vector<double> want(rows * cols);  // each row: the sum over its token's rows
    for (std::int64_t n = 0; n < rows; ++n)
      for (std::int64_t m = 0; m < rows; ++m)
        if (tokens[m] == tokens[n])
          for (std::int64_t k = 0; k < cols; ++k) want[n * cols + k] += dx[m * cols + k];
    expect_near("embedding, _backward", back.read(stream), want, 1e-6);
  }
}

// ---- Timing ----

// Device memory of pseudo-random f32 or bf16 in (-1, 1): a block of them again and again.
class Filled {
 public:
  Filled(DType type, std::initializer_list<std::int64_t> extents, Stream& stream)
      : owner_(type, extents, cuda_device()) {
    static const std::vector<double> values = random_values(1 << 18, 5, 1.0, true);
    const Tensor& view = owner_.view();
    const auto bytes = static_cast<std::int64_t>(view.count() * size_bytes(type));
    const OwnedTensor block =
        type == DType::f32 ? to_tensor<float>(values, 1) : to_tensor<bfloat16>(values, 1);
    const auto piece = static_cast<std::int64_t>(values.size() * size_bytes(type));
    for (std::int64_t at = 0; at < bytes; at += piece)
      copy_bytes(view.data + at, cuda_device(), block.view().data, Device{},
                 static_cast<std::size_t>(std::min(piece, bytes - at)), stream);
  }
  operator const Tensor&() const { return owner_; }  // NOLINT: used as its view
  const Tensor& view() const { return owner_; }

 private:
  OwnedTensor owner_;
};

// Seconds of one call: as many as take a while, one wait at the end.
double seconds_of(const std::function<void()>& work, Stream& stream, double least) {
  work();
  stream.synchronize();
  for (std::int64_t repeats = 1;; repeats *= 4) {
    const Stopwatch watch;
    for (std::int64_t i = 0; i < repeats; ++i) work();
    stream.synchronize();
    const double elapsed = watch.elapsed();
    if (elapsed >= least) return elapsed / static_cast<double>(repeats);
  }
}

class Table {
 public:
  Table(Stream& stream, double least) : stream_(stream), least_(least) {
    fmt::print("{:<34} {:>10} {:>12} {:>10} {:>7}\n", "op", "us", "moved/done", "rate", "bound");
  }
  void bytes(const std::string& op, double bytes, const std::function<void()>& work) {
    const double seconds = seconds_of(work, stream_, least_);
    fmt::print("{:<34} {:>10.1f} {:>9.1f} MB {:>5.2f} TB/s {:>5.0f} %\n", op, seconds * 1e6,
               bytes / 1e6, bytes / seconds / 1e12, 100 * bytes / seconds / kMemoryBound);
    std::fflush(stdout);
  }
  void flops(const std::string& op, double flops, const std::function<void()>& work) {
    const double seconds = seconds_of(work, stream_, least_);
    fmt::print("{:<34} {:>10.1f} {:>9.1f} GF {:>5.0f} TF/s {:>5.0f} %\n", op, seconds * 1e6,
               flops / 1e9, flops / seconds / 1e12, 100 * flops / seconds / kProductBound);
    std::fflush(stdout);
  }

 private:
  Stream& stream_;
  double least_;
};

void time_products(Table& table, const LlamaConfig& c, std::int64_t rows, Stream& stream) {
  const auto linear = [&](const char* name, std::int64_t in, std::int64_t out, std::int64_t n,
                          DType y_type, DType dx_type) {
    const Filled x(DType::bf16, {n, in}, stream), w(DType::bf16, {out, in}, stream),
        dy(DType::bf16, {n, out}, stream);
    const OwnedTensor y(y_type, {n, out}, cuda_device()), dx(dx_type, {n, in}, cuda_device()),
        dw(DType::f32, {out, in}, cuda_device());
    const double flops = 2.0 * static_cast<double>(n * in * out);
    table.flops(fmt::format("{} forward", name), flops,
                [&] { matmul(x, w.view().transposed(), y, Accumulate::no, stream); });
    table.flops(fmt::format("{} input gradient", name), flops,
                [&] { matmul(dy, w, dx, Accumulate::no, stream); });
    table.flops(fmt::format("{} weight gradient", name), flops,
                [&] { matmul(dy.view().transposed(), x, dw, Accumulate::yes, stream); });
  };
  const std::int64_t width = c.heads * c.head_size;
  linear("vkq", c.hidden_size, (2 * c.key_value_heads + c.heads) * c.head_size, rows, DType::bf16,
         DType::f32);
  linear("output", width, c.hidden_size, rows, DType::f32, DType::bf16);
  linear("up_gate", c.hidden_size, 2 * c.intermediate_size, rows, DType::bf16, DType::f32);
  linear("down", c.intermediate_size, c.hidden_size, rows, DType::f32, DType::bf16);
  linear("head, one chunk", c.hidden_size, c.vocabulary,
         std::min(rows, cross_entropy_chunk_rows(c.vocabulary, cuda_device())), DType::f32,
         DType::f32);
}

void time_attention(Table& table, const AttentionShape& shape, Stream& stream) {
  const Device device = cuda_device();
  const DType type = DType::bf16;
  const std::int64_t rows = shape.sequences * shape.length, width = shape.heads * shape.head_size;
  RopeTable rope(rope_frequencies(shape.head_size, kTheta), device);
  rope.extend(shape.length, stream);
  const Filled vkq(type, {rows, shape.width()}, stream), doutput(type, {rows, width}, stream);
  const OwnedTensor output(type, {rows, width}, device);
  const OwnedTensor lse(DType::f32, {rows, shape.heads}, device);
  const Buffer scratch(attention_scratch_bytes(shape, type, device), device);
  // Two products of T (T + 1) / 2 pairs forward, five backward.
  const double pairs = static_cast<double>(shape.sequences * shape.heads) *
                       static_cast<double>(shape.length) * static_cast<double>(shape.length + 1) /
                       2;
  const double product = 2 * pairs * static_cast<double>(shape.head_size);
  const std::string name = fmt::format("B={} T={} H={} K={} D={}", shape.sequences, shape.length,
                                       shape.heads, shape.key_value_heads, shape.head_size);
  fmt::print("attention {} ({:.0f} MB of scratch)\n", name,
             static_cast<double>(scratch.size_bytes()) / 1e6);
  table.flops("attention", 2 * product, [&] {
    attention(shape, rope, vkq, output, lse.view().f32(), scratch.data(), stream);
  });
  table.flops("attention_backward", 5 * product, [&] {
    attention_backward(shape, rope, vkq, output, doutput, lse.view().f32(), scratch.data(), stream);
  });
}

void time_passes(Table& table, const LlamaConfig& c, std::int64_t n, Stream& stream) {
  const Device device = cuda_device();
  const auto elements = static_cast<double>(n * c.hidden_size);
  {
    const Filled x(DType::f32, {n, c.hidden_size}, stream),
        addend(DType::f32, {n, c.hidden_size}, stream),
        gain(DType::f32, {1, c.hidden_size}, stream), dy(DType::f32, {n, c.hidden_size}, stream),
        dx(DType::f32, {n, c.hidden_size}, stream);
    const OwnedTensor y(DType::bf16, {n, c.hidden_size}, device),
        rounded(DType::bf16, {n, c.hidden_size}, device),
        dgain(DType::f32, {1, c.hidden_size}, device), r(DType::f32, {n, 1}, device),
        partials(DType::f32, {rms_norm_partials(n, c.hidden_size, device)}, device);
    table.bytes("rms_norm with addition", 14 * elements,
                [&] { rms_norm(x, addend, gain, kEpsilon, y, r.view().f32(), stream); });
    table.bytes("rms_norm_backward", 20 * elements, [&] {
      rms_norm_backward(x, r.view().f32(), gain, dy,
                        {dx, Accumulate::yes, rounded, y, dgain, Accumulate::no},
                        partials.view().f32(), stream);
    });
  }
  {
    const Filled up_gate(DType::bf16, {n, 2 * c.intermediate_size}, stream),
        act(DType::bf16, {n, c.intermediate_size}, stream);
    const auto acts = static_cast<double>(n * c.intermediate_size);
    table.bytes("swiglu", 6 * acts, [&] { swiglu(up_gate, act, stream); });
    table.bytes("swiglu_backward", 12 * acts, [&] { swiglu_backward(up_gate, act, stream); });
  }
  // A third of all positions hold one of 100 frequent tokens.
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<std::int32_t>(mix64(i) % (i % 3 == 0 ? 100 : c.vocabulary)));
  std::vector<std::int32_t> distinct = tokens;
  std::ranges::sort(distinct);
  const auto unique = static_cast<double>(std::ranges::unique(distinct).begin() - distinct.begin());
  const DeviceArray<std::int32_t> t(tokens);
  const std::span<const std::int32_t> span(t.data(), t.count());
  {
    const Filled table_values(DType::bf16, {c.vocabulary, c.hidden_size}, stream),
        dx(DType::f32, {n, c.hidden_size}, stream);
    const OwnedTensor x(DType::f32, {n, c.hidden_size}, device),
        dtable(DType::f32, {c.vocabulary, c.hidden_size}, device);
    const Buffer scratch(embedding_scratch_bytes(n, device), device);
    table.bytes("embedding", 6 * elements, [&] { embedding(table_values, span, x, stream); });
    table.bytes("embedding_backward",
                4 * elements + 8 * unique * static_cast<double>(c.hidden_size),
                [&] { embedding_backward(span, dx, dtable, scratch.data(), stream); });
  }
  {
    const std::int64_t rows = std::min(n, cross_entropy_chunk_rows(c.vocabulary, device));
    const auto logits_count = static_cast<double>(rows * c.vocabulary);
    const Filled logits(DType::f32, {rows, c.vocabulary}, stream);
    const OwnedTensor dlogits(DType::bf16, {rows, c.vocabulary}, device);
    const DeviceArray<double> losses(rows + 1);
    table.bytes(fmt::format("cross_entropy, {} rows", rows), 4 * logits_count,
                [&] { cross_entropy(logits, span.first(rows), losses.data(), stream); });
    table.bytes("cross_entropy_with_gradient", 10 * logits_count, [&] {
      cross_entropy_with_gradient(logits, span.first(rows), 1e-3f, losses.data(), dlogits, stream);
    });
  }
}

void time_model(const char* name, const LlamaConfig& c, std::int64_t sequences, std::int64_t length,
                int steps) {
  struct NoSink : GradientSink {
    void ready(const Parameter&, Stream&) override {}
  } sink;
  const ParameterArena arena(llama_parameter_shapes(c), DType::bf16, cuda_device());
  initialize_llama(c, arena, 1);
  const std::unique_ptr<Model> model = make_llama(c, arena, cuda_device());
  TokenBatch batch{sequences, length, {}, {}};
  for (std::int64_t i = 0; i < sequences * length; ++i) {
    batch.inputs.push_back(static_cast<std::int32_t>(mix64(i) % c.vocabulary));
    batch.targets.push_back(static_cast<std::int32_t>(mix64(i + 1) % c.vocabulary));
  }
  double first_loss = 0;
  const auto step = [&] { first_loss = model->differentiate({&batch, 1}, sink).mean(); };
  step();
  model->stream().synchronize();
  const Stopwatch watch;
  for (int i = 0; i < steps; ++i) step();
  model->stream().synchronize();
  const double seconds = watch.elapsed() / steps;
  const auto tokens = static_cast<double>(sequences * length);
  const double flops = tokens * model->flops_per_token(length);
  fmt::print(
      "{}: {} layers, B={} T={}: {:.1f} ms forward and backward, {:.0f} tokens/s, {:.0f} TFLOP/s "
      "of "
      "products, {:.0f} % of 989; loss {:.3f}; {:.1f} GB free\n",
      name, c.layers, sequences, length, seconds * 1e3, tokens / seconds, flops / seconds / 1e12,
      100 * flops / seconds / kProductBound, first_loss,
      static_cast<double>(cuda_core().free_bytes(cuda_device())) / 1e9);
  std::fflush(stdout);
}

LlamaConfig config_of(std::int64_t hidden, std::int64_t intermediate, std::int64_t layers,
                      std::int64_t heads, std::int64_t kv_heads, std::int64_t head_size,
                      std::int64_t vocabulary) {
  LlamaConfig c;
  c.hidden_size = hidden;
  c.intermediate_size = intermediate;
  c.layers = layers;
  c.heads = heads;
  c.key_value_heads = kv_heads;
  c.head_size = head_size;
  c.vocabulary = vocabulary;
  c.max_positions = 131072;
  c.rope_theta = kTheta;
  c.tied_head = true;
  return c;
}

struct Options {
  bool tiny = false;
  std::string only;
  bool wants(const char* part) const { return only.empty() || only == part; }
};

void run(const Options& options) {
  const bool tiny = options.tiny;
  Stream stream(cuda_device());
  fmt::print("{}\n", cuda_core().describe(cuda_device()));
  const double least = tiny ? 0 : 0.1;
  const LlamaConfig small =
      tiny ? config_of(64, 128, 1, 4, 2, 16, 300) : config_of(2048, 8192, 16, 32, 8, 64, 128256);
  const LlamaConfig large = config_of(4096, 14336, 2, 32, 8, 128, 128256);
  verify(small, stream);
  const std::int64_t b = tiny ? 1 : 4, t = tiny ? 40 : 2048;
  const auto shape_of = [](const LlamaConfig& c, std::int64_t sequences, std::int64_t length) {
    return AttentionShape{sequences, length, c.heads, c.key_value_heads, c.head_size};
  };
  Table table(stream, least);
  fmt::print("Llama 3.2 1B, B={} T={}\n", b, t);
  if (options.wants("passes")) time_passes(table, small, b * t, stream);
  if (options.wants("attention")) {
    time_attention(table, shape_of(small, b, t), stream);
    if (!tiny) time_attention(table, shape_of(small, 1, 8192), stream);
  }
  if (options.wants("products")) time_products(table, small, b * t, stream);
  if (!tiny) {
    fmt::print("Llama 3.1 8B, B=4 T=2048\n");
    if (options.wants("passes")) time_passes(table, large, b * t, stream);
    if (options.wants("attention")) time_attention(table, shape_of(large, b, t), stream);
    if (options.wants("products")) time_products(table, large, b * t, stream);
  }
  if (!options.wants("model")) return;
  time_model("Llama 3.2 1B", small, b, t, tiny ? 1 : 5);
  if (!tiny) time_model("Llama 3.1 8B, cut", large, b, t, 10);
}

}  // namespace
}  // namespace ballot::test

int main(int count, char** arguments) {
  using namespace ballot;
  test::Options options;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const std::string score = "--score-mebibytes=";
    if (argument == "--tiny") {
      options.tiny = true;
    } else if (argument.starts_with("--only=")) {
      options.only = argument.substr(7);
    } else if (argument.starts_with(score)) {
      cuda_model_ops().set_attention_score_bytes(std::stoll(argument.substr(score.size())) << 20);
    } else {
      fmt::print(stderr, "cuda_model_bench [--tiny] [--only=PART] [--score-mebibytes=N]; got {}\n",
                 argument);
      return 2;
    }
  }
  try {
    find_cuda_device();
  } catch (const Unavailable& why) {
    fmt::print("SKIPPED, no device to time: {}\n", why.what());
    return 77;
  }
  try {
    test::run(options);
  } catch (const std::exception& failure) {
    fmt::print(stderr, "cuda_model_bench: {}\n", failure.what());
    return 1;
  }
  return 0;
}

// What the self-test compares: each part of a step on a device beside the same on the CPU.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "collectives/ballot.h"
#include "collectives/tally.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/host_bytes.h"
#include "core/matmul.h"
#include "launcher/selftest.h"
#include "models/architecture.h"
#include "optim/direction.h"
#include "optim/replicated_update.h"

namespace ballot {
namespace {

// A number in (-1, 1), or now and then one that kernels get wrong.
float sample(std::uint64_t seed, std::int64_t i) {
  const std::uint64_t bits = hash64(seed, static_cast<std::uint64_t>(i), 0);
  switch (bits % 64) {
    case 0:
      return 0.0f;
    case 1:
      return -0.0f;
    case 2:
      return 1e-41f;
    case 3:
      return -1e-41f;
    default:
      return static_cast<float>(static_cast<std::int32_t>(bits >> 32)) * 0x1p-31f;
  }
}

// A matrix whose rows are padded with zeros to a multiple of 64 columns, on the CPU and on a
// device.
struct Pair {
  Pair(DType type, std::int64_t row_count, std::int64_t col_count, Device device)
      : rows(row_count), cols(col_count), stride((col_count + 63) / 64 * 64) {
    on_cpu = OwnedTensor(type, {rows, stride});
    on_device = OwnedTensor(type, {rows, stride}, device);
  }
  void fill(std::uint64_t seed) {
    const Tensor x = cpu();
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) {
        const float value = sample(seed, r * cols + c);
        if (x.type == DType::f32)
          x.f32()[r * stride + c] = value;
        else
          x.bf16()[r * stride + c] = to_bfloat16(value);
      }
    upload();
  }
  void upload() {
    const HostBytes host(on_device, HostBytes::Holds::zeros);
    std::memcpy(host.data(), on_cpu.view().data, host.bytes().size());
    host.put_back();
  }
  Tensor view(const OwnedTensor& owned) const {
    const Tensor& all = owned.view();
    return make_matrix(all.data, all.type, rows, cols, stride, all.device);
  }
  Tensor cpu() const { return view(on_cpu); }
  Tensor device() const { return view(on_device); }
  // Elements, padding too, whose bits differ.
  std::int64_t differing() const {
    const HostBytes host(on_device);
    const std::size_t size = size_bytes(on_cpu.view().type);
    std::int64_t count = 0;
    for (std::size_t i = 0; i < host.bytes().size(); i += size)
      count += std::memcmp(host.data() + i, on_cpu.view().data + i, size) != 0;
    return count;
  }

  std::int64_t rows, cols, stride;
  OwnedTensor on_cpu, on_device;
};

// Of f32 matrices: ||a - b|| / ||b||; NaN where either has one.
double distance(const float* a, const float* b, std::int64_t count) {
  double error = 0, norm = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

class Checks {
 public:
  explicit Checks(Device device) : device_(device), stream_(device) {}

  std::vector<SelftestCheck> run() {
    check("copies to the device, on it and back", [this] { return copies(); });
    check("products, f32", [this] { return products(DType::f32, Float32Products::full, 1e-6); });
    check("products, tf32", [this] { return products(DType::f32, Float32Products::tf32, 2e-3); });
    check("products, bf16", [this] { return products(DType::bf16, Float32Products::full, 1e-6); });
    check("scan of a gradient", [this] { return scan(); });
    for (const Rule rule : {Rule::olion, Rule::lion, Rule::signum, Rule::sgd})
      for (const DType momentum : {DType::f32, DType::bf16})
        check(fmt::format("{}'s momentum ({}) and direction", to_string(rule), to_string(momentum)),
              [=, this] { return direction(rule, momentum); });
    check("Newton-Schulz, f32", [this] { return newton_schulz(DType::f32, 1e-4); });
    check("Newton-Schulz, bf16", [this] { return newton_schulz(DType::bf16, 5e-2); });
    for (const double threshold : {0.0, 0.55})
      check(fmt::format("ballots, abstaining below {} RMS", threshold),
            [=, this] { return ballots(threshold); });
    for (const Ties ties : {Ties::coin, Ties::hold})
      check(fmt::format("verdicts applied, ties {}", ties == Ties::coin ? "by coin" : "held"),
            [=, this] { return verdicts(ties); });
    check("AdamW", [this] { return adamw(); });
    check("a Llama's loss and gradient, f32", [this] { return llama(DType::f32, 1e-5, 1e-4); });
    check("a Llama's loss and gradient, bf16", [this] { return llama(DType::bf16, 2e-3, 5e-2); });
    return std::move(checks_);
  }

 private:
  struct Outcome {
    bool passed;
    std::string detail;
  };
  void check(std::string name, const std::function<Outcome()>& body) {
    SelftestCheck& one = checks_.emplace_back();
    one.name = std::move(name);
    try {
      const Outcome outcome = body();
      one.passed = outcome.passed;
      one.detail = outcome.detail;
    } catch (const std::exception& failure) {
      one.detail = failure.what();
    }
  }

  static constexpr std::array<std::array<std::int64_t, 2>, 5> kShapes = {
      {{1, 1}, {1, 63}, {3, 65}, {7, 512}, {33, 1000}}};

  // Runs `body` for every shape and adds up what it returns: elements that differ.
  Outcome bit_for_bit(const std::function<std::int64_t(std::int64_t, std::int64_t)>& body) {
    std::int64_t wrong = 0, elements = 0;
    for (const auto& [rows, cols] : kShapes) {
      wrong += body(rows, cols);
      elements += rows * cols;
    }
    return {wrong == 0, fmt::format("{} of {} elements differ from the CPU's", wrong, elements)};
  }

  Outcome copies() {
    return bit_for_bit([this](std::int64_t rows, std::int64_t cols) {
      Pair x(DType::f32, rows, cols, device_);
      x.fill(1);
      return x.differing();
    });
  }

  Outcome products(DType type, Float32Products float32_products, double bound) {
    constexpr std::int64_t kM = 65, kK = 129, kN = 72;
    double worst = 0;
    stream_.set_float32_products(float32_products);
    for (const bool transposed_a : {false, true})
      for (const bool transposed_b : {false, true}) {
        Pair a(type, transposed_a ? kK : kM, transposed_a ? kM : kK, device_);
        Pair b(type, transposed_b ? kN : kK, transposed_b ? kK : kN, device_);
        Pair c(DType::f32, kM, kN, device_);
        a.fill(2), b.fill(3), c.fill(4);
        const auto oriented = [](const Tensor& x, bool flip) { return flip ? x.transposed() : x; };
        const Tensor x = oriented(a.cpu(), transposed_a), y = oriented(b.cpu(), transposed_b);
        const auto at = [&](const Tensor& m, std::int64_t i, std::int64_t j) -> double {
          const std::int64_t place = i * m.stride[0] + j * m.stride[1];
          return type == DType::f32 ? m.f32()[place] : to_float(m.bf16()[place]);
        };
        std::vector<float> truth(kM * c.stride, 0.0f);
        for (std::int64_t i = 0; i < kM; ++i)
          for (std::int64_t j = 0; j < kN; ++j) {
            double sum = c.cpu().f32()[i * c.stride + j];
            for (std::int64_t k = 0; k < kK; ++k) sum += at(x, i, k) * at(y, k, j);
            truth[static_cast<std::size_t>(i * c.stride + j)] = static_cast<float>(sum);
          }
        matmul(oriented(a.device(), transposed_a), oriented(b.device(), transposed_b), c.device(),
               Accumulate::yes, stream_);
        stream_.synchronize();
        const HostBytes host(c.device());
        worst = std::max(worst, distance(reinterpret_cast<const float*>(host.data()), truth.data(),
                                         (kM - 1) * c.stride + kN));
      }
    stream_.set_float32_products(Float32Products::full);
    return {worst <= bound, fmt::format("relative error {:.1e}, at most {:.0e}", worst, bound)};
  }

  Outcome scan() {
    return bit_for_bit([this](std::int64_t rows, std::int64_t cols) {
      Pair x(DType::f32, rows, cols, device_);
      x.fill(5);
      std::fill_n(x.cpu().f32() + (rows - 1) * x.stride, cols, 0.0f);
      x.upload();
      std::vector<std::uint8_t> zero_cpu(static_cast<std::size_t>(rows), 7), zero_device = zero_cpu;
      Stream cpu;
      const GradientScan a = scan_gradient(x.cpu(), zero_cpu, cpu);
      const GradientScan b = scan_gradient(x.device(), zero_device, stream_);
      std::int64_t wrong = zero_cpu != zero_device || a.square_sum != b.square_sum || !b.finite;
      x.cpu().f32()[0] = -HUGE_VALF;
      x.upload();
      wrong += scan_gradient(x.device(), zero_device, stream_).finite;
      return wrong;
    });
  }

  Outcome direction(Rule rule, DType momentum_type) {
    ParameterGroup group = default_group(rule);
    group.newton_schulz = false;
    group.momentum_type = momentum_type;
    return bit_for_bit([&](std::int64_t rows, std::int64_t cols) {
      Pair gradient(DType::f32, rows, cols, device_), momentum(momentum_type, rows, cols, device_),
          direction(DType::f32, rows, cols, device_);
      gradient.fill(6), momentum.fill(7), direction.fill(8);
      Stream cpu;
      find_direction(group, gradient.cpu(), momentum.cpu(), direction.cpu(), nullptr, cpu);
      find_direction(group, gradient.device(), momentum.device(), direction.device(), nullptr,
                     stream_);
      stream_.synchronize();
      return momentum.differing() + direction.differing();
    });
  }

  Outcome newton_schulz(DType type, double bound) {
    double worst = 0;
    constexpr std::array<std::array<std::int64_t, 2>, 2> kSides = {{{48, 160}, {130, 64}}};
    for (const auto& [rows, cols] : kSides) {
      Pair x(DType::f32, rows, cols, device_);
      x.fill(9);
      // In f32 on the CPU: the bound of bf16 is that of its rounding.
      Stream cpu;
      NewtonSchulz truth(std::min(rows, cols), rows * cols, DType::f32);
      truth.orthogonalize(x.cpu(), 5, cpu);
      NewtonSchulz there(std::min(rows, cols), rows * cols, type, device_);
      there.orthogonalize(x.device(), 5, stream_);
      stream_.synchronize();
      const HostBytes host(x.device());
      worst = std::max(worst, distance(reinterpret_cast<const float*>(host.data()), x.cpu().f32(),
                                       (rows - 1) * x.stride + cols));
    }
    return {worst <= bound,
            fmt::format("relative distance {:.1e} from the CPU's in f32, at most {:.0e}", worst,
                        bound)};
  }

  static BallotLayout layout_of(std::int64_t rows, std::int64_t cols) {
    BallotSegment segment;
    segment.name = "selftest";
    segment.rows = rows;
    segment.cols = cols;
    segment.row_stride = (cols + 63) / 64 * 64;
    return BallotLayout({segment});
  }
  static std::int64_t differing(const BitVector& a, const BitVector& b) {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < a.bit_count(); ++i) count += a.get(i) != b.get(i);
    return count;
  }

  Outcome ballots(double threshold) {
    return bit_for_bit([&](std::int64_t rows, std::int64_t cols) {
      Pair direction(DType::f32, rows, cols, device_);
      direction.fill(10);
      std::fill_n(direction.cpu().f32() + (rows - 1) * direction.stride, cols, -0.0f);
      direction.upload();
      std::vector<std::uint8_t> silent(static_cast<std::size_t>(rows), 0);
      silent[0] = rows > 2;
      const BallotLayout layout = layout_of(rows, cols);
      const CastOptions options{11, 3, 2, threshold};
      Ballot a(layout), b(layout, device_);
      Stream cpu;
      const BallotSegment& segment = layout.segments().front();
      cast_ballot(direction.cpu(), segment, options, silent, a, cpu);
      cast_ballot(direction.device(), segment, options, silent, b, stream_);
      return differing(a.bits(), b.bits()) + differing(a.abstentions(), b.abstentions());
    });
  }

  // A verdict with held blocks and, with ties held, held elements.
  static Verdict verdict_of(const BallotLayout& layout, Ties ties) {
    Verdict verdict;
    verdict.bits = BitVector(layout.extent());
    verdict.held_blocks = BitVector(layout.blocks());
    if (ties == Ties::hold) verdict.held_elements = BitVector(layout.extent());
    const BallotSegment& segment = layout.segments().front();
    for (std::int64_t b = 0; b < layout.blocks(); ++b) verdict.held_blocks.set(b, b % 5 == 3);
    for (std::int64_t r = 0; r < segment.rows; ++r)
      for (std::int64_t c = 0; c < segment.cols; ++c) {
        const std::int64_t i = segment.offset + r * segment.row_stride + c;
        const std::uint64_t bits = mix64(static_cast<std::uint64_t>(i));
        if (verdict.held_blocks.get((i - segment.offset) / segment.block)) continue;
        const bool held = ties == Ties::hold && bits % 7 == 0;
        if (held) verdict.held_elements.set(i, true);
        verdict.bits.set(i, !held && (bits >> 20) % 2 == 1);
      }
    return verdict;
  }

  // Arenas of one matrix with the same values, on both.
  struct Arenas {
    Arenas(std::int64_t rows, std::int64_t cols, Device device)
        : shapes{{"selftest", ParameterKind::hidden_matrix, rows, cols}},
          on_cpu(shapes, DType::bf16),
          on_device(shapes, DType::bf16, device) {
      const Parameter& p = cpu();
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c)
          p.value.f32()[r * p.row_stride + c] = sample(12, r * cols + c);
      const HostBytes host(device_side().value, HostBytes::Holds::zeros);
      std::memcpy(host.data(), p.value.data, host.bytes().size());
      host.put_back();
    }
    const Parameter& cpu() const { return on_cpu.parameters().front(); }
    const Parameter& device_side() const { return on_device.parameters().front(); }
    std::int64_t differing() const {
      const HostBytes value(device_side().value), rounded(device_side().compute);
      std::int64_t count = 0;
      for (std::size_t i = 0; i < value.bytes().size(); i += 4)
        count += std::memcmp(value.data() + i, cpu().value.data + i, 4) != 0;
      for (std::size_t i = 0; i < rounded.bytes().size(); i += 2)
        count += std::memcmp(rounded.data() + i, cpu().compute.data + i, 2) != 0;
      return count;
    }
    std::vector<ParameterShape> shapes;
    ParameterArena on_cpu, on_device;
  };

  Outcome verdicts(Ties ties) {
    return bit_for_bit([&](std::int64_t rows, std::int64_t cols) {
      const Arenas arenas(rows, cols, device_);
      const BallotLayout layout = layout_of(rows, cols);
      const Verdict verdict = verdict_of(layout, ties);
      const BallotSegment& segment = layout.segments().front();
      const RateFactors factors{1e-3f, 4e-3f};
      Stream cpu;
      const std::uint64_t a = apply_verdict(verdict, segment, factors, arenas.cpu(), cpu);
      const std::uint64_t b =
          apply_verdict(verdict, segment, factors, arenas.device_side(), stream_);
      return arenas.differing() + (a != b);
    });
  }

  Outcome adamw() {
    const ParameterGroup group = default_group(Rule::adamw);
    return bit_for_bit([&](std::int64_t rows, std::int64_t cols) {
      const Arenas arenas(rows, cols, device_);
      Pair gradient(DType::f32, rows, cols, device_), first(DType::f32, rows, cols, device_),
          second(DType::f32, rows, cols, device_);
      gradient.fill(13), first.fill(14);
      Stream cpu;
      std::int64_t wrong = 0;
      for (std::int64_t count = 1; count <= 3; ++count) {
        const RateFactors factors{1e-3f, 4e-3f};
        const std::uint64_t a = apply_adamw(group, gradient.cpu(), count, factors, first.cpu(),
                                            second.cpu(), arenas.cpu(), cpu);
        const std::uint64_t b =
            apply_adamw(group, gradient.device(), count, factors, first.device(), second.device(),
                        arenas.device_side(), stream_);
        wrong += a != b;
      }
      return wrong + arenas.differing() + first.differing() + second.differing();
    });
  }

  struct NoSink final : GradientSink {
    void ready(const Parameter&, Stream&) override {}
  };

  Outcome llama(DType compute, double loss_bound, double gradient_bound) {
    const std::unique_ptr<Architecture> model = new_architecture("llama", {.hidden = 128,
                                                                           .layers = 2,
                                                                           .heads = 4,
                                                                           .key_value_heads = 2,
                                                                           .intermediate = 320,
                                                                           .vocabulary = 515,
                                                                           .max_positions = 128});
    const std::vector<ParameterShape> shapes = model->parameter_shapes();
    const ParameterArena cpu(shapes, DType::f32), there(shapes, compute, device_);
    model->initialize(cpu, 1);
    model->initialize(there, 1);
    TokenBatch batch;
    batch.sequences = 2;
    batch.length = 70;
    for (std::int64_t i = 0; i < batch.sequences * batch.length; ++i) {
      batch.inputs.push_back(static_cast<std::int32_t>(mix64(i) % 515));
      batch.targets.push_back(i % 9 == 0 ? kNoTarget
                                         : static_cast<std::int32_t>(mix64(i + 1) % 515));
    }
    NoSink sink;
    const Loss a = model->make_model(cpu)->differentiate(std::span(&batch, 1), sink);
    const Loss b = model->make_model(there, device_)->differentiate(std::span(&batch, 1), sink);
    const double loss_error = std::abs(a.mean() - b.mean()) / a.mean();
    double worst = 0;
    std::string worst_name;
    for (const Parameter& p : cpu.parameters()) {
      const HostBytes host(there.parameters()[static_cast<std::size_t>(p.index)].gradient);
      const double error = distance(reinterpret_cast<const float*>(host.data()), p.gradient.f32(),
                                    static_cast<std::int64_t>(host.bytes().size() / sizeof(float)));
      if (!(error <= worst)) worst = error, worst_name = p.shape.name;
    }
    return {loss_error <= loss_bound && worst <= gradient_bound,
            fmt::format("loss {:.1e} off the CPU's in f32 (at most {:.0e}), gradients {:.1e} (at "
                        "most {:.0e}; {})",
                        loss_error, loss_bound, worst, gradient_bound, worst_name)};
  }

  Device device_;
  Stream stream_;
  std::vector<SelftestCheck> checks_;
};

}  // namespace

bool Selftest::passed() const {
  return std::ranges::all_of(checks, &SelftestCheck::passed);
}

std::vector<SelftestCheck> selftest_checks(Device device) {
  return Checks(device).run();
}

}  // namespace ballot

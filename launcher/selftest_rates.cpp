// How fast a device does what a step consists of, beside a copy and a product of the same run.
#include <algorithm>
#include <cmath>
#include <functional>

#include "collectives/ballot.h"
#include "core/clock.h"
#include "core/copy.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/host_bytes.h"
#include "core/parameter_arena.h"
#include "launcher/bench_model.h"
#include "launcher/selftest.h"
#include "optim/direction.h"
#include "optim/replicated_update.h"

namespace ballot {
namespace {

constexpr int kRepeats = 7;

// The median of repeated calls, after one that is not counted.
double seconds_of(const std::function<void()>& body) {
  std::vector<double> times;
  body();
  for (int i = 0; i < kRepeats; ++i) {
    const Stopwatch watch;
    body();
    times.push_back(watch.elapsed());
  }
  std::ranges::nth_element(times, times.begin() + kRepeats / 2);
  return times[kRepeats / 2];
}

void fill(const Tensor& x, std::uint64_t seed) {
  const HostBytes host(x, HostBytes::Holds::zeros);
  auto* values = reinterpret_cast<float*>(host.data());
  for (std::size_t i = 0; i < host.bytes().size() / sizeof(float); ++i)
    values[i] = static_cast<float>(static_cast<std::int32_t>(hash64(seed, i, 0))) * 0x1p-31f;
  host.put_back();
}

class Rates {
 public:
  Rates(Device device, std::int64_t elements)
      : device_(device), stream_(device), rows_(std::max<std::int64_t>(1, elements / kCols)) {}

  std::vector<SelftestRate> run() {
    copies();
    passes();
    products();
    newton_schulz();
    return std::move(rates_);
  }

 private:
  static constexpr std::int64_t kCols = 8192;

  void bytes_per_second(std::string name, double bytes, const std::function<void()>& body,
                        bool bounded = true) {
    const double rate = bytes / seconds_of(body) / 1e9;
    rates_.push_back({std::move(name), rate, "GB/s", bounded ? copy_rate_ : 0.0,
                      bounded ? "of a copy on the device" : ""});
  }

  void copies() {
    const auto bytes = static_cast<std::size_t>(rows_ * kCols) * sizeof(float);
    const Buffer a(bytes, device_), b(bytes, device_);
    const auto whole = static_cast<double>(bytes);
    bytes_per_second(
        "copy on the device (read + written)", 2 * whole,
        [&] {
          copy_bytes(b.data(), device_, a.data(), device_, bytes, stream_);
          stream_.synchronize();
        },
        false);
    copy_rate_ = rates_.back().rate;
    const PinnedBuffer host(std::min<std::size_t>(bytes, std::size_t{256} << 20), device_);
    const auto part = static_cast<double>(host.size_bytes());
    bytes_per_second(
        "to the device", part,
        [&] {
          copy_bytes(a.data(), device_, host.data(), Device{}, host.size_bytes(), stream_);
          stream_.synchronize();
        },
        false);
    bytes_per_second(
        "from the device", part,
        [&] {
          copy_bytes(host.data(), Device{}, a.data(), device_, host.size_bytes(), stream_);
          stream_.synchronize();
        },
        false);
  }

  void passes() {
    const std::vector<ParameterShape> shapes{
        {"selftest", ParameterKind::hidden_matrix, rows_, kCols}};
    const ParameterArena arena(shapes, DType::bf16, device_);
    const Parameter& p = arena.parameters().front();
    const OwnedTensor gradient(DType::f32, {rows_, kCols}, device_),
        momentum(DType::f32, {rows_, kCols}, device_),
        direction(DType::f32, {rows_, kCols}, device_), second(DType::f32, {rows_, kCols}, device_);
    fill(gradient, 1);
    fill(p.value, 2);
    const auto count = static_cast<double>(rows_ * kCols);
    bytes_per_second("scan of a gradient (4 B per element)", 4 * count,
                     [&] { scan_gradient(gradient, {}, stream_); });
    ParameterGroup group = default_group(Rule::olion);
    group.newton_schulz = false;
    bytes_per_second("momentum and direction, f32 (16 B)", 16 * count, [&] {
      find_direction(group, gradient, momentum, direction, nullptr, stream_);
      stream_.synchronize();
    });
    BallotSegment segment;
    segment.name = "selftest";
    segment.rows = rows_;
    segment.cols = segment.row_stride = kCols;
    const BallotLayout layout({segment});
    Ballot ballot(layout, device_);
    const BallotSegment& placed = layout.segments().front();
    bytes_per_second("ballot packed and copied to the host (4 1/8 B)", 4.125 * count, [&] {
      cast_ballot(direction, placed, CastOptions{1, 2, 3, 0.0}, {}, ballot, stream_);
    });
    Verdict verdict;
    verdict.bits = BitVector(layout.extent());
    verdict.held_blocks = BitVector(layout.blocks());
    std::copy_n(ballot.bits().words(), ballot.bits().word_count(), verdict.bits.words());
    bytes_per_second("verdict applied, bf16 copy made (10 1/8 B)", 10.125 * count, [&] {
      apply_verdict(verdict, placed, RateFactors{1e-6f, 1e-6f}, p, stream_);
    });
    const ParameterGroup adam = default_group(Rule::adamw);
    std::int64_t steps = 0;
    bytes_per_second("AdamW, bf16 copy made (30 B)", 30 * count, [&] {
      apply_adamw(adam, gradient, ++steps, RateFactors{1e-6f, 1e-6f}, momentum, second, p, stream_);
    });
  }

  void products() {
    const std::int64_t side = peak_side(device_);
    for (const DType type : {DType::f32, DType::bf16}) {
      if (type == DType::bf16 && !has_bf16(device_)) continue;
      rates_.push_back({fmt::format("product of {0} x {0}, {1}", side, to_string(type)),
                        measure_matmul(type, side, device_) / 1e3, "TFLOP/s", 0, ""});
      if (type == DType::bf16) product_rate_ = rates_.back().rate;
    }
  }

  void newton_schulz() {
    const bool bf16 = has_bf16(device_);
    const std::int64_t side = peak_side(device_) / 2, length = 2 * side;
    const OwnedTensor x(DType::f32, {side, length}, device_);
    fill(x, 3);
    NewtonSchulz iteration(side, side * length, bf16 ? DType::bf16 : DType::f32, device_);
    const auto s = static_cast<double>(side), l = static_cast<double>(length);
    const double work = 5 * (2 * s * s * l + 2 * s * s * s + 2 * s * s * l);
    const double seconds = seconds_of([&] {
      iteration.orthogonalize(x, 5, stream_);
      stream_.synchronize();
    });
    rates_.push_back(
        {fmt::format("Newton-Schulz of {} x {}, {}", side, length, bf16 ? "bf16" : "f32"),
         work / seconds / 1e12, "TFLOP/s", product_rate_,
         product_rate_ > 0 ? "of that product" : ""});
  }

  Device device_;
  Stream stream_;
  std::int64_t rows_;
  double copy_rate_ = 0, product_rate_ = 0;
  std::vector<SelftestRate> rates_;
};

}  // namespace

std::vector<SelftestRate> selftest_rates(Device device, std::int64_t elements) {
  return Rates(device, elements).run();
}

}  // namespace ballot

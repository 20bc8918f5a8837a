// GELU on the CPU: one pass, fp32 arithmetic on elements of f32 or bf16.
#include "core/error.h"
#include "core/parallel.h"
#include "models/ops/gelu.h"
#include "models/ops/vector_math.h"

namespace ballot {
namespace {

constexpr float kTwiceRoot = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

template <class T>
[[gnu::always_inline]] inline void forward_body(const T* __restrict z, T* __restrict act,
                                                std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = to_float(z[i]);
    act[i] = from_float<T>(x * vector_sigmoid(kTwiceRoot * (x + kCubic * x * x * x)));
  }
}

template <class T>
[[gnu::always_inline]] inline void backward_body(T* __restrict z, T* __restrict act,
                                                 std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = to_float(z[i]);
    const float d = to_float(act[i]);
    const float sigmoid = vector_sigmoid(kTwiceRoot * (x + kCubic * x * x * x));
    const float slope = kTwiceRoot * (1.0f + 3.0f * kCubic * x * x);
    z[i] = from_float<T>(d * (sigmoid + x * sigmoid * (1.0f - sigmoid) * slope));
    act[i] = from_float<T>(x * sigmoid);
  }
}

BALLOT_VECTORIZED void forward_elements(const float* __restrict z, float* __restrict act,
                                        std::int64_t count) {
  forward_body(z, act, count);
}
BALLOT_VECTORIZED void forward_elements(const bfloat16* __restrict z, bfloat16* __restrict act,
                                        std::int64_t count) {
  forward_body(z, act, count);
}
BALLOT_VECTORIZED void backward_elements(float* __restrict z, float* __restrict act,
                                         std::int64_t count) {
  backward_body(z, act, count);
}
BALLOT_VECTORIZED void backward_elements(bfloat16* __restrict z, bfloat16* __restrict act,
                                         std::int64_t count) {
  backward_body(z, act, count);
}

template <class T, class Elements>
void over_elements(const Tensor& z, const Tensor& act, const Elements& elements) {
  parallel_for(z.count(), 1 << 13, [&](std::int64_t begin, std::int64_t end) {
    elements(z.as<T>() + begin, act.as<T>() + begin, end - begin);
  });
}

template <class Elements>
void run(const Tensor& z, const Tensor& act, const Elements& elements) {
  require(z.device.kind == Device::Kind::cpu && z.is_contiguous() && act.is_contiguous() &&
              z.type == act.type && z.count() == act.count(),
          "gelu of {} and {}", z.describe(), act.describe());
  if (z.type == DType::f32)
    over_elements<float>(z, act, elements);
  else
    over_elements<bfloat16>(z, act, elements);
}

}  // namespace

void gelu(const Tensor& z, const Tensor& act) {
  run(z, act, [](auto* x, auto* y, std::int64_t count) { forward_elements(x, y, count); });
}

void gelu_backward(const Tensor& z, const Tensor& act) {
  run(z, act, [](auto* x, auto* y, std::int64_t count) { backward_elements(x, y, count); });
}

}  // namespace ballot

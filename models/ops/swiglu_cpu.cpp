// SwiGLU on the CPU: one pass, fp32 arithmetic on rows of f32 or bf16.
#include "core/error.h"
#include "core/parallel.h"
#include "models/ops/cuda_model_ops.h"
#include "models/ops/swiglu.h"
#include "models/ops/vector_math.h"

namespace ballot {
namespace {

template <class T>
[[gnu::always_inline]] inline void forward_body(const T* __restrict up_gate, T* __restrict act,
                                                std::int64_t rows, std::int64_t cols) {
  for (std::int64_t n = 0; n < rows; ++n, up_gate += 2 * cols, act += cols)
    for (std::int64_t c = 0; c < cols; ++c) {
      const float gate = to_float(up_gate[cols + c]);
      act[c] = from_float<T>(gate * vector_sigmoid(gate) * to_float(up_gate[c]));
    }
}

template <class T>
[[gnu::always_inline]] inline void backward_row(T* __restrict up_row, T* __restrict gate_row,
                                                T* __restrict act, std::int64_t cols) {
  for (std::int64_t c = 0; c < cols; ++c) {
    const float up = to_float(up_row[c]);
    const float gate = to_float(gate_row[c]);
    const float d = to_float(act[c]);
    const float sigmoid = vector_sigmoid(gate);
    const float silu = gate * sigmoid;
    up_row[c] = from_float<T>(d * silu);
    gate_row[c] = from_float<T>(d * up * (sigmoid + silu * (1.0f - sigmoid)));
    act[c] = from_float<T>(silu * up);
  }
}

BALLOT_VECTORIZED void forward_rows(const float* __restrict up_gate, float* __restrict act,
                                    std::int64_t rows, std::int64_t cols) {
  forward_body(up_gate, act, rows, cols);
}
BALLOT_VECTORIZED void forward_rows(const bfloat16* __restrict up_gate, bfloat16* __restrict act,
                                    std::int64_t rows, std::int64_t cols) {
  forward_body(up_gate, act, rows, cols);
}
BALLOT_VECTORIZED void backward_rows(float* __restrict up_gate, float* __restrict act,
                                     std::int64_t rows, std::int64_t cols) {
  for (std::int64_t n = 0; n < rows; ++n, up_gate += 2 * cols, act += cols)
    backward_row(up_gate, up_gate + cols, act, cols);
}
BALLOT_VECTORIZED void backward_rows(bfloat16* __restrict up_gate, bfloat16* __restrict act,
                                     std::int64_t rows, std::int64_t cols) {
  for (std::int64_t n = 0; n < rows; ++n, up_gate += 2 * cols, act += cols)
    backward_row(up_gate, up_gate + cols, act, cols);
}

void check(const Tensor& up_gate, const Tensor& act) {
  require(up_gate.is_contiguous() && act.is_contiguous() && up_gate.type == act.type &&
              up_gate.extent[0] == act.extent[0] && up_gate.extent[1] == 2 * act.extent[1],
          "swiglu of {} and {}", up_gate.describe(), act.describe());
}

template <class T, class Rows>
void over_rows(const Tensor& up_gate, const Tensor& act, const Rows& rows) {
  const std::int64_t cols = act.extent[1];
  parallel_for(act.extent[0], 4, [&](std::int64_t begin, std::int64_t end) {
    rows(up_gate.as<T>() + begin * 2 * cols, act.as<T>() + begin * cols, end - begin, cols);
  });
}

}  // namespace

void swiglu(const Tensor& up_gate, const Tensor& act, Stream& stream) {
  check(up_gate, act);
  if (act.device.kind == Device::Kind::cuda) return cuda_model_ops().swiglu(up_gate, act, stream);
  const auto rows = [](auto* u, auto* a, std::int64_t n, std::int64_t c) {
    forward_rows(u, a, n, c);
  };
  if (act.type == DType::f32)
    over_rows<float>(up_gate, act, rows);
  else
    over_rows<bfloat16>(up_gate, act, rows);
}

void swiglu_backward(const Tensor& up_gate, const Tensor& act, Stream& stream) {
  check(up_gate, act);
  if (act.device.kind == Device::Kind::cuda)
    return cuda_model_ops().swiglu_backward(up_gate, act, stream);
  const auto rows = [](auto* u, auto* a, std::int64_t n, std::int64_t c) {
    backward_rows(u, a, n, c);
  };
  if (act.type == DType::f32)
    over_rows<float>(up_gate, act, rows);
  else
    over_rows<bfloat16>(up_gate, act, rows);
}

}  // namespace ballot

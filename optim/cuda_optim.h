// The optimizer's passes as the CUDA backend implements them; each does what the op's own header
// says, on device memory, asynchronously on the stream, with the bits of the CPU.
//
// What the op's own file has checked is not checked again; memory that a pass needs beside its
// operands is handed in.
#pragma once

#include <cstdint>

#include "core/device.h"     // Stream
#include "core/parameter.h"  // Parameter
#include "core/tensor.h"     // Tensor
#include "optim/newton_schulz_coefficients.h"

namespace ballot {

// M <- keep M + absorb g;  u = from_gradient g + from_momentum M, the old M or the new one.
struct MomentumWeights {
  float keep, absorb, from_gradient, from_momentum;
  bool old_momentum;
};

// A verdict's words for one parameter, on its device: the first is its first element's.
struct DeviceVerdict {
  const std::uint64_t* negative;
  const std::uint64_t* held_elements;  // null: none is held
  const std::uint64_t* held_blocks;
  std::int64_t first_block;  // bit of held_blocks
  std::int64_t block;        // elements
  float decay, step;
};

struct AdamFactors {
  float keep1, absorb1, keep2, absorb2;
  float step;  // step / (1 - b1^t)
  float root;  // sqrt(1 - b2^t)
  float epsilon, decay;
};

struct CudaOptim {
  virtual ~CudaOptim() = default;

  // *sum <- what optim/square_sum.h says of x. `row_sums` has a double for each row, `zero_rows`
  // (or null) a byte.
  virtual void square_sum(const Tensor& x, double* sum, double* row_sums, std::uint8_t* zero_rows,
                          Stream& stream) = 0;
  // The first `count` elements of flat arrays; momentum f32 or bf16. Nothing is read or written
  // where `gate` is not null and *gate not finite.
  virtual void absorb(const MomentumWeights& weights, std::int64_t count, const float* gradient,
                      const Tensor& momentum, float* direction, const double* gate,
                      Stream& stream) = 0;

  // The same of matrices that lie alike, with *square_sum <- what square_sum() says of the
  // direction: one pass where two would read it again. `row_sums` as there; padding is not touched.
  virtual void absorb_and_sum(const MomentumWeights& weights, const Tensor& gradient,
                              const Tensor& momentum, const Tensor& direction, const double* gate,
                              double* square_sum, double* row_sums, Stream& stream) = 0;

  // y <- x / (by.factor sqrt(*square_sum) + by.epsilon), in y's type, as optim/newton_schulz.cpp
  // rounds it. x f32 with any row stride, y contiguous.
  virtual void normalize(const Tensor& x, const Tensor& y, const double* square_sum,
                         const Normalization& by, Stream& stream) = 0;
  virtual void scale(const Tensor& x, const Tensor& y, float factor, Stream& stream) = 0;
  // result <- a I + b gram + c square (f32), all contiguous and square; with f32 result is square.
  virtual void polynomial(const Quintic& quintic, const Tensor& gram, const Tensor& square,
                          const Tensor& result, Stream& stream) = 0;

  // One pass over a parameter: value, what products read, and *digest (zeroed before) grows by its
  // digest.
  virtual void apply_verdict(const DeviceVerdict& verdict, const Parameter& parameter,
                             std::uint64_t* digest, Stream& stream) = 0;
  virtual void apply_direction(const float* direction, float decay, float step,
                               const Parameter& parameter, std::uint64_t* digest,
                               Stream& stream) = 0;
  virtual void apply_adamw(const AdamFactors& factors, const float* gradient, float* first,
                           float* second, const Parameter& parameter, std::uint64_t* digest,
                           Stream& stream) = 0;
  virtual void apply_decay(float decay, const Parameter& parameter, std::uint64_t* digest,
                           Stream& stream) = 0;
};

// The plugin's; throws as cuda_backend() does. (The plugin itself has another, in optim_cuda.cu.)
CudaOptim& cuda_optim();

}  // namespace ballot

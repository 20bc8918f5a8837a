// The model's ops as the CUDA backend implements them; each does what the op's own header says, on
// device memory, asynchronously on the stream.
//
// Called by the ops themselves, which have checked shapes and types. Every pointer is an address of
// the stream's device. Results have the same bits every time on the same device: all sums are in a
// fixed order.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"           // Stream, Tensor
#include "models/ops/attention.h"  // AttentionShape
#include "models/ops/rms_norm.h"   // RmsNormGradient
#include "models/ops/rope.h"       // RopeTable

namespace ballot {

struct CudaModelOps {
  virtual ~CudaModelOps() = default;

  virtual void embedding(const Tensor& table, std::span<const std::int32_t> tokens, const Tensor& x,
                         Stream& stream) = 0;
  virtual void embedding_backward(std::span<const std::int32_t> tokens, const Tensor& dx,
                                  const Tensor& dtable, std::byte* scratch, Stream& stream) = 0;
  virtual std::int64_t embedding_scratch_bytes(std::int64_t rows) = 0;

  virtual void rms_norm(const Tensor& x, const Tensor& addend, const Tensor& gain, float epsilon,
                        const Tensor& y, float* inverse_rms, Stream& stream) = 0;
  virtual void rms_norm_backward(const Tensor& x, const float* inverse_rms, const Tensor& gain,
                                 const Tensor& dy, const RmsNormGradient& gradient, float* partials,
                                 Stream& stream) = 0;
  virtual std::int64_t rms_norm_partials(std::int64_t rows, std::int64_t cols) = 0;

  virtual void swiglu(const Tensor& up_gate, const Tensor& act, Stream& stream) = 0;
  virtual void swiglu_backward(const Tensor& up_gate, const Tensor& act, Stream& stream) = 0;

  virtual void attention(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
                         const Tensor& output, float* log_sum_exp, std::byte* scratch,
                         Stream& stream) = 0;
  virtual void attention_backward(const AttentionShape& shape, const RopeTable& rope,
                                  const Tensor& vkq, const Tensor& output, const Tensor& doutput,
                                  const float* log_sum_exp, std::byte* scratch, Stream& stream) = 0;
  virtual std::int64_t attention_scratch_bytes(const AttentionShape& shape, DType type) = 0;
  // How much of attention's scratch one array of scores takes, from now on; for tests and tuning.
  // Other sizes give other roundings.
  virtual void set_attention_score_bytes(std::int64_t bytes) = 0;

  virtual void cross_entropy(const Tensor& logits, std::span<const std::int32_t> targets,
                             double* losses, Stream& stream) = 0;
  virtual void cross_entropy_with_gradient(const Tensor& logits,
                                           std::span<const std::int32_t> targets, float scale,
                                           double* losses, const Tensor& dlogits,
                                           Stream& stream) = 0;
  // losses[count] = the sum of losses[0 .. count).
  virtual void sum_losses(double* losses, std::int64_t count, Stream& stream) = 0;
};

// The plugin's; throws as cuda_backend() does.
CudaModelOps& cuda_model_ops();

}  // namespace ballot

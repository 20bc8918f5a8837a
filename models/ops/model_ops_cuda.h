// The plugin's model ops. Each op is defined in the *_cuda.cu file beside its CPU file.
#pragma once

#include "models/ops/cuda_model_ops.h"  // CudaModelOps

namespace ballot {

class PluginModelOps final : public CudaModelOps {
 public:
  void embedding(const Tensor& table, std::span<const std::int32_t> tokens, const Tensor& x,
                 Stream& stream) override;
  void embedding_backward(std::span<const std::int32_t> tokens, const Tensor& dx,
                          const Tensor& dtable, std::byte* scratch, Stream& stream) override;
  std::int64_t embedding_scratch_bytes(std::int64_t rows) override;

  void rms_norm(const Tensor& x, const Tensor& addend, const Tensor& gain, float epsilon,
                const Tensor& y, float* inverse_rms, Stream& stream) override;
  void rms_norm_backward(const Tensor& x, const float* inverse_rms, const Tensor& gain,
                         const Tensor& dy, const RmsNormGradient& gradient, float* partials,
                         Stream& stream) override;
  std::int64_t rms_norm_partials(std::int64_t rows, std::int64_t cols) override;

  void swiglu(const Tensor& up_gate, const Tensor& act, Stream& stream) override;
  void swiglu_backward(const Tensor& up_gate, const Tensor& act, Stream& stream) override;

  void attention(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
                 const Tensor& output, float* log_sum_exp, std::byte* scratch,
                 Stream& stream) override;
  void attention_backward(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
                          const Tensor& output, const Tensor& doutput, const float* log_sum_exp,
                          std::byte* scratch, Stream& stream) override;
  std::int64_t attention_scratch_bytes(const AttentionShape& shape, DType type) override;
  void set_attention_score_bytes(std::int64_t bytes) override;

  void cross_entropy(const Tensor& logits, std::span<const std::int32_t> targets, double* losses,
                     Stream& stream) override;
  void cross_entropy_with_gradient(const Tensor& logits, std::span<const std::int32_t> targets,
                                   float scale, double* losses, const Tensor& dlogits,
                                   Stream& stream) override;
  void sum_losses(double* losses, std::int64_t count, Stream& stream) override;
};

}  // namespace ballot

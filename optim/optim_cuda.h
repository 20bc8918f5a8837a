// CudaOptim as the plugin implements it, one *_cuda.cu file for each concept. Inside the plugin
// only.
#pragma once

#include "optim/cuda_optim.h"

namespace ballot {

class PluginOptim final : public CudaOptim {
 public:
  // square_sum_cuda.cu
  void square_sum(const Tensor& x, double* sum, double* row_sums, std::uint8_t* zero_rows,
                  Stream& stream) override;
  // direction_cuda.cu
  void absorb(const MomentumWeights& weights, std::int64_t count, const float* gradient,
              const Tensor& momentum, float* direction, const double* gate,
              Stream& stream) override;
  void absorb_and_sum(const MomentumWeights& weights, const Tensor& gradient,
                      const Tensor& momentum, const Tensor& direction, const double* gate,
                      double* square_sum, double* row_sums, Stream& stream) override;
  // newton_schulz_cuda.cu
  void normalize(const Tensor& x, const Tensor& y, const double* square_sum,
                 const Normalization& by, Stream& stream) override;
  void scale(const Tensor& x, const Tensor& y, float factor, Stream& stream) override;
  void polynomial(const Quintic& quintic, const Tensor& gram, const Tensor& square,
                  const Tensor& result, Stream& stream) override;
  // replicated_update_cuda.cu
  void apply_verdict(const DeviceVerdict& verdict, const Parameter& parameter,
                     std::uint64_t* digest, Stream& stream) override;
  void apply_direction(const float* direction, float decay, float step, const Parameter& parameter,
                       std::uint64_t* digest, Stream& stream) override;
  void apply_adamw(const AdamFactors& factors, const float* gradient, float* first, float* second,
                   const Parameter& parameter, std::uint64_t* digest, Stream& stream) override;
  void apply_decay(float decay, const Parameter& parameter, std::uint64_t* digest,
                   Stream& stream) override;

 private:
  // square_sum_cuda.cu
  void sum_rows(const double* row_sums, std::int64_t rows, double* sum, Stream& stream);
};

}  // namespace ballot

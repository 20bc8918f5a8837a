// The mean's kernels as the CUDA backend implements them, on device memory, asynchronously on the
// stream, with the bits of collectives/mean.cpp. All pointers are the device's.
#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "core/device.h"  // Stream
#include "core/tensor.h"  // DType

namespace ballot {

// What one owner adds: in the order of ranks, over those that count, divided by their number and
// rounded once; 0 where nobody counts.
struct SliceSum {
  DType type;
  std::int32_t ranks, segments;
  std::int64_t elements;
  const void* const* sources;   // by rank: its elements
  const std::uint32_t* counts;  // [ranks][segments], not 0: rank r counts in segment s
  const std::int64_t* ends;     // by segment: its end within the slice, at most `elements`
  void* mean;                   // may be one of the sources
};

struct CudaMean {
  virtual ~CudaMean() = default;
  // target[i] = source[i] times what brings a vector of *square_sum to a norm of at most `most`
  // (0: any), as runtime/ballot_caster.cpp computes it; nothing is written where *square_sum is not
  // finite.
  virtual void clip(const float* source, std::int64_t count, const double* square_sum, double most,
                    float* target, Stream& stream) = 0;
  virtual void sum_slice(const SliceSum& sum, Stream& stream) = 0;
  virtual void widen(const bfloat16* from, std::int64_t count, float* to, Stream& stream) = 0;
};

// The plugin's; throws as cuda_backend() does. (The plugin itself has another, in mean_cuda.cu.)
CudaMean& cuda_mean();

}  // namespace ballot

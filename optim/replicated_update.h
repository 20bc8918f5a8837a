// What every replica computes redundantly, to the same bits on every machine: applying a verdict,
// AdamW, dense steps.
//
// Fixed order, no fused multiply-add (-ffp-contract=off for replicated_update.cpp), IEEE square
// root and division, no libm in an element loop. With decay = 0 an element that takes no step keeps
// its bits, -0 too. Every pass also refreshes what products read (bf16) and adds up the parameter's
// digest: the sum over its real elements of a hash of (bits, arena index), mod 2^64, so order does
// not matter. Any team size.
//
// Tensors lie on the parameter's device; a verdict is the host's, with its bits on the device where
// the vote has left them there. The digest is a host value, so all of them wait for the stream,
// unless a GPU's caller wants it `later`: not null, it is device memory, zeroed, to which the
// digest is added in the stream's order; 0 is returned, and the verdict stays as it is until then.
#pragma once

#include <cstdint>

#include "collectives/verdict.h"
#include "core/parameter.h"
#include "optim/parameter_group.h"

namespace ballot {

// W <- (W - decay W) - step * (+1 or -1), or without the step where the verdict holds. Returns the
// digest.
std::uint64_t apply_verdict(const Verdict& verdict, const BallotSegment& segment,
                            RateFactors factors, const Parameter& parameter, Stream& stream,
                            std::uint64_t* later = nullptr);

// W <- (W - decay W) - step * direction.  (muon, sgd)
std::uint64_t apply_direction(const Tensor& direction, RateFactors factors,
                              const Parameter& parameter, Stream& stream,
                              std::uint64_t* later = nullptr);

// What AdamW's update multiplies and divides by at its t-th update, with the bias corrections in
// it: computed once per step by one worker (journal, elastic runs), the same on every replica.
struct AdamCorrections {
  float step = 0;  // step / (1 - b1^t)
  float root = 0;  // sqrt(1 - b2^t)
};
// `count` = t, from 1.
AdamCorrections adam_corrections(const ParameterGroup& group, std::int64_t count, float step);

// m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;
// W <- (W - decay W) - (step / (1-b1^t)) * m / (sqrt(v) / sqrt(1-b2^t) + eps)      (Loshchilov,
// Hutter 2019) `gradient`, `first` and `second` f32 shaped as the parameter.
std::uint64_t apply_adamw(const ParameterGroup& group, const Tensor& gradient,
                          AdamCorrections corrections, float decay, const Tensor& first,
                          const Tensor& second, const Parameter& parameter, Stream& stream,
                          std::uint64_t* later = nullptr);
// The same at its `count`-th update.
inline std::uint64_t apply_adamw(const ParameterGroup& group, const Tensor& gradient,
                                 std::int64_t count, RateFactors factors, const Tensor& first,
                                 const Tensor& second, const Parameter& parameter, Stream& stream) {
  return apply_adamw(group, gradient, adam_corrections(group, count, factors.step), factors.decay,
                     first, second, parameter, stream);
}

// Only decay and digest (no contribution this step), or only the digest with decay = 0.
std::uint64_t apply_decay(RateFactors factors, const Parameter& parameter, Stream& stream,
                          std::uint64_t* later = nullptr);

// For one index no two values have the same digest.
std::uint64_t element_digest(std::uint32_t bits, std::uint64_t arena_index);

}  // namespace ballot

// One allocation for all parameters of a model and one for the gradients of those that are trained,
// on one device, laid out before anything is read.
//
// Parameters lie in the order given (models give backward order), each at a multiple of 512
// elements, so a cache line of ballot bits never belongs to two tensors. The index of an element in
// the arena names it everywhere: coins and digests use it. With compute = bf16 a third array holds
// the rounded copy that products read; whoever changes a value refreshes it. Readable by many
// threads, written by one.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/parameter.h"  // Parameter

namespace ballot {

inline constexpr std::int64_t kArenaAlignment = 512;  // elements
inline constexpr std::int64_t kRowAlignment = 64;     // elements

class ParameterArena {
 public:
  ParameterArena(std::span<const ParameterShape> shapes, DType compute, Device device = {});

  std::span<const Parameter> parameters() const { return parameters_; }
  const Parameter& find(const std::string& name) const;  // throws LogicError
  const Parameter* find_or_null(const std::string& name) const;
  std::int64_t count() const;                      // P: real elements of all parameters
  std::int64_t extent() const { return extent_; }  // with padding
  DType compute() const { return compute_; }
  Device device() const { return values_.device(); }

  // Rounds values into what products read; nothing to do when compute is f32. Without a stream it
  // is done on return (where a run starts), else in that stream's order.
  void refresh_compute() const;
  void refresh_compute(const Parameter& parameter) const;
  void refresh_compute(const Parameter& parameter, Stream& stream) const;

 private:
  std::vector<Parameter> parameters_;
  std::int64_t extent_ = 0;
  DType compute_;
  Buffer values_;
  Buffer gradients_;
  Buffer compute_values_;
};

}  // namespace ballot

#include "runtime/momentum_average.h"

#include <algorithm>

#include "core/bfloat16.h"
#include "core/error.h"
#include "core/host_bytes.h"

namespace ballot {
namespace {

// Elements of a private momentum, with its rows' padding (zeros, whose mean is zero).
std::int64_t elements_of(const ParameterState& state) {
  if (!state.is_private || state.momentum.view().data == nullptr) return 0;
  return state.part.extent();
}

// Elements [first, first + count) of a momentum, flat.
Tensor flat(const ParameterState& state, std::int64_t first, std::int64_t count) {
  const Tensor& all = state.momentum.view();
  return make_matrix(all.data + first * static_cast<std::int64_t>(size_bytes(all.type)), all.type,
                     1, count, count, all.device);
}

}  // namespace

MomentumAverage::MomentumAverage(OptimizerState& state, Transport& transport,
                                 std::int64_t piece_elements)
    : state_(state) {
  for (const ParameterState& s : state.states()) {
    require(elements_of(s) == 0 || s.part.is_all_of(*s.parameter),
            "momenta of members are averaged: {} is cut", s.parameter->shape.name);
    total_ += elements_of(s);
  }
  piece_ = std::min(total_, piece_elements);
  if (piece_ > 0)
    mean_ = std::make_unique<Mean>(std::vector<std::int64_t>{piece_}, DType::bf16, transport);
}

MomentumAverage::~MomentumAverage() = default;

// body(state, first element of it, how many, their place after `begin`) for what of elements
// [begin, end) of all private momenta, one after the other, is in each.
template <class Body>
void MomentumAverage::for_each_stretch(std::int64_t begin, std::int64_t end, const Body& body) {
  std::int64_t at = 0;
  for (ParameterState& s : state_.states()) {
    const std::int64_t from = std::max(begin, at), to = std::min(end, at + elements_of(s));
    if (from < to) body(s, from - at, to - from, from - begin);
    at += elements_of(s);
  }
}

void MomentumAverage::average(std::int64_t step, Deadline deadline) {
  for (std::int64_t begin = 0; begin < total_; begin += piece_) {
    const std::int64_t end = std::min(total_, begin + piece_);
    mean_->begin(step);
    float* const values = mean_->values().data();
    for_each_stretch(
        begin, end,
        [&](ParameterState& s, std::int64_t first, std::int64_t count, std::int64_t place) {
          const HostBytes host(flat(s, first, count));
          for (std::int64_t i = 0; i < count; ++i)
            values[place + i] = s.momentum.view().type == DType::f32
                                    ? reinterpret_cast<const float*>(host.data())[i]
                                    : to_float(reinterpret_cast<const bfloat16*>(host.data())[i]);
        });
    std::fill(values + (end - begin), values + piece_, 0.0f);
    mean_->reduce(deadline);
    for_each_stretch(
        begin, end,
        [&](ParameterState& s, std::int64_t first, std::int64_t count, std::int64_t place) {
          if (before_change_) before_change_(*s.parameter, Changing::state);
          const HostBytes host(flat(s, first, count), HostBytes::Holds::zeros);
          for (std::int64_t i = 0; i < count; ++i) {
            if (s.momentum.view().type == DType::f32)
              reinterpret_cast<float*>(host.data())[i] = values[place + i];
            else
              reinterpret_cast<bfloat16*>(host.data())[i] = to_bfloat16(values[place + i]);
          }
          host.put_back();
        });
  }
}

}  // namespace ballot

#include "runtime/step_layout.h"

#include "core/error.h"

namespace ballot {
namespace {

BallotSegment to_segment(const Parameter& parameter) {
  BallotSegment segment;
  segment.name = parameter.shape.name;
  segment.rows = parameter.shape.rows;
  segment.cols = parameter.shape.cols;
  segment.row_stride = parameter.row_stride;
  segment.arena_offset = parameter.offset;
  return segment;
}

}  // namespace

StepLayout::StepLayout(const OptimizerState& state) : places_(state.parameter_count()) {
  std::vector<BallotSegment> voted, alone;
  for (const ParameterState& s : state.states()) {
    const Parameter& p = *s.parameter;
    Place& place = places_[static_cast<std::size_t>(p.index)];
    if (s.group->reduce == Reduce::vote) {
      place.segment = static_cast<std::int64_t>(voted.size());
      voted.push_back(to_segment(p));
      continue;
    }
    place.wire = wire_index(s.group->reduce == Reduce::mean_f32 ? DType::f32 : DType::bf16);
    place.mean_offset = mean_extents_[place.wire];
    place.mean_segment = static_cast<std::int64_t>(mean_lengths_[place.wire].size());
    mean_lengths_[place.wire].push_back(p.extent());
    mean_extents_[place.wire] += p.extent();
    if (is_sign_rule(s.group->rule)) {
      place.segment = static_cast<std::int64_t>(alone.size());
      alone.push_back(to_segment(p));
    }
  }
  voted_ = BallotLayout(std::move(voted));
  alone_ = BallotLayout(std::move(alone));
}

const BallotSegment& StepLayout::segment(const ParameterState& state) const {
  const std::int64_t index = place(state).segment;
  require(index >= 0, "{} has no ballot", state.parameter->shape.name);
  const BallotLayout& layout = state.group->reduce == Reduce::vote ? voted_ : alone_;
  return layout.segments()[static_cast<std::size_t>(index)];
}

Tensor trimmed(const OwnedTensor& owned, const Parameter& parameter) {
  return make_matrix(owned.view().data, owned.view().type, parameter.shape.rows,
                     parameter.shape.cols, parameter.row_stride, owned.view().device);
}

Tensor shaped_as(const Parameter& parameter, float* data, Device device) {
  return make_matrix(data, DType::f32, parameter.shape.rows, parameter.shape.cols,
                     parameter.row_stride, device);
}

}  // namespace ballot

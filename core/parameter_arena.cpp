#include "core/parameter_arena.h"

#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED void round_range(const float* __restrict x, bfloat16* __restrict y,
                                   std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = to_bfloat16(x[i]);
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

const char* to_string(ParameterKind kind) {
  switch (kind) {
    case ParameterKind::hidden_matrix:
      return "hidden";
    case ParameterKind::embedding:
      return "embedding";
    case ParameterKind::head:
      return "head";
    case ParameterKind::vector:
      return "vector";
  }
  return "?";
}

ParameterArena::ParameterArena(std::span<const ParameterShape> shapes, DType compute, Device device)
    : compute_(compute) {
  std::vector<std::int64_t> gradient_offsets;
  std::int64_t gradient_extent = 0;
  for (const ParameterShape& shape : shapes) {
    require(shape.rows > 0 && shape.cols > 0, "parameter {} is ({}, {})", shape.name, shape.rows,
            shape.cols);
    require(find_or_null(shape.name) == nullptr, "parameter {} twice", shape.name);
    Parameter parameter;
    parameter.shape = shape;
    parameter.index = static_cast<std::int64_t>(parameters_.size());
    parameter.offset = extent_;
    parameter.row_stride = round_up(shape.cols, kRowAlignment);
    extent_ = round_up(extent_ + parameter.extent(), kArenaAlignment);
    gradient_offsets.push_back(gradient_extent);
    if (!shape.frozen)
      gradient_extent = round_up(gradient_extent + parameter.extent(), kArenaAlignment);
    parameters_.push_back(std::move(parameter));
  }
  values_ = Buffer(extent_ * sizeof(float), device);
  gradients_ = Buffer(gradient_extent * sizeof(float), device);
  if (compute == DType::bf16) compute_values_ = Buffer(extent_ * sizeof(bfloat16), device);
  for (Parameter& p : parameters_) {
    const auto view = [&](const Buffer& buffer, DType type, std::int64_t offset) {
      return make_matrix(buffer.data() + offset * static_cast<std::int64_t>(size_bytes(type)), type,
                         p.shape.rows, p.shape.cols, p.row_stride, device);
    };
    p.value = view(values_, DType::f32, p.offset);
    if (!p.shape.frozen)
      p.gradient =
          view(gradients_, DType::f32, gradient_offsets[static_cast<std::size_t>(p.index)]);
    p.compute = compute == DType::bf16 ? view(compute_values_, DType::bf16, p.offset) : p.value;
  }
}

const Parameter* ParameterArena::find_or_null(const std::string& name) const {
  for (const Parameter& parameter : parameters_)
    if (parameter.shape.name == name) return &parameter;
  return nullptr;
}

const Parameter& ParameterArena::find(const std::string& name) const {
  const Parameter* found = find_or_null(name);
  require(found != nullptr, "no parameter named {}", name);
  return *found;
}

std::int64_t ParameterArena::count() const {
  std::int64_t total = 0;
  for (const Parameter& parameter : parameters_) total += parameter.count();
  return total;
}

void ParameterArena::refresh_compute() const {
  if (compute_ == DType::f32) return;
  Stream stream(device());
  for (const Parameter& parameter : parameters_) refresh_compute(parameter, stream);
  stream.synchronize();
}

void ParameterArena::refresh_compute(const Parameter& parameter) const {
  if (compute_ == DType::f32) return;
  Stream stream(device());
  refresh_compute(parameter, stream);
  stream.synchronize();
}

void ParameterArena::refresh_compute(const Parameter& parameter, Stream& stream) const {
  if (compute_ == DType::f32) return;
  if (device().kind == Device::Kind::cuda)
    return cuda_core().round_to_bf16(parameter.value, parameter.compute, stream);
  const float* source = parameter.value.f32();
  bfloat16* target = parameter.compute.bf16();
  parallel_for(parameter.extent(), 4096, [&](std::int64_t begin, std::int64_t end) {
    round_range(source + begin, target + begin, end - begin);
  });
}

}  // namespace ballot

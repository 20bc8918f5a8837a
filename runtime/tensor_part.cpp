#include "runtime/tensor_part.h"

#include "core/error.h"
#include "core/parameter_arena.h"

namespace ballot {

TensorPart part_of(const Parameter& parameter, const MatrixPart& part) {
  const ParameterShape& shape = parameter.shape;
  const bool wide = is_wide(shape);
  const std::int64_t longer = wide ? shape.cols : shape.rows;
  require(part.begin >= 0 && part.begin < part.end && part.end <= longer,
          "part [{}, {}) of {} ({}, {})", part.begin, part.end, shape.name, shape.rows, shape.cols);
  if (part.count() == longer) return all_of(parameter);
  if (!wide) return {false, part.begin, part.end, part.count(), shape.cols, parameter.row_stride};
  const std::int64_t stride = (part.count() + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  return {true, part.begin, part.end, shape.rows, part.count(), stride};
}

std::int64_t stretches(const TensorPart& part) {
  return part.by_columns ? part.rows : 1;
}

BallotSegment stretch(const BallotSegment& whole, const TensorPart& part, std::int64_t k) {
  require(k >= 0 && k < stretches(part), "stretch {} of {} of {}", k, stretches(part), whole.name);
  BallotSegment s = whole;
  std::int64_t first = part.begin * whole.row_stride;
  s.rows = part.rows;
  s.cols = part.cols;
  if (part.by_columns) {
    first = k * whole.row_stride + part.begin;
    s.rows = 1;
    // The last part has the blocks of padding alone, too.
    s.row_stride = (part.end == whole.cols ? whole.row_stride : part.end) - part.begin;
    require(part.begin % whole.block == 0 && s.row_stride % whole.block == 0,
            "columns [{}, {}) of {}, whose blocks have {}", part.begin, part.end, whole.name,
            whole.block);
  }
  s.arena_offset += first;
  s.offset += first;
  s.first_block += first / whole.block;
  return s;
}

}  // namespace ballot

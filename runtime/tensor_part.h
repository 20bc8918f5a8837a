// What one member of a voter works on of a tensor: all of it, or one part of a cut one.
//
// A tall matrix is cut by rows, so a part is one stretch of it. A wide one is cut by columns, at
// whole blocks of the ballot: in the tensor its rows lie apart; on its own (momentum, the gradient
// on its way, the direction) it is packed. Neither shares a word of the ballot's bits with another
// part.
#pragma once

#include <algorithm>
#include <cstdint>

#include "collectives/ballot_layout.h"
#include "core/parameter.h"
#include "optim/sharding_plan.h"

namespace ballot {

struct TensorPart {
  bool by_columns = false;
  std::int64_t begin = 0, end = 0;  // rows, or columns
  // As it lies on its own, the elements between rows included.
  std::int64_t rows = 0, cols = 0, row_stride = 0;
  std::int64_t extent() const { return rows * row_stride; }
  bool is_all_of(const Parameter& parameter) const {
    return rows == parameter.shape.rows && cols == parameter.shape.cols;
  }
};

// Elements of a block of the ballot in rows that lie so far apart (collectives/ballot_layout.h).
inline std::int64_t block_of_rows(std::int64_t row_stride) {
  return std::min(row_stride & -row_stride, kBallotAlignment);
}

// Which side is cut: columns of a wide matrix.
inline bool is_wide(const ParameterShape& shape) {
  return shape.rows <= shape.cols;
}

inline TensorPart all_of(const Parameter& parameter) {
  const ParameterShape& shape = parameter.shape;
  return {false, 0, shape.rows, shape.rows, shape.cols, parameter.row_stride};
}
TensorPart part_of(const Parameter& parameter, const MatrixPart& part);

// Memory of at least extent() elements on `device`, as the part's matrix.
inline Tensor matrix_of(const TensorPart& part, void* data, DType type, Device device) {
  return make_matrix(data, type, part.rows, part.cols, part.row_stride, device);
}

// Where the part's bits are: stretch k < stretches() is a segment of its own, in place. One for all
// rows, or one a row where columns are cut.
std::int64_t stretches(const TensorPart& part);
BallotSegment stretch(const BallotSegment& whole, const TensorPart& part, std::int64_t k);

}  // namespace ballot

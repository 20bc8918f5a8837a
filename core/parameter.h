// One trained tensor: its name, its kind, and where its value and gradient lie in the arena.
//
// A matrix (rows, cols) lies row by row, rows `row_stride` elements apart; row_stride is cols
// rounded up to 64 so that blocks of a ballot never cross a row. Vectors are matrices of one row.
// Padding is zero in value and gradient for the whole run, never votes, and is not counted in P.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor.h"  // Tensor

namespace ballot {

// What decides a parameter's group, hence its rule: see optim/parameter_group.h.
enum class ParameterKind { hidden_matrix, embedding, head, vector };

const char* to_string(ParameterKind kind);

// What a model says of a parameter before memory exists.
struct ParameterShape {
  std::string name;  // the Hugging Face name, e.g. "model.layers.0.self_attn.q_proj.weight"
  ParameterKind kind;
  std::int64_t rows = 1;
  std::int64_t cols = 0;
  bool tied = false;    // an embedding that is also the output head: complete last, and every row
                        // gets a gradient
  bool frozen = false;  // keeps its value for the whole run: no gradient, no momentum, no vote
  bool decays = true;   // weight decay, where its group has any
};

struct Parameter {
  ParameterShape shape;
  std::int64_t index = 0;       // its place in the arena's order
  std::int64_t offset = 0;      // first element in the arena, a multiple of 512
  std::int64_t row_stride = 0;  // elements
  Tensor value;                 // (rows, cols) f32, the master
  Tensor gradient;              // (rows, cols) f32; data null where it is frozen
  Tensor compute;               // (rows, cols) what products read: bf16 copy, or the master itself

  std::int64_t count() const { return shape.rows * shape.cols; }   // real elements
  std::int64_t extent() const { return shape.rows * row_stride; }  // with row padding
};

}  // namespace ballot

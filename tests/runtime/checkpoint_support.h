// A small state of parameters, momentum and AdamW's moments for tests of checkpoints.
#pragma once

#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/hash.h"
#include "runtime/before_change.h"
#include "runtime/checkpoint_state.h"
#include "runtime/optimizer_state.h"
#include "runtime/replica_audit.h"
#include "runtime/run_config.h"

namespace ballot {

// Matrices with and without padding, a tensor larger than a small staging memory, single floats.
inline std::vector<ParameterShape> small_shapes() {
  return {{"head.weight", ParameterKind::head, 7, 33},
          {"layers.1.weight", ParameterKind::hidden_matrix, 40, 64},
          {"layers.1.norm", ParameterKind::vector, 1, 1},
          {"layers.0.weight", ParameterKind::hidden_matrix, 5, 130},
          {"layers.0.norm", ParameterKind::vector, 1, 70},
          {"embed.weight", ParameterKind::embedding, 31, 17}};
}

inline std::array<ParameterGroup, 4> small_groups() {
  std::array<ParameterGroup, 4> groups = preset_groups("olion", 0.01);
  groups[static_cast<std::size_t>(ParameterKind::embedding)].momentum_type = DType::bf16;
  return groups;  // vectors: AdamW on the mean
}

class SmallState {
 public:
  // The same `seed` gives the same parameters and replicated state; `voter` decides the momentum.
  explicit SmallState(std::uint64_t seed, int voter = 0)
      : groups_(small_groups()), arena_(small_shapes(), DType::f32), state_(arena_, groups_) {
    for (ParameterState& s : state_.states()) {
      change(*s.parameter, Changing::value, seed);
      change(*s.parameter, Changing::state,
             s.is_private ? seed + 1000 * static_cast<std::uint64_t>(voter + 1) : seed);
    }
  }

  const ParameterArena& arena() const { return arena_; }
  OptimizerState& state() { return state_; }
  std::vector<std::uint64_t> digests() const { return parameter_digests(arena_); }
  std::uint64_t digest() const { return fold(digests()); }

  void change(const Parameter& parameter, Changing what, std::uint64_t seed) {
    ParameterState& s = state_.of(parameter);
    if (what == Changing::value) {
      fill(parameter, parameter.value, seed);
      return;
    }
    fill(parameter, s.momentum, hash64(seed, 1, 0));
    if (s.second.view().data != nullptr) {
      fill(parameter, s.second, hash64(seed, 2, 0));
      s.count = static_cast<std::int64_t>(seed % 3);
    }
  }

  // Everything that a checkpoint keeps, padding left out.
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    for (const ParameterState& s : state_.states())
      for (const Tensor& tensor : {s.parameter->value, s.momentum.view(), s.second.view()})
        append(*s.parameter, tensor, all);
    return all;
  }

 private:
  static void fill(const Parameter& parameter, const Tensor& tensor, std::uint64_t seed) {
    const std::size_t element = size_bytes(tensor.type);
    for (std::int64_t r = 0; r < parameter.shape.rows; ++r)
      for (std::int64_t c = 0; c < parameter.shape.cols; ++c) {
        const auto number =
            static_cast<std::uint32_t>(hash64(seed, static_cast<std::uint64_t>(parameter.index),
                                              static_cast<std::uint64_t>(r * 1000 + c)));
        const std::uint32_t finite = number & 0xbf7fbf7fU;
        std::memcpy(tensor.data + static_cast<std::size_t>(r * parameter.row_stride + c) * element,
                    &finite, element);
      }
  }
  static void append(const Parameter& parameter, const Tensor& tensor,
                     std::vector<std::byte>& all) {
    if (tensor.data == nullptr) return;
    const std::size_t element = size_bytes(tensor.type);
    for (std::int64_t r = 0; r < parameter.shape.rows; ++r) {
      const std::byte* row =
          tensor.data + static_cast<std::size_t>(r * parameter.row_stride) * element;
      all.insert(all.end(), row, row + static_cast<std::size_t>(parameter.shape.cols) * element);
    }
  }

  std::array<ParameterGroup, 4> groups_;
  ParameterArena arena_;
  OptimizerState state_;
};

inline TrainingState small_training(std::int64_t step, std::uint64_t digest, int workers = 1) {
  TrainingState training;
  training.step = step;
  training.sample_counter = 4 * step;
  training.tokens_total = 64 * step;
  training.workers = workers;
  training.digest = digest;
  training.processor = "test";
  training.compute = "f32";
  training.journal = JournalPlace{{1, 2}, {3, static_cast<std::uint64_t>(step)}};
  return training;
}

}  // namespace ballot

// Runs the stored float64 trajectories in fp32 through the real direction, ballot, vote and update,
// and counts what differs.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "collectives/vote.h"
#include "models/safetensors.h"
#include "optim/direction.h"
#include "optim/replicated_update.h"
#include "tests/optim/matrices.h"

namespace ballot::golden {

inline const std::string kPath = BALLOT_SHARED_DATA "/optimizers/golden.safetensors";
inline bool present() {
  return std::filesystem::exists(kPath);
}

constexpr int kSteps = 6;
// Directions nearer to zero than this may have the other sign in fp32; such an element is excepted
// from then on.
constexpr double kMargin = 1e-5;

struct Shape {
  std::int64_t rows, cols;
  std::string name() const { return std::to_string(rows) + "x" + std::to_string(cols); }
};
constexpr Shape kShapes[] = {{24, 40}, {32, 32}, {40, 24}};

inline std::vector<double> values(const SafetensorsReader& file, const std::string& name) {
  const StoredTensor& tensor = file.get(name);
  std::vector<double> x(static_cast<std::size_t>(tensor.count()));
  if (tensor.type != StoredType::f64 || tensor.bytes.size() != x.size() * sizeof(double))
    throw std::runtime_error(name + " is not float64");
  std::memcpy(x.data(), tensor.bytes.data(), tensor.bytes.size());
  return x;
}

inline ParameterGroup group_of(Rule rule) {
  ParameterGroup group = default_group(rule);
  group.rate = 3e-3;
  group.weight_decay = 0.1;
  return group;
}

struct Outcome {
  std::int64_t elements = 0, excepted = 0;
  std::int64_t other_sign = 0;  // verdict bits that differ, elements not excepted
  double worst = 0;             // |W - golden|, elements not excepted
  std::uint64_t digest = 0;
};

// What one voter needs to know of a trajectory; names are functions of the step, from 1.
struct Trajectory {
  Rule rule;
  Shape shape;
  std::string final_value;
  std::function<std::string(int step, int voter)> gradient;
  std::function<std::string(int step)> sign;    // where the stored signs are; empty name: none
  std::function<std::string(int step)> margin;  // where |direction| is; empty name: none
};

inline Trajectory alone(Rule rule, Shape shape) {
  const std::string prefix = shape.name() + ".";
  const std::string x = rule == Rule::olion ? prefix + "olion.X" : "";
  const auto of_x = [x](int step) { return x.empty() ? x : x + std::to_string(step); };
  return {rule,
          shape,
          prefix + to_string(rule) + ".W",
          [prefix](int step, int) { return prefix + "g" + std::to_string(step); },
          of_x,
          of_x};
}

inline Trajectory of_three_voters(Shape shape) {
  const std::string prefix = shape.name() + ".vote.";
  return {Rule::olion,
          shape,
          prefix + "W",
          [prefix](int step, int voter) {
            return prefix + "g" + std::to_string(step) + "." + std::to_string(voter);
          },
          [prefix](int step) { return prefix + "verdict" + std::to_string(step); },
          [prefix](int step) { return prefix + "margin" + std::to_string(step); }};
}

// One voter's run of a sign rule; every rank of `transport` calls it.
inline Outcome run_voter(const SafetensorsReader& file, const Trajectory& t, Transport& transport) {
  Team team(1);
  Stream stream;
  const ParameterGroup group = group_of(t.rule);
  const std::vector<ParameterShape> shapes{
      {"w", ParameterKind::hidden_matrix, t.shape.rows, t.shape.cols}};
  const ParameterArena arena(shapes, DType::f32);
  const Parameter& w = arena.parameters()[0];
  const BallotLayout layout({segment_of(w)});
  const BallotSegment& segment = layout.segments()[0];
  fill(w.value, values(file, t.shape.name() + ".W0"));

  PaddedMatrix momentum(t.shape.rows, t.shape.cols), direction(t.shape.rows, t.shape.cols);
  NewtonSchulz newton_schulz(std::min(t.shape.rows, t.shape.cols), w.count(), DType::f32);
  Ballot ballot(layout);
  const auto deadline = [] { return Deadline::in(std::chrono::seconds(60)); };
  const auto vote = make_vote(ballot, transport, {.seed = 1}, deadline());
  Outcome outcome;
  outcome.elements = w.count();
  std::vector<bool> excepted(w.count(), false);
  for (int step = 1; step <= kSteps; ++step) {
    fill(w.gradient, values(file, t.gradient(step, transport.rank())));
    find_direction(group, w.gradient, momentum, direction, &newton_schulz, stream);
    cast_ballot(direction, segment, {.seed = 1, .step = step, .voter = transport.rank()}, {},
                ballot, stream);
    const Verdict& verdict = vote->elect(step, deadline());
    outcome.digest = apply_verdict(verdict, segment,
                                   rate_factors(group, 1, t.shape.rows, t.shape.cols), w, stream);
    if (t.sign(step).empty()) continue;
    const std::vector<double> sign = values(file, t.sign(step)),
                              margin = values(file, t.margin(step));
    for (std::int64_t i = 0; i < w.count(); ++i) {
      if (std::abs(margin[i]) < kMargin) excepted[i] = true;
      const std::int64_t at = segment.offset + i / t.shape.cols * w.row_stride + i % t.shape.cols;
      if (!excepted[i] && verdict.bits.get(at) != (sign[i] < 0)) ++outcome.other_sign;
    }
  }
  const std::vector<double> truth = values(file, t.final_value);
  const std::vector<float> result = elements(w.value);
  for (std::int64_t i = 0; i < w.count(); ++i) {
    if (excepted[i])
      ++outcome.excepted;
    else
      outcome.worst = std::max(outcome.worst, std::abs(result[i] - truth[i]));
  }
  return outcome;
}

// muon and adamw, on the mean gradient.
inline double worst_of_dense(const SafetensorsReader& file, Rule rule, Shape shape) {
  Team team(1);
  Stream stream;
  const ParameterGroup group = group_of(rule);
  const std::vector<ParameterShape> shapes{
      {"w", ParameterKind::hidden_matrix, shape.rows, shape.cols}};
  const ParameterArena arena(shapes, DType::f32);
  const Parameter& w = arena.parameters()[0];
  fill(w.value, values(file, shape.name() + ".W0"));
  PaddedMatrix first(shape.rows, shape.cols), second(shape.rows, shape.cols);
  NewtonSchulz newton_schulz(std::min(shape.rows, shape.cols), w.count(), DType::f32);
  for (int step = 1; step <= kSteps; ++step) {
    fill(w.gradient, values(file, shape.name() + ".g" + std::to_string(step)));
    const RateFactors factors = rate_factors(group, 1, shape.rows, shape.cols);
    if (rule == Rule::adamw) {
      apply_adamw(group, w.gradient, step, factors, first, second, w, stream);
    } else {
      find_direction(group, w.gradient, first, second, &newton_schulz, stream);
      apply_direction(second, factors, w, stream);
    }
  }
  const std::vector<double> truth = values(file, shape.name() + "." + to_string(rule) + ".W");
  const std::vector<float> result = elements(w.value);
  double worst = 0;
  for (std::size_t i = 0; i < truth.size(); ++i)
    worst = std::max(worst, std::abs(result[i] - truth[i]));
  return worst;
}

}  // namespace ballot::golden

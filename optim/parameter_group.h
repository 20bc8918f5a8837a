// A parameter group: which parameters follow which rule, at which rate, over which wire.
//
// Rules and defaults with their sources: docs/optimizers.md. Sign rules (olion, lion, signum) may
// vote or run on a mean gradient; dense rules (muon, adamw, sgd) need a mean.
#pragma once

#include <cstdint>
#include <string>

#include "core/parameter.h"  // ParameterKind
#include "core/tensor.h"     // DType
#include "optim/newton_schulz_coefficients.h"

namespace ballot {

enum class Rule { olion, lion, signum, muon, adamw, sgd };
enum class Reduce { vote, mean_f32, mean_bf16 };
enum class EmbeddingRows { seen, momentum };

const char* to_string(Rule rule);
const char* to_string(Reduce reduce);
bool is_sign_rule(Rule rule);

struct ParameterGroup {
  std::string name;  // "hidden", "embedding", "head", "vector"
  Rule rule = Rule::olion;
  Reduce reduce = Reduce::vote;
  double rate = 0;          // peak; the schedule multiplies it
  double weight_decay = 0;  // decoupled: W <- W - (rate * weight_decay) W
  double beta1 = 0.95;
  double beta2 = 0.98;
  double epsilon = 1e-8;      // adamw
  double momentum = 0.95;     // muon, signum, sgd
  bool newton_schulz = true;  // olion: hidden matrices; without it u itself is the direction
  int newton_schulz_steps = 5;
  Coefficients newton_schulz_coefficients = Coefficients::keller;
  DType newton_schulz_type = DType::f32;
  DType momentum_type = DType::f32;
  double abstain_below = 0;                            // of the tensor's RMS; votes only
  EmbeddingRows embedding_rows = EmbeddingRows::seen;  // untied embeddings under a vote
  double clip_norm =
      1.0;  // each contribution to a mean is clipped to this norm per tensor; 0 = never
};

// The group's defaults for a rule: betas, constants. olion .95/.98; lion .95/.98 (language models);
// adamw .9/.95.
ParameterGroup default_group(Rule rule);

// W <- (W - decay W) - step * direction; both factors once per step in double, rounded to fp32.
struct RateFactors {
  float decay = 0;
  float step = 0;
};
// step = rate x 0.2 for olion, rate for lion, signum and sgd, rate x 0.2 sqrt(max(m, n)) for muon
// (Moonlight), rate for adamw (bias corrections apart). `factor` is the schedule's.
RateFactors rate_factors(const ParameterGroup& group, double factor, std::int64_t rows,
                         std::int64_t cols);

}  // namespace ballot

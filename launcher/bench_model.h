// `ballot bench model`: tokens per second of training, time per stage, and the share of the matmul
// peak of the same run.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor.h"  // DType
#include "runtime/memory_plan.h"

namespace ballot {

struct ModelBench {
  std::string config =
      "llama-28m";  // llama-28m, llama-2m, a model of models/published.h, or a folder (config.json)
  std::string rule =
      "adamw";  // adamw (what a PyTorch user compares with) or olion (votes as the only voter)
  DType compute = DType::f32;
  Device device;
  std::int64_t batch = 8, length = 256;
  std::int64_t warmup_steps = 2, steps = 8;
  bool recompute = false;                 // train.recompute = "layer"
  DType newton_schulz_type = DType::f32;  // of its products
  DType momentum_type = DType::f32;       // but AdamW's
};

struct ModelBenchResult {
  std::int64_t parameters = 0;
  double tokens_per_second = 0;  // by the median step
  double step_seconds = 0, forward_seconds = 0, backward_seconds = 0, optimizer_seconds = 0;
  double product_gflops = 0;               // of forward and backward, while they ran
  double peak_gflops = 0;                  // of a product of peak_side(), same type, same run
  MemoryPlan memory;                       // of the run
  std::int64_t memory_used = -1;           // growth of this process; below 0: not known
  double loss_before = 0, loss_after = 0;  // it trains: the second is lower
};

ModelBenchResult bench_model(const ModelBench& bench);

// GFLOP/s of one square product of this size.
double measure_matmul(DType type, std::int64_t size, Device device = {});
// A side of that product large enough to show what the device can do.
std::int64_t peak_side(Device device);

// What `name` is for the model of `config` (models/architecture.h); errors as bench_model()'s.
Device find_bench_device(const std::string& config, const std::string& name);

}  // namespace ballot

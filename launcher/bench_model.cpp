#include "launcher/bench_model.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/host_bytes.h"
#include "core/matmul.h"
#include "models/published.h"
#include "runtime/run_config.h"
#include "runtime/step_pipeline.h"

namespace ballot {
namespace {

std::unique_ptr<Architecture> named_architecture(const std::string& name) {
  if (name == "llama-28m")  // 27.8 M: what tests/bench/peers/train_llama_torch.py builds
    return new_architecture("llama", {.hidden = 512,
                                      .layers = 8,
                                      .heads = 8,
                                      .key_value_heads = 4,
                                      .intermediate = 1408,
                                      .vocabulary = 4096,
                                      .max_positions = 4096});
  if (name == "llama-2m")  // the shape of the test model
    return new_architecture("llama", {.hidden = 192,
                                      .layers = 6,
                                      .heads = 6,
                                      .key_value_heads = 2,
                                      .intermediate = 512,
                                      .vocabulary = 258,
                                      .max_positions = 4096});
  if (std::filesystem::exists(name + "/config.json")) return read_architecture(name);
  if (std::unique_ptr<Architecture> known = published_model(name)) return known;
  throw ConfigError("--config {}: expected llama-28m, llama-2m, {} or a folder with a config.json",
                    name, fmt::join(published_models(), ", "));
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// On a GPU a step's stages end when their work is given to it: forward and backward are timed
// apart, each to its end.
void time_alone(Model& model, const TokenBatch& batch, std::int64_t steps,
                std::vector<double>& forward, std::vector<double>& backward) {
  struct : GradientSink {
    void ready(const Parameter&, Stream&) override {}
  } nobody;
  forward.clear();
  backward.clear();
  for (std::int64_t i = 0; i < steps; ++i) {
    model.stream().synchronize();
    Stopwatch watch;
    model.evaluate(batch);
    forward.push_back(watch.lap());
    model.differentiate(std::span(&batch, 1), nobody);
    model.stream().synchronize();
    backward.push_back(watch.lap() - forward.back());
  }
}

}  // namespace

Device find_bench_device(const std::string& config, const std::string& name) {
  return find_device(*named_architecture(config), name);
}

std::int64_t peak_side(Device device) {
  return device.kind == Device::Kind::cpu ? 1024 : 8192;
}

double measure_matmul(DType type, std::int64_t size, Device device) {
  Stream stream(device);
  const OwnedTensor a(type, {size, size}, device), b(type, {size, size}, device),
      c(DType::f32, {size, size}, device);
  for (const OwnedTensor* x : {&a, &b}) {
    const HostBytes host(*x, HostBytes::Holds::zeros);
    for (std::int64_t i = 0; i < size * size; ++i) {
      const float value = static_cast<float>(static_cast<std::int32_t>(mix64(i)) * 0x1p-31);
      if (type == DType::f32)
        reinterpret_cast<float*>(host.data())[i] = value;
      else
        reinterpret_cast<bfloat16*>(host.data())[i] = to_bfloat16(value);
    }
    host.put_back();
  }
  std::vector<double> rates;
  for (int repeat = 0; repeat < 12; ++repeat) {
    Stopwatch watch;
    matmul(a, b, c, Accumulate::no, stream);
    stream.synchronize();
    rates.push_back(2.0 * size * size * size / watch.elapsed() / 1e9);
  }
  return median(rates);
}

ModelBenchResult bench_model(const ModelBench& bench) {
  const std::unique_ptr<Architecture> architecture = named_architecture(bench.config);
  const ProcessMemory before = process_memory();
  const ParameterArena arena(architecture->parameter_shapes(), bench.compute, bench.device);
  architecture->initialize(arena, 1);
  arena.refresh_compute();
  const std::unique_ptr<Model> model = architecture->make_model(arena, bench.device);
  model->recompute_layers(bench.recompute);
  std::array<ParameterGroup, 4> groups = preset_groups(
      bench.rule, bench.rule == "adamw" ? 0.001 : 0.002);  // a run file's presets: what a run does
  for (ParameterGroup& group : groups) {
    group.newton_schulz_type = bench.newton_schulz_type;
    if (group.rule != Rule::adamw) group.momentum_type = bench.momentum_type;
  }
  OptimizerState state(arena, groups);
  const auto transport = std::move(make_loopback(1).front());
  StepPipeline pipeline(arena, state, *transport, StepOptions{});

  const auto vocabulary = static_cast<std::uint64_t>(architecture->vocabulary());
  TokenBatch batch;
  batch.sequences = bench.batch;
  batch.length = bench.length;
  for (std::int64_t i = 0; i < bench.batch * bench.length; ++i) {
    // Few distinct tokens in a fixed order, so that a few steps visibly learn something.
    batch.inputs.push_back(static_cast<std::int32_t>(mix64(i % 97) % vocabulary));
    batch.targets.push_back(static_cast<std::int32_t>(mix64((i + 1) % 97) % vocabulary));
  }

  ModelBenchResult result;
  result.parameters = arena.count();
  std::vector<double> step, forward, backward;
  for (std::int64_t i = 0; i < bench.warmup_steps + bench.steps; ++i) {
    Stopwatch watch;
    pipeline.begin(i, 1.0);
    const Loss loss = model->differentiate(std::span(&batch, 1), pipeline);
    pipeline.finish();
    const double seconds = watch.elapsed();
    if (i == 0) result.loss_before = loss.mean();
    result.loss_after = loss.mean();
    if (i < bench.warmup_steps) continue;
    step.push_back(seconds);
    forward.push_back(model->times().forward);
    backward.push_back(model->times().backward);
  }
  if (bench.device.kind == Device::Kind::cuda)
    time_alone(*model, batch, bench.steps, forward, backward);
  if (!(result.loss_after < result.loss_before))
    throw LogicError(
        fmt::format("bench model: the loss went from {} to {}; it must fall before it is timed",
                    result.loss_before, result.loss_after));
  MemoryFacts facts;
  const std::vector<ParameterShape> shapes = architecture->parameter_shapes();
  facts.shapes = shapes;
  facts.groups = groups;
  facts.compute = bench.compute;
  facts.activations = model->training_memory(bench.batch, bench.length);
  result.memory = plan_memory(facts);
  if (bench.device == Device{})
    if (const std::int64_t taken = memory_taken(before, process_memory()); taken >= 0)
      result.memory_used = taken;
  const double tokens = static_cast<double>(bench.batch * bench.length);
  result.step_seconds = median(step);
  result.forward_seconds = median(forward);
  result.backward_seconds = median(backward);
  result.optimizer_seconds = result.step_seconds - result.forward_seconds - result.backward_seconds;
  result.tokens_per_second = tokens / result.step_seconds;
  result.product_gflops = tokens * model->flops_per_token(bench.length) /
                          (result.forward_seconds + result.backward_seconds) / 1e9;
  result.peak_gflops = measure_matmul(bench.compute, peak_side(bench.device), bench.device);
  return result;
}

}  // namespace ballot

// `ballot bench model`.
#include "launcher/bench_commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/device.h"
#include "core/parallel.h"
#include "launcher/bench_model.h"
#include "launcher/environment.h"

namespace ballot {
namespace {

struct BenchFlags {
  ModelBench bench;
  std::string compute = "both", device = "cpu";
  std::string newton_schulz_type = "f32", momentum_type = "f32";
  std::int64_t threads = 0;
  bool json = false;
};

void print(const ModelBench& bench, const ModelBenchResult& r, bool json) {
  if (json) {
    const nlohmann::ordered_json line = {{"config", bench.config},
                                         {"rule", bench.rule},
                                         {"compute", to_string(bench.compute)},
                                         {"batch", bench.batch},
                                         {"length", bench.length},
                                         {"parameters", r.parameters},
                                         {"tokens_per_second", r.tokens_per_second},
                                         {"step_seconds", r.step_seconds},
                                         {"forward_seconds", r.forward_seconds},
                                         {"backward_seconds", r.backward_seconds},
                                         {"optimizer_seconds", r.optimizer_seconds},
                                         {"product_gflops", r.product_gflops},
                                         {"matmul_peak_gflops", r.peak_gflops},
                                         {"memory_planned", r.memory.total()},
                                         {"memory_used", r.memory_used},
                                         {"processor", processor_features(bench.device)},
                                         {"threads", thread_count()}};
    fmt::print("{}\n", line.dump());
    return;
  }
  const auto share = [&r](double seconds) { return 100 * seconds / r.step_seconds; };
  fmt::print("{} ({:.1f} M parameters), {}, {} on {} with {} threads, B = {}, T = {}\n",
             bench.config, r.parameters / 1e6, bench.rule, to_string(bench.compute),
             processor_features(bench.device), thread_count(), bench.batch, bench.length);
  fmt::print(
      "  {:.0f} tokens/s; a step takes {:.0f} ms: forward {:.0f} %, backward {:.0f} %, optimizer "
      "{:.0f} %\n",
      r.tokens_per_second, 1e3 * r.step_seconds, share(r.forward_seconds),
      share(r.backward_seconds), share(r.optimizer_seconds));
  fmt::print("  memory as planned:\n{}\n", r.memory.describe());
  if (r.memory_used >= 0)
    fmt::print("  used: {:.3f} GiB\n", static_cast<double>(r.memory_used) / (1 << 30));
  fmt::print(
      "  products run at {:.0f} GFLOP/s within forward and backward = {:.0f} % of the {:.0f} "
      "GFLOP/s of one "
      "{}^3 product in this run\n",
      r.product_gflops, 100 * r.product_gflops / r.peak_gflops, r.peak_gflops,
      peak_side(bench.device));
}

int run_bench(BenchFlags flags) {
  set_thread_count(flags.threads > 0 ? static_cast<int>(flags.threads) : default_threads(1));
  flags.bench.device = find_bench_device(flags.bench.config, flags.device);
  const auto type_named = [](const std::string& name) {
    return name == "f32" ? DType::f32 : DType::bf16;
  };
  flags.bench.newton_schulz_type = type_named(flags.newton_schulz_type);
  flags.bench.momentum_type = type_named(flags.momentum_type);
  for (const DType type : {DType::f32, DType::bf16}) {
    if (flags.compute != "both" && flags.compute != to_string(type)) continue;
    if (type == DType::bf16 && !has_bf16(flags.bench.device)) {
      fmt::print("bf16: this processor ({}) has no bf16 products\n",
                 processor_features(flags.bench.device));
      if (flags.compute == "bf16") return 2;
      continue;
    }
    flags.bench.compute = type;
    print(flags.bench, bench_model(flags.bench), flags.json);
  }
  return 0;
}

}  // namespace

void add_bench_model(CLI::App& bench, Action& action) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* model = bench.add_subcommand(
      "model", "tokens per second of training and the share of the matmul peak");
  model
      ->add_option(
          "--config", flags->bench.config,
          "llama-28m, llama-2m, llama-3.2-1b and other published models, or a model folder")
      ->capture_default_str();
  model->add_option("--rule", flags->bench.rule, "optimizer")
      ->check(CLI::IsMember({"adamw", "olion", "lion", "signum", "muon", "sgd"}))
      ->capture_default_str();
  model->add_option("--compute", flags->compute, "type of products")
      ->check(CLI::IsMember({"f32", "bf16", "both"}))
      ->capture_default_str();
  model->add_option("--device", flags->device, "what computes")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  model->add_option("--batch", flags->bench.batch, "B")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  model->add_option("--length", flags->bench.length, "T")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  model->add_option("--steps", flags->bench.steps, "timed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  model->add_option("--warmup", flags->bench.warmup_steps, "steps before those that are timed")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  model->add_flag("--recompute", flags->bench.recompute,
                  "layers' forwards are computed again in the backward");
  model->add_option("--newton-schulz-type", flags->newton_schulz_type, "type of its products")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  model->add_option("--momentum-type", flags->momentum_type, "but AdamW's")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  model->add_option("--threads", flags->threads, "0: all cores");
  model->add_flag("--json", flags->json, "one JSON object per line");
  model->callback([&action, flags] { action = [flags] { return run_bench(*flags); }; });
}

}  // namespace ballot

// Whole runs with ranks as threads, and what their records say.
#pragma once

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collectives/transport/loopback_transport.h"
#include "runtime/trainer.h"

namespace ballot {

inline std::vector<TrainingResult> train_on(
    int workers, const RunConfig& config,
    const std::function<TrainingHooks(int rank)>& hooks = {}) {
  std::vector<TrainingResult> results(static_cast<std::size_t>(workers));
  run_loopback(workers, [&](Transport& transport) {
    results[static_cast<std::size_t>(transport.rank())] =
        train(config, transport, hooks ? hooks(transport.rank()) : TrainingHooks{});
  });
  return results;
}

// The lines of one type in FOLDER/metrics.jsonl.
inline std::vector<nlohmann::json> metrics_of(const std::string& folder, const std::string& type) {
  std::ifstream file(folder + "/metrics.jsonl");
  std::vector<nlohmann::json> lines;
  std::string line;
  while (std::getline(file, line)) {
    nlohmann::json parsed = nlohmann::json::parse(line);
    if (parsed["type"] == type) lines.push_back(std::move(parsed));
  }
  return lines;
}

// A model that hands everything on to another: what is overridden is what is wrong with it.
class ModelAround : public Model {
 public:
  explicit ModelAround(std::unique_ptr<Model> model) : model_(std::move(model)) {}
  Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
    return model_->differentiate(batches, sink);
  }
  Loss evaluate(const TokenBatch& batch) override { return model_->evaluate(batch); }
  Tensor logits(const TokenBatch& batch) override { return model_->logits(batch); }
  Times times() const override { return model_->times(); }
  Stream& stream() override { return model_->stream(); }
  std::int64_t vocabulary() const override { return model_->vocabulary(); }
  double flops_per_token(std::int64_t length) const override {
    return model_->flops_per_token(length);
  }

 protected:
  std::unique_ptr<Model> model_;
};

}  // namespace ballot

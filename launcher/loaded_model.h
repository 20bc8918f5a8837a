// A model folder, ready to be evaluated or to continue texts.
#pragma once

#include <memory>
#include <string>

#include "core/parameter_arena.h"
#include "models/architecture.h"
#include "models/tokenizer.h"

namespace ballot {

struct LoadedModel {
  // The folder is resolved once: a run's checkpoints/latest may lead elsewhere meanwhile.
  // `compute`: "auto", "f32" or "bf16"; `device`: "auto", "cpu" or "cuda". ConfigError, DataError,
  // CorruptFile, Unavailable.
  LoadedModel(const std::string& folder, const std::string& compute, const std::string& device);

  std::unique_ptr<Architecture> architecture;
  std::unique_ptr<Tokenizer> tokenizer;
  ParameterArena arena;
  std::unique_ptr<Model> model;

 private:
  struct Resolved {
    std::string folder;
  };
  LoadedModel(const Resolved& at, const std::string& compute, const std::string& device);
};

}  // namespace ballot

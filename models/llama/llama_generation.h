// A Llama's texts that grow token by token, over a key/value cache.
#pragma once

#include <cstdint>
#include <memory>

#include "models/llama/llama_config.h"  // LlamaConfig
#include "models/model.h"               // Generation
#include "models/ops/rope.h"            // RopeTable

namespace ballot {

// All must outlive it. Unavailable on a GPU.
std::unique_ptr<Generation> start_llama_generation(const LlamaConfig& config,
                                                   const ParameterArena& arena, RopeTable& rope,
                                                   Stream& stream, std::int64_t sequences,
                                                   std::int64_t max_length);

}  // namespace ballot

// A GPT-2's texts that grow token by token, over a key/value cache.
#pragma once

#include <cstdint>
#include <memory>

#include "models/gpt2/gpt2_config.h"  // Gpt2Config
#include "models/model.h"             // Generation

namespace ballot {

// The arena and the stream must outlive it. DataError for texts longer than its positions.
std::unique_ptr<Generation> start_gpt2_generation(const Gpt2Config& config,
                                                  const ParameterArena& arena, Stream& stream,
                                                  std::int64_t sequences, std::int64_t max_length);

}  // namespace ballot

// The Llama family as an Architecture.
#pragma once

#include <memory>
#include <string>

#include "models/architecture.h"
#include "models/llama/llama_config.h"

namespace ballot {

std::unique_ptr<Architecture> llama_architecture(const LlamaConfig& config);
std::unique_ptr<Architecture> parse_llama(const std::string& json_text, const std::string& path);
// MLP width by default: 8/3 C, rounded up to 64.
std::unique_ptr<Architecture> new_llama(const ModelSize& size);

}  // namespace ballot

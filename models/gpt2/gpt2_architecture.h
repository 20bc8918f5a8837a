// The GPT-2 family as an Architecture.
#pragma once

#include <memory>
#include <string>

#include "models/architecture.h"
#include "models/gpt2/gpt2_config.h"

namespace ballot {

std::unique_ptr<Architecture> gpt2_architecture(const Gpt2Config& config);
std::unique_ptr<Architecture> parse_gpt2(const std::string& json_text, const std::string& path);
// MLP width by default: 4 C.
std::unique_ptr<Architecture> new_gpt2(const ModelSize& size);

}  // namespace ballot

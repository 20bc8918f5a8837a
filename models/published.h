// Models of the Hugging Face hub whose shape is known by name, for benchmarks and plans without a
// download.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/architecture.h"

namespace ballot {

// "llama-3.2-1b", ..., "gpt2": the shapes only; rotary angles, norms and tokens are the family's
// defaults, not those of each model's config.json.
std::vector<std::string> published_models();
std::unique_ptr<Architecture> published_model(const std::string& name);  // null: not among them

}  // namespace ballot

// A Hugging Face model folder on disk: config.json, model.safetensors, tokenizer files.
//
// Loading copies into an arena laid out beforehand, converting f32, f16 and bf16 to fp32 masters; a
// missing tensor, a wrong shape or a type that is none of these is reported (all at once) as
// DataError. Saving writes the tensors in name order, so that a folder loaded and saved untouched
// has byte-identical tensors.
#pragma once

#include <memory>
#include <string>

#include "core/parameter_arena.h"
#include "models/llama/llama_config.h"
#include "models/safetensors.h"

namespace ballot {

// Reads DIR/config.json. Anything but a Llama is refused by its model_type.
LlamaConfig read_model_config(const std::string& folder);

// DIR/model.safetensors -> the masters (and their compute copies). A tied model's lm_head.weight is
// ignored if present.
void load_parameters(const std::string& folder, const ParameterArena& arena);

// model.safetensors in `type` (f32 or bf16). The file is fsynced; atomicity is the caller's.
void save_parameters(const std::string& folder, const ParameterArena& arena,
                     StoredType type = StoredType::f32);

// Copies config.json and whatever tokenizer and generation files `source` has, byte for byte.
void copy_side_files(const std::string& source, const std::string& target);

}  // namespace ballot

// A Hugging Face model folder on disk: config.json, model.safetensors, tokenizer files.
//
// A large model is cut: model.safetensors.index.json says in which file each tensor is. Loading
// copies into an arena laid out beforehand, converting f32, f16 and bf16 to fp32 masters; a missing
// tensor, a wrong shape or a type that is none of these is reported (all at once) as DataError.
// Saving writes the tensors in name order, so that a folder loaded and saved untouched has
// byte-identical tensors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "models/llama/llama_config.h"
#include "models/safetensors.h"

namespace ballot {

// Reads DIR/config.json. Anything but a Llama is refused by its model_type.
LlamaConfig read_model_config(const std::string& folder);

// DIR/model.safetensors, or the files that DIR/model.safetensors.index.json names -> the masters
// (and their compute copies). A tied model's lm_head.weight is ignored if present.
void load_parameters(const std::string& folder, const ParameterArena& arena);

// model.safetensors in `type` (f32 or bf16). The file is fsynced; atomicity is the caller's.
void save_parameters(const std::string& folder, const ParameterArena& arena,
                     StoredType type = StoredType::f32);

// Names of config.json and of the tokenizer and generation files that `source` has.
std::vector<std::string> side_files(const std::string& source);

// Copies config.json and whatever tokenizer and generation files `source` has, byte for byte.
void copy_side_files(const std::string& source, const std::string& target);

}  // namespace ballot

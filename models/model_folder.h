// A Hugging Face model folder on disk: config.json, weights, tokenizer and other files.
//
// Loading streams the weights from one file or several (models/stored_weights.h) into an arena laid
// out beforehand, converting f32, f16 and bf16 to fp32 masters, on all threads; beside the arena it
// takes a few MiB a thread. A missing tensor, a wrong shape or a type that is none of these is
// reported (all at once) as DataError. Saving writes the tensors in name order, so that a folder
// loaded and saved untouched has byte-identical tensors.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "models/safetensors.h"
#include "models/side_files.h"

namespace ballot {

// DIR/model.safetensors, or the files that DIR/model.safetensors.index.json names -> the masters
// (and their compute copies). A tied model's lm_head.weight is ignored if present.
void load_parameters(const std::string& folder, const ParameterArena& arena);

// What load_parameters() would refuse; reads headers only and takes no memory for values, and does
// not tell of tensors that are ignored.
void check_parameters(const std::string& folder, std::span<const ParameterShape> shapes);

// model.safetensors in `type` (f32 or bf16). The file is fsynced; atomicity is the caller's.
void save_parameters(const std::string& folder, const ParameterArena& arena,
                     StoredType type = StoredType::f32);

}  // namespace ballot

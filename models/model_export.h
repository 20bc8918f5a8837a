// A model folder written anew: for other programs to read, in another type, in files of a size.
//
// The numbers stream from file to file; of a model of any size a few MiB are in memory. What comes
// out holds the architecture's parameters under the names that transformers saves, and nothing
// else: no output head that is the embedding table, no masks that are recomputed.
#pragma once

#include <cstdint>
#include <string>

#include "models/safetensors.h"  // StoredType

namespace ballot {

struct ExportOptions {
  StoredType type = StoredType::f32;  // or bf16
  // As transformers cuts: tensors in name order fill a file up to this; a larger tensor has one of
  // its own.
  std::uint64_t max_shard_bytes = 5'000'000'000;
};

struct ExportedModel {
  std::int64_t parameters = 0;
  std::uint64_t weight_bytes = 0;
  std::size_t weight_files = 0;
  std::size_t side_files = 0;
};

// FROM: a model folder, or a checkpoint of a run. All is written and fsynced in TO.partial, which
// is then renamed, so there is either a whole TO or none. ConfigError where either is there
// already; DataError and CorruptFile as load_parameters().
ExportedModel export_model(const std::string& from, const std::string& to,
                           const ExportOptions& options);

}  // namespace ballot

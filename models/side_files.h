// What goes with a model's weights: config.json, and the files beside it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "models/safetensors.h"  // StoredType

namespace ballot {

// Names, sorted: config.json, and every other regular file of the folder itself that is at most 64
// MiB and holds neither weights nor data nor is hidden (a tokenizer's files, templates, generation
// settings, the licence); 256 at most. A list of known names would lose what it does not know.
//
// Left, and told in the log once per process: a larger file, one that cannot be opened, a link that
// leads out of the folder (but not into the blobs of a hub's cache, of which the folder is a
// snapshot), a name that is not UTF-8 or is that of a checkpoint's own folder ("trainer").
// FileError where the folder itself cannot be read.
std::vector<std::string> side_files(const std::string& source);

// The contents of one of them, byte for byte; but config.json says that the weights beside it are
// of `type`, which is what a reader makes of them.
std::string side_file(const std::string& source, const std::string& name, StoredType type);

// The same; nothing, and told in the log, of a file that can no longer be read. config.json must be
// (FileError, CorruptFile, DataError).
std::optional<std::string> try_side_file(const std::string& source, const std::string& name,
                                         StoredType type);

// Copies all of them; how many.
std::size_t copy_side_files(const std::string& source, const std::string& target,
                            StoredType type = StoredType::f32);

}  // namespace ballot

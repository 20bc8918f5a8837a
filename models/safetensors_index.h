// model.safetensors.index.json: in which of several files each tensor of a model is.
#pragma once

#include <cstddef>
#include <map>
#include <string>

namespace ballot {

inline constexpr std::size_t kMaxIndexedFiles = 10000;

// Tensor -> name of a file beside the index. Untrusted input: anything but an object with a
// "weight_map" of tensors to plain file names is CorruptFile, naming `path`.
std::map<std::string, std::string> parse_safetensors_index(const std::string& json,
                                                           const std::string& path);

}  // namespace ballot

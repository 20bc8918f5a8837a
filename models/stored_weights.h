// The weights of a model folder: model.safetensors, or the files that model.safetensors.index.json
// names.
//
// Headers are mapped; values are read where they are wanted, so that of a model of any size no more
// than what a caller asks for is in memory, and no more than 32 files are open. The folder is
// resolved once: a link that leads elsewhere meanwhile (a run's checkpoints/latest) changes
// nothing. Readable by many threads.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"           // InputFile
#include "core/parameter.h"      // ParameterShape
#include "models/safetensors.h"  // SafetensorsReader

namespace ballot {

// The folder that a name with links in it leads to now; the name itself where it leads nowhere or
// has none.
std::string resolved_folder(const std::string& folder);

// As the files state it: (cols) of a vector, else (rows, cols).
std::vector<std::int64_t> stored_shape(const ParameterShape& shape);

class StoredWeights {
 public:
  // CorruptFile, FileError for files that are not what they should be, or not there.
  explicit StoredWeights(const std::string& folder);

  // What messages name: the file, or the index.
  const std::string& path() const { return path_; }

  struct Place {
    const StoredTensor* tensor = nullptr;  // null: there is none
    std::size_t file = 0;
  };
  // By the name that transformers saves, or else without its first part, as a base model has it:
  // "h.0.ln_1.weight" where "transformer.h.0.ln_1.weight" is asked for.
  Place find(const std::string& name) const;

  // DataError with all of them at once for tensors that are missing, have another shape or a type
  // that is no parameter's.
  void require_tensors(std::span<const ParameterShape> shapes) const;
  // Tells those beside them in the log.
  void tell_others(std::span<const ParameterShape> shapes) const;

  // Bytes [offset, offset + bytes.size()) of this tensor.
  void read(const Place& place, std::uint64_t offset, std::span<std::byte> bytes) const;
  // They will be read soon.
  void expect(const Place& place, std::uint64_t offset, std::uint64_t size) const;

 private:
  void add(const std::string& path);
  std::shared_ptr<const InputFile> opened(std::size_t file) const;
  void read_index(const std::string& folder);
  Place find_stored(const std::string& name) const;

  std::string path_;
  std::vector<SafetensorsReader> files_;
  std::map<std::string, std::size_t> places_;  // tensor -> number of its file; empty: one file

  struct Opened {
    std::size_t file;
    std::shared_ptr<const InputFile> values;
  };
  mutable std::mutex mutex_;
  mutable std::deque<Opened> opened_;  // the one used last first
};

}  // namespace ballot

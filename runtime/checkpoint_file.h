// A file of a checkpoint while it is written, and what it turned out to be.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/disk.h"

namespace ballot {

struct FileFact {
  std::string path;  // in the checkpoint's folder
  std::uint64_t size = 0;
  std::string xxh3;  // 16 hexadecimal digits, of the whole file
  auto operator<=>(const FileFact&) const = default;
};

// XXH3-64 of bytes that come in parts.
class FileDigest {
 public:
  FileDigest();
  FileDigest(FileDigest&&) noexcept;
  ~FileDigest();
  void add(std::span<const std::byte> bytes);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Written from front to back; what another attempt left at the path is deleted first. FileError.
class CheckpointOutput {
 public:
  CheckpointOutput(Disk& disk, const std::string& folder, const std::string& path);
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span(text))); }
  FileFact finish();  // durable, but for its name

 private:
  FileFact fact_;
  std::unique_ptr<AppendFile> file_;
  FileDigest digest_;
};

// Reads the file at `folder`/`path`, in parts.
FileFact fact_of(const std::string& folder, const std::string& path, Disk& disk);

// Whether the folder has this file or folder.
bool has_entry(const std::string& folder, const std::string& name, Disk& disk);

}  // namespace ballot

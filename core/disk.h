// Files as the journal and checkpoints need them, as an interface: the machine's disk, or one that
// a simulation breaks.
//
// What is durable: bytes of a file after its sync(); names (created, renamed, removed) after
// sync_folder() of the folder they are in. Everything throws FileError naming the path; after a
// failed sync() nothing may be assumed of what was written since the last one, and it must not be
// tried again: the process has to end. Not for several threads at once on one path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ballot {

class AppendFile {
 public:
  virtual ~AppendFile() = default;
  virtual void append(std::span<const std::byte> bytes) = 0;
  virtual void sync() = 0;
  virtual std::uint64_t size_bytes() const = 0;
};

class Disk {
 public:
  virtual ~Disk() = default;
  // Names of the files and folders in a folder, sorted; empty if there is no such folder.
  virtual std::vector<std::string> list(const std::string& folder) = 0;
  virtual std::uint64_t size_bytes(const std::string& path) = 0;
  // Up to `size` bytes from `offset`; fewer where the file ends.
  virtual std::vector<std::byte> read(const std::string& path, std::uint64_t offset,
                                      std::uint64_t size) = 0;
  // A file that grows at its end; made if there is none.
  virtual std::unique_ptr<AppendFile> open_append(const std::string& path) = 0;
  // Cuts a file back and makes that durable. Not while it is open.
  virtual void truncate(const std::string& path, std::uint64_t size) = 0;
  virtual void make_folder(const std::string& path) = 0;  // with its parents; may be there
  virtual void rename(const std::string& from, const std::string& to) = 0;
  virtual void remove(const std::string& path) = 0;  // a file, or a folder and all in it
  virtual void sync_folder(const std::string& path) = 0;
};

// The machine's. Stateless; lives for ever.
Disk& system_disk();

}  // namespace ballot

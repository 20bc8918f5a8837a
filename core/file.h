// Files: reading whole or mapped, writing so that what was written survives a power cut.
//
// Everything throws FileError with the path and errno's text. What is durable when:
// OutputFile::finish() makes a file's bytes durable, sync_folder() its name;
// replace_file_atomically() does both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace ballot {

// The whole file; FileError if it holds more than `max_bytes` (a guard where a small file is
// expected).
std::string read_file(const std::string& path,
                      std::uint64_t max_bytes = std::numeric_limits<std::uint64_t>::max());

// A file's bytes, mapped read-only for as long as this lives; read-ahead as for one pass from front
// to back. Movable; readable from any thread. If another process shrinks the file meanwhile,
// touching what is gone raises SIGBUS: replace such files by rename (replace_file_atomically),
// never in place.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_bytes_ = 0;
};

// A file read at any place, by many threads at once. Movable.
class InputFile {
 public:
  explicit InputFile(const std::string& path);
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  // Exactly these bytes; CorruptFile where the file ends before.
  void read(std::uint64_t offset, std::span<std::byte> bytes) const;
  // They will be read soon: the disk may begin.
  void expect(std::uint64_t offset, std::uint64_t size) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
};

// A new file written from front to back; an old one at `path` is emptied first. Without finish()
// nothing is promised.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  std::uint64_t written_bytes() const { return written_bytes_; }
  void finish();  // fsync and close
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  std::uint64_t written_bytes_ = 0;
};

// Writes and fsyncs the file, not its folder.
void write_file_synced(const std::string& path, std::span<const std::byte> bytes);
void write_file_synced(const std::string& path, std::string_view text);

// Makes the names in a folder durable: after creating, renaming or deleting in it.
void sync_folder(const std::string& path);

// Makes the folder and those above it that are not there, durably.
void make_folders(const std::string& path);

// Readers see the old file or the new one, never a mixture, also after a power cut. Two writers at
// once are the caller's error; the temporary file is `path`.tmp in the same folder.
void replace_file_atomically(const std::string& path, std::string_view text);

}  // namespace ballot

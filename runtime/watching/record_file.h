// A file of TFRecords, the framing of TensorBoard's event files: length (8 bytes, little-endian), a
// checksum of the length (4), the bytes, a checksum of the bytes (4). Checksums are CRC-32C,
// rotated and added to a constant so that a record may hold checksums itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ballot {

std::uint32_t crc32c(std::string_view bytes);
std::string tf_record(std::string_view bytes);  // framed

// Appends to a file of its own. What was appended survives the process, whole records only: one
// that could not be written whole is cut away again.
class RecordFile {
 public:
  explicit RecordFile(const std::string& path);  // a new one: FileError where there is one
  RecordFile(const RecordFile&) = delete;
  ~RecordFile();

  // Handed to the system, not synced. FileError; the file is as before then.
  void append(std::string_view bytes);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
};

}  // namespace ballot

// The safetensors container: an 8-byte little-endian header length, a JSON header, then the
// tensors' bytes.
//
// Untrusted input: checked in this order before any byte is used. At least 8 bytes; header length
// at most 100,000,000 and inside the file; UTF-8; a JSON object without duplicate keys; names,
// types, shapes; offsets contiguous from 0 without holes or overlap; shape product times element
// size, overflow-checked, equal to each extent; the last offset equal to the end of the file.
// Anything else is CorruptFile with the file, the value and what was expected. Format:
// https://github.com/huggingface/safetensors
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"  // OutputFile

namespace ballot {

enum class StoredType { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };
std::size_t size_bytes(StoredType type);
const char* to_string(StoredType type);  // "F32", ...

struct StoredTensor {
  std::string name;
  StoredType type;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;  // into the reader's mapping
  std::uint64_t offset = 0;          // of the first byte in the file
  std::int64_t count() const;
};

// Maps a file and keeps it mapped. Movable; readable from any thread. The file must not shrink
// while it is mapped (SIGBUS): whoever replaces one does so by rename. Tensors may lie at any
// address: copy, do not cast.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path);
  // Over bytes already in memory (tests, fuzzing); `name` stands in for the path in messages.
  SafetensorsReader(std::span<const std::byte> bytes, const std::string& name);
  SafetensorsReader(SafetensorsReader&&) noexcept;
  ~SafetensorsReader();

  const std::vector<StoredTensor>& tensors() const;         // in file order
  const StoredTensor* find(const std::string& name) const;  // nullptr when absent
  const StoredTensor& get(
      const std::string& name) const;  // DataError naming file and tensor when absent
  const std::map<std::string, std::string>& metadata() const;
  const std::string& path() const;

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

// One tensor to write: row-major, contiguous.
struct TensorToStore {
  std::string name;
  StoredType type;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

// The file's layout, told first; then the tensors' bytes, streamed in that order in pieces of any
// size.
struct TensorLayout {
  std::string name;
  StoredType type;
  std::vector<std::int64_t> shape;
};
// What stands before the tensors' bytes: the header's length and the header, padded to 8 bytes with
// spaces. Tensors in the order given.
std::string safetensors_header(std::span<const TensorLayout> tensors,
                               const std::map<std::string, std::string>& metadata);

class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::span<const TensorLayout> tensors,
                    const std::map<std::string, std::string>& metadata);
  void write(std::span<const std::byte> bytes);
  void finish();  // fsyncs; LogicError unless exactly the bytes of the layout were written

 private:
  OutputFile file_;
  std::uint64_t end_ = 0;  // the file's size when it is whole
};

// Writes the file and fsyncs it (not its folder). Tensors in the order given; header padded to 8
// bytes with spaces.
void write_safetensors(const std::string& path, std::span<const TensorToStore> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace ballot

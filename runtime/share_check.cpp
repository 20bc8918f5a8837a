#include "runtime/share_check.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "optim/digest_mix.h"

namespace ballot {
namespace {

// Elements [first, first + count) of a parameter without its rows' padding.
std::uint64_t digest_of_elements(const Parameter& parameter, std::int64_t first,
                                 std::span<const std::byte> bytes) {
  const std::int64_t cols = parameter.shape.cols;
  std::int64_t row = first / cols, col = first % cols;
  std::uint64_t digest = 0;
  for (const std::byte* source = bytes.data(); source < bytes.data() + bytes.size();) {
    const std::int64_t count = std::min<std::int64_t>(
        cols - col, (bytes.data() + bytes.size() - source) / static_cast<std::ptrdiff_t>(4));
    std::uint64_t start =
        static_cast<std::uint64_t>(parameter.offset + row * parameter.row_stride + col) *
        kDigestIndexFactor;
    for (std::int64_t i = 0; i < count; ++i, start += kDigestIndexFactor) {
      std::uint32_t bits;
      std::memcpy(&bits, source + 4 * i, 4);
      digest += mix_digest(bits, start);
    }
    source += 4 * count;
    col = 0;
    ++row;
  }
  return digest;
}

}  // namespace

ShareCheck::ShareCheck(std::span<const CheckpointFile> files, std::vector<std::uint64_t> digests)
    : files_(files), digests_(std::move(digests)) {}

void ShareCheck::add(std::size_t file, std::span<const std::byte> bytes) {
  if (file != file_) {
    require(file > file_ && done_ == 0, "file {} of a share is checked after file {}", file, file_);
    file_ = file;
    tensor_ = 0;
  }
  while (!bytes.empty()) {
    const CheckpointTensor& tensor = files_[file_].tensors.at(tensor_);
    const std::uint64_t element = size_bytes(tensor.source.type);
    const std::uint64_t all = static_cast<std::uint64_t>(tensor.source.count()) * element;
    const auto part = bytes.first(std::min<std::uint64_t>(bytes.size(), all - done_));
    require(part.size() % element == 0, "{} bytes of elements of {}", part.size(), element);
    if (tensor.kind == Changing::value)
      sum_ +=
          digest_of_elements(*tensor.parameter, static_cast<std::int64_t>(done_ / element), part);
    bytes = bytes.subspan(part.size());
    done_ += part.size();
    if (done_ < all) return;
    const std::uint64_t expected = digests_.at(static_cast<std::size_t>(tensor.parameter->index));
    if (tensor.kind == Changing::value && sum_ != expected)
      throw DamagedMemory(
          "{} has changed in memory since its last update: its digest is {:016x}, expected "
          "{:016x}; this machine's memory may be faulty",
          tensor.parameter->shape.name, sum_, expected);
    ++tensor_;
    done_ = sum_ = 0;
  }
}

}  // namespace ballot

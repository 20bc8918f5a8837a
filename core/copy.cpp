#include "core/copy.h"

#include <cstring>
#include <utility>

#include "core/cuda/cuda_core.h"
#include "core/error.h"

namespace ballot {
namespace {

bool on_gpu(Device device) {
  return device.kind == Device::Kind::cuda;
}

void check_devices(Device to, Device from, Stream& stream) {
  const Device gpu = on_gpu(to) ? to : from;
  require(!on_gpu(gpu) || stream.device() == gpu, "copy from {} to {} on a stream of {}",
          to_string(from), to_string(to), to_string(stream.device()));
  require(!on_gpu(to) || !on_gpu(from) || to == from, "copy from {} to {}", to_string(from),
          to_string(to));
}

CopyKind kind_of(Device to, Device from) {
  if (!on_gpu(to)) return CopyKind::to_host;
  return on_gpu(from) ? CopyKind::on_device : CopyKind::to_device;
}

// A tensor as rows of bytes that lie side by side: the last dimensions that are contiguous, folded
// into one, and the one before them. What is left before those are `outer` such matrices.
struct Rows {
  std::int64_t outer_dimensions;
  std::int64_t rows, row_elements, from_stride, to_stride;
};

Rows rows_of(const Tensor& from, const Tensor& to) {
  int first = from.rank;  // dimensions [first, rank) are one run of elements in both
  std::int64_t run = 1;
  while (first > 0) {
    const int d = first - 1;
    const bool together = from.extent[d] == 1 || (from.stride[d] == run && to.stride[d] == run);
    if (!together) break;
    run *= from.extent[d];
    first = d;
  }
  if (first == 0) return {0, 1, run, run, run};
  return {first - 1, from.extent[first - 1], run, from.stride[first - 1], to.stride[first - 1]};
}

}  // namespace

void copy_bytes(void* to, Device to_device, const void* from, Device from_device,
                std::size_t size_bytes, Stream& stream) {
  check_devices(to_device, from_device, stream);
  if (size_bytes == 0) return;
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  if (!on_gpu(to_device) && !on_gpu(from_device))
    std::memcpy(target, source, size_bytes);
  else if (!on_gpu(from_device))
    cuda_core().copy_to_device(target, source, size_bytes, stream);
  else if (!on_gpu(to_device))
    cuda_core().copy_to_host(target, source, size_bytes, stream);
  else
    cuda_core().copy_on_device(target, source, size_bytes, stream);
}

void copy(const Tensor& from, const Tensor& to, Stream& stream) {
  require(from.type == to.type && from.rank == to.rank && from.extent == to.extent,
          "copy of {} to {}", from.describe(), to.describe());
  check_devices(to.device, from.device, stream);
  if (from.count() == 0) return;
  const Rows rows = rows_of(from, to);
  const std::size_t element = size_bytes(from.type);
  const std::size_t row_bytes = rows.row_elements * element;
  std::int64_t outer = 1;
  for (int d = 0; d < rows.outer_dimensions; ++d) outer *= from.extent[d];
  for (std::int64_t i = 0; i < outer; ++i) {
    std::int64_t from_offset = 0, to_offset = 0, rest = i;
    for (std::int64_t d = rows.outer_dimensions - 1; d >= 0; --d) {
      const std::int64_t at = rest % from.extent[d];
      from_offset += at * from.stride[d];
      to_offset += at * to.stride[d];
      rest /= from.extent[d];
    }
    const std::byte* source = from.data + from_offset * static_cast<std::int64_t>(element);
    std::byte* target = to.data + to_offset * static_cast<std::int64_t>(element);
    const std::size_t from_pitch = rows.from_stride * element, to_pitch = rows.to_stride * element;
    if (!on_gpu(to.device) && !on_gpu(from.device)) {
      for (std::int64_t row = 0; row < rows.rows; ++row)
        std::memcpy(target + row * to_pitch, source + row * from_pitch, row_bytes);
    } else if (rows.rows == 1) {
      copy_bytes(target, to.device, source, from.device, row_bytes, stream);
    } else {
      cuda_core().copy_rows(kind_of(to.device, from.device), target, to_pitch, source, from_pitch,
                            row_bytes, rows.rows, stream);
    }
  }
}

void fill_zero(void* to, std::size_t size_bytes, Stream& stream) {
  if (size_bytes == 0) return;
  if (on_gpu(stream.device()))
    cuda_core().fill_zero(static_cast<std::byte*>(to), size_bytes, stream);
  else
    std::memset(to, 0, size_bytes);
}

PinnedBuffer::PinnedBuffer(std::size_t size_bytes, Device device) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  if (on_gpu(device)) {
    data_ = cuda_core().allocate_pinned(size_bytes);
    std::memset(data_, 0, size_bytes);
  } else {
    plain_ = Buffer(size_bytes);
    data_ = plain_.data();
  }
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      plain_(std::move(other.plain_)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(plain_, other.plain_);
  return *this;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr && plain_.data() == nullptr) cuda_core().release_pinned(data_);
}

}  // namespace ballot

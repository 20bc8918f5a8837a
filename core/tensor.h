// A typed, shaped view of bytes that someone else owns. Copying a Tensor copies the view.
//
// Up to four dimensions, extents and strides in elements. A transposed view swaps strides and moves
// nothing, so a matrix product needs no transposition flags.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/bfloat16.h"  // bfloat16
#include "core/buffer.h"    // Buffer
#include "core/device.h"    // Device

namespace ballot {

enum class DType : std::uint8_t { f32, bf16 };

constexpr std::size_t size_bytes(DType type) {
  return type == DType::f32 ? 4 : 2;
}
const char* to_string(DType type);

template <class T>
inline constexpr DType kDType = DType::f32;
template <>
inline constexpr DType kDType<bfloat16> = DType::bf16;

struct Tensor {
  std::byte* data = nullptr;
  DType type = DType::f32;
  Device device;
  int rank = 0;
  std::array<std::int64_t, 4> extent{};
  std::array<std::int64_t, 4> stride{};  // elements

  std::int64_t count() const;  // product of the extents
  bool is_contiguous() const;
  Tensor transposed() const;                                // 2-D only
  Tensor rows(std::int64_t begin, std::int64_t end) const;  // a range of the first dimension
  Tensor reshaped(std::initializer_list<std::int64_t> extents) const;  // contiguous only
  std::string describe() const;                                        // "f32 (8, 256, 512)"

  // The elements; throws LogicError if the type is another.
  float* f32() const;
  bfloat16* bf16() const;
  template <class T>
  T* as() const {
    if constexpr (kDType<T> == DType::f32)
      return reinterpret_cast<T*>(f32());
    else
      return reinterpret_cast<T*>(bf16());
  }
};

Tensor make_tensor(void* data, DType type, std::initializer_list<std::int64_t> extents,
                   Device device = {});
// A matrix whose rows are `row_stride` elements apart.
Tensor make_matrix(void* data, DType type, std::int64_t rows, std::int64_t cols,
                   std::int64_t row_stride, Device device = {});

// Owns a buffer and views all of it.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType type, std::initializer_list<std::int64_t> extents, Device device = {});
  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }  // NOLINT: an owner is used as its view

 private:
  Buffer buffer_;
  Tensor view_;
};

}  // namespace ballot

// What the ground asks of the CUDA backend: memory, streams, copies and matrix products.
//
// Device memory is a pointer that the host must not read. Work given to one stream runs in order;
// every call but the synchronizing ones returns before the work is done. Errors of the CUDA runtime
// or cuBLAS throw Unavailable (no memory, no device) or LogicError, naming the call, the code and
// what was asked. Any thread, one at a time per stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/matmul.h"  // Accumulate
#include "core/tensor.h"  // Tensor

namespace ballot {

// From where to where a copy goes.
enum class CopyKind { to_device, to_host, on_device };

struct CudaCore {
  virtual ~CudaCore() = default;

  // Of this machine, as the driver shows them; Unavailable, saying why, when there is none.
  virtual int device_count() = 0;
  // The device of that number; Unavailable, saying why, when it is not there or cannot be used.
  virtual Device find_device(int index) = 0;
  // "NVIDIA H100 80GB HBM3, 79.1 GiB, compute capability 9.0, CUDA 13.0, driver 13.0".
  virtual std::string describe(Device device) = 0;
  virtual std::size_t free_bytes(Device device) = 0;

  // Zeroed, aligned to 256 bytes.
  virtual std::byte* allocate(std::size_t bytes, Device device) = 0;
  virtual void release(std::byte* memory, Device device) noexcept = 0;
  // Host memory that copies can be taken from and put to without a wait.
  virtual std::byte* allocate_pinned(std::size_t bytes) = 0;
  virtual void release_pinned(std::byte* memory) noexcept = 0;

  // A Stream's handle.
  virtual void* make_stream(Device device) = 0;
  virtual void release_stream(void* handle) noexcept = 0;  // waits for its work
  virtual void synchronize(Stream& stream) = 0;

  // Points in a stream's work (core/event.h); handles as those of streams.
  virtual void* make_event(Device device) = 0;
  virtual void release_event(void* event) noexcept = 0;
  virtual void record(void* event, Stream& stream) = 0;
  virtual bool is_done(void* event) = 0;
  virtual void wait(void* event) = 0;
  virtual void hold(Stream& stream, void* event) = 0;

  // From and to where the names say. Copies from and to pageable host memory wait for their end;
  // those of pinned memory may still be under way on return.
  virtual void copy_to_device(std::byte* to, const std::byte* from, std::size_t bytes,
                              Stream& stream) = 0;
  virtual void copy_to_host(std::byte* to, const std::byte* from, std::size_t bytes,
                            Stream& stream) = 0;
  virtual void copy_on_device(std::byte* to, const std::byte* from, std::size_t bytes,
                              Stream& stream) = 0;
  // `rows` rows of `row_bytes`, their starts `to_pitch` and `from_pitch` bytes apart.
  virtual void copy_rows(CopyKind kind, std::byte* to, std::size_t to_pitch, const std::byte* from,
                         std::size_t from_pitch, std::size_t row_bytes, std::int64_t rows,
                         Stream& stream) = 0;
  virtual void fill_zero(std::byte* memory, std::size_t bytes, Stream& stream) = 0;

  // As core/matmul.h says.
  virtual void matmul(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate accumulate,
                      Stream& stream) = 0;
  // c[i] = alpha a[i] b[i] + beta c[i] for i in [0, batch): rank 3, (batch, M, K), (batch, K, N),
  // (batch, M, N), each matrix with its rows or its columns contiguous, any stride between matrices
  // (0: the same operand for all). beta = 0 does not read c. Types as matmul.
  virtual void matmul_batched(const Tensor& a, const Tensor& b, const Tensor& c, float alpha,
                              float beta, Stream& stream) = 0;
  // to (rows, cols) bf16 <- from (rows, cols) f32, nearest even, any row strides.
  virtual void round_to_bf16(const Tensor& from, const Tensor& to, Stream& stream) = 0;
};

// The plugin's; throws as cuda_backend() does.
CudaCore& cuda_core();

}  // namespace ballot

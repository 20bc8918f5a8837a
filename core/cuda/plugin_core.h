// CudaCore as the plugin implements it, over the CUDA runtime and cuBLAS.
//
// Memory is plain cudaMalloc: buffers are taken when a run starts and kept, so a pool would have
// nothing to do, and cudaMalloc's waiting is what makes a buffer usable by every stream at once.
// Products: one cuBLAS handle for each stream, made at its first product, with a workspace of its
// own, which is what makes the bits of a product a function of its shapes alone.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "core/cuda/cuda_core.h"     // CudaCore
#include "core/cuda/cuda_handles.h"  // OwnedCublas, OwnedStream

namespace ballot {

class PluginCore final : public CudaCore {
 public:
  int device_count() override;
  Device find_device(int index) override;
  std::string describe(Device device) override;
  std::size_t free_bytes(Device device) override;

  std::byte* allocate(std::size_t bytes, Device device) override;
  void release(std::byte* memory, Device device) noexcept override;
  std::byte* allocate_pinned(std::size_t bytes) override;
  void release_pinned(std::byte* memory) noexcept override;

  void* make_stream(Device device) override;
  void release_stream(void* handle) noexcept override;
  void synchronize(Stream& stream) override;

  void* make_event(Device device) override;
  void release_event(void* event) noexcept override;
  void record(void* event, Stream& stream) override;
  bool is_done(void* event) override;
  void wait(void* event) override;
  void hold(Stream& stream, void* event) override;

  void copy_to_device(std::byte* to, const std::byte* from, std::size_t bytes,
                      Stream& stream) override;
  void copy_to_host(std::byte* to, const std::byte* from, std::size_t bytes,
                    Stream& stream) override;
  void copy_on_device(std::byte* to, const std::byte* from, std::size_t bytes,
                      Stream& stream) override;
  void copy_rows(CopyKind kind, std::byte* to, std::size_t to_pitch, const std::byte* from,
                 std::size_t from_pitch, std::size_t row_bytes, std::int64_t rows,
                 Stream& stream) override;
  void fill_zero(std::byte* memory, std::size_t bytes, Stream& stream) override;

  void matmul(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate accumulate,
              Stream& stream) override;
  void matmul_batched(const Tensor& a, const Tensor& b, const Tensor& c, float alpha, float beta,
                      Stream& stream) override;
  void round_to_bf16(const Tensor& from, const Tensor& to, Stream& stream) override;

 private:
  struct Cublas {
    OwnedDeviceMemory workspace;  // outlives the handle that uses it
    OwnedCublas handle;
  };
  struct StreamState {
    Device device;
    OwnedStream stream;
    std::unique_ptr<Cublas> cublas;  // null until the first product
  };

  // The stream's, with the stream's device made current. One thread at a time for each stream.
  cublasHandle_t cublas_of(Stream& stream);

  std::mutex mutex_;                      // guards streams_, not what its entries hold
  std::map<void*, StreamState> streams_;  // by handle
};

}  // namespace ballot

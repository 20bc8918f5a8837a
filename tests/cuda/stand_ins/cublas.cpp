// The functions of cuBLAS that the backend uses, on the stand-in's device memory: column-major,
// with what the documentation demands of leading dimensions, types, workspaces and overlaps
// demanded.
//
// Sums are fp32 over K in order; inputs in TF32 are rounded first. A product with beta = 0 does not
// read C. alpha and beta are read when the call is made (host pointer mode, the only one here).
// Only the combinations of types that the documentation lists and the backend uses are known. No
// product without a workspace of ours: with cuBLAS's own, results may differ from run to run where
// several streams are busy. For the same reason a workspace has one stream, and products of bf16
// need the math mode that keeps all sums f32.
#include <cublas_v2.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/bfloat16.h"
#include "core/parallel.h"  // BALLOT_VECTORIZED
#include "stand_ins/call.h"
#include "stand_ins/device_memory.h"
#include "stand_ins/work_queue.h"

struct cublasContext {
  int device = 0;
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  bool sums_in_f32 = false;  // also of parts of K where the result is bf16
};

namespace ballot::stand_in {
namespace {

std::vector<std::unique_ptr<cublasContext>>& handles() {
  static auto* instance = [] {
    at_reset([] {
      for (const auto& handle : handles()) handle->workspace = nullptr;
    });
    return new std::vector<std::unique_ptr<cublasContext>>;
  }();
  return *instance;
}

cublasHandle_t require_handle(cublasHandle_t handle, const char* who) {
  for (const auto& live : handles())
    if (live.get() == handle) return handle;
  refuse(cudaErrorInvalidResourceHandle, "{} with {}, which is no live handle", who,
         static_cast<const void*>(handle));
}

// cuBLAS's codes in place of the runtime's; the text is kept beside it.
template <class Body>
cublasStatus_t call_cublas(const char* name, const Body& body) {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const cudaError_t code = call(name, [&] {
    status = body();
    return cudaSuccess;
  });
  if (code == cudaSuccess) return status;
  return code == cudaErrorInvalidValue ? CUBLAS_STATUS_INVALID_VALUE
                                       : CUBLAS_STATUS_EXECUTION_FAILED;
}

struct Matrix {
  const void* data;
  cudaDataType_t type;
  bool transposed;
  std::int64_t rows, cols;  // as it is stored
  std::int64_t leading;
  std::int64_t stride;  // between matrices of a batch
};

std::size_t element_bytes(cudaDataType_t type) {
  return type == CUDA_R_32F ? 4 : 2;
}

std::size_t span_bytes(const Matrix& m, std::int64_t batch) {
  if (m.rows == 0 || m.cols == 0) return 0;
  return static_cast<std::size_t>((batch - 1) * m.stride + (m.cols - 1) * m.leading + m.rows) *
         element_bytes(m.type);
}

float load(const Matrix& m, std::int64_t index) {
  return m.type == CUDA_R_32F ? static_cast<const float*>(m.data)[index]
                              : to_float(static_cast<const bfloat16*>(m.data)[index]);
}

// To 10 bits of fraction, nearest.
float to_tf32(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return x;
  return std::bit_cast<float>((bits + 0x0fffu + ((bits >> 13) & 1u)) & ~0x1fffu);
}

struct Product {
  Matrix a, b, c;
  std::int64_t m, n, k, batch;
  float alpha, beta;
  bool tf32;
};

BALLOT_VECTORIZED void add_row(float* __restrict sums, const float* __restrict row, float factor,
                               std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += factor * row[i];
}

// Dense op(X) of matrix `index` of the batch, column by column.
std::vector<float> gather(const Matrix& x, std::int64_t index, std::int64_t rows, std::int64_t cols,
                          bool tf32) {
  std::vector<float> dense(rows * cols);
  for (std::int64_t j = 0; j < cols; ++j)
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t at =
          index * x.stride + (x.transposed ? i * x.leading + j : j * x.leading + i);
      const float value = load(x, at);
      dense[j * rows + i] = tf32 ? to_tf32(value) : value;
    }
  return dense;
}

void multiply(const Product& p) {
  std::vector<float> a, b;
  for (std::int64_t index = 0; index < p.batch; ++index) {
    if (index == 0 || p.a.stride != 0) a = gather(p.a, index, p.m, p.k, p.tf32);
    if (index == 0 || p.b.stride != 0) b = gather(p.b, index, p.k, p.n, p.tf32);
    std::vector<float> sums(p.m);
    for (std::int64_t j = 0; j < p.n; ++j) {
      std::fill(sums.begin(), sums.end(), 0.0f);
      for (std::int64_t l = 0; l < p.k; ++l)
        add_row(sums.data(), a.data() + l * p.m, b[j * p.k + l], p.m);
      for (std::int64_t i = 0; i < p.m; ++i) {
        const std::int64_t at = index * p.c.stride + j * p.c.leading + i;
        float value = p.alpha * sums[i];
        if (p.beta != 0) value += p.beta * load(p.c, at);
        auto* data = const_cast<void*>(p.c.data);
        if (p.c.type == CUDA_R_32F)
          static_cast<float*>(data)[at] = value;
        else
          static_cast<bfloat16*>(data)[at] = to_bfloat16(value);
      }
    }
  }
}

void check_types(const Product& p, cublasComputeType_t compute) {
  const bool arithmetic = compute == CUBLAS_COMPUTE_32F ||
                          (compute == CUBLAS_COMPUTE_32F_FAST_TF32 && p.a.type == CUDA_R_32F);
  const bool f32 = p.a.type == CUDA_R_32F && p.b.type == CUDA_R_32F && p.c.type == CUDA_R_32F;
  const bool bf16 = p.a.type == CUDA_R_16BF && p.b.type == CUDA_R_16BF &&
                    (p.c.type == CUDA_R_16BF || p.c.type == CUDA_R_32F);
  if (!arithmetic || !(f32 || bf16))
    refuse(cudaErrorNotSupported,
           "a product of types {} and {} into {} with arithmetic {}, which cuBLAS does not offer",
           static_cast<int>(p.a.type), static_cast<int>(p.b.type), static_cast<int>(p.c.type),
           static_cast<int>(compute));
}

void check_leading(const Matrix& x, const char* name) {
  if (x.leading < std::max<std::int64_t>(1, x.rows))
    refuse(cudaErrorInvalidValue, "{} has {} rows and a leading dimension of {}", name, x.rows,
           x.leading);
}

bool overlap(const Matrix& x, std::size_t x_bytes, const Matrix& y, std::size_t y_bytes) {
  const auto* a = static_cast<const std::byte*>(x.data);
  const auto* b = static_cast<const std::byte*>(y.data);
  return x_bytes > 0 && y_bytes > 0 && a < b + y_bytes && b < a + x_bytes;
}

// The same element of C must not be the result of two matrices of the batch.
void check_results_apart(const Product& p) {
  if (p.batch == 1) return;
  std::vector<bool> seen((p.batch - 1) * std::abs(p.c.stride) + (p.n - 1) * p.c.leading + p.m);
  for (std::int64_t index = 0; index < p.batch; ++index)
    for (std::int64_t j = 0; j < p.n; ++j)
      for (std::int64_t i = 0; i < p.m; ++i) {
        const std::int64_t at = index * p.c.stride + j * p.c.leading + i;
        if (at < 0 || seen[at])
          refuse(cudaErrorInvalidValue, "results of matrices {} elements apart overlap",
                 p.c.stride);
        seen[at] = true;
      }
}

void check_memory(const Product& p, int device) {
  const std::size_t a = span_bytes(p.a, p.batch), b = span_bytes(p.b, p.batch),
                    c = span_bytes(p.c, p.batch);
  require_inside(p.a.data, a, device, "a product's A");
  require_inside(p.b.data, b, device, "a product's B");
  require_inside(p.c.data, c, device, "a product's C");
  if (overlap(p.c, c, p.a, a) || overlap(p.c, c, p.b, b))
    refuse(cudaErrorInvalidValue, "a product's C overlaps what it is made of");
}

void check_workspace_is_alone(const cublasContext& mine) {
  const auto* begin = static_cast<const std::byte*>(mine.workspace);
  for (const auto& other : handles()) {
    const auto* theirs = static_cast<const std::byte*>(other->workspace);
    if (other->stream != mine.stream && theirs != nullptr &&
        theirs < begin + mine.workspace_bytes && begin < theirs + other->workspace_bytes)
      refuse(cudaErrorInvalidValue, "a product whose workspace another stream's products use too");
  }
}

void enqueue_product(cublasHandle_t handle, const Product& p, cublasComputeType_t compute) {
  check_types(p, compute);
  check_leading(p.a, "A");
  check_leading(p.b, "B");
  check_leading(p.c, "C");
  if (p.m < 0 || p.n < 0 || p.k < 0 || p.batch < 0)
    refuse(cudaErrorInvalidValue, "a product of {} x {} x {}, {} times", p.m, p.n, p.k, p.batch);
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  require_stream(handle->stream, "a product");
  if (handle->stream->device != handle->device || handle->device != device_of_thread())
    refuse(cudaErrorInvalidResourceHandle,
           "a product by a handle of device {} on a stream of device {} while device {} is current",
           handle->device, handle->stream->device, device_of_thread());
  if (handle->workspace == nullptr)
    refuse(cudaErrorInvalidValue,
           "a product without a workspace: set it, and after the stream, which takes it away");
  check_workspace_is_alone(*handle);
  if (p.a.type == CUDA_R_16BF && !handle->sums_in_f32)
    refuse(cudaErrorInvalidValue,
           "a product of bf16 whose sums may be bf16 too: set the math mode");
  check_results_apart(p);
  const int device = handle->device;
  const auto check = [p, device, workspace = handle->workspace,
                      workspace_bytes = handle->workspace_bytes] {
    check_memory(p, device);
    require_inside(workspace, workspace_bytes, device, "the workspace of a product");
  };
  check();
  enqueue(handle->stream,
          {fmt::format("a product of {} x {} x {}, {} times", p.m, p.n, p.k, p.batch), [p, check] {
             check();
             multiply(p);
             return true;
           }});
}

Matrix operand(const void* data, cudaDataType_t type, cublasOperation_t operation,
               std::int64_t rows, std::int64_t cols, std::int64_t leading, std::int64_t stride) {
  if (operation != CUBLAS_OP_N && operation != CUBLAS_OP_T)
    refuse(cudaErrorInvalidValue, "operation {} of a real matrix", static_cast<int>(operation));
  const bool transposed = operation == CUBLAS_OP_T;
  return {data,    type,  transposed, transposed ? cols : rows, transposed ? rows : cols,
          leading, stride};
}

}  // namespace
}  // namespace ballot::stand_in

using namespace ballot::stand_in;

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  return call_cublas("cublasCreate", [&] {
    handles().push_back(std::make_unique<cublasContext>());
    handles().back()->device = device_of_thread();
    *handle = handles().back().get();
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  return call_cublas("cublasDestroy", [&] {
    require_handle(handle, "cublasDestroy");
    finish_device(handle->device, "cublasDestroy");
    std::erase_if(handles(), [&](const auto& h) { return h.get() == handle; });
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  return call_cublas("cublasSetStream", [&] {
    require_handle(handle, "cublasSetStream")->stream = require_stream(stream, "cublasSetStream");
    handle->workspace = nullptr;  // back to cuBLAS's own
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, std::size_t bytes) {
  return call_cublas("cublasSetWorkspace", [&] {
    require_handle(handle, "cublasSetWorkspace");
    if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0)
      refuse(cudaErrorInvalidValue, "a workspace at {}, which is not aligned to 256 bytes",
             workspace);
    require_inside(workspace, bytes, handle->device, "the workspace of a handle");
    handle->workspace = workspace;
    handle->workspace_bytes = bytes;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  return call_cublas("cublasSetMathMode", [&] {
    require_handle(handle, "cublasSetMathMode");
    const int known = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    if ((static_cast<int>(mode) & ~known) != 0)
      refuse(cudaErrorInvalidValue, "math mode {}, which would change every product's rounding",
             static_cast<int>(mode));
    handle->sums_in_f32 =
        (static_cast<int>(mode) & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION) != 0;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t a_operation,
                            cublasOperation_t b_operation, int m, int n, int k, const void* alpha,
                            const void* a, cudaDataType_t a_type, int a_leading, const void* b,
                            cudaDataType_t b_type, int b_leading, const void* beta, void* c,
                            cudaDataType_t c_type, int c_leading, cublasComputeType_t compute,
                            cublasGemmAlgo_t algorithm) {
  return cublasGemmStridedBatchedEx(handle, a_operation, b_operation, m, n, k, alpha, a, a_type,
                                    a_leading, 0, b, b_type, b_leading, 0, beta, c, c_type,
                                    c_leading, 0, 1, compute, algorithm);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t a_operation,
                                          cublasOperation_t b_operation, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType_t a_type,
                                          int a_leading, long long a_stride, const void* b,
                                          cudaDataType_t b_type, int b_leading, long long b_stride,
                                          const void* beta, void* c, cudaDataType_t c_type,
                                          int c_leading, long long c_stride, int batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
  return call_cublas("cublasGemm", [&] {
    require_handle(handle, "a product");
    for (const void* factor : {alpha, beta})
      if (factor == nullptr || is_device_address(factor))
        refuse(cudaErrorInvalidValue, "alpha or beta at {}, expected host memory", factor);
    const Product product{
        operand(a, a_type, a_operation, m, k, a_leading, a_stride),
        operand(b, b_type, b_operation, k, n, b_leading, b_stride),
        operand(c, c_type, CUBLAS_OP_N, m, n, c_leading, c_stride),
        m,
        n,
        k,
        batch,
        *static_cast<const float*>(alpha),
        *static_cast<const float*>(beta),
        compute == CUBLAS_COMPUTE_32F_FAST_TF32,
    };
    enqueue_product(handle, product, compute);
    return CUBLAS_STATUS_SUCCESS;
  });
}

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    default:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
  }
}

const char* cublasGetStatusString(cublasStatus_t status) {
  const std::lock_guard lock(device_lock());
  return status != CUBLAS_STATUS_SUCCESS && failure() != cudaSuccess ? failure_text().c_str()
                                                                     : cublasGetStatusName(status);
}

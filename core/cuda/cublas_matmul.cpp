// The matmul seam on cuBLAS.
//
// cuBLAS is column-major: what it calls X, read from our row-major memory, is our X transposed. So
// c = a b is asked for as c^T = b^T a^T: the operands change places and nothing is moved.
#include <limits>

#include "core/cuda/cuda_check.h"
#include "core/cuda/plugin_core.h"

namespace ballot {
namespace {

int to_int(std::int64_t value, const char* what) {
  require(0 <= value && value <= std::numeric_limits<int>::max(), "matmul: {} of {}", what, value);
  return static_cast<int>(value);
}

// The last two dimensions of a tensor.
struct Matrix {
  std::byte* data;
  std::int64_t rows, cols, row_stride, col_stride;

  explicit Matrix(const Tensor& x)
      : data(x.data),
        rows(x.extent[x.rank - 2]),
        cols(x.extent[x.rank - 1]),
        row_stride(x.stride[x.rank - 2]),
        col_stride(x.stride[x.rank - 1]) {}
  void transpose() {
    std::swap(rows, cols);
    std::swap(row_stride, col_stride);
  }
};

// How cuBLAS reads a matrix of ours as its transpose: as it lies (N) where our columns are
// contiguous, transposed (T) where our rows are.
struct Operand {
  cublasOperation_t operation;
  int leading_dimension;
};

Operand operand_of(const Matrix& x, const Tensor& tensor) {
  // A dimension of extent 1 may carry any stride.
  if ((x.col_stride == 1 || x.cols == 1) && (x.row_stride >= x.cols || x.rows == 1))
    return {CUBLAS_OP_N, to_int(x.rows == 1 ? x.cols : x.row_stride, "a row stride")};
  if ((x.row_stride == 1 || x.rows == 1) && (x.col_stride >= x.rows || x.cols == 1))
    return {CUBLAS_OP_T, to_int(x.cols == 1 ? x.rows : x.col_stride, "a column stride")};
  require(false,
          "matmul on a GPU of {}, whose rows are {} and columns {} elements apart: one of "
          "them must be contiguous",
          tensor.describe(), x.row_stride, x.col_stride);
  return {};
}

cudaDataType_t to_cuda(DType type) {
  return type == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

struct Product {
  Operand a, b, c;
  int m, n, k;
  const std::byte *a_data, *b_data;
  std::byte* c_data;
  bool transposed;  // a and b have changed places
};

// What to ask for c = a b, where c may also have its rows contiguous: then for c^T = b^T a^T.
Product product_of(const Tensor& a, const Tensor& b, const Tensor& c) {
  require(c.type == DType::f32 || a.type == DType::bf16, "matmul of {} and {} into {}",
          a.describe(), b.describe(), c.describe());
  Matrix left(a), right(b), result(c);
  const bool transposed = operand_of(result, c).operation == CUBLAS_OP_T;
  if (transposed) {
    std::swap(left, right);
    left.transpose();
    right.transpose();
    result.transpose();
  }
  return {.a = operand_of(left, a),
          .b = operand_of(right, b),
          .c = operand_of(result, c),
          .m = to_int(result.rows, "rows"),
          .n = to_int(result.cols, "columns"),
          .k = to_int(left.cols, "an inner dimension"),
          .a_data = left.data,
          .b_data = right.data,
          .c_data = result.data,
          .transposed = transposed};
}

cublasComputeType_t arithmetic_of(DType in, const Stream& stream) {
  return in == DType::f32 && stream.float32_products() == Float32Products::tf32
             ? CUBLAS_COMPUTE_32F_FAST_TF32
             : CUBLAS_COMPUTE_32F;
}

}  // namespace

void PluginCore::matmul(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate accumulate,
                        Stream& stream) {
  const Product p = product_of(a, b, c);
  const float alpha = 1, beta = accumulate == Accumulate::yes ? 1 : 0;
  check(cublasGemmEx(cublas_of(stream), p.b.operation, p.a.operation, p.n, p.m, p.k, &alpha,
                     p.b_data, to_cuda(b.type), p.b.leading_dimension, p.a_data, to_cuda(a.type),
                     p.a.leading_dimension, &beta, p.c_data, to_cuda(c.type), p.c.leading_dimension,
                     arithmetic_of(a.type, stream), CUBLAS_GEMM_DEFAULT),
        "multiply {} by {} into {}", a.describe(), b.describe(), c.describe());
}

void PluginCore::matmul_batched(const Tensor& a, const Tensor& b, const Tensor& c, float alpha,
                                float beta, Stream& stream) {
  const bool fits = a.rank == 3 && b.rank == 3 && c.rank == 3 && a.extent[0] == c.extent[0] &&
                    b.extent[0] == c.extent[0] && a.extent[1] == c.extent[1] &&
                    b.extent[2] == c.extent[2] && a.extent[2] == b.extent[1] && a.type == b.type;
  require(fits, "batched matmul of {} and {} into {}", a.describe(), b.describe(), c.describe());
  if (c.count() == 0) return;
  require(a.extent[2] > 0, "batched matmul over an empty inner dimension");
  require(c.extent[0] == 1 || c.stride[0] != 0, "batched matmul into {}, one place for all",
          c.describe());
  const Product p = product_of(a, b, c);
  const std::int64_t a_stride = p.transposed ? b.stride[0] : a.stride[0];
  const std::int64_t b_stride = p.transposed ? a.stride[0] : b.stride[0];
  check(cublasGemmStridedBatchedEx(
            cublas_of(stream), p.b.operation, p.a.operation, p.n, p.m, p.k, &alpha, p.b_data,
            to_cuda(b.type), p.b.leading_dimension, b_stride, p.a_data, to_cuda(a.type),
            p.a.leading_dimension, a_stride, &beta, p.c_data, to_cuda(c.type),
            p.c.leading_dimension, c.stride[0], to_int(c.extent[0], "a batch"),
            arithmetic_of(a.type, stream), CUBLAS_GEMM_DEFAULT),
        "multiply {} by {} into {}", a.describe(), b.describe(), c.describe());
}

}  // namespace ballot

// Attention on the CPU: small products on one thread each, everything between them in that core's
// cache.
#include "models/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "models/ops/attention_cpu.h"
#include "models/ops/cuda_model_ops.h"
#include "models/ops/vector_math.h"

namespace ballot {
namespace {

// Scores of one block: G * rows * T of them, 256 KiB with their gradients (a core has 1 to 2 MiB of
// cache).
constexpr std::int64_t kBlockScores = 32 * 1024;
constexpr std::int64_t kBlockRowsMin = 16;
constexpr std::int64_t kBlockRowsMax = 128;

std::int64_t block_rows(const AttentionShape& shape) {
  const std::int64_t rows = kBlockScores / (shape.group() * shape.length) / 16 * 16;
  return std::min(shape.length, std::clamp(rows, kBlockRowsMin, kBlockRowsMax));
}

// One thread's working memory. Where T is f32, rounded values share the memory of what they round.
template <class T>
struct Scratch {
  T* q;            // (G rows, D) rotated, times 1/sqrt(D)
  T* k;            // (T, D) rotated
  T* doutput;      // (G rows, D)
  float* scores;   // (G rows, keys)
  T* p;            // the same, rounded
  float* dscores;  // (G rows, keys)
  T* ds;           // the same, rounded
  float* result;   // (G rows, D)
  float* dk;       // (T, D)
  float* dv;       // (T, D)
  float* row;      // (G rows) 1 / sum, or the dot of output and its gradient
  std::int64_t size_bytes;

  Scratch(std::byte* base, const AttentionShape& shape) {
    std::int64_t used = 0;
    const auto take = [&]<class U>(U*& target, std::int64_t count) {
      target = reinterpret_cast<U*>(reinterpret_cast<std::uintptr_t>(base) + used);
      used += (count * static_cast<std::int64_t>(sizeof(U)) + 63) / 64 * 64;
    };
    const std::int64_t rows = shape.group() * block_rows(shape);
    take(q, rows * shape.head_size);
    take(k, shape.length * shape.head_size);
    take(doutput, rows * shape.head_size);
    take(scores, rows * shape.length);
    take(dscores, rows * shape.length);
    if constexpr (kDType<T> == DType::f32) {
      p = scores;
      ds = dscores;
    } else {
      take(p, rows * shape.length);
      take(ds, rows * shape.length);
    }
    take(result, rows * shape.head_size);
    take(dk, shape.length * shape.head_size);
    take(dv, shape.length * shape.head_size);
    take(row, rows);
    size_bytes = used;
  }
};

// The keys that one row of a block sees, counted from the block's first key: [begin, end).
struct Seen {
  std::int64_t begin, end;
};

// Of row i of a block of queries that begins at position `first` and of keys that begin at `base`.
// `starts`: of the block's rows; null: one document.
[[gnu::always_inline]] inline Seen seen_by(std::int64_t i, std::int64_t first, std::int64_t base,
                                           const std::int32_t* starts) {
  return {starts == nullptr ? 0 : starts[i] - base, first + i + 1 - base};
}

// Leaves exp(s - max) in p, zeros where masked.
#define BALLOT_SOFTMAX_ROWS(T, STORE)                                                              \
  BALLOT_VECTORIZED void softmax_block(float* __restrict s, T* p, std::int64_t rows,               \
                                       std::int64_t keys, std::int64_t first, std::int64_t base,   \
                                       const std::int32_t* starts, float* __restrict inverse_sum,  \
                                       float* __restrict lse) {                                    \
    for (std::int64_t i = 0; i < rows; ++i, s += keys, p += keys) {                                \
      const Seen seen = seen_by(i, first, base, starts);                                           \
      float maximum = s[seen.begin];                                                               \
      _Pragma("omp simd reduction(max : maximum)") for (std::int64_t j = seen.begin; j < seen.end; \
                                                        ++j) maximum =                             \
          s[j] > maximum ? s[j] : maximum;                                                         \
      float sum = 0;                                                                               \
      for (std::int64_t j = 0; j < seen.begin; ++j) STORE[j] = from_float<T>(0.0f);                \
      _Pragma("omp simd reduction(+ : sum)") for (std::int64_t j = seen.begin; j < seen.end;       \
                                                  ++j) {                                           \
        const float e = vector_exp(s[j] - maximum);                                                \
        STORE[j] = from_float<T>(e);                                                               \
        sum += e;                                                                                  \
      }                                                                                            \
      for (std::int64_t j = seen.end; j < keys; ++j) STORE[j] = from_float<T>(0.0f);               \
      inverse_sum[i] = 1.0f / sum;                                                                 \
      lse[i] = maximum + std::log(sum);                                                            \
    }                                                                                              \
  }
BALLOT_SOFTMAX_ROWS(float, s)
BALLOT_SOFTMAX_ROWS(bfloat16, p)
#undef BALLOT_SOFTMAX_ROWS

// p = exp(s - lse), ds = p (dp - dot), both zero where masked. In f32 p replaces s and ds replaces
// dp. A document's first position has one key: its ds is exactly zero, where the formula would
// leave rounding.
#define BALLOT_SOFTMAX_BACKWARD_ROWS(T, P, DS)                                              \
  BALLOT_VECTORIZED void softmax_backward_rows(                                             \
      float* __restrict s, float* __restrict dp, T* p, T* ds, std::int64_t rows,            \
      std::int64_t keys, std::int64_t first, std::int64_t base, const std::int32_t* starts, \
      const float* __restrict lse, const float* __restrict dot) {                           \
    for (std::int64_t i = 0; i < rows; ++i, s += keys, dp += keys, p += keys, ds += keys) { \
      const Seen seen = seen_by(i, first, base, starts);                                    \
      for (std::int64_t j = 0; j < seen.begin; ++j) {                                       \
        P[j] = from_float<T>(0.0f);                                                         \
        DS[j] = from_float<T>(0.0f);                                                        \
      }                                                                                     \
      _Pragma("omp simd") for (std::int64_t j = seen.begin; j < seen.end; ++j) {            \
        const float e = vector_exp(s[j] - lse[i]);                                          \
        const float d = e * (dp[j] - dot[i]);                                               \
        P[j] = from_float<T>(e);                                                            \
        DS[j] = from_float<T>(d);                                                           \
      }                                                                                     \
      if (seen.end - seen.begin == 1) DS[seen.begin] = from_float<T>(0.0f);                 \
      for (std::int64_t j = seen.end; j < keys; ++j) {                                      \
        P[j] = from_float<T>(0.0f);                                                         \
        DS[j] = from_float<T>(0.0f);                                                        \
      }                                                                                     \
    }                                                                                       \
  }
BALLOT_SOFTMAX_BACKWARD_ROWS(float, s, dp)
BALLOT_SOFTMAX_BACKWARD_ROWS(bfloat16, p, ds)
#undef BALLOT_SOFTMAX_BACKWARD_ROWS

// y = x * factor[row], into rows y_stride apart.
#define BALLOT_SCALE_ROWS(T)                                                                       \
  BALLOT_VECTORIZED void scale_block(const float* __restrict x, const float* __restrict factor,    \
                                     std::int64_t rows, std::int64_t cols, T* __restrict y,        \
                                     std::int64_t y_stride) {                                      \
    for (std::int64_t i = 0; i < rows; ++i, x += cols, y += y_stride)                              \
      for (std::int64_t c = 0; c < cols; ++c) y[c] = from_float<T>(x[c] * factor[i]);              \
  }                                                                                                \
  BALLOT_VECTORIZED void store_rows(const float* __restrict x, std::int64_t rows,                  \
                                    std::int64_t cols, T* __restrict y, std::int64_t y_stride) {   \
    for (std::int64_t i = 0; i < rows; ++i, x += cols, y += y_stride)                              \
      for (std::int64_t c = 0; c < cols; ++c) y[c] = from_float<T>(x[c]);                          \
  }                                                                                                \
  /* Packs rows of d(output) and takes their dots with the output. */                              \
  BALLOT_VECTORIZED void pack_with_dots(const T* __restrict d, const T* __restrict output,         \
                                        std::int64_t stride, std::int64_t rows, std::int64_t cols, \
                                        T* __restrict packed, float* __restrict dot) {             \
    for (std::int64_t i = 0; i < rows; ++i, d += stride, output += stride, packed += cols) {       \
      float sum = 0;                                                                               \
      _Pragma("omp simd reduction(+ : sum)") for (std::int64_t c = 0; c < cols; ++c) {             \
        packed[c] = d[c];                                                                          \
        sum += to_float(d[c]) * to_float(output[c]);                                               \
      }                                                                                            \
      dot[i] = sum;                                                                                \
    }                                                                                              \
  }
BALLOT_SCALE_ROWS(float)
BALLOT_SCALE_ROWS(bfloat16)
#undef BALLOT_SCALE_ROWS

template <class T>
Tensor matrix(T* data, std::int64_t rows, std::int64_t cols) {
  return make_tensor(data, kDType<T>, {rows, cols});
}

// Where the tensors of one (sequence, key/value head) begin.
template <class T>
struct Item {
  AttentionShape shape;
  std::int64_t sequence, kv_head;
  T* values;
  T* keys;
  T* queries;  // head g of the group D further on

  Item(const AttentionShape& s, T* vkq, std::int64_t item)
      : shape(s), sequence(item / s.key_value_heads), kv_head(item % s.key_value_heads) {
    T* base = vkq + sequence * s.length * s.width();
    values = base + kv_head * s.head_size;
    keys = base + (s.key_value_heads + kv_head) * s.head_size;
    queries = base + (2 * s.key_value_heads + kv_head * s.group()) * s.head_size;
  }
  std::int64_t head(std::int64_t g) const { return kv_head * shape.group() + g; }
  // Offset of (head g, position t) in a (N, H D) tensor, and in log_sum_exp.
  std::int64_t output_at(std::int64_t g, std::int64_t t) const {
    return ((sequence * shape.length + t) * shape.heads + head(g)) * shape.head_size;
  }
  std::int64_t lse_at(std::int64_t g, std::int64_t t) const {
    return (sequence * shape.heads + head(g)) * shape.length + t;
  }
  // Of position t and on; null: one document.
  const std::int32_t* document_starts(std::int64_t t) const {
    return shape.document_starts == nullptr ? nullptr
                                            : shape.document_starts + sequence * shape.length + t;
  }
  // The first key that a block of queries from position t on sees.
  std::int64_t first_key(std::int64_t t) const {
    return shape.document_starts == nullptr ? 0 : *document_starts(t);
  }
};

template <class T>
void forward_item(const Item<T>& item, const RopeTable& rope, T* output, float* log_sum_exp,
                  const Scratch<T>& scratch, Stream& stream) {
  const AttentionShape& shape = item.shape;
  const std::int64_t d = shape.head_size, width = shape.width(), group = shape.group(),
                     half = rope.half();
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  rope_rows(item.keys, width, rope.cosines(0), rope.sines(0), half, shape.length, 1.0f, scratch.k,
            d);
  const std::int64_t step = block_rows(shape);
  for (std::int64_t first = 0; first < shape.length; first += step) {
    const std::int64_t rows = std::min(step, shape.length - first);
    const std::int64_t base = item.first_key(first), keys = first + rows - base;
    for (std::int64_t g = 0; g < group; ++g)
      rope_rows(item.queries + first * width + g * d, width, rope.cosines(first), rope.sines(first),
                half, rows, scale, scratch.q + g * rows * d, d);
    matmul(matrix(scratch.q, group * rows, d), matrix(scratch.k + base * d, keys, d).transposed(),
           matrix(scratch.scores, group * rows, keys), Accumulate::no, stream);
    for (std::int64_t g = 0; g < group; ++g)
      softmax_block(scratch.scores + g * rows * keys, scratch.p + g * rows * keys, rows, keys,
                    first, base, item.document_starts(first), scratch.row + g * rows,
                    log_sum_exp + item.lse_at(g, first));
    matmul(matrix(scratch.p, group * rows, keys),
           make_matrix(item.values + base * width, kDType<T>, keys, d, width),
           matrix(scratch.result, group * rows, d), Accumulate::no, stream);
    for (std::int64_t g = 0; g < group; ++g)
      scale_block(scratch.result + g * rows * d, scratch.row + g * rows, rows, d,
                  output + item.output_at(g, first), shape.heads * d);
  }
}

// Blocks go from last to first: of dk and dv, a block adds to the rows that one after it has
// written, and is the first to write the rest. With one document a row the last block writes all.
template <class T>
void backward_item(const Item<T>& item, const RopeTable& rope, const T* output, const T* doutput,
                   const float* log_sum_exp, const Scratch<T>& scratch, Stream& stream) {
  const AttentionShape& shape = item.shape;
  const std::int64_t d = shape.head_size, width = shape.width(), group = shape.group(),
                     half = rope.half();
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  rope_rows(item.keys, width, rope.cosines(0), rope.sines(0), half, shape.length, 1.0f, scratch.k,
            d);
  const std::int64_t step = block_rows(shape);
  std::int64_t written = shape.length;  // the first row of dk and dv that is
  for (std::int64_t first = (shape.length - 1) / step * step; first >= 0; first -= step) {
    const std::int64_t rows = std::min(step, shape.length - first);
    const std::int64_t base = item.first_key(first), keys = first + rows - base;
    const Accumulate accumulate = written < first + rows ? Accumulate::yes : Accumulate::no;
    if (accumulate == Accumulate::yes && base < written) {
      std::fill(scratch.dk + base * d, scratch.dk + written * d, 0.0f);
      std::fill(scratch.dv + base * d, scratch.dv + written * d, 0.0f);
    }
    written = std::min(written, base);
    for (std::int64_t g = 0; g < group; ++g) {
      rope_rows(item.queries + first * width + g * d, width, rope.cosines(first), rope.sines(first),
                half, rows, scale, scratch.q + g * rows * d, d);
      const std::int64_t at = item.output_at(g, first);
      pack_with_dots(doutput + at, output + at, shape.heads * d, rows, d,
                     scratch.doutput + g * rows * d, scratch.row + g * rows);
    }
    const Tensor q = matrix(scratch.q, group * rows, d);
    const Tensor k = matrix(scratch.k + base * d, keys, d);
    const Tensor v = make_matrix(item.values + base * width, kDType<T>, keys, d, width);
    const Tensor dy = matrix(scratch.doutput, group * rows, d);
    matmul(q, k.transposed(), matrix(scratch.scores, group * rows, keys), Accumulate::no, stream);
    matmul(dy, v.transposed(), matrix(scratch.dscores, group * rows, keys), Accumulate::no, stream);
    for (std::int64_t g = 0; g < group; ++g) {
      const std::int64_t at = g * rows * keys;
      softmax_backward_rows(scratch.scores + at, scratch.dscores + at, scratch.p + at,
                            scratch.ds + at, rows, keys, first, base, item.document_starts(first),
                            log_sum_exp + item.lse_at(g, first), scratch.row + g * rows);
    }
    const Tensor p = matrix(scratch.p, group * rows, keys);
    const Tensor ds = matrix(scratch.ds, group * rows, keys);
    matmul(p.transposed(), dy, matrix(scratch.dv + base * d, keys, d), accumulate, stream);
    matmul(ds.transposed(), q, matrix(scratch.dk + base * d, keys, d), accumulate, stream);
    matmul(ds, k, matrix(scratch.result, group * rows, d), Accumulate::no, stream);
    for (std::int64_t g = 0; g < group; ++g)
      rope_inverse_rows(scratch.result + g * rows * d, d, rope.cosines(first), rope.sines(first),
                        half, rows, scale, item.queries + first * width + g * d, width);
  }
  rope_inverse_rows(scratch.dk, d, rope.cosines(0), rope.sines(0), half, shape.length, 1.0f,
                    item.keys, width);
  store_rows(scratch.dv, shape.length, d, item.values, width);
}

void check(const AttentionShape& shape, const Tensor& vkq, const Tensor& output) {
  const std::int64_t rows = shape.sequences * shape.length;
  require(vkq.is_contiguous() && output.is_contiguous() && vkq.type == output.type &&
              vkq.extent[0] == rows && output.extent[0] == rows && vkq.extent[1] == shape.width() &&
              output.extent[1] == shape.heads * shape.head_size,
          "attention of {} into {}", vkq.describe(), output.describe());
}

// Runs body(item, scratch) for every (sequence, key/value head).
template <class T, class Body>
void over_items(const AttentionShape& shape, const Tensor& vkq, std::byte* scratch,
                const Body& body) {
  const std::int64_t bytes = Scratch<T>(nullptr, shape).size_bytes;
  const bool nested = omp_in_parallel();
  parallel_items(shape.sequences * shape.key_value_heads, [&](std::int64_t i) {
    const std::int64_t thread = nested ? 0 : omp_get_thread_num();
    Stream stream;
    body(Item<T>(shape, vkq.as<T>(), i), Scratch<T>(scratch + thread * bytes, shape), stream);
  });
}

}  // namespace

void softmax_rows(float* s, float* p, std::int64_t rows, std::int64_t keys, std::int64_t first,
                  std::int64_t base, const std::int32_t* starts, float* inverse_sum, float* lse) {
  softmax_block(s, p, rows, keys, first, base, starts, inverse_sum, lse);
}
void softmax_rows(float* s, bfloat16* p, std::int64_t rows, std::int64_t keys, std::int64_t first,
                  std::int64_t base, const std::int32_t* starts, float* inverse_sum, float* lse) {
  softmax_block(s, p, rows, keys, first, base, starts, inverse_sum, lse);
}
void scale_rows(const float* x, const float* factor, std::int64_t rows, std::int64_t cols, float* y,
                std::int64_t y_stride) {
  scale_block(x, factor, rows, cols, y, y_stride);
}
void scale_rows(const float* x, const float* factor, std::int64_t rows, std::int64_t cols,
                bfloat16* y, std::int64_t y_stride) {
  scale_block(x, factor, rows, cols, y, y_stride);
}

std::int64_t attention_scratch_bytes(const AttentionShape& shape, DType type, Device device) {
  if (device.kind == Device::Kind::cuda)
    return cuda_model_ops().attention_scratch_bytes(shape, type);
  return thread_count() * (type == DType::f32 ? Scratch<float>(nullptr, shape).size_bytes
                                              : Scratch<bfloat16>(nullptr, shape).size_bytes);
}

void attention(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
               const Tensor& output, float* log_sum_exp, std::byte* scratch, Stream& stream) {
  check(shape, vkq, output);
  if (vkq.device.kind == Device::Kind::cuda)
    return cuda_model_ops().attention(shape, rope, vkq, output, log_sum_exp, scratch, stream);
  const auto run = [&]<class T>(T*) {
    over_items<T>(shape, vkq, scratch, [&](const Item<T>& item, const Scratch<T>& s, Stream& own) {
      forward_item(item, rope, output.as<T>(), log_sum_exp, s, own);
    });
  };
  if (vkq.type == DType::f32)
    run(static_cast<float*>(nullptr));
  else
    run(static_cast<bfloat16*>(nullptr));
}

void attention_backward(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
                        const Tensor& output, const Tensor& doutput, const float* log_sum_exp,
                        std::byte* scratch, Stream& stream) {
  check(shape, vkq, output);
  check(shape, vkq, doutput);
  if (vkq.device.kind == Device::Kind::cuda)
    return cuda_model_ops().attention_backward(shape, rope, vkq, output, doutput, log_sum_exp,
                                               scratch, stream);
  const auto run = [&]<class T>(T*) {
    over_items<T>(shape, vkq, scratch, [&](const Item<T>& item, const Scratch<T>& s, Stream& own) {
      backward_item<T>(item, rope, output.as<T>(), doutput.as<T>(), log_sum_exp, s, own);
    });
  };
  if (vkq.type == DType::f32)
    run(static_cast<float*>(nullptr));
  else
    run(static_cast<bfloat16*>(nullptr));
}

}  // namespace ballot

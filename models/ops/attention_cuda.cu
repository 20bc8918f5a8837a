// Attention on CUDA: for a block of query rows at a time, scores against all keys it may see as one
// batched product in cuBLAS, softmax in a kernel, and a second product with the values. Keys wholly
// in the future are skipped; scores of one block exist at a time, so memory is linear in T.
//
// Heads are first gathered by (sequence, key/value head) = item, rotated: q (items, T, G, D), k and
// v (items, T, D). A block's G heads and rows then are one matrix of G rows x D, which all share k
// and v. Probabilities and score gradients are written over the scores they come from, in the
// tensors' own type, so that what lies in the 50 MB cache is read from there.
//
// Bytes, bf16, for each (query, key) pair seen: forward 4 written + 4 read (scores), 2 + 2
// (probabilities) = 12; backward 26. At 3.35 TB/s 3.6 and 7.8 us per million pairs where nothing
// stays in the cache; B H T (T + R) / 2 pairs, R the block's rows. Gathering and scattering: 4
// bytes per element of vkq forward, 12 backward.
#include "core/cuda/kernel.h"
// kernel.h first: see its rules.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/cuda/cuda_core.h"
#include "core/cuda/cuda_stream.h"
#include "models/ops/model_ops_cuda.h"
#include "models/ops/vector_cuda.h"

namespace ballot {
namespace kernels {

constexpr int kTokenThreads = 256;
constexpr int kSoftmaxThreads = 128;
constexpr int kSoftmaxWarps = kSoftmaxThreads / kWarpSize;
constexpr int kScoreWidth = 4;                            // scores of a lane, 16 bytes
constexpr std::int64_t kChunk = kWarpSize * kScoreWidth;  // scores of a warp at a time
constexpr int kGradientChunks = 4;                        // under way together

// Place of (sequence, key/value head, position) in k and v, in rows of D; of a head of its group in
// q after multiplying by G and adding the head.
struct Place {
  std::int64_t sequence, position;

  __device__ __forceinline__ Place(const AttentionShape& shape, std::int64_t token)
      : sequence(token / shape.length), position(token - sequence * shape.length) {}
  __device__ __forceinline__ std::int64_t row(const AttentionShape& shape,
                                              std::int64_t kv_head) const {
    return (sequence * shape.key_value_heads + kv_head) * shape.length + position;
  }
  __device__ __forceinline__ std::int64_t query_row(const AttentionShape& shape,
                                                    std::int64_t head) const {
    const std::int64_t group = shape.group();
    const std::int64_t kv_head = head / group;
    return row(shape, kv_head) * group + (head - kv_head * group);
  }
};

// A block for each token: values copied, keys and queries rotated, queries scaled.
template <class T, int kWidth>
__global__ void __launch_bounds__(kTokenThreads)
    gather_heads(AttentionShape shape, const float* cosines, const float* sines, const T* vkq,
                 float scale, T* v, T* k, T* q) {
  const std::int64_t token = blockIdx.x;
  const Place place(shape, token);
  const int half = static_cast<int>(shape.head_size) / 2, size = 2 * half;
  const int kv_heads = static_cast<int>(shape.key_value_heads);
  const int per_head = half / kWidth;
  const int units = (2 * kv_heads + static_cast<int>(shape.heads)) * per_head;
  vkq += token * shape.width();
  cosines += place.position * half;
  sines += place.position * half;
  for (int unit = static_cast<int>(threadIdx.x); unit < units;
       unit += static_cast<int>(blockDim.x)) {
    const int head = unit / per_head, i = (unit - head * per_head) * kWidth;
    float low[kWidth], high[kWidth];
    load(vkq + static_cast<std::int64_t>(head) * size + i, low);
    load(vkq + static_cast<std::int64_t>(head) * size + half + i, high);
    T* target = v + place.row(shape, head) * size;
    if (head >= kv_heads) {
      const bool query = head >= 2 * kv_heads;
      target = query ? q + place.query_row(shape, head - 2 * kv_heads) * size
                     : k + place.row(shape, head - kv_heads) * size;
      float cosine[kWidth], sine[kWidth];
      load(cosines + i, cosine);
      load(sines + i, sine);
      BALLOT_UNROLL
      for (int j = 0; j < kWidth; ++j) {
        const float a = query ? low[j] * scale : low[j];
        const float b = query ? high[j] * scale : high[j];
        low[j] = a * cosine[j] - b * sine[j];
        high[j] = b * cosine[j] + a * sine[j];
      }
    }
    store(target + i, low);
    store(target + half + i, high);
  }
}

// The way back for gradients: fp32 in, rotated by the opposite angle, into vkq.
template <class T, int kWidth>
__global__ void __launch_bounds__(kTokenThreads)
    scatter_heads(AttentionShape shape, const float* cosines, const float* sines, const float* dv,
                  const float* dk, const float* dq, float scale, T* vkq) {
  const std::int64_t token = blockIdx.x;
  const Place place(shape, token);
  const int half = static_cast<int>(shape.head_size) / 2, size = 2 * half;
  const int kv_heads = static_cast<int>(shape.key_value_heads);
  const int per_head = half / kWidth;
  const int units = (2 * kv_heads + static_cast<int>(shape.heads)) * per_head;
  vkq += token * shape.width();
  cosines += place.position * half;
  sines += place.position * half;
  for (int unit = static_cast<int>(threadIdx.x); unit < units;
       unit += static_cast<int>(blockDim.x)) {
    const int head = unit / per_head, i = (unit - head * per_head) * kWidth;
    const bool value = head < kv_heads, query = head >= 2 * kv_heads;
    const float* source = value   ? dv + place.row(shape, head) * size
                          : query ? dq + place.query_row(shape, head - 2 * kv_heads) * size
                                  : dk + place.row(shape, head - kv_heads) * size;
    float low[kWidth], high[kWidth];
    load(source + i, low);
    load(source + half + i, high);
    if (!value) {
      float cosine[kWidth], sine[kWidth];
      load(cosines + i, cosine);
      load(sines + i, sine);
      BALLOT_UNROLL
      for (int j = 0; j < kWidth; ++j) {
        const float a = query ? low[j] * scale : low[j];
        const float b = query ? high[j] * scale : high[j];
        low[j] = a * cosine[j] + b * sine[j];
        high[j] = b * cosine[j] - a * sine[j];
      }
    }
    store(vkq + static_cast<std::int64_t>(head) * size + i, low);
    store(vkq + static_cast<std::int64_t>(head) * size + half + i, high);
  }
}

// (items, T, G, D) -> (N, H D), a block for each token.
template <class T, int kWidth>
__global__ void __launch_bounds__(kTokenThreads)
    scatter_output(AttentionShape shape, const T* gathered, T* output) {
  const std::int64_t token = blockIdx.x;
  const Place place(shape, token);
  const int size = static_cast<int>(shape.head_size), per_head = size / kWidth;
  const int units = static_cast<int>(shape.heads) * per_head;
  output += token * shape.heads * size;
  for (int unit = static_cast<int>(threadIdx.x); unit < units;
       unit += static_cast<int>(blockDim.x)) {
    const int head = unit / per_head, i = (unit - head * per_head) * kWidth;
    float values[kWidth];
    load(gathered + place.query_row(shape, head) * size + i, values);
    store(output + static_cast<std::int64_t>(head) * size + i, values);
  }
}

// d(output) gathered as the queries are, and its dot with the output for each row: `lanes`
// neighbouring lanes, a power of two, for each head.
template <class T, int kWidth>
__global__ void __launch_bounds__(kTokenThreads)
    gather_gradient(AttentionShape shape, int lanes, const T* output, const T* doutput, T* gathered,
                    float* dots) {
  const std::int64_t token = blockIdx.x;
  const Place place(shape, token);
  const int size = static_cast<int>(shape.head_size), heads = static_cast<int>(shape.heads);
  const int heads_at_once = static_cast<int>(blockDim.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  output += token * heads * size;
  doutput += token * heads * size;
  for (int first = 0; first < heads; first += heads_at_once) {
    const int head = first + static_cast<int>(threadIdx.x) / lanes;
    const std::int64_t row = head < heads ? place.query_row(shape, head) : 0;
    float dot = 0;
    if (head < heads) {
      for (int i = lane * kWidth; i < size; i += lanes * kWidth) {
        float y[kWidth], dy[kWidth];
        load(output + static_cast<std::int64_t>(head) * size + i, y);
        load(doutput + static_cast<std::int64_t>(head) * size + i, dy);
        BALLOT_UNROLL
        for (int j = 0; j < kWidth; ++j) dot += y[j] * dy[j];
        store(gathered + row * size + i, dy);
      }
    }
    for (int apart = lanes / 2; apart > 0; apart /= 2)
      dot += __shfl_xor_sync(kFullWarp, dot, apart);
    if (lane == 0 && head < heads) dots[row] = dot;
  }
}

// A row of a block's scores. Row i of an item is head i % G at position first + i / G, and sees the
// keys from its document's first to its own position: [begin, seen).
struct ScoreRow {
  std::int64_t item, position, head, begin, seen;

  __device__ __forceinline__ ScoreRow(const AttentionShape& shape, std::int64_t row,
                                      std::int64_t rows_of_item, std::int64_t first_item,
                                      std::int64_t first) {
    const std::int64_t local = row / rows_of_item, i = row - local * rows_of_item;
    const std::int64_t group = shape.group(), t = i / group;
    item = first_item + local;
    position = first + t;
    head = i - t * group;
    begin = shape.document_starts == nullptr
                ? 0
                : shape.document_starts[item / shape.key_value_heads * shape.length + position];
    seen = position + 1;
  }
  __device__ __forceinline__ bool sees(std::int64_t key) const {
    return key >= begin && key < seen;
  }
  // In log_sum_exp (B, H, T).
  __device__ __forceinline__ std::int64_t lse_at(const AttentionShape& shape) const {
    const std::int64_t sequence = item / shape.key_value_heads;
    const std::int64_t kv_head = item - sequence * shape.key_value_heads;
    return (sequence * shape.heads + kv_head * shape.group() + head) * shape.length + position;
  }
};

// Scores to probabilities in place, a warp for each row, zeros where masked. With kChunks > 0 the
// row (at most kChunks * kChunk keys) stays in registers; with 0 it is read twice. In place:
// element i is written as T at or before the place it was read from, and a chunk is written after
// all its lanes have read it.
template <class T, int kChunks>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_rows(AttentionShape shape, float* scores, std::int64_t pitch, std::int64_t rows,
                 std::int64_t rows_of_item, std::int64_t first_item, std::int64_t first,
                 std::int64_t keys, float* log_sum_exp) {
  const std::int64_t row = blockIdx.x * static_cast<std::int64_t>(kSoftmaxWarps) + warp_index();
  if (row < rows) {  // the whole warp
    const ScoreRow place(shape, row, rows_of_item, first_item, first);
    const std::int64_t seen = place.seen, begin = lane_index() * kScoreWidth;
    const float* s = scores + row * pitch;
    T* p = reinterpret_cast<T*>(scores + row * pitch);
    float maximum = -INFINITY, sum = 0;
    if constexpr (kChunks > 0) {
      float x[kChunks][kScoreWidth];
      BALLOT_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk)
        if (begin + chunk * kChunk < seen) load(s + begin + chunk * kChunk, x[chunk]);
      BALLOT_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        BALLOT_UNROLL
        for (int i = 0; i < kScoreWidth; ++i) {
          if (!place.sees(begin + chunk * kChunk + i)) x[chunk][i] = -INFINITY;
          maximum = x[chunk][i] > maximum ? x[chunk][i] : maximum;
        }
      }
      maximum = warp_max(maximum);
      BALLOT_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        BALLOT_UNROLL
        for (int i = 0; i < kScoreWidth; ++i) {
          x[chunk][i] = expf(x[chunk][i] - maximum);
          sum += x[chunk][i];
        }
      }
      sum = warp_sum(sum);
      const float inverse = 1.0f / sum;
      __syncwarp();
      BALLOT_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk)
        if (begin + chunk * kChunk < keys) {
          BALLOT_UNROLL
          for (int i = 0; i < kScoreWidth; ++i) x[chunk][i] *= inverse;
          store(p + begin + chunk * kChunk, x[chunk]);
        }
    } else {
      for (std::int64_t c = begin; c < seen; c += kChunk) {
        if (c + kScoreWidth <= place.begin) continue;  // nothing is seen: no maximum to subtract
        float x[kScoreWidth], larger = maximum;
        load(s + c, x);
        BALLOT_UNROLL
        for (int i = 0; i < kScoreWidth; ++i) {
          if (!place.sees(c + i)) x[i] = -INFINITY;
          larger = x[i] > larger ? x[i] : larger;
        }
        sum *= expf(maximum - larger);
        BALLOT_UNROLL
        for (int i = 0; i < kScoreWidth; ++i) sum += expf(x[i] - larger);
        maximum = larger;
      }
      const float all = warp_max(maximum);
      sum = warp_sum(sum * expf(maximum - all));
      maximum = all;
      const float inverse = 1.0f / sum;
      for (std::int64_t start = 0; start < keys; start += kChunk) {
        const std::int64_t c = start + begin;
        float x[kScoreWidth] = {};
        if (c < seen) load(s + c, x);
        BALLOT_UNROLL
        for (int i = 0; i < kScoreWidth; ++i)
          x[i] = place.sees(c + i) ? expf(x[i] - maximum) * inverse : 0.0f;
        __syncwarp();
        if (c < keys) store(p + c, x);
      }
    }
    if (lane_index() == 0) log_sum_exp[place.lse_at(shape)] = maximum + logf(sum);
  }
}

// p = exp(s - lse) over s, ds = p (dp - dot) over dp, as above. A document's first position has one
// key: its ds is exactly zero, where the formula would leave rounding.
template <class T>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_gradient_rows(AttentionShape shape, float* scores, float* dscores, std::int64_t pitch,
                          std::int64_t rows, std::int64_t rows_of_item, std::int64_t first_item,
                          std::int64_t first, std::int64_t keys, const float* log_sum_exp,
                          const float* dots) {
  const std::int64_t row = blockIdx.x * static_cast<std::int64_t>(kSoftmaxWarps) + warp_index();
  if (row < rows) {  // the whole warp
    const ScoreRow place(shape, row, rows_of_item, first_item, first);
    const std::int64_t seen = place.seen, begin = lane_index() * kScoreWidth;
    const float lse = log_sum_exp[place.lse_at(shape)];
    const float dot =
        dots[(place.item * shape.length + place.position) * shape.group() + place.head];
    const float* s = scores + row * pitch;
    const float* dp = dscores + row * pitch;
    T* p = reinterpret_cast<T*>(scores + row * pitch);
    T* ds = reinterpret_cast<T*>(dscores + row * pitch);
    for (std::int64_t start = 0; start < keys; start += kGradientChunks * kChunk) {
      float x[kGradientChunks][kScoreWidth], dx[kGradientChunks][kScoreWidth];
      BALLOT_UNROLL
      for (int chunk = 0; chunk < kGradientChunks; ++chunk) {
        const std::int64_t c = start + begin + chunk * kChunk;
        if (c < seen) {
          load(s + c, x[chunk]);
          load(dp + c, dx[chunk]);
        }
      }
      __syncwarp();
      BALLOT_UNROLL
      for (int chunk = 0; chunk < kGradientChunks; ++chunk) {
        const std::int64_t c = start + begin + chunk * kChunk;
        BALLOT_UNROLL
        for (int i = 0; i < kScoreWidth; ++i) {
          const bool sees = place.sees(c + i);
          const float e = sees ? expf(x[chunk][i] - lse) : 0.0f;
          dx[chunk][i] = sees && seen - place.begin > 1 ? e * (dx[chunk][i] - dot) : 0.0f;
          x[chunk][i] = e;
        }
        if (c < keys) {
          store(p + c, x[chunk]);
          store(ds + c, dx[chunk]);
        }
      }
    }
  }
}

}  // namespace kernels

namespace {

// Scores of one block over as many items as fit. Small enough that the cache keeps much of them,
// large enough that a product fills the device: an estimate, which cuda_model_bench
// --score-mebibytes=N is there to check on a GPU.
std::atomic<std::int64_t> score_bytes = std::int64_t{64} << 20;
constexpr std::int64_t kBlockRowsMin = 16;
constexpr std::int64_t kBlockRowsMax = 128;

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Between rows of scores, in f32: 256 bytes, so that rows of bf16 are aligned too.
std::int64_t pitch_of(std::int64_t keys) {
  return rounded_up(keys, 64);
}

std::int64_t item_count(const AttentionShape& shape) {
  return shape.sequences * shape.key_value_heads;
}

std::int64_t score_bytes_of_item(const AttentionShape& shape, std::int64_t block_rows) {
  return block_rows * shape.group() * pitch_of(shape.length) * 4;
}

std::int64_t block_rows(const AttentionShape& shape) {
  std::int64_t rows = kBlockRowsMax;
  while (rows > kBlockRowsMin && score_bytes_of_item(shape, rows) > score_bytes) rows /= 2;
  return std::min(rows, shape.length);
}

std::int64_t items_at_once(const AttentionShape& shape) {
  const std::int64_t items = score_bytes / score_bytes_of_item(shape, block_rows(shape));
  return std::clamp<std::int64_t>(items, 1, item_count(shape));
}

template <class T>
struct Scratch {
  T* q;            // (items, T, G, D) rotated, times 1/sqrt(D)
  T* k;            // (items, T, D) rotated
  T* v;            // (items, T, D)
  T* rows;         // (items, T, G, D): forward's output, or backward's d(output)
  float* dq;       // (items, T, G, D)
  float* dk;       // (items, T, D)
  float* dv;       // (items, T, D)
  float* dots;     // (items, T, G)
  float* scores;   // (items at once, block rows G, pitch); then probabilities
  float* dscores;  // the same
  std::int64_t size_bytes;

  Scratch(std::byte* base, const AttentionShape& shape) {
    std::int64_t used = 0;
    const auto take = [&]<class U>(U*& target, std::int64_t count) {
      target = reinterpret_cast<U*>(reinterpret_cast<std::uintptr_t>(base) +
                                    static_cast<std::uintptr_t>(used));
      used += rounded_up(count * static_cast<std::int64_t>(sizeof(U)), 256);
    };
    const std::int64_t keys = item_count(shape) * shape.length;
    const std::int64_t queries = keys * shape.group();
    take(q, queries * shape.head_size);
    take(k, keys * shape.head_size);
    take(v, keys * shape.head_size);
    take(rows, queries * shape.head_size);
    take(dq, queries * shape.head_size);
    take(dk, keys * shape.head_size);
    take(dv, keys * shape.head_size);
    take(dots, queries);
    const std::int64_t block =
        items_at_once(shape) * score_bytes_of_item(shape, block_rows(shape)) / 4;
    take(scores, block);
    take(dscores, block);
    size_bytes = used;
  }
};

// `count` matrices, batch_stride elements apart.
template <class T>
Tensor matrices(T* data, std::int64_t count, std::int64_t rows, std::int64_t cols,
                std::int64_t batch_stride, std::int64_t row_stride, Device device) {
  Tensor tensor = make_tensor(data, kDType<T>, {count, rows, cols}, device);
  tensor.stride[0] = batch_stride;
  tensor.stride[1] = row_stride;
  return tensor;
}

Tensor transposed(Tensor tensor) {
  std::swap(tensor.extent[1], tensor.extent[2]);
  std::swap(tensor.stride[1], tensor.stride[2]);
  return tensor;
}

// A block of query rows of some items, with its operands for the products.
template <class T>
struct Block {
  const AttentionShape& shape;
  const Scratch<T>& scratch;
  Device device;
  std::int64_t first_item, items, first, rows;

  std::int64_t keys() const { return first + rows; }
  std::int64_t rows_of_item() const { return rows * shape.group(); }
  std::int64_t pitch() const { return pitch_of(keys()); }

  // The block's rows of a (items, T, G, D) array.
  template <class U>
  Tensor query_rows(U* data) const {
    const std::int64_t row = shape.group() * shape.head_size;
    return matrices(data + (first_item * shape.length + first) * row, items, rows_of_item(),
                    shape.head_size, shape.length * row, shape.head_size, device);
  }
  // The keys the block sees of a (items, T, D) array.
  template <class U>
  Tensor key_rows(U* data) const {
    const std::int64_t item = shape.length * shape.head_size;
    return matrices(data + first_item * item, items, keys(), shape.head_size, item, shape.head_size,
                    device);
  }
  // Scores as fp32, or what has been written over them.
  template <class U>
  Tensor score_rows(float* data) const {
    const std::int64_t row = pitch() * static_cast<std::int64_t>(sizeof(float) / sizeof(U));
    return matrices(reinterpret_cast<U*>(data), items, rows_of_item(), keys(), rows_of_item() * row,
                    row, device);
  }
  unsigned softmax_blocks() const {
    return static_cast<unsigned>((items * rows_of_item() + kernels::kSoftmaxWarps - 1) /
                                 kernels::kSoftmaxWarps);
  }
};

template <class T, class Body>
void over_blocks(const AttentionShape& shape, const Scratch<T>& scratch, Device device,
                 bool from_last, const Body& body) {
  const std::int64_t most = items_at_once(shape), step = block_rows(shape);
  const std::int64_t blocks = (shape.length + step - 1) / step;
  for (std::int64_t item = 0; item < item_count(shape); item += most)
    for (std::int64_t i = 0; i < blocks; ++i) {
      const std::int64_t first = (from_last ? blocks - 1 - i : i) * step;
      body(Block<T>{shape, scratch, device, item, std::min(most, item_count(shape) - item), first,
                    std::min(step, shape.length - first)});
    }
}

float score_scale(const AttentionShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_size)));
}

unsigned token_count(const AttentionShape& shape) {
  return static_cast<unsigned>(shape.sequences * shape.length);
}

template <class T>
void gather(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
            const Scratch<T>& s, Stream& stream) {
  constexpr int kWidth = 16 / sizeof(T);
  with_width<kWidth>(moves_by(kWidth, rope.half(), vkq.as<T>()), [&](auto width) {
    launch(kernels::gather_heads<T, width()>, token_count(shape),
           threads_for(shape.width() / 2 / width(), kernels::kTokenThreads), 0, stream_of(stream),
           shape, rope.cosines(0), rope.sines(0), vkq.as<T>(), score_scale(shape), s.v, s.k, s.q);
  });
}

template <class T, int kChunks>
void softmax(const Block<T>& block, float* log_sum_exp, Stream& stream) {
  launch(kernels::softmax_rows<T, kChunks>, block.softmax_blocks(), kernels::kSoftmaxThreads, 0,
         stream_of(stream), block.shape, block.scratch.scores, block.pitch(),
         block.items * block.rows_of_item(), block.rows_of_item(), block.first_item, block.first,
         block.keys(), log_sum_exp);
}

template <class T>
void forward(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
             const Tensor& output, float* log_sum_exp, std::byte* memory, Stream& stream) {
  const Scratch<T> s(memory, shape);
  gather(shape, rope, vkq, s, stream);
  over_blocks(shape, s, vkq.device, false, [&](const Block<T>& block) {
    CudaCore& core = cuda_core();
    core.matmul_batched(block.query_rows(s.q), transposed(block.key_rows(s.k)),
                        block.template score_rows<float>(s.scores), 1, 0, stream);
    if (block.keys() <= 4 * kernels::kChunk)
      softmax<T, 4>(block, log_sum_exp, stream);
    else if (block.keys() <= 8 * kernels::kChunk)
      softmax<T, 8>(block, log_sum_exp, stream);
    else if (block.keys() <= 16 * kernels::kChunk)
      softmax<T, 16>(block, log_sum_exp, stream);
    else
      softmax<T, 0>(block, log_sum_exp, stream);
    core.matmul_batched(block.template score_rows<T>(s.scores), block.key_rows(s.v),
                        block.query_rows(s.rows), 1, 0, stream);
  });
  constexpr int kWidth = 16 / sizeof(T);
  with_width<kWidth>(moves_by(kWidth, shape.head_size, output.as<T>()), [&](auto width) {
    launch(kernels::scatter_output<T, width()>, token_count(shape),
           threads_for(shape.heads * shape.head_size / width(), kernels::kTokenThreads), 0,
           stream_of(stream), shape, s.rows, output.as<T>());
  });
}

// Blocks go from last to first: the last one sees all keys, so it is the one that writes dk and dv;
// the rest add.
template <class T>
void backward(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
              const Tensor& output, const Tensor& doutput, const float* log_sum_exp,
              std::byte* memory, Stream& stream) {
  const Scratch<T> s(memory, shape);
  constexpr int kWidth = 16 / sizeof(T);
  gather(shape, rope, vkq, s, stream);
  with_width<kWidth>(
      moves_by(kWidth, shape.head_size, output.as<T>(), doutput.as<T>()), [&](auto width) {
        int lanes = 1;
        while (lanes < kWarpSize && lanes * width() < shape.head_size) lanes *= 2;
        launch(kernels::gather_gradient<T, width()>, token_count(shape),
               threads_for(shape.heads * lanes, kernels::kTokenThreads), 0, stream_of(stream),
               shape, lanes, output.as<T>(), doutput.as<T>(), s.rows, s.dots);
      });
  over_blocks(shape, s, vkq.device, true, [&](const Block<T>& block) {
    CudaCore& core = cuda_core();
    const Tensor q = block.query_rows(s.q), k = block.key_rows(s.k), v = block.key_rows(s.v);
    const Tensor dy = block.query_rows(s.rows);
    core.matmul_batched(q, transposed(k), block.template score_rows<float>(s.scores), 1, 0, stream);
    core.matmul_batched(dy, transposed(v), block.template score_rows<float>(s.dscores), 1, 0,
                        stream);
    launch(kernels::softmax_gradient_rows<T>, block.softmax_blocks(), kernels::kSoftmaxThreads, 0,
           stream_of(stream), shape, s.scores, s.dscores, block.pitch(),
           block.items * block.rows_of_item(), block.rows_of_item(), block.first_item, block.first,
           block.keys(), log_sum_exp, s.dots);
    const Tensor p = block.template score_rows<T>(s.scores);
    const Tensor ds = block.template score_rows<T>(s.dscores);
    const float keep = block.keys() == shape.length ? 0.0f : 1.0f;
    core.matmul_batched(transposed(p), dy, block.key_rows(s.dv), 1, keep, stream);
    core.matmul_batched(transposed(ds), q, block.key_rows(s.dk), 1, keep, stream);
    core.matmul_batched(ds, k, block.query_rows(s.dq), 1, 0, stream);
  });
  with_width<kWidth>(moves_by(kWidth, rope.half(), vkq.as<T>()), [&](auto width) {
    launch(kernels::scatter_heads<T, width()>, token_count(shape),
           threads_for(shape.width() / 2 / width(), kernels::kTokenThreads), 0, stream_of(stream),
           shape, rope.cosines(0), rope.sines(0), s.dv, s.dk, s.dq, score_scale(shape),
           vkq.as<T>());
  });
}

}  // namespace

std::int64_t PluginModelOps::attention_scratch_bytes(const AttentionShape& shape, DType type) {
  return type == DType::f32 ? Scratch<float>(nullptr, shape).size_bytes
                            : Scratch<bfloat16>(nullptr, shape).size_bytes;
}

void PluginModelOps::set_attention_score_bytes(std::int64_t bytes) {
  score_bytes = bytes;
}

void PluginModelOps::attention(const AttentionShape& shape, const RopeTable& rope,
                               const Tensor& vkq, const Tensor& output, float* log_sum_exp,
                               std::byte* scratch, Stream& stream) {
  if (vkq.count() == 0) return;
  with_type(vkq.type, [&]<class T>(T*) {
    forward<T>(shape, rope, vkq, output, log_sum_exp, scratch, stream);
  });
}

void PluginModelOps::attention_backward(const AttentionShape& shape, const RopeTable& rope,
                                        const Tensor& vkq, const Tensor& output,
                                        const Tensor& doutput, const float* log_sum_exp,
                                        std::byte* scratch, Stream& stream) {
  if (vkq.count() == 0) return;
  with_type(vkq.type, [&]<class T>(T*) {
    backward<T>(shape, rope, vkq, output, doutput, log_sum_exp, scratch, stream);
  });
}

}  // namespace ballot

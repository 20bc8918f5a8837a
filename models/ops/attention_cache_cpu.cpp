// Attention over a cache on the CPU: blocks of new queries against all keys so far.
#include "models/ops/attention_cache.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "models/ops/attention_cpu.h"

namespace ballot {
namespace {

// Keys of a block are a multiple of this, so that a text that grows has few shapes of products:
// making one costs as much as a small product.
constexpr std::int64_t kKeyStep = 64;
constexpr std::int64_t kBlockRows = 16;

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// One thread's working memory.
template <class T>
struct Scratch {
  T* q;           // (G rows, D) rotated, times 1/sqrt(D)
  float* scores;  // (G rows, keys)
  T* p;           // the same, rounded; the scores themselves in f32
  float* result;  // (G rows, D)
  float* row;     // (G rows) 1 / sum
  float* lse;     // (G rows)
  std::int64_t size_bytes;

  Scratch(std::byte* base, const AttentionShape& shape, std::int64_t capacity) {
    std::int64_t used = 0;
    const auto take = [&]<class U>(U*& target, std::int64_t count) {
      target = reinterpret_cast<U*>(reinterpret_cast<std::uintptr_t>(base) + used);
      used += rounded_up(count * static_cast<std::int64_t>(sizeof(U)), 64);
    };
    const std::int64_t rows = shape.group() * kBlockRows;
    take(q, rows * shape.head_size);
    take(scores, rows * capacity);
    if constexpr (kDType<T> == DType::f32)
      p = scores;
    else
      take(p, rows * capacity);
    take(result, rows * shape.head_size);
    take(row, rows);
    take(lse, rows);
    size_bytes = used;
  }
};

template <class T>
Tensor matrix(T* data, std::int64_t rows, std::int64_t cols) {
  return make_tensor(data, kDType<T>, {rows, cols});
}

template <class T>
void attend(const AttentionShape& shape, const RopeTable& rope, const T* vkq,
            const NewPositions& where, std::int64_t kv_head, const AttentionCache& cache, T* output,
            const Scratch<T>& scratch, Stream& stream) {
  const std::int64_t d = shape.head_size, width = shape.width(), group = shape.group(),
                     half = rope.half();
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  const T* const base = vkq + where.first_row * width;
  T* const keys = cache.keys<T>(where.sequence, kv_head);
  T* const values = cache.values<T>(where.sequence, kv_head);
  rope_rows(base + (shape.key_value_heads + kv_head) * d, width, rope.cosines(where.position),
            rope.sines(where.position), half, where.rows, 1.0f, keys + where.position * d, d);
  for (std::int64_t row = 0; row < where.rows; ++row)
    std::copy_n(base + row * width + kv_head * d, d, values + (where.position + row) * d);
  const T* const queries = base + (2 * shape.key_value_heads + kv_head * group) * d;
  for (std::int64_t first = 0; first < where.rows; first += kBlockRows) {
    const std::int64_t rows = std::min(kBlockRows, where.rows - first);
    const std::int64_t position = where.position + first;
    const std::int64_t count = rounded_up(position + rows, kKeyStep);
    for (std::int64_t g = 0; g < group; ++g)
      rope_rows(queries + first * width + g * d, width, rope.cosines(position),
                rope.sines(position), half, rows, scale, scratch.q + g * rows * d, d);
    matmul(matrix(scratch.q, group * rows, d), matrix(keys, count, d).transposed(),
           matrix(scratch.scores, group * rows, count), Accumulate::no, stream);
    for (std::int64_t g = 0; g < group; ++g)
      softmax_rows(scratch.scores + g * rows * count, scratch.p + g * rows * count, rows, count,
                   position, 0, nullptr, scratch.row + g * rows, scratch.lse + g * rows);
    matmul(matrix(scratch.p, group * rows, count), matrix(values, count, d),
           matrix(scratch.result, group * rows, d), Accumulate::no, stream);
    for (std::int64_t g = 0; g < group; ++g)
      scale_rows(scratch.result + g * rows * d, scratch.row + g * rows, rows, d,
                 output + ((where.first_row + first) * shape.heads + kv_head * group + g) * d,
                 shape.heads * d);
  }
}

}  // namespace

AttentionCache::AttentionCache(const AttentionShape& shape, DType type)
    : capacity_(rounded_up(shape.length, kKeyStep)),
      kv_heads_(shape.key_value_heads),
      head_size_(shape.head_size),
      type_(type),
      keys_(static_cast<std::size_t>(shape.sequences * kv_heads_ * capacity_ * head_size_) *
            size_bytes(type)),
      values_(keys_.size_bytes()) {}

std::int64_t attention_cached_scratch_bytes(const AttentionShape& shape,
                                            const AttentionCache& cache) {
  return thread_count() * (cache.type() == DType::f32
                               ? Scratch<float>(nullptr, shape, cache.capacity()).size_bytes
                               : Scratch<bfloat16>(nullptr, shape, cache.capacity()).size_bytes);
}

void attention_cached(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
                      std::span<const NewPositions> all, AttentionCache& cache,
                      const Tensor& output, std::byte* scratch, Stream&) {
  require(vkq.is_contiguous() && output.is_contiguous() && vkq.type == output.type &&
              vkq.type == cache.type() && vkq.extent[1] == shape.width() &&
              output.extent[1] == shape.heads * shape.head_size &&
              vkq.device.kind == Device::Kind::cpu,
          "attention over a cache of {} into {}", vkq.describe(), output.describe());
  for (const NewPositions& where : all)
    require(where.position + where.rows <= cache.capacity(), "positions {} to {} of a cache of {}",
            where.position, where.position + where.rows, cache.capacity());
  const auto run = [&]<class T>(T*) {
    const std::int64_t bytes = Scratch<T>(nullptr, shape, cache.capacity()).size_bytes;
    const bool nested = omp_in_parallel();
    parallel_items(
        static_cast<std::int64_t>(all.size()) * shape.key_value_heads, [&](std::int64_t i) {
          const std::int64_t thread = nested ? 0 : omp_get_thread_num();
          Stream own;
          attend(shape, rope, vkq.as<T>(), all[static_cast<std::size_t>(i / shape.key_value_heads)],
                 i % shape.key_value_heads, cache, output.as<T>(),
                 Scratch<T>(scratch + thread * bytes, shape, cache.capacity()), own);
        });
  };
  if (vkq.type == DType::f32)
    run(static_cast<float*>(nullptr));
  else
    run(static_cast<bfloat16*>(nullptr));
}

}  // namespace ballot

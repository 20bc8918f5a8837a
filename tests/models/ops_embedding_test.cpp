// The token table: rows gathered exactly, gradients added in order, padding left alone.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "models/ops/embedding.h"
#include "models/ops/embedding_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr std::int64_t kTokens = 11, kCols = 130, kStride = 192;

std::vector<std::int32_t> some_tokens(std::size_t count) {
  std::vector<std::int32_t> tokens(count);
  for (std::size_t n = 0; n < count; ++n)
    tokens[n] = static_cast<std::int32_t>(mix64(n) % (kTokens - 1));  // not the last
  return tokens;
}

TEST(Embedding, GathersRowsOfAPaddedTable) {
  const std::vector<double> values = random_values(kTokens * kCols, 1, 1.0, true);
  const std::vector<std::int32_t> tokens = some_tokens(37);
  const std::vector<double> want = reference::embedding(values, kCols, tokens);
  Stream stream;
  const auto check = [&]<class T>(T) {
    std::vector<T> storage(kTokens * kStride, from_float<T>(99.0f));
    for (std::int64_t i = 0; i < kTokens * kCols; ++i)
      storage[i / kCols * kStride + i % kCols] = from_float<T>(static_cast<float>(values[i]));
    const OwnedTensor x(DType::f32, {37, kCols});
    embedding(make_matrix(storage.data(), kDType<T>, kTokens, kCols, kStride), tokens, x, stream);
    EXPECT_EQ(from_tensor(x), want);
  };
  check(float{});
  check(bfloat16{});
}

TEST(Embedding, AddsGradientsInOrderOnAnyTeam) {
  const std::vector<std::int32_t> tokens = some_tokens(200);
  const OwnedTensor dx = to_tensor(random_values(200 * kCols, 2), 200);
  std::vector<float> want(kTokens * kStride, 0.0f);
  for (std::int64_t c = 0; c < kCols; ++c)
    want[3 * kStride + c] = 0.25f;  // what a tied head left there
  const std::vector<float> before = want;
  for (std::size_t n = 0; n < tokens.size(); ++n)
    for (std::int64_t c = 0; c < kCols; ++c)
      want[tokens[n] * kStride + c] += dx.view().f32()[n * kCols + c];
  const int threads_before = thread_count();
  Stream stream;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    std::vector<float> table = before;
    embedding_backward(tokens, dx, make_matrix(table.data(), DType::f32, kTokens, kCols, kStride),
                       nullptr, stream);
    EXPECT_EQ(table, want) << threads;
  }
  set_thread_count(threads_before);
}

}  // namespace
}  // namespace ballot::test

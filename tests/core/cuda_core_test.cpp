// The ground of the GPU path through what core offers everybody: copies, streams, the arena, and
// products against a double-precision loop. On the SIMT and PTX executors, and on a real GPU.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "core/copy.h"
#include "core/cuda/cuda_core.h"
#include "core/event.h"
#include "core/hash.h"
#include "core/matmul.h"
#include "core/parameter_arena.h"
#include "tests/cuda/device_tensor.h"

namespace ballot::test {
namespace {

std::vector<float> random_values(std::size_t count, std::uint64_t seed) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(hash64(seed, i, 0) % 2001) / 1000.0f - 1.0f;
  return values;
}

float rounded_to(DType type, float x) {
  return type == DType::bf16 ? to_float(to_bfloat16(x)) : x;
}

std::vector<std::uint8_t> bytes_of(std::size_t count, std::uint64_t seed) {
  std::vector<std::uint8_t> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::uint8_t>(hash64(seed, i, 7));
  return bytes;
}

TEST(CudaCore, DescribesItsDevice) {
  const std::string text = cuda_core().describe(cuda_device());
  EXPECT_NE(text.find("compute capability"), std::string::npos) << text;
  EXPECT_GT(cuda_core().free_bytes(cuda_device()), 0u);
}

TEST(CudaCore, WorkersOfOneMachineTakeItsDevicesInTurn) {
  const int count = cuda_core().device_count();
  ASSERT_GE(count, 1);
  for (int rank = 0; rank < 2 * count; ++rank)
    EXPECT_EQ(find_device("cuda", rank), (Device{Device::Kind::cuda, rank % count}));
  EXPECT_EQ(find_device("auto", count - 1).index, count - 1);
  const std::string last = "cuda:" + std::to_string(count - 1);
  EXPECT_EQ(find_device(last), (Device{Device::Kind::cuda, count - 1}));
  EXPECT_THROW(find_device("cuda:" + std::to_string(count)), Unavailable);
}

TEST(CudaBuffer, IsZeroedAlignedAndGivenBack) {
  const std::size_t before = cuda_core().free_bytes(cuda_device());
  for (const std::size_t size : {1, 255, 256, 4096, 100'000}) {
    const DeviceArray<std::uint8_t> array(size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(array.data()) % 256, 0u);
    Stream stream(cuda_device());
    EXPECT_EQ(array.read(stream), std::vector<std::uint8_t>(size));
  }
  {
    Buffer one(1 << 20, cuda_device());
    Buffer other = std::move(one);
    EXPECT_EQ(one.data(), nullptr);
    one = std::move(other);
    EXPECT_NE(one.data(), nullptr);
  }
  EXPECT_EQ(Buffer(0, cuda_device()).data(), nullptr);
  for (int i = 0; i < 20; ++i) EXPECT_NE(Buffer(8 << 20, cuda_device()).data(), nullptr);
  EXPECT_LE(before - cuda_core().free_bytes(cuda_device()), std::size_t{64} << 20)
      << "the driver may keep some memory, not what buffers had";
}

TEST(CudaBuffer, MoreThanThereIsIsUnavailableAndNamesTheSize) {
  const std::size_t size = std::size_t{1} << 44;
  const DeviceTensor from(DType::f32, {1, 64}), to(DType::bf16, {1, 64});
  Stream stream(cuda_device());
  try {
    const Buffer buffer(size, cuda_device());
    FAIL() << "16 TiB were given out";
  } catch (const Unavailable& failure) {
    EXPECT_NE(std::string(failure.what()).find(std::to_string(size)), std::string::npos)
        << failure.what();
  }
  cuda_core().round_to_bf16(from, to, stream);  // and nothing is broken by it
  const DeviceArray<float> after({1, 2, 3});
  EXPECT_EQ(after.read(stream), (std::vector<float>{1, 2, 3}));
}

TEST(CudaCopy, GoesThereBackAndAcross) {
  Stream stream(cuda_device());
  for (const std::size_t size : {1, 31, 4096, 70'001}) {
    const std::vector<std::uint8_t> bytes = bytes_of(size, size);
    const DeviceArray<std::uint8_t> first(bytes), second(size);
    copy_bytes(second.data(), cuda_device(), first.data(), cuda_device(), size, stream);
    EXPECT_EQ(second.read(stream), bytes);
    fill_zero(second.data(), size - size / 2, stream);
    std::vector<std::uint8_t> half(bytes);
    std::fill(half.begin(), half.begin() + (size - size / 2), std::uint8_t{0});
    EXPECT_EQ(second.read(stream), half);
  }
}

TEST(CudaCopy, OfPageableMemoryHasEndedOnReturn) {
  Stream stream(cuda_device());
  const DeviceArray<std::uint8_t> array(1 << 16);
  std::vector<std::uint8_t> bytes = bytes_of(1 << 16, 3);
  const std::vector<std::uint8_t> kept = bytes;
  copy_bytes(array.data(), cuda_device(), bytes.data(), {}, bytes.size(), stream);
  std::fill(bytes.begin(), bytes.end(), std::uint8_t{0});
  copy_bytes(bytes.data(), {}, array.data(), cuda_device(), bytes.size(), stream);
  EXPECT_EQ(bytes, kept);
}

TEST(CudaCopy, OfPageableMemoryIsThereForOtherStreams) {
  Stream one(cuda_device()), other(cuda_device());
  const DeviceArray<std::uint8_t> array(5000);
  const std::vector<std::uint8_t> bytes = bytes_of(5000, 11);
  std::vector<std::uint8_t> back(5000);
  copy_bytes(array.data(), cuda_device(), bytes.data(), {}, bytes.size(), one);
  copy_bytes(back.data(), {}, array.data(), cuda_device(), back.size(), other);
  EXPECT_EQ(back, bytes);
}

TEST(CudaCopy, OfPinnedMemoryIsThereAfterSynchronize) {
  Stream stream(cuda_device());
  const std::size_t size = 1 << 20;
  const std::vector<std::uint8_t> bytes = bytes_of(size, 4);
  PinnedBuffer out(size, cuda_device()), back(size, cuda_device());
  EXPECT_EQ(back.span<std::uint8_t>()[size - 1], 0);
  std::memcpy(out.data(), bytes.data(), size);
  const Buffer first(size, cuda_device()), second(size, cuda_device());
  copy_bytes(first.data(), cuda_device(), out.data(), {}, size, stream);
  copy_bytes(second.data(), cuda_device(), first.data(), cuda_device(), size, stream);
  copy_bytes(back.data(), {}, second.data(), cuda_device(), size, stream);
  stream.synchronize();
  EXPECT_EQ(std::memcmp(back.data(), bytes.data(), size), 0);
}

TEST(CudaCopy, OfTensorsMovesRowsThatLieApart) {
  Stream stream(cuda_device());
  for (const DType type : {DType::f32, DType::bf16}) {
    std::vector<float> values = random_values(2 * 5 * 7, 5);
    for (float& value : values) value = rounded_to(type, value);
    const DeviceTensor dense(type, {2, 5, 7}, values), apart(type, {2, 5, 7}, 9);
    copy(dense.view(), apart.view(), stream);
    EXPECT_EQ(apart.read(stream), values);
    EXPECT_TRUE(apart.padding_is_untouched(stream));

    const OwnedTensor host(type, {2, 5, 7}), back(type, {2, 5, 7});
    copy(apart.view(), host.view(), stream);
    const DeviceTensor again(type, {2, 5, 7}, 1);
    copy(host.view(), again.view(), stream);
    EXPECT_EQ(again.read(stream), values);
    EXPECT_TRUE(again.padding_is_untouched(stream));
    copy(host.view(), back.view(), stream);
    EXPECT_EQ(std::memcmp(host.view().data, back.view().data, values.size() * size_bytes(type)), 0);
  }
}

TEST(CudaCopy, OfATransposedTensorTurnsIt) {
  Stream stream(cuda_device());
  const DeviceTensor x(DType::f32, {3, 4}, random_values(12, 6)), y(DType::f32, {4, 3});
  copy(x.view().transposed(), y.view(), stream);
  const std::vector<float> before = x.read(stream), after = y.read(stream);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 4; ++j) EXPECT_EQ(after[j * 3 + i], before[i * 4 + j]);
}

TEST(CudaCopy, RefusesWhatDoesNotFit) {
  Stream stream(cuda_device()), host_stream;
  const DeviceTensor x(DType::f32, {3, 4}), y(DType::f32, {4, 3}), z(DType::bf16, {3, 4});
  EXPECT_THROW(copy(x.view(), y.view(), stream), LogicError);
  EXPECT_THROW(copy(x.view(), z.view(), stream), LogicError);
  EXPECT_THROW(copy(x.view(), x.view(), host_stream), LogicError);
}

TEST(CudaStream, RunsItsWorkInTheOrderGiven) {
  Stream stream(cuda_device());
  const Buffer a(1 << 16, cuda_device()), b(1 << 16, cuda_device());
  PinnedBuffer ones(1 << 16, cuda_device()), result(1 << 16, cuda_device());
  std::memset(ones.data(), 1, ones.size_bytes());
  for (int i = 0; i < 20; ++i) {
    copy_bytes(a.data(), cuda_device(), ones.data(), {}, ones.size_bytes(), stream);
    copy_bytes(b.data(), cuda_device(), a.data(), cuda_device(), a.size_bytes(), stream);
    fill_zero(a.data(), a.size_bytes(), stream);
    copy_bytes(result.data(), {}, b.data(), cuda_device(), b.size_bytes(), stream);
    fill_zero(b.data(), b.size_bytes(), stream);
    stream.synchronize();
    EXPECT_EQ(std::memcmp(result.data(), ones.data(), ones.size_bytes()), 0) << i;
  }
}

TEST(CudaStream, OneThreadMayHaveStreamsOfTwoDevices) {
  if (cuda_core().device_count() < 2) GTEST_SKIP() << "needs 2 GPUs";
  const std::vector<float> values = random_values(1000, 13);
  struct Rounding {
    explicit Rounding(int index)
        : device{Device::Kind::cuda, index},
          stream(device),
          from(DType::f32, {1, 1000}, device),
          to(DType::bf16, {1, 1000}, device) {}
    Device device;
    Stream stream;
    OwnedTensor from, to;
  };
  Rounding first(0), second(1);
  for (Rounding* r : {&first, &second, &first}) {  // the thread's device is the last one's
    copy_bytes(r->from.view().data, r->device, values.data(), {}, 4000, r->stream);
    cuda_core().round_to_bf16(r->from, r->to, r->stream);
  }
  for (Rounding* r : {&first, &second}) {
    const OwnedTensor back(DType::bf16, {1, 1000});
    copy(r->to.view(), back.view(), r->stream);
    for (std::int64_t i = 0; i < 1000; ++i)
      ASSERT_EQ(to_float(back.view().bf16()[i]), rounded_to(DType::bf16, values[i])) << i;
  }
}

TEST(CudaStream, ItsEndWaitsForItsWork) {
  const DeviceArray<std::uint8_t> array(bytes_of(1 << 20, 9));
  PinnedBuffer back(1 << 20, cuda_device());
  {
    Stream stream(cuda_device());
    copy_bytes(back.data(), {}, array.data(), cuda_device(), back.size_bytes(), stream);
  }
  const std::vector<std::uint8_t> want = bytes_of(1 << 20, 9);
  EXPECT_EQ(std::memcmp(back.data(), want.data(), want.size()), 0);
}

TEST(CudaEvent, HoldsAnotherStreamUntilItHasCome) {
  Stream one(cuda_device()), other(cuda_device());
  const DeviceArray<std::uint8_t> first(4096), second(4096);
  PinnedBuffer out(4096, cuda_device()), back(4096, cuda_device());
  Event made(cuda_device()), taken(cuda_device());
  EXPECT_TRUE(made.done());
  for (int i = 1; i <= 10; ++i) {  // `first` is filled by one stream and read by the other
    std::memset(out.data(), i, out.size_bytes());
    taken.hold(one);
    copy_bytes(first.data(), cuda_device(), out.data(), {}, out.size_bytes(), one);
    made.record(one);
    made.hold(other);
    copy_bytes(second.data(), cuda_device(), first.data(), cuda_device(), 4096, other);
    taken.record(other);
    copy_bytes(back.data(), {}, second.data(), cuda_device(), back.size_bytes(), other);
    other.synchronize();
    EXPECT_EQ(std::to_integer<int>(back.data()[4095]), i);
  }
}

// What is asked for in vain must not be blamed on the next launch.
TEST(CudaEvent, IsDoneOnceItsWorkIsAndAskingLeavesNoError) {
  Stream stream(cuda_device());
  const DeviceTensor from(DType::f32, {1, 64}, random_values(64, 12)), to(DType::bf16, {1, 64});
  PinnedBuffer back(128, cuda_device());
  Event done(cuda_device());
  for (int i = 0; i < 20; ++i) {
    std::memset(back.data(), 0xff, back.size_bytes());
    cuda_core().round_to_bf16(from, to, stream);
    copy_bytes(back.data(), {}, to.view().data, cuda_device(), back.size_bytes(), stream);
    done.record(stream);
    (void)done.done();
    cuda_core().round_to_bf16(from, to, stream);
    while (!done.done()) std::this_thread::yield();
    EXPECT_EQ(to_float(back.as<bfloat16>()[63]),
              rounded_to(DType::bf16, random_values(64, 12)[63]));
  }
}

TEST(CudaStream, OutgrownScratchIsThereUntilItsWorkIsDone) {
  Stream stream(cuda_device());
  PinnedBuffer back(256, cuda_device());
  std::byte* const pinned = stream.pinned_scratch(256);
  std::byte* const small = stream.scratch(256);
  std::memset(pinned, 9, 256);
  copy_bytes(small, cuda_device(), pinned, {}, 256, stream);
  EXPECT_NE(stream.scratch(1 << 20), small);
  EXPECT_NE(stream.pinned_scratch(1 << 20), pinned);
  copy_bytes(back.data(), {}, small, cuda_device(), 256, stream);
  stream.synchronize();
  EXPECT_EQ(std::memcmp(back.data(), pinned, 256), 0);
}

TEST(CudaStream, ScratchIsKeptAndGrows) {
  Stream stream(cuda_device());
  std::byte* small = stream.scratch(1000);
  EXPECT_EQ(stream.scratch(500), small);
  std::byte* large = stream.scratch(1 << 20);
  fill_zero(large, 1 << 20, stream);
  std::memset(stream.pinned_scratch(4096), 5, 4096);
  copy_bytes(large, cuda_device(), stream.pinned_scratch(4096), {}, 4096, stream);
  std::vector<std::uint8_t> back(5000);
  copy_bytes(back.data(), {}, large, cuda_device(), back.size(), stream);
  EXPECT_EQ(std::accumulate(back.begin(), back.end(), 0), 5 * 4096);
}

// ---- products

// A matrix of the device and what it holds in double, possibly transposed, its rows apart.
struct Matrix {
  std::int64_t rows, cols;
  std::vector<float> values;  // as stored, densely
  DeviceTensor stored;
  Tensor view;
  bool transposed;

  Matrix(DType type, std::int64_t row_count, std::int64_t col_count, bool turned,
         std::int64_t padding, std::uint64_t seed)
      : rows(row_count),
        cols(col_count),
        values(random_values(rows * cols, seed)),
        stored(type, {turned ? cols : rows, turned ? rows : cols}, values, padding),
        view(turned ? stored.view().transposed() : stored.view()),
        transposed(turned) {
    for (float& value : values) value = rounded_to(type, value);
  }
  double at(std::int64_t i, std::int64_t j) const {
    return values[transposed ? j * rows + i : i * cols + j];
  }
};

struct Case {
  DType in, out;
  std::int64_t m, n, k;
};

// fp32 sums of k products below 1; bf16 results are rounded once more; TF32 inputs have 10 bits.
double tolerance(DType out, double want, double size, Float32Products products) {
  const double unit = out == DType::f32 ? 0x1p-23 : 0x1p-8;
  const double inputs = products == Float32Products::tf32 ? 0x1p-10 * size : 0;
  return 2 * unit * std::max(std::abs(want), std::sqrt(size)) + 8 * 0x1p-23 * size + inputs;
}

void check_product(const Case& c, bool a_transposed, bool b_transposed, std::int64_t padding,
                   Accumulate accumulate, Stream& stream) {
  const Matrix a(c.in, c.m, c.k, a_transposed, padding, 1),
      b(c.in, c.k, c.n, b_transposed, padding, 2), y(c.out, c.m, c.n, false, padding, 3);
  matmul(a.view, b.view, y.view, accumulate, stream);
  const std::vector<float> got = y.stored.read(stream);
  EXPECT_TRUE(y.stored.padding_is_untouched(stream));
  for (std::int64_t i = 0; i < c.m; ++i)
    for (std::int64_t j = 0; j < c.n; ++j) {
      double want = accumulate == Accumulate::yes ? y.at(i, j) : 0.0, size = std::abs(want);
      for (std::int64_t l = 0; l < c.k; ++l) {
        want += a.at(i, l) * b.at(l, j);
        size += std::abs(a.at(i, l) * b.at(l, j));
      }
      ASSERT_NEAR(got[i * c.n + j], want, tolerance(c.out, want, size, stream.float32_products()))
          << c.m << " x " << c.n << " x " << c.k << " at " << i << ", " << j;
    }
}

class CudaMatmul : public ::testing::TestWithParam<std::pair<DType, DType>> {};

TEST_P(CudaMatmul, AgreesWithALoopForEveryLayout) {
  const auto [in, out] = GetParam();
  Stream stream(cuda_device());
  for (const Case& c : {Case{in, out, 1, 1, 1}, Case{in, out, 1, 33, 70}, Case{in, out, 17, 1, 5},
                        Case{in, out, 7, 13, 1}, Case{in, out, 67, 50, 129}})
    for (const bool a_transposed : {false, true})
      for (const bool b_transposed : {false, true})
        for (const std::int64_t padding : {0, 24})
          for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes})
            check_product(c, a_transposed, b_transposed, padding, accumulate, stream);
}

INSTANTIATE_TEST_SUITE_P(Pairs, CudaMatmul,
                         ::testing::Values(std::pair{DType::f32, DType::f32},
                                           std::pair{DType::bf16, DType::f32},
                                           std::pair{DType::bf16, DType::bf16}));

TEST(CudaMatmulArithmetic, IsFullUnlessTheStreamSaysTf32) {
  // 1 + 2^-12 is 1 in TF32: a sum of them tells which arithmetic was used.
  const std::int64_t m = 64, k = 256;
  const DeviceTensor a(DType::f32, {m, k}, std::vector<float>(m * k, 1.0f + 0x1p-12f)),
      b(DType::f32, {k, m}, std::vector<float>(m * k, 1.0f)), c(DType::f32, {m, m});
  Stream stream(cuda_device());
  matmul(a, b, c, Accumulate::no, stream);
  for (const float sum : c.read(stream)) ASSERT_NEAR(sum, k * (1.0 + 0x1p-12), 1e-3);
  stream.set_float32_products(Float32Products::tf32);
  matmul(a, b, c, Accumulate::no, stream);
  for (const float sum : c.read(stream)) ASSERT_NEAR(sum, k, 1e-3);
  check_product({DType::f32, DType::f32, 67, 50, 129}, false, true, 24, Accumulate::yes, stream);
}

TEST(CudaMatmulArithmetic, TheSameProductHasTheSameBitsOnEveryStream) {
  for (const DType in : {DType::f32, DType::bf16}) {
    const DeviceTensor a(in, {200, 300}, random_values(200 * 300, 1)),
        b(in, {300, 100}, random_values(300 * 100, 2));
    std::vector<float> first;
    for (int i = 0; i < 3; ++i) {
      Stream stream(cuda_device());
      const DeviceTensor c(DType::f32, {200, 100});
      for (int again = 0; again < 2; ++again) {
        matmul(a, b, c, Accumulate::no, stream);
        const std::vector<float> got = c.read(stream);
        if (first.empty()) first = got;
        EXPECT_EQ(got, first);
      }
    }
  }
}

TEST(CudaMatmulArithmetic, DoesNotReadWhatItOverwrites) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const DeviceTensor a(DType::f32, {3, 2}, {1, 2, 3, 4, 5, 6}), b(DType::f32, {2, 1}, {1, 10}),
      c(DType::f32, {3, 1}, {nan, nan, nan});
  Stream stream(cuda_device());
  matmul(a, b, c, Accumulate::no, stream);
  EXPECT_EQ(c.read(stream), (std::vector<float>{21, 43, 65}));
}

TEST(CudaMatmulArithmetic, RefusesWhatCublasHasNot) {
  Stream stream(cuda_device()), host_stream;
  const DeviceTensor a(DType::f32, {4, 8}), b(DType::f32, {8, 4}), c(DType::f32, {4, 4}),
      coarse(DType::bf16, {4, 4});
  EXPECT_THROW(matmul(a, b, coarse, Accumulate::no, stream), LogicError);
  EXPECT_THROW(matmul(a, b, c, Accumulate::no, host_stream), LogicError);
  Tensor apart = a.view();  // every second element of every second row
  apart.extent = {2, 4};
  apart.stride = {16, 2};
  EXPECT_THROW(matmul(apart, c, c.view().rows(0, 2), Accumulate::no, stream), LogicError);
}

// Heads of (tokens, heads, channels): the batch is the middle dimension, and nothing is moved.
Tensor heads_of(const DeviceTensor& x) {
  Tensor view = x.view();
  std::swap(view.extent[0], view.extent[1]);
  std::swap(view.stride[0], view.stride[1]);
  return view;
}

TEST(CudaMatmulBatched, ScoresAndSumsOfHeadsThatLieInterleaved) {
  const std::int64_t tokens = 9, heads = 3, channels = 5;
  for (const DType type : {DType::f32, DType::bf16}) {
    std::vector<float> q = random_values(tokens * heads * channels, 1),
                       k = random_values(tokens * heads * channels, 2),
                       s = random_values(heads * tokens * tokens, 3);
    const DeviceTensor queries(type, {tokens, heads, channels}, q, 3),
        keys(type, {tokens, heads, channels}, k), scores(DType::f32, {heads, tokens, tokens}, s);
    for (auto* values : {&q, &k})
      for (float& value : *values) value = rounded_to(type, value);
    Stream stream(cuda_device());
    Tensor turned = heads_of(keys);  // (heads, channels, tokens)
    std::swap(turned.extent[1], turned.extent[2]);
    std::swap(turned.stride[1], turned.stride[2]);
    cuda_core().matmul_batched(heads_of(queries), turned, scores, 0.5f, 2.0f, stream);
    const std::vector<float> got = scores.read(stream);
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < tokens; ++i)
        for (std::int64_t j = 0; j < tokens; ++j) {
          double want = 0;
          for (std::int64_t c = 0; c < channels; ++c)
            want += static_cast<double>(q[(i * heads + h) * channels + c]) *
                    k[(j * heads + h) * channels + c];
          want = 0.5 * want + 2.0 * s[(h * tokens + i) * tokens + j];
          ASSERT_NEAR(got[(h * tokens + i) * tokens + j], want, 1e-5) << h << " " << i << " " << j;
        }
  }
}

TEST(CudaMatmulBatched, OneOperandForAllAndAResultByColumns) {
  const std::int64_t batch = 4, m = 6, n = 7, k = 8;
  const std::vector<float> a = random_values(m * k, 1), b = random_values(batch * k * n, 2);
  const DeviceTensor left(DType::f32, {1, m, k}, a), right(DType::f32, {batch, k, n}, b),
      result(DType::f32, {batch, n, m}, std::vector<float>(batch * n * m, NAN));
  Tensor shared = left.view(), turned = result.view();
  shared.extent[0] = batch;
  shared.stride[0] = 0;
  std::swap(turned.extent[1], turned.extent[2]);
  std::swap(turned.stride[1], turned.stride[2]);
  Stream stream(cuda_device());
  cuda_core().matmul_batched(shared, right, turned, 1.0f, 0.0f, stream);
  const std::vector<float> got = result.read(stream);
  for (std::int64_t e = 0; e < batch; ++e)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double want = 0;
        for (std::int64_t l = 0; l < k; ++l)
          want += static_cast<double>(a[i * k + l]) * b[(e * k + l) * n + j];
        ASSERT_NEAR(got[(e * n + j) * m + i], want, 1e-5);
      }
}

TEST(CudaMatmul, OfTwoStreamsAtOnce) {
  const DeviceTensor a(DType::f32, {40, 30}, random_values(1200, 1)),
      b(DType::f32, {30, 20}, random_values(600, 2)), c(DType::f32, {40, 20}),
      d(DType::f32, {40, 20});
  Stream one(cuda_device()), other(cuda_device());
  for (int i = 0; i < 3; ++i) {
    matmul(a, b, c, Accumulate::no, one);
    matmul(a, b, d, Accumulate::no, other);
  }
  EXPECT_EQ(c.read(one), d.read(other));
}

TEST(CudaMatmul, IsSafeFromSeveralThreadsOnStreamsOfTheirOwn) {
  const DeviceTensor a(DType::f32, {40, 30}, random_values(1200, 1)),
      b(DType::f32, {30, 20}, random_values(600, 2));
  std::vector<std::vector<float>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results)
    threads.emplace_back([&] {
      Stream stream(cuda_device());
      const DeviceTensor c(DType::f32, {40, 20});
      for (int i = 0; i < 5; ++i) matmul(a, b, c, Accumulate::no, stream);
      result = c.read(stream);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, results[0]);
}

// ---- rounding and the arena

TEST(CudaRound, HasTheCpusVeryBits) {
  std::vector<float> values = random_values(3 * 1000, 8);
  const std::uint32_t special[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
                                   0x7f800001, 0xffffffff, 0x3f808000, 0x3f818000, 0x3f807fff,
                                   0x3f808001, 0x7f7fffff, 0x00000001, 0x00008000, 0x00018000};
  for (std::size_t i = 0; i < std::size(special); ++i)
    values[i * 7] = std::bit_cast<float>(special[i]);
  for (const std::int64_t cols : {1, 3, 8, 37, 1000})
    for (const std::int64_t padding : {0, 1, 24}) {
      const std::vector<float> some(values.begin(), values.begin() + 3 * cols);
      const DeviceTensor from(DType::f32, {3, cols}, some, padding),
          to(DType::bf16, {3, cols}, padding / 2);
      Stream stream(cuda_device());
      cuda_core().round_to_bf16(from, to, stream);
      const std::vector<float> got = to.read(stream);
      for (std::size_t i = 0; i < some.size(); ++i)
        ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]),
                  std::bit_cast<std::uint32_t>(to_float(to_bfloat16(some[i]))))
            << i << " of " << cols << " columns";
      EXPECT_TRUE(to.padding_is_untouched(stream));
    }
}

TEST(CudaRound, GoesOnWhereTheGridEnds) {
  for (const auto& [rows, cols] : {std::pair{1100, 3}, std::pair{1, 1024 * 256 * 8 + 9}}) {
    const std::vector<float> values = random_values(rows * cols, 9);
    const DeviceTensor from(DType::f32, {rows, cols}, values, 1), to(DType::bf16, {rows, cols}, 1);
    Stream stream(cuda_device());
    cuda_core().round_to_bf16(from, to, stream);
    const std::vector<float> got = to.read(stream);
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(got[i], to_float(to_bfloat16(values[i]))) << i;
  }
}

TEST(CudaArena, IsZeroedOnTheDeviceAndRefreshesWhatProductsRead) {
  const std::vector<ParameterShape> shapes = {{"a", ParameterKind::hidden_matrix, 5, 70},
                                              {"b", ParameterKind::vector, 1, 64},
                                              {"c", ParameterKind::hidden_matrix, 33, 128}};
  const ParameterArena host(shapes, DType::bf16), arena(shapes, DType::bf16, cuda_device());
  EXPECT_EQ(arena.device(), cuda_device());
  Stream stream(cuda_device());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Parameter &mine = host.parameters()[i], &theirs = arena.parameters()[i];
    EXPECT_EQ(theirs.value.device, cuda_device());
    const OwnedTensor gradient(DType::f32, {theirs.shape.rows, theirs.shape.cols});
    copy(theirs.gradient, gradient.view(), stream);
    for (std::int64_t j = 0; j < theirs.count(); ++j) ASSERT_EQ(gradient.view().f32()[j], 0.0f);
    for (std::int64_t row = 0; row < mine.shape.rows; ++row)
      for (std::int64_t col = 0; col < mine.shape.cols; ++col)
        mine.value.f32()[row * mine.row_stride + col] =
            random_values(1, i * 10'000 + row * 1000 + col)[0];
    copy(mine.value, theirs.value, stream);
  }
  stream.synchronize();  // refreshing has a stream of its own
  host.refresh_compute();
  arena.refresh_compute();
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Parameter &mine = host.parameters()[i], &theirs = arena.parameters()[i];
    const OwnedTensor got(DType::bf16, {mine.shape.rows, mine.shape.cols}),
        want(DType::bf16, {mine.shape.rows, mine.shape.cols});
    copy(theirs.compute, got.view(), stream);
    Stream host_stream;
    copy(mine.compute, want.view(), host_stream);
    EXPECT_EQ(std::memcmp(got.view().data, want.view().data, mine.count() * sizeof(bfloat16)), 0);
  }
}

}  // namespace
}  // namespace ballot::test

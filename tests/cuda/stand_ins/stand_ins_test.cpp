// The stand-ins themselves: what they must run, in which orders, and each mistake that they are
// there to find.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/cuda/kernel.h"
#include "stand_ins/work_queue.h"

namespace ballot {
namespace kernels {

__global__ void __launch_bounds__(32) fill(float* to, float value, std::int64_t count) {
  for (std::int64_t i = global_thread(); i < count; i += grid_threads()) to[i] = value;
}

__global__ void __launch_bounds__(32) carry(const float* from, float* to, std::int64_t i) {
  if (threadIdx.x == 0) to[i] = from[i];
}

}  // namespace kernels

namespace stand_in {
namespace {

using ::testing::HasSubstr;

// Each test begins and ends with a device that knows nothing.
class StandIn : public ::testing::Test {
 protected:
  void SetUp() override { cudaDeviceReset(); }
  void TearDown() override {
    cudaDeviceReset();
    set_order(Order::random, 1);
  }

  static float* memory(std::size_t count) {
    void* made = nullptr;
    EXPECT_EQ(cudaMalloc(&made, count * sizeof(float)), cudaSuccess);
    return static_cast<float*>(made);
  }
  static float* pinned(std::size_t count) {
    void* made = nullptr;
    EXPECT_EQ(cudaHostAlloc(&made, count * sizeof(float), 0), cudaSuccess);
    return static_cast<float*>(made);
  }
  static cudaStream_t stream() {
    cudaStream_t made = nullptr;
    EXPECT_EQ(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), cudaSuccess);
    return made;
  }
  static cudaEvent_t event() {
    cudaEvent_t made = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), cudaSuccess);
    return made;
  }
  static void fill(float* to, float value, std::int64_t count, cudaStream_t on) {
    launch(kernels::fill, 1, 32, 0, on, to, value, count);
  }
  static float first_of(const float* from, cudaStream_t on) {
    float value = 0;
    EXPECT_EQ(cudaMemcpyAsync(&value, from, sizeof value, cudaMemcpyDeviceToHost, on), cudaSuccess)
        << cudaGetErrorString(cudaGetLastError());
    return value;
  }
  // The next call says so and so does every later one.
  static void expect_failure(cudaError_t code, const std::string& text) {
    EXPECT_EQ(cudaDeviceSynchronize(), code);
    EXPECT_THAT(cudaGetErrorString(code), HasSubstr(text));
    EXPECT_EQ(cudaGetLastError(), code) << "a failure stays";
  }
};

// ---- memory

TEST_F(StandIn, MemoryIsNanWhenItIsGivenOutAndGivenBack) {
  const cudaStream_t s = stream();
  std::set<float*> places;
  for (int i = 0; i < 30; ++i) {
    float* x = memory(100);
    places.insert(x);
    EXPECT_TRUE(std::isnan(first_of(x, s)));
    fill(x, 1, 100, s);
    EXPECT_EQ(first_of(x + 99, s), 1);
    EXPECT_EQ(cudaFree(x), cudaSuccess);
  }
  EXPECT_LT(places.size(), 30u) << "addresses are used again";
  EXPECT_GT(places.size(), 1u) << "but not at once always";
}

TEST_F(StandIn, BlamesALaunchForAnErrorThatNobodyLookedAt) {
  float* x = memory(10);
  const cudaStream_t s = stream();
  void* too_much = nullptr;
  EXPECT_EQ(cudaMalloc(&too_much, std::size_t{1} << 44), cudaErrorMemoryAllocation);
  fill(x, 1, 10, s);
  expect_failure(cudaErrorLaunchFailure, "a launch after cudaErrorMemoryAllocation");
}

TEST_F(StandIn, TakesNoMoreThanTheDeviceHas) {
  std::size_t free = 0, total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  void* x = nullptr;
  EXPECT_EQ(cudaMalloc(&x, total + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "this one may be survived";
}

using StandInDeath = StandIn;

TEST_F(StandInDeath, HostCodeCannotTouchDeviceMemory) {
  float* x = memory(10);
  EXPECT_DEATH(x[3] = 1, "host code touched device memory .* 12 bytes into allocation");
}

TEST_F(StandInDeath, AKernelFarOutsideIsNamed) {
  float* x = memory(1024);
  set_order(Order::eager);
  const cudaStream_t s = stream();
  EXPECT_DEATH(fill(x, 1, 3000, s), "thread [0-9]+ of kernel _ZN6ballot7kernels4fill");
}

#if !defined(__SANITIZE_ADDRESS__)  // which ends the program at the first such byte
TEST_F(StandIn, FindsAWriteJustBehindAnAllocation) {
  float* x = memory(10);
  const cudaStream_t s = stream();
  fill(x, 1, 11, s);
  EXPECT_EQ(cudaStreamSynchronize(s), cudaErrorIllegalAddress);
  expect_failure(cudaErrorIllegalAddress, "1 bytes behind allocation");
}

TEST_F(StandIn, FindsWhatIsReadBehindOneAllocationAndWrittenBehindAnother) {
  const float* x = memory(10);
  float* y = memory(10);
  const cudaStream_t s = stream();
  launch(kernels::carry, 1, 32, 0, s, x, y, std::int64_t{10});
  EXPECT_EQ(cudaStreamSynchronize(s), cudaErrorIllegalAddress);
}

TEST_F(StandIn, FindsAWriteJustBeforeAnAllocation) {
  float* x = memory(10);
  const cudaStream_t s = stream();
  launch(kernels::fill, 1, 32, 0, s, x, 1.0f, std::int64_t{10});
  EXPECT_EQ(cudaStreamSynchronize(s), cudaSuccess);
  launch(kernels::fill, 1, 32, 0, s, x + 9, 1.0f, std::int64_t{2});
  EXPECT_EQ(cudaFree(x), cudaErrorIllegalAddress);
}
#else
TEST_F(StandInDeath, AddressSanitizerSeesTheExactEndOfAnAllocation) {
  float* x = memory(10);
  set_order(Order::eager);
  const cudaStream_t s = stream();
  EXPECT_DEATH(fill(x, 1, 11, s), "use-after-poison");
}
#endif

TEST_F(StandIn, RefusesToFreeTwiceAndWhatIsNoBeginning) {
  float* x = memory(10);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  EXPECT_EQ(cudaFree(x), cudaSuccess);
  EXPECT_EQ(cudaFree(x), cudaErrorInvalidValue);
  expect_failure(cudaErrorInvalidValue, "no allocation begins there");
  cudaDeviceReset();
  EXPECT_EQ(cudaFree(memory(10) + 1), cudaErrorInvalidValue);
}

TEST_F(StandIn, FreeingWaitsForTheDevice) {
  set_order(Order::lazy);
  float *x = memory(10), *y = memory(10);
  const cudaStream_t s = stream(), t = stream();
  fill(x, 3, 10, s);
  EXPECT_EQ(cudaFree(y), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(s), cudaSuccess);
  EXPECT_EQ(first_of(x, t), 3);
}

// ---- copies

TEST_F(StandIn, RefusesCopiesThatLeaveTheirAllocation) {
  float host[20] = {};
  float* x = memory(10);
  memory(10);
  EXPECT_EQ(cudaMemcpyAsync(x + 1, host, 40, cudaMemcpyHostToDevice, stream()),
            cudaErrorInvalidValue);
  expect_failure(cudaErrorInvalidValue, "only 36 are left");
}

TEST_F(StandIn, RefusesCopiesOfTheWrongDirection) {
  float host[10] = {};
  for (int i = 0; i < 4; ++i) {
    cudaDeviceReset();
    float* x = memory(10);
    const cudaStream_t s = stream();
    const cudaMemcpyKind kinds[] = {cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice,
                                    cudaMemcpyHostToHost, cudaMemcpyDefault};
    EXPECT_NE(cudaMemcpyAsync(x, host, 40, kinds[i], s), cudaSuccess) << i;
  }
  cudaDeviceReset();
  float* x = memory(10);
  EXPECT_EQ(cudaMemcpyAsync(x, x + 1, 8, cudaMemcpyDeviceToDevice, stream()),
            cudaErrorInvalidValue);
  expect_failure(cudaErrorInvalidValue, "overlap");
}

TEST_F(StandIn, ACopyFromPageableMemoryIsStagedAndFromPinnedMemoryIsNot) {
  set_order(Order::lazy);
  const cudaStream_t s = stream();
  float *x = memory(1), *y = memory(1), *from = pinned(1), pageable = 5;
  *from = 5;
  EXPECT_EQ(cudaMemcpyAsync(x, &pageable, 4, cudaMemcpyHostToDevice, s), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(y, from, 4, cudaMemcpyHostToDevice, s), cudaSuccess);
  pageable = *from = 6;
  EXPECT_EQ(first_of(x, s), 5);
  EXPECT_EQ(first_of(y, s), 6) << "pinned memory was used again too early";
}

TEST_F(StandIn, ACopyToPinnedMemoryIsThereOnlyAfterSynchronize) {
  set_order(Order::lazy);
  const cudaStream_t s = stream();
  float *x = memory(1), *to = pinned(1);
  fill(x, 7, 1, s);
  EXPECT_EQ(cudaMemcpyAsync(to, x, 4, cudaMemcpyDeviceToHost, s), cudaSuccess);
  EXPECT_TRUE(std::isnan(*to));
  EXPECT_EQ(cudaStreamSynchronize(s), cudaSuccess);
  EXPECT_EQ(*to, 7);
}

TEST_F(StandIn, RowsThatLieApartAreCopiedAsRows) {
  const cudaStream_t s = stream();
  float* x = memory(20);
  const std::vector<float> host = {1, 2, 3, 4, 5, 6};
  std::vector<float> back(6);
  EXPECT_EQ(cudaMemcpy2DAsync(x, 20, host.data(), 8, 8, 3, cudaMemcpyHostToDevice, s), cudaSuccess);
  EXPECT_EQ(cudaMemcpy2DAsync(back.data(), 8, x, 20, 8, 3, cudaMemcpyDeviceToHost, s), cudaSuccess);
  EXPECT_EQ(back, host);
  EXPECT_TRUE(std::isnan(first_of(x + 2, s)));
  EXPECT_EQ(cudaMemcpy2DAsync(x, 4, host.data(), 8, 8, 3, cudaMemcpyHostToDevice, s),
            cudaErrorInvalidPitchValue);
}

// ---- streams and events

TEST_F(StandIn, RefusesDefaultStreamsAndHandlesThatAreGone) {
  float* x = memory(1);
  for (const cudaStream_t s : {cudaStream_t{}, cudaStreamLegacy, cudaStreamPerThread}) {
    EXPECT_EQ(cudaMemsetAsync(x, 0, 4, s), cudaErrorInvalidResourceHandle);
    expect_failure(cudaErrorInvalidResourceHandle, "default stream");
    cudaDeviceReset();
    x = memory(1);
  }
  fill(x, 1, 1, nullptr);
  expect_failure(cudaErrorInvalidResourceHandle, "default stream");
  cudaDeviceReset();
  const cudaStream_t s = stream();
  EXPECT_EQ(cudaStreamDestroy(s), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(s), cudaErrorInvalidResourceHandle);
  cudaDeviceReset();
  const cudaEvent_t e = event();
  EXPECT_EQ(cudaEventDestroy(e), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(e, stream()), cudaErrorInvalidResourceHandle);
}

TEST_F(StandIn, AStreamRunsInOrderWhateverTheOrderBetweenStreams) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    set_order(seed == 0 ? Order::eager : seed == 1 ? Order::lazy : Order::random, seed);
    const cudaStream_t s = stream();
    float* x = memory(1);
    for (int i = 0; i < 10; ++i) fill(x, static_cast<float>(i), 1, s);
    EXPECT_EQ(first_of(x, s), 9);
  }
}

// Two streams, one value: whether a forgotten event shows.
float read_across(bool with_event, Order order, std::uint64_t seed) {
  cudaDeviceReset();
  set_order(order, seed);
  void* x = nullptr;
  cudaStream_t writer = nullptr, reader = nullptr;
  cudaEvent_t written = nullptr;
  EXPECT_EQ(cudaMalloc(&x, 4), cudaSuccess);
  EXPECT_EQ(cudaStreamCreateWithFlags(&writer, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(cudaStreamCreateWithFlags(&reader, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), cudaSuccess);
  launch(kernels::fill, 1, 32, 0, writer, static_cast<float*>(x), 4.0f, std::int64_t{1});
  EXPECT_EQ(cudaEventRecord(written, writer), cudaSuccess);
  if (with_event) {
    EXPECT_EQ(cudaStreamWaitEvent(reader, written, 0), cudaSuccess);
  }
  float value = 0;
  EXPECT_EQ(cudaMemcpyAsync(&value, x, 4, cudaMemcpyDeviceToHost, reader), cudaSuccess);
  return value;
}

TEST_F(StandIn, AForgottenEventShowsInLazyAndRandomOrderAndAKeptOneNever) {
  EXPECT_TRUE(std::isnan(read_across(false, Order::lazy, 1)));
  EXPECT_EQ(read_across(false, Order::eager, 1), 4) << "why eager is not enough";
  int wrong = 0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    wrong += std::isnan(read_across(false, Order::random, seed)) ? 1 : 0;
    EXPECT_EQ(read_across(true, Order::random, seed), 4);
  }
  EXPECT_GT(wrong, 0);
  EXPECT_EQ(read_across(true, Order::lazy, 1), 4);
  EXPECT_EQ(read_across(true, Order::eager, 1), 4);
}

TEST_F(StandIn, AWaitIsForTheRecordBeforeItNotForLaterOnes) {
  set_order(Order::lazy);
  const cudaStream_t s = stream(), t = stream();
  const cudaEvent_t e = event();
  float* x = memory(1);
  EXPECT_EQ(cudaStreamWaitEvent(t, e, 0), cudaSuccess) << "never recorded: no wait";
  fill(x, 1, 1, s);
  EXPECT_EQ(cudaEventRecord(e, s), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(t, e, 0), cudaSuccess);
  fill(x, 2, 1, s);
  EXPECT_EQ(cudaEventRecord(e, s), cudaSuccess);
  EXPECT_EQ(first_of(x, t), 1) << "the second record was not waited for";
  EXPECT_EQ(cudaEventQuery(e), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
  EXPECT_EQ(cudaEventSynchronize(e), cudaSuccess);
  EXPECT_EQ(first_of(x, t), 2);
}

TEST_F(StandIn, AWaitThatCannotEndSaysWhatEveryStreamIsStuckIn) {
  ASSERT_EQ(setenv("BALLOT_STAND_IN_DEADLINE_S", "0.05", 1), 0);
  const cudaStream_t s = stream();
  {
    const std::lock_guard lock(device_lock());
    enqueue(s, {"a collective without peers", [] { return false; }});
  }
  EXPECT_EQ(cudaStreamSynchronize(s), cudaErrorLaunchTimeout);
  expect_failure(cudaErrorLaunchTimeout, "is stuck in a collective without peers");
  unsetenv("BALLOT_STAND_IN_DEADLINE_S");
}

TEST_F(StandIn, WhatAnotherThreadBringsEndsAWait) {
  const cudaStream_t s = stream();
  bool came = false;
  {
    const std::lock_guard lock(device_lock());
    enqueue(s, {"a collective", [&] { return came; }});
  }
  std::thread peer([&] {
    const std::lock_guard lock(device_lock());
    came = true;
  });
  EXPECT_EQ(cudaStreamSynchronize(s), cudaSuccess);
  peer.join();
}

// ---- kernels

TEST_F(StandIn, AKernelOfAPointerThatIsNoDeviceMemoryFails) {
  float host[32] = {};
  const cudaStream_t s = stream();
  fill(host, 1, 32, s);
  EXPECT_EQ(cudaStreamSynchronize(s), cudaErrorLaunchFailure);
  expect_failure(cudaErrorLaunchFailure, "not device memory");
}

TEST_F(StandIn, AKernelOfMemoryThatIsGivenBackFails) {
  set_order(Order::lazy);
  const cudaStream_t s = stream();
  float* x = memory(32);
  EXPECT_EQ(cudaFree(x), cudaSuccess);
  fill(x, 1, 32, s);
  EXPECT_EQ(cudaStreamSynchronize(s), cudaErrorLaunchFailure);
}

// ---- cuBLAS

class StandInCublas : public StandIn {
 protected:
  void prepare() {
    on = stream();
    ASSERT_EQ(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasSetStream(handle, on), CUBLAS_STATUS_SUCCESS);
    workspace = memory(1024);
    ASSERT_EQ(cublasSetWorkspace(handle, workspace, 4096), CUBLAS_STATUS_SUCCESS);
    for (float** x : {&a, &b, &c}) {
      *x = memory(64);
      fill(*x, 1, 64, on);
    }
  }
  cublasStatus_t product(int m, int n, int k, int lda, int ldb, int ldc,
                         cudaDataType_t a_type = CUDA_R_32F, cudaDataType_t c_type = CUDA_R_32F,
                         cublasComputeType_t compute = CUBLAS_COMPUTE_32F) {
    const float one = 1, zero = 0;
    return cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, m, n, k, &one, a, a_type, lda, b, a_type,
                        ldb, &zero, c, c_type, ldc, compute, CUBLAS_GEMM_DEFAULT);
  }
  cublasHandle_t handle = nullptr;
  cudaStream_t on = nullptr;
  float *a = nullptr, *b = nullptr, *c = nullptr, *workspace = nullptr;
};

TEST_F(StandInCublas, MultipliesByColumnsInTheStreamsOrder) {
  set_order(Order::lazy);
  prepare();
  const std::vector<float> x = {1, 2, 3, 4}, y = {5, 6, 7, 8};
  EXPECT_EQ(cudaMemcpyAsync(a, x.data(), 16, cudaMemcpyHostToDevice, on), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(b, y.data(), 16, cudaMemcpyHostToDevice, on), cudaSuccess);
  EXPECT_EQ(product(2, 2, 2, 2, 2, 2), CUBLAS_STATUS_SUCCESS);
  std::vector<float> got(5);
  EXPECT_EQ(cudaMemcpyAsync(got.data(), c, 20, cudaMemcpyDeviceToHost, on), cudaSuccess);
  EXPECT_EQ(got, (std::vector<float>{23, 34, 31, 46, 1}));
}

TEST_F(StandInCublas, RefusesWhatCublasWould) {
  const auto refused = [&](auto call, const std::string& text) {
    cudaDeviceReset();
    prepare();
    EXPECT_NE(call(), CUBLAS_STATUS_SUCCESS) << text;
    EXPECT_THAT(cublasGetStatusString(CUBLAS_STATUS_INVALID_VALUE), HasSubstr(text));
  };
  refused([&] { return product(4, 2, 3, 3, 3, 4); }, "A has 4 rows and a leading dimension of 3");
  refused([&] { return product(4, 2, 3, 4, 2, 4); }, "B has 3 rows and a leading dimension of 2");
  refused([&] { return product(4, 2, 3, 4, 3, 3); }, "C has 4 rows and a leading dimension of 3");
  refused([&] { return product(8, 2, 9, 8, 9, 8); }, "a product's A is 288 bytes");
  refused([&] { return product(8, 2, 2, 8, 2, 60); }, "a product's C is 272 bytes");
  refused([&] { return product(2, 2, 2, 2, 2, 2, CUDA_R_32F, CUDA_R_16BF); }, "does not offer");
  refused([&] { return product(2, 2, 2, 2, 2, 2, CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_16F); },
          "does not offer");
  refused(
      [&] {
        c = a;
        return product(2, 2, 2, 2, 2, 2);
      },
      "C overlaps what it is made of");
  refused(
      [&] {
        cublasSetStream(handle, on);
        return product(2, 2, 2, 2, 2, 2);
      },
      "without a workspace");
  refused([&] { return product(2, 2, 2, 2, 2, 2, CUDA_R_16BF); }, "sums may be bf16 too");
  refused(
      [&] {
        cublasHandle_t other = nullptr;
        EXPECT_EQ(cublasCreate(&other), CUBLAS_STATUS_SUCCESS);
        EXPECT_EQ(cublasSetStream(other, stream()), CUBLAS_STATUS_SUCCESS);
        EXPECT_EQ(cublasSetWorkspace(other, workspace, 4096), CUBLAS_STATUS_SUCCESS);
        return product(2, 2, 2, 2, 2, 2);
      },
      "another stream's products use too");
  refused(
      [&] {
        cublasDestroy(handle);
        return product(2, 2, 2, 2, 2, 2);
      },
      "no live handle");
}

TEST_F(StandInCublas, RefusesABatchWhoseResultsOverlap) {
  prepare();
  const float one = 1, zero = 0;
  const auto batch = [&](long long stride, int leading) {
    return cublasGemmStridedBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, a,
                                      CUDA_R_32F, 2, 4, b, CUDA_R_32F, 2, 0, &zero, c, CUDA_R_32F,
                                      leading, stride, 3, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  };
  EXPECT_EQ(batch(4, 2), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(batch(2, 6), CUBLAS_STATUS_SUCCESS) << "interleaved, not overlapping";
  EXPECT_NE(batch(3, 2), CUBLAS_STATUS_SUCCESS);
}

TEST_F(StandInCublas, BetaZeroDoesNotReadC) {
  prepare();
  fill(c, NAN, 64, on);
  EXPECT_EQ(product(2, 2, 2, 2, 2, 2), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(first_of(c, on), 2);
}

}  // namespace
}  // namespace stand_in
}  // namespace ballot

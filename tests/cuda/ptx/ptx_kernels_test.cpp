// The PTX interpreter on nvcc's PTX: right kernels give what g++'s build of them gives, and each
// kind of mistake is found and named, those included that no order of running shows.
#include "core/cuda/kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>
#include <vector>

#include "ptx/execute.h"
#include "simt/fault.h"  // KernelFault
#include "simt/test_kernels.h"

namespace ballot {
namespace {

// Memory that the interpreter knows as allocations of a device.
std::map<const std::byte*, std::size_t>& allocations() {
  static std::map<const std::byte*, std::size_t> map;
  return map;
}

bool find(const void* address, simt::Allocation& found) {
  const auto* at = static_cast<const std::byte*>(address);
  auto next = allocations().upper_bound(at);
  if (next == allocations().begin()) return false;
  --next;
  if (at >= next->first + next->second) return false;
  found = {next->first, next->second};
  return true;
}

template <class T>
class Device {
 public:
  explicit Device(std::vector<T> values) : bytes_(values.size() * sizeof(T)) {
    memory_ = static_cast<T*>(std::aligned_alloc(256, (bytes_ + 255) / 256 * 256));
    std::memcpy(memory_, values.data(), bytes_);
    allocations()[reinterpret_cast<std::byte*>(memory_)] = bytes_;
  }
  explicit Device(std::size_t count) : Device(std::vector<T>(count)) {}
  ~Device() {
    allocations().erase(reinterpret_cast<std::byte*>(memory_));
    std::free(memory_);
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  T* get() { return memory_; }
  std::vector<T> values() const { return {memory_, memory_ + bytes_ / sizeof(T)}; }

 private:
  std::size_t bytes_;
  T* memory_;
};

class Ptx : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    static const bool loaded = [] {
      ptx::load({BALLOT_TEST_PTX});
      simt::set_find_allocation(find);
      return true;
    }();
    EXPECT_TRUE(loaded);
  }
  void SetUp() override { simt::set_executor(ptx::execute_ptx); }

  template <class Work>
  static std::string fault_of(Work work) {
    try {
      work();
    } catch (const simt::KernelFault& fault) {
      return fault.what();
    }
    return "none";
  }
};

TEST_F(Ptx, VotesPackEveryLength) {
  for (const std::int64_t n : {1, 31, 32, 33, 255, 256, 257, 5000}) {
    std::vector<float> x(static_cast<std::size_t>(n));
    std::vector<unsigned> expected((x.size() + 31) / 32);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = i * 7 % 5 < 2 ? -1.0f : 1.0f;
      if (x[i] < 0) expected[i / 32] |= 1u << i % 32;
    }
    Device<float> from(x);
    Device<unsigned> words(expected.size());
    launch(kernels::pack_signs, static_cast<unsigned>((n + 255) / 256), 256, 0, nullptr, from.get(),
           words.get(), n);
    EXPECT_EQ(words.values(), expected) << n;
  }
}

TEST_F(Ptx, ReductionsHaveTheBitsOfTheHarness) {
  constexpr std::int64_t kRows = 5, kColumns = 700;
  std::vector<float> x(kRows * kColumns);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  Device<float> from(x);
  for (const unsigned block : {32u, 96u, 1024u}) {
    std::vector<float> sums_of[2], tops_of[2];
    for (int which = 0; which < 2; ++which) {
      simt::set_executor(which == 0 ? ptx::execute_ptx : simt::execute_by_fibers);
      Device<float> sums(kRows), tops(kRows);
      launch(kernels::row_sums, kRows, block, 0, nullptr, from.get(), sums.get(), tops.get(),
             kColumns);
      sums_of[which] = sums.values();
      tops_of[which] = tops.values();
    }
    EXPECT_EQ(sums_of[0], sums_of[1]);
    EXPECT_EQ(tops_of[0], tops_of[1]);
  }
}

TEST_F(Ptx, WarpFunctionsGiveWhatTheHarnessGives) {
  std::vector<int> results[2];
  for (int which = 0; which < 2; ++which) {
    simt::set_executor(which == 0 ? ptx::execute_ptx : simt::execute_by_fibers);
    Device<int> result(14 * 32);
    launch(kernels::warp_functions, 1, 32, 0, nullptr, result.get());
    results[which] = result.values();
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_F(Ptx, AtomicsOfAllBlocksAddUp) {
  std::vector<int> x(10000), expected(16);
  for (std::size_t i = 0; i < x.size(); ++i)
    ++expected[static_cast<std::size_t>(x[i] = static_cast<int>(i * i % 16))];
  Device<int> from(x), counts(16);
  launch(kernels::histogram, 7, 128, 16 * sizeof(int), nullptr, from.get(), counts.get(),
         static_cast<std::int64_t>(x.size()));
  EXPECT_EQ(counts.values(), expected);
}

TEST_F(Ptx, EveryThreadOfEveryBlockRunsOnce) {
  Device<int> visits(5 * 3 * 2 * 64);
  launch(kernels::visit, dim3(5, 3, 2), 64, 0, nullptr, visits.get());
  EXPECT_EQ(visits.values(), std::vector<int>(5 * 3 * 2 * 64, 1));
}

TEST_F(Ptx, FunctionsOfTheToolkitAreNearThoseOfTheHost) {
  std::vector<float> x(32);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = 0.37f * static_cast<float>(i) * (i > 24 ? 3e5f : 1.0f);  // the long way round, too
  Device<float> from(x), sine(32), cosine(32);
  launch(kernels::angles, 1, 32, 0, nullptr, from.get(), sine.get(), cosine.get());
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(sine.values()[i], std::sin(static_cast<double>(x[i])), 2e-7);
    EXPECT_NEAR(cosine.values()[i], std::cos(static_cast<double>(x[i])), 2e-7);
  }
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.4f * static_cast<float>(i);
  Device<float> small(x), y(32);
  launch(kernels::exponentials, 1, 32, 0, nullptr, small.get(), y.get());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    const double expected = std::exp(v) + std::exp(-v) + 1 / std::sqrt(v + 2);
    EXPECT_NEAR(y.values()[i], expected, 1e-6 * expected);
  }
}

TEST_F(Ptx, AMissingBarrierIsNamedInAnyOrder) {
  Device<float> out(4 * 256);
  EXPECT_THAT(
      fault_of([&] { launch(kernels::no_barrier_before_read, 1, 256, 0, nullptr, out.get()); }),
      testing::AllOf(testing::HasSubstr("shared memory"), testing::HasSubstr("test_kernels.h:")));
  EXPECT_THAT(
      fault_of([&] { launch(kernels::no_barrier_before_reuse, 1, 256, 0, nullptr, out.get()); }),
      testing::AllOf(testing::HasSubstr("a race"), testing::HasSubstr("shared memory")));
}

TEST_F(Ptx, LanesNeedASyncwarpBetweenThem) {
  Device<int> out(32);
  EXPECT_THAT(
      fault_of([&] { launch(kernels::lanes_without_syncwarp, 1, 32, 0, nullptr, out.get()); }),
      testing::HasSubstr("a race"));
  launch(kernels::lanes_with_syncwarp, 1, 32, 0, nullptr, out.get());
  EXPECT_EQ(out.values()[3], 28);
}

TEST_F(Ptx, BlocksThatMeetInMemoryWithoutAtomicsAreNamed) {
  Device<int> sum(1), out(1);
  EXPECT_THAT(fault_of([&] { launch(kernels::add_without_atomic, 2, 64, 0, nullptr, sum.get()); }),
              testing::HasSubstr("a race"));
  EXPECT_THAT(fault_of([&] { launch(kernels::all_write_one, 1, 64, 0, nullptr, sum.get()); }),
              testing::HasSubstr("a race"));
  EXPECT_THAT(
      fault_of([&] { launch(kernels::atomic_and_plain, 1, 64, 0, nullptr, sum.get(), out.get()); }),
      testing::HasSubstr("a race"));
}

TEST_F(Ptx, AnAccessBeyondAnAllocationIsNamed) {
  Device<int> from(100), to(100), longer(101);
  const auto text = [&](Device<int>& a, Device<int>& b) {
    return fault_of([&] {
      launch(kernels::copy_one_too_far, 2, 64, 0, nullptr, a.get(), b.get(), std::int64_t{100});
    });
  };
  EXPECT_THAT(text(from, longer), testing::HasSubstr("is in no allocation"));
  EXPECT_THAT(text(longer, to), testing::HasSubstr("is in no allocation"));
  std::vector<int> host(100);
  EXPECT_THAT(fault_of([&] {
                launch(kernels::copy_one_too_far, 1, 64, 0, nullptr, host.data(), to.get(),
                       std::int64_t{5});
              }),
              testing::HasSubstr("which is not device memory"));
}

TEST_F(Ptx, WhatTheReadOnlyPathReadsIsNotWritten) {
  Device<float> x(64), y(64);
  launch(kernels::reverse, 1, 64, 0, nullptr, x.get(), y.get(), std::int64_t{64});
  EXPECT_THAT(fault_of([&] {
                launch(kernels::reverse, 1, 64, 0, nullptr, x.get(), x.get(), std::int64_t{64});
              }),
              testing::HasSubstr("read-only path"));
}

TEST_F(Ptx, PacksMustBeAligned) {
  Device<float> x(36), out(36);
  EXPECT_THAT(fault_of([&] { launch(kernels::misaligned, 1, 32, 0, nullptr, x.get(), out.get()); }),
              testing::HasSubstr("is not a multiple of 16"));
}

TEST_F(Ptx, SharedMemoryHasItsSizeAndIsWrittenFirst) {
  Device<float> out(32);
  EXPECT_THAT(fault_of([&] { launch(kernels::shared_unwritten, 1, 32, 0, nullptr, out.get()); }),
              testing::HasSubstr("which nobody has written"));
  Device<int> x(100), counts(16);
  EXPECT_THAT(fault_of([&] {
                launch(kernels::histogram, 1, 128, 15 * sizeof(int), nullptr, x.get(), counts.get(),
                       std::int64_t{100});
              }),
              testing::HasSubstr("of 60 bytes of shared memory"));
}

TEST_F(Ptx, BarriersMissedAndInTwoPlacesAreNamed) {
  EXPECT_THAT(fault_of([] { launch(kernels::barrier_of_some, 1, 64, 0, nullptr); }),
              testing::HasSubstr("barrier"));
  EXPECT_THAT(fault_of([] { launch(kernels::barrier_in_uneven_loop, 1, 64, 0, nullptr); }),
              testing::HasSubstr("barrier"));
}

TEST_F(Ptx, WarpFunctionsOfLanesThatAreNotThereAreNamed) {
  Device<unsigned> out(32);
  Device<int> numbers(32);
  EXPECT_THAT(fault_of([&] { launch(kernels::vote_of_some, 1, 32, 0, nullptr, out.get()); }),
              testing::HasSubstr("wait here for ever"));
  EXPECT_THAT(
      fault_of([&] { launch(kernels::return_before_vote, 1, 32, 0, nullptr, out.get(), 20u); }),
      testing::HasSubstr("returned"));
  EXPECT_THAT(fault_of([&] { launch(kernels::mask_without_self, 1, 32, 0, nullptr, out.get()); }),
              testing::HasSubstr("is not in the mask 0x0000ffff"));
  EXPECT_THAT(
      fault_of([&] { launch(kernels::shuffle_from_outside, 1, 32, 0, nullptr, numbers.get()); }),
      testing::HasSubstr("which is not in the mask"));
}

TEST_F(Ptx, LaunchBoundsAreKept) {
  Device<int> visits(128);
  EXPECT_THAT(fault_of([&] { launch(kernels::visit, 1, 128, 0, nullptr, visits.get()); }),
              testing::HasSubstr("__launch_bounds__ allows 64"));
}

TEST_F(Ptx, AKernelWithoutPtxIsNamed) {
  EXPECT_THAT(fault_of([] { launch(kernels::throws, 1, 32, 0, nullptr); }),
              testing::HasSubstr("no PTX has this kernel"));
}

}  // namespace
}  // namespace ballot

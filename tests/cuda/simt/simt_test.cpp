// The harness itself: right kernels give right results in any order, and each kind of mistake is
// found in a kernel that makes it.
#include "core/cuda/kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <numeric>
#include <vector>

#include "core/error.h"  // LogicError
#include "simt/fault.h"  // KernelFault
#include "simt/test_kernels.h"

namespace ballot {
namespace {

constexpr unsigned kSeeds = 4;

template <class Work>
std::string fault_of(Work work) {
  try {
    work();
  } catch (const simt::KernelFault& fault) {
    return fault.what();
  }
  return "none";
}

TEST(Simt, VotesPackEveryLength) {
  for (const std::int64_t n : {1, 31, 32, 33, 255, 256, 257, 5000}) {
    std::vector<float> x(static_cast<std::size_t>(n));
    std::vector<unsigned> expected((x.size() + 31) / 32);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = i * 7 % 5 < 2 ? -1.0f : 1.0f;
      if (x[i] < 0) expected[i / 32] |= 1u << i % 32;
    }
    for (unsigned seed = 0; seed < kSeeds; ++seed) {
      simt::set_seed(seed);
      std::vector<unsigned> words(expected.size());
      launch(kernels::pack_signs, static_cast<unsigned>((n + 255) / 256), 256, 0, nullptr, x.data(),
             words.data(), n);
      EXPECT_EQ(words, expected) << n;
    }
  }
}

TEST(Simt, BlockReductionsHaveTheSameBitsInEveryOrder) {
  constexpr std::int64_t kRows = 5, kColumns = 700;
  std::vector<float> x(kRows * kColumns);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  for (const unsigned block : {32u, 96u, 1024u}) {
    std::vector<float> first;
    for (unsigned seed = 0; seed < kSeeds; ++seed) {
      simt::set_seed(seed);
      std::vector<float> sums(kRows), tops(kRows);
      launch(kernels::row_sums, kRows, block, 0, nullptr, x.data(), sums.data(), tops.data(),
             kColumns);
      if (first.empty()) first = sums;
      EXPECT_EQ(sums, first);
      for (std::size_t r = 0; r < kRows; ++r) {
        const auto row = x.begin() + static_cast<std::ptrdiff_t>(r * kColumns);
        EXPECT_NEAR(sums[r], std::accumulate(row, row + kColumns, 0.0), 1e-3);
        EXPECT_EQ(tops[r], *std::max_element(row, row + kColumns));
      }
    }
  }
}

TEST(Simt, WarpFunctionsGiveWhatCudaSays) {
  std::vector<int> result(14 * 32);
  launch(kernels::warp_functions, 1, 32, 0, nullptr, result.data());
  for (int lane = 0; lane < 32; ++lane) {
    std::vector<int> got;
    for (std::size_t i = 0; i < 14; ++i)
      got.push_back(result[i * 32 + static_cast<std::size_t>(lane)]);
    const int group = lane / 8;
    const std::vector<int> expected{50,
                                    (lane / 8 * 8 + 3) * 10,
                                    lane < 2 ? lane : lane - 2,
                                    lane % 16 < 13 ? lane + 3 : lane,
                                    31 - lane,
                                    7,
                                    19,
                                    0x49249249,
                                    1,
                                    0,
                                    -9,
                                    496,
                                    lane < 16 ? 0 : 16,
                                    static_cast<int>(0xffu << (group * 8))};
    EXPECT_EQ(got, expected) << "lane " << lane;
  }
}

TEST(Simt, AtomicsOfAllBlocksAddUp) {
  std::vector<int> x(10000), expected(16), counts(16);
  for (std::size_t i = 0; i < x.size(); ++i)
    ++expected[static_cast<std::size_t>(x[i] = i * i % 16)];
  launch(kernels::histogram, 7, 128, 16 * sizeof(int), nullptr, x.data(), counts.data(),
         static_cast<std::int64_t>(x.size()));
  EXPECT_EQ(counts, expected);
}

TEST(Simt, EveryThreadOfEveryBlockRunsOnce) {
  for (unsigned seed = 0; seed < 3 * kSeeds; ++seed) {
    simt::set_seed(seed);
    std::vector<int> visits(5 * 3 * 2 * 64);
    launch(kernels::visit, dim3(5, 3, 2), 64, 0, nullptr, visits.data());
    EXPECT_EQ(visits, std::vector<int>(visits.size(), 1));
  }
}

TEST(Simt, PacksMove16BytesAndMustBeAligned) {
  alignas(16) float from[132], to[128] = {};
  std::iota(from, from + 132, 0.0f);
  launch(kernels::copy_packs, 1, 32, 0, nullptr, from, to);
  EXPECT_TRUE(std::equal(to, to + 128, from));
  EXPECT_THAT(fault_of([&] { launch(kernels::misaligned, 1, 32, 0, nullptr, from, to); }),
              testing::HasSubstr("not a multiple of 16"));
}

TEST(Simt, AMissingBarrierBeforeAReadShowsInTheResult) {
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    simt::set_seed(seed);
    std::vector<float> out(256);
    launch(kernels::no_barrier_before_read, 1, 256, 0, nullptr, out.data());
    EXPECT_TRUE(std::any_of(out.begin(), out.end(), [](float x) { return std::isnan(x); }));
  }
}

TEST(Simt, AMissingBarrierBeforeReuseShowsWhereOneWarpRunsAhead) {
  std::vector<float> expected(4 * 256);
  for (std::size_t i = 0; i < expected.size(); ++i)
    expected[i] = static_cast<float>(i / 256 * 32 * 8);
  unsigned found = 0;
  for (unsigned seed = 0; seed < 4 * kSeeds; ++seed) {
    simt::set_seed(seed);
    std::vector<float> out(4 * 256);
    launch(kernels::no_barrier_before_reuse, 1, 256, 0, nullptr, out.data());
    if (out != expected) ++found;
  }
  EXPECT_GE(found, kSeeds);  // half of the blocks run ahead
}

TEST(Simt, ABarrierThatSomeThreadsMissIsNamed) {
  const std::string text = fault_of([] { launch(kernels::barrier_of_some, 1, 64, 0, nullptr); });
  EXPECT_THAT(text, testing::HasSubstr("barrier"));
  EXPECT_THAT(text, testing::HasSubstr("returned"));
  EXPECT_THAT(text, testing::HasSubstr("test_kernels.h:"));
  EXPECT_THAT(text, testing::HasSubstr("ballot::kernels::barrier_of_some()"));
  EXPECT_THAT(fault_of([] { launch(kernels::barrier_in_uneven_loop, 1, 64, 0, nullptr); }),
              testing::HasSubstr("barrier"));
}

TEST(Simt, ABarrierReachedInTwoPlacesIsNamed) {
  EXPECT_THAT(fault_of([] { launch(kernels::barriers_in_two_places, 1, 64, 0, nullptr); }),
              testing::HasSubstr("wait at another"));
}

TEST(Simt, AWarpFunctionThatLanesOfItsMaskMissIsNamed) {
  std::vector<unsigned> out(32);
  EXPECT_THAT(fault_of([&] { launch(kernels::vote_of_some, 1, 32, 0, nullptr, out.data()); }),
              testing::HasSubstr("the warp has diverged"));
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    simt::set_seed(seed);
    const std::string text =
        fault_of([&] { launch(kernels::return_before_vote, 1, 32, 0, nullptr, out.data(), 20u); });
    EXPECT_THAT(text, testing::HasSubstr("a vote"));
    EXPECT_THAT(text, testing::HasSubstr("returned"));
  }
}

TEST(Simt, AMaskWithoutTheCallerIsNamed) {
  std::vector<unsigned> out(32);
  EXPECT_THAT(fault_of([&] { launch(kernels::mask_without_self, 1, 32, 0, nullptr, out.data()); }),
              testing::HasSubstr("is not in the mask 0x0000ffff"));
}

TEST(Simt, AShuffleFromALaneOutsideOfTheMaskIsNamed) {
  std::vector<int> out(32);
  EXPECT_THAT(
      fault_of([&] { launch(kernels::shuffle_from_outside, 1, 32, 0, nullptr, out.data()); }),
      testing::HasSubstr("which is not in the mask"));
}

#if defined(__SANITIZE_ADDRESS__)
TEST(SimtDeathTest, ASharedArrayThatIsTooSmallIsReportedByAddressSanitizer) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(launch(kernels::shared_too_small, 1, 32, 0, nullptr), "use-after-poison");
}

// What the guards around shared memory cannot see.
TEST(SimtDeathTest, AReadBehindASharedArrayIsReportedByAddressSanitizer) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::vector<int> out(32);
  EXPECT_DEATH(launch(kernels::shared_read_too_far, 1, 32, 0, nullptr, out.data()),
               "use-after-poison");
}

TEST(SimtDeathTest, AnArrayOfAThreadIsGuardedOnItsFiber) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::vector<int> out(32);
  launch(kernels::local_array, 1, 32, 0, nullptr, out.data(), 3);
  EXPECT_EQ(out, std::vector<int>(32, 9));
  EXPECT_DEATH(launch(kernels::local_array, 1, 32, 0, nullptr, out.data(), 4),
               "stack-buffer-overflow|insufficient space");
}

TEST(SimtDeathTest, AnOverflowIsReportedByUbsan) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::vector<int> x(32, 0x7fffffff - 31);
  launch(kernels::add_lane, 1, 32, 0, nullptr, x.data());
  EXPECT_EQ(x.back(), 0x7fffffff);
  EXPECT_DEATH(launch(kernels::add_lane, 1, 32, 0, nullptr, x.data()), "signed integer overflow");
}
#else
TEST(Simt, ASharedArrayThatIsTooSmallIsNamed) {
  EXPECT_THAT(fault_of([] { launch(kernels::shared_too_small, 1, 32, 0, nullptr); }),
              testing::HasSubstr("wrote outside of its shared array values of 120 bytes"));
}
#endif

TEST(Simt, UnwrittenSharedMemoryReadsAsNan) {
  std::vector<float> out(32);
  for (unsigned round = 0; round < 2; ++round) {  // also when an earlier launch wrote it
    launch(kernels::shared_unwritten, 1, 32, 0, nullptr, out.data());
    EXPECT_TRUE(std::isnan(out[7]));
    EXPECT_EQ(out[8], 1.0f);
  }
}

TEST(Simt, ALaunchThatADeviceWouldRefuseIsRefused) {
  std::vector<int> visits(1);
  int* to = visits.data();
  EXPECT_THROW(launch(kernels::visit, 0, 64, 0, nullptr, to), LogicError);
  EXPECT_THROW(launch(kernels::visit, 1, 48, 0, nullptr, to), LogicError);
  EXPECT_THROW(launch(kernels::visit, 1, 2048, 0, nullptr, to), LogicError);
  EXPECT_THROW(launch(kernels::visit, dim3(1, 70000), 64, 0, nullptr, to), LogicError);
  EXPECT_THROW(launch(kernels::visit, 1, 64, 49 << 10, nullptr, to), LogicError);
}

TEST(Simt, AnExceptionInAKernelEndsTheLaunch) {
  EXPECT_THAT(fault_of([] { launch(kernels::throws, 1, 32, 0, nullptr); }),
              testing::HasSubstr("out of luck"));
}

TEST(Simt, TheSameSeedGivesTheSameFault) {
  std::vector<unsigned> out(32);
  const auto text = [&](unsigned seed) {
    simt::set_seed(seed);
    return fault_of(
        [&] { launch(kernels::return_before_vote, 9, 32, 0, nullptr, out.data(), 20u); });
  };
  EXPECT_EQ(text(5), text(5));
  unsigned others = 0;
  for (unsigned seed = 0; seed < 10; ++seed)
    if (text(seed) != text(5)) ++others;
  EXPECT_GT(others, 0u);
}

}  // namespace
}  // namespace ballot

// Threads: every element once, whatever team OpenMP gives, and exceptions that reach the caller.
#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace ballot {
namespace {

void expect_every_element_once(std::int64_t count, std::int64_t grain) {
  std::vector<std::atomic<int>> visits(count);
  parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) ++visits[i];
  });
  for (const auto& one : visits) ASSERT_EQ(one, 1);
}

TEST(ParallelFor, VisitsEveryElementOnce) {
  const int before = thread_count();
  for (const int threads : {1, 2, 3, 8}) {
    set_thread_count(threads);
    for (const std::int64_t count : {0, 1, 7, 64, 1000})
      for (const std::int64_t grain : {1, 16, 512}) expect_every_element_once(count, grain);
  }
  set_thread_count(before);
}

TEST(ParallelFor, VisitsEveryElementWhenTheTeamIsSmallerThanAsked) {
  const int threads = thread_count(), levels = omp_get_max_active_levels();
  set_thread_count(4);
  omp_set_max_active_levels(0);  // every region gets one thread
  expect_every_element_once(1000, 16);
  omp_set_max_active_levels(levels);
  set_thread_count(threads);
}

TEST(ParallelFor, AnExceptionReachesTheCaller) {
  const int before = thread_count();
  set_thread_count(2);
  EXPECT_THROW(parallel_for(100, 1,
                            [](std::int64_t begin, std::int64_t) {
                              if (begin > 0) throw std::runtime_error("piece");
                            }),
               std::runtime_error);
  EXPECT_THROW(parallel_items(10,
                              [](std::int64_t i) {
                                if (i == 7) throw std::runtime_error("item");
                              }),
               std::runtime_error);
  set_thread_count(before);
}

}  // namespace
}  // namespace ballot

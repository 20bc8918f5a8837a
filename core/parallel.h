// Threads for element-wise work: the calling thread's OpenMP team, the same one that oneDNN uses.
//
// The team's size belongs to the calling thread (omp_set_num_threads), so ranks that are threads
// each have their own. Pieces are contiguous, so results that do not add across elements have the
// same bits at any number of threads; sums across elements go through fixed-size pieces for the
// same reason.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

namespace ballot {

int thread_count();
void set_thread_count(int count);

// Keeps the first exception that a piece throws, for the caller's thread: one that left a parallel
// region would end the process.
class FirstFailure {
 public:
  template <class Work>
  void guard(const Work& work) noexcept {
    try {
      work();
    } catch (...) {
#pragma omp critical(ballot_first_failure)
      if (!failure_) failure_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::exception_ptr failure_;
};

// Runs body(begin, end) on contiguous pieces of [0, count), each a multiple of `grain` but the
// last. The first exception is rethrown when all pieces have ended.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  const std::int64_t pieces = (count + grain - 1) / grain;
  const int threads =
      static_cast<int>(std::min<std::int64_t>(omp_in_parallel() ? 1 : thread_count(), pieces));
  if (threads <= 1) {
    if (count > 0) body(std::int64_t{0}, count);
    return;
  }
  FirstFailure failure;
#pragma omp parallel num_threads(threads)
  {
    // The team may be smaller than asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC): cut by what it is.
    const std::int64_t team = omp_get_num_threads();
    const std::int64_t size = (pieces + team - 1) / team * grain;
    const std::int64_t begin = std::min(count, omp_get_thread_num() * size);
    const std::int64_t end = std::min(count, begin + size);
    if (begin < end) failure.guard([&] { body(begin, end); });
  }
  failure.rethrow();
}

// Runs body(item) for every item in [0, count), one at a time per thread as threads become free.
// For uneven items.
template <class Body>
void parallel_items(std::int64_t count, const Body& body) {
  const int threads =
      static_cast<int>(std::min<std::int64_t>(omp_in_parallel() ? 1 : thread_count(), count));
  if (threads <= 1) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  FirstFailure failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (std::int64_t i = 0; i < count; ++i) failure.guard([&] { body(i); });
  failure.rethrow();
}

// Hot loops over a contiguous range carry this: compiled for AVX-512, AVX2 and the baseline, chosen
// when the program loads. Such a function takes plain pointers and calls only what inlines into it.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define BALLOT_VECTORIZED \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define BALLOT_VECTORIZED
#endif

}  // namespace ballot

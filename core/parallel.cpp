#include "core/parallel.h"

#include "core/error.h"

namespace ballot {

int thread_count() {
  return omp_get_max_threads();
}

void set_thread_count(int count) {
  require(count >= 1, "threads = {}, expected at least 1", count);
  omp_set_num_threads(count);
}

}  // namespace ballot

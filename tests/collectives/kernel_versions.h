// Runs a test with every version of the kernels that this processor has, not only with the best.
#pragma once

#include <gtest/gtest.h>

#include "collectives/kernels.h"

namespace ballot::test {

// Chooses one version while it lives.
class WithKernels {
 public:
  explicit WithKernels(std::size_t version)
      : before_(&kernels()), trace_(__FILE__, __LINE__, kernel_version(version).name) {
    choose_kernels(kernel_version(version));
  }
  ~WithKernels() { choose_kernels(*before_); }
  WithKernels(const WithKernels&) = delete;
  WithKernels& operator=(const WithKernels&) = delete;

 private:
  const Kernels* before_;
  testing::ScopedTrace trace_;
};

// Calls body() once a version; a failure names the version.
template <class Body>
void for_each_kernel_version(const Body& body) {
  for (std::size_t version = 0; version < kernel_versions(); ++version) {
    const WithKernels chosen(version);
    body();
  }
}

}  // namespace ballot::test

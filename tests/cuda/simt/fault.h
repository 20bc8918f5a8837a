// What a kernel did wrong, as a test executor found it: names the kernel, the thread and the place.
#pragma once

#include <stdexcept>
#include <string>

namespace ballot::simt {

class KernelFault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace ballot::simt

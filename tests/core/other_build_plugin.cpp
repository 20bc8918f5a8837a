// A plugin that answers as one of another build does: it has no table for this interface.
#include <cstdint>

extern "C" const void* ballot_cuda_backend(std::uint32_t) {
  return nullptr;
}

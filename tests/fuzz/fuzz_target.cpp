// One libFuzzer program per format; BALLOT_FUZZ_ENTRY names it.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/entries.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ballot::fuzz::Entry& entry = [&]() -> const ballot::fuzz::Entry& {
    for (const ballot::fuzz::Entry& candidate : ballot::fuzz::entries())
      if (std::string_view(candidate.name) == BALLOT_FUZZ_ENTRY) return candidate;
    std::abort();
  }();
  entry.run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}

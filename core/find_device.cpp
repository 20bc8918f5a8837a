// Which device a run's `device` names.
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "core/cuda/cuda_core.h"
#include "core/cuda_backend.h"
#include "core/device.h"
#include "core/error.h"

namespace ballot {
namespace {

Device choose(int local_rank, std::string* reason) {
  std::string said;
  Device device;
  try {
    device = find_cuda_device(local_rank);
    said = fmt::format("chose {}, {}", to_string(device), cuda_core().describe(device));
  } catch (const Unavailable& why) {
    said = fmt::format("chose the CPU; {}", why.what());
  }
  if (reason != nullptr) *reason = said;
  return device;
}

// The N of "cuda:N"; nothing for any other text.
std::optional<int> number_of_gpu(std::string_view name) {
  constexpr std::string_view kPrefix = "cuda:";
  if (!name.starts_with(kPrefix)) return {};
  name.remove_prefix(kPrefix.size());
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 0) return {};
  return number;
}

}  // namespace

Device find_device(const std::string& name, int local_rank, std::string* reason) {
  if (name == "cpu") return {};
  if (name == "cuda") return find_cuda_device(local_rank);
  if (name == "auto") return choose(local_rank, reason);
  if (const auto number = number_of_gpu(name)) return cuda_core().find_device(*number);
  throw ConfigError("device = \"{}\": expected \"cpu\", \"cuda\", \"cuda:NUMBER\" or \"auto\"",
                    name);
}

}  // namespace ballot

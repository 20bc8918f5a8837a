#include "stand_ins/failure.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ballot::stand_in {
namespace {

struct Kept {
  cudaError_t code = cudaSuccess;
  std::string text;
};

Kept& kept() {
  static auto* instance = new Kept;
  return *instance;
}

}  // namespace

void keep_failure(cudaError_t code, const std::string& message) {
  if (kept().code != cudaSuccess) return;
  kept() = {code, message};
  std::fprintf(stderr, "CUDA stand-in: %s\n", message.c_str());
}

cudaError_t failure() {
  return kept().code;
}

const std::string& failure_text() {
  return kept().text;
}

void forget_failure() {
  kept() = {};
}

void fail_if_asked(const char* name) {
  static const char* const asked = std::getenv("BALLOT_STAND_IN_FAIL");
  if (asked == nullptr) return;
  static long calls = 0;
  const std::size_t length = std::strlen(name);
  if (std::strncmp(asked, name, length) != 0 || asked[length] != ':') return;
  char* rest = nullptr;
  const long wanted = std::strtol(asked + length + 1, &rest, 10);
  if (++calls == wanted && *rest == ':')
    keep_failure(static_cast<cudaError_t>(std::atoi(rest + 1)), std::string(name) + ": as asked");
}

}  // namespace ballot::stand_in

#include "stand_ins/failure.h"

#include <cstdio>

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

}  // namespace ballot::stand_in

// The GPU itself has failed (an uncorrectable memory or link error, a contained fault): nothing in
// this process can use it again. Another process, or another GPU, may.
#pragma once

#include "core/error.h"

namespace ballot {

class DeviceLost : public WorldError {
 public:
  explicit DeviceLost(const std::string& message) : WorldError(ExitCode::retry, message) {}
};

}  // namespace ballot

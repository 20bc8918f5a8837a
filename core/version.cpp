#include "core/version.h"

namespace ballot {
const char* version() {
  return BALLOT_VERSION;
}
}  // namespace ballot

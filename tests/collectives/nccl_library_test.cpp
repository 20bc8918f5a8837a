// The real libnccl.so.2, as far as it goes without a GPU: every function that the backend uses is
// in it.
#include <gtest/gtest.h>

#include <cstring>

#include "collectives/nccl_functions.h"

namespace ballot {
namespace {

TEST(NcclLibrary, HasEveryFunctionAndTheHeadersVersion) {
  const NcclFunctions& nccl = nccl_functions();
  int version = 0;
  ASSERT_EQ(nccl.get_version(&version), ncclSuccess);
  EXPECT_EQ(version, NCCL_VERSION_CODE);
  ncclUniqueId one, other;
  ASSERT_EQ(nccl.get_unique_id(&one), ncclSuccess);
  ASSERT_EQ(nccl.get_unique_id(&other), ncclSuccess);
  EXPECT_NE(std::memcmp(&one, &other, sizeof one), 0);
  EXPECT_STRNE(nccl.get_error_string(ncclRemoteError), nccl.get_error_string(ncclInvalidUsage));
}

}  // namespace
}  // namespace ballot

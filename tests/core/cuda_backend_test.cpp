// Asking for the CUDA backend where there is none, or a wrong one: what is said, and that "auto"
// goes on with the CPU.
#include "core/cuda_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/buffer.h"
#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace ballot::test {
namespace {

using ::testing::HasSubstr;

std::string refusal() {
  try {
    find_device("cuda");
  } catch (const Unavailable& failure) {
    return failure.what();
  }
  return "nothing";
}

class CudaBackend : public ::testing::Test {
 protected:
  void name_plugin(const std::string& path) { setenv("BALLOT_CUDA_PLUGIN", path.c_str(), 1); }
  void TearDown() override { unsetenv("BALLOT_CUDA_PLUGIN"); }
};

TEST_F(CudaBackend, ANamedPluginThatIsNotThereIsUnavailableAndNamed) {
  name_plugin("/nowhere/of_ours.so");
  EXPECT_THAT(refusal(), HasSubstr("/nowhere/of_ours.so"));
  EXPECT_THAT(refusal(), HasSubstr("device = \"cuda\""));
  EXPECT_THROW(cuda_backend(), Unavailable);
  EXPECT_THROW(cuda_core(), Unavailable);
  EXPECT_THROW(Stream(Device{Device::Kind::cuda, 0}), Unavailable);
  EXPECT_THROW(Buffer(16, Device{Device::Kind::cuda, 0}), Unavailable);
}

TEST_F(CudaBackend, AFileThatIsNoLibraryIsUnavailableForTheLoadersReason) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/libballot_cuda.so";
  std::ofstream(path) << "no library";
  name_plugin(path);
  EXPECT_THAT(refusal(), HasSubstr("file too short"));
}

TEST_F(CudaBackend, APluginOfAnotherBuildIsRefused) {
  name_plugin(BALLOT_OTHER_BUILD_PLUGIN);
  EXPECT_THAT(refusal(), HasSubstr("of another build than this program"));
}

TEST_F(CudaBackend, AutoIsTheCpuWhereThereIsNoGpu) {
  name_plugin("/nowhere/of_ours.so");
  std::string reason;
  EXPECT_EQ(find_device("auto", 0, &reason), Device{});
  EXPECT_THAT(reason, HasSubstr("chose the CPU"));
  EXPECT_THAT(reason, HasSubstr("/nowhere/of_ours.so"));
}

TEST_F(CudaBackend, AnotherNameIsNoDevice) {
  EXPECT_EQ(find_device("cpu"), Device{});
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:99999999999"})
    EXPECT_THROW(find_device(name), ConfigError) << name;
  name_plugin("/nowhere/of_ours.so");
  EXPECT_THROW(find_device("cuda:0"), Unavailable);
}

}  // namespace
}  // namespace ballot::test

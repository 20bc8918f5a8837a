#include "tests/simulation/simulated_disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"

namespace ballot::sim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::byte> some(std::size_t count) {
  return std::vector<std::byte>(count, std::byte{7});
}

TEST(SimulatedDisk, ACrashTakesUnsyncedBytesFromAnyByteOn) {
  std::set<std::uint64_t> sizes;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    SimulatedDisk disk;
    const auto file = disk.open_append("a/x");
    file->append(some(10));
    file->sync();
    disk.sync_folder("a");
    file->append(some(5));
    disk.crash(random);
    sizes.insert(disk.size_bytes("a/x"));
  }
  EXPECT_THAT(sizes, ElementsAre(10, 11, 12, 13, 14, 15));
}

TEST(SimulatedDisk, ANameIsThereAfterTheSyncOfItsFolderAlone) {
  int there = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Random random(seed);
    SimulatedDisk disk;
    disk.open_append("a/x")->sync();
    disk.sync_folder("a");
    disk.open_append("a/y")->sync();
    disk.remove("a/x");
    disk.crash(random);
    const auto names = disk.list("a");
    if (names == std::vector<std::string>{"y"})
      ++there;
    else
      EXPECT_THAT(names, ElementsAre("x"));
  }
  EXPECT_GT(there, 20);
  EXPECT_LT(there, 80);
}

TEST(SimulatedDisk, FoldersAreRenamedWithAllInThem) {
  SimulatedDisk disk;
  disk.make_folder("c/tmp");
  disk.open_append("c/tmp/x")->append(some(3));
  disk.rename("c/tmp", "c/final");
  EXPECT_THAT(disk.list("c"), ElementsAre("final"));
  EXPECT_EQ(disk.read("c/final/x", 1, 9).size(), 2u);
  disk.remove("c/final");
  EXPECT_THAT(disk.list("c"), IsEmpty());
  EXPECT_THROW(disk.size_bytes("c/final/x"), FileError);
}

TEST(SimulatedDisk, SyncsFailAndSpaceEndsWhenTold) {
  SimulatedDisk disk;
  const auto file = disk.open_append("x");
  disk.fail_syncs(1);
  EXPECT_THROW(file->sync(), FileError);
  file->sync();
  disk.fill_up_after(4);
  file->append(some(3));
  EXPECT_THROW(file->append(some(3)), FileError);
  EXPECT_EQ(file->size_bytes(), 4u);
}

}  // namespace
}  // namespace ballot::sim

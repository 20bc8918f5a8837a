// The machine's disk behind its interface.
#include "core/disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}
std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(SystemDisk, AppendsAtTheEndOfWhatIsThere) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  {
    const auto file = system_disk().open_append(path);
    EXPECT_EQ(file->size_bytes(), 0u);
    file->append(bytes_of("one "));
    file->sync();
  }
  const auto file = system_disk().open_append(path);
  EXPECT_EQ(file->size_bytes(), 4u);
  file->append(bytes_of("two"));
  EXPECT_EQ(file->size_bytes(), 7u);
  EXPECT_EQ(system_disk().size_bytes(path), 7u);
  EXPECT_EQ(read_file(path), "one two");
}

TEST(SystemDisk, ReadsWhatIsThereAndNoMore) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  write_file_synced(path, std::string_view("0123456789"));
  EXPECT_EQ(text_of(system_disk().read(path, 3, 4)), "3456");
  EXPECT_EQ(text_of(system_disk().read(path, 8, 100)), "89");
  EXPECT_EQ(text_of(system_disk().read(path, 10, 1)), "");
  EXPECT_EQ(text_of(system_disk().read(path, ~std::uint64_t{0}, ~std::uint64_t{0})), "");
}

TEST(SystemDisk, CutsAFileBack) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  write_file_synced(path, std::string_view("0123456789"));
  system_disk().truncate(path, 4);
  EXPECT_EQ(read_file(path), "0123");
  EXPECT_THROW(system_disk().truncate(path, 5), LogicError);  // that would make zeros
}

TEST(SystemDisk, ListsNamesInOrderAndNothingWhereThereIsNoFolder) {
  const TemporaryFolder folder;
  EXPECT_THAT(system_disk().list(folder.file("none")), IsEmpty());
  system_disk().make_folder(folder.file("x/y"));
  system_disk().make_folder(folder.file("x/y"));
  for (const char* name : {"x/c", "x/a", "x/b"}) system_disk().open_append(folder.file(name));
  system_disk().sync_folder(folder.file("x"));
  EXPECT_THAT(system_disk().list(folder.file("x")), ElementsAre("a", "b", "c", "y"));
}

TEST(SystemDisk, RenamesAndRemovesFilesAndFolders) {
  const TemporaryFolder folder;
  system_disk().make_folder(folder.file("x/y"));
  system_disk().open_append(folder.file("x/y/a"));
  system_disk().rename(folder.file("x/y"), folder.file("x/z"));
  EXPECT_THAT(system_disk().list(folder.file("x")), ElementsAre("z"));
  system_disk().remove(folder.file("x/z/a"));
  EXPECT_THAT(system_disk().list(folder.file("x/z")), IsEmpty());
  system_disk().remove(folder.file("x"));
  EXPECT_FALSE(std::filesystem::exists(folder.file("x")));
}

TEST(SystemDisk, ErrorsNameThePath) {
  const TemporaryFolder folder;
  const std::string path = folder.file("none/a");
  const auto message = [](const auto& action) -> std::string {
    try {
      action();
    } catch (const FileError& error) {
      return error.what();
    }
    return "no error";
  };
  Disk& disk = system_disk();
  EXPECT_THAT(message([&] { disk.open_append(path); }), HasSubstr(path));
  EXPECT_THAT(message([&] { disk.read(path, 0, 1); }), HasSubstr(path));
  EXPECT_THAT(message([&] { disk.size_bytes(path); }), HasSubstr(path));
  EXPECT_THAT(message([&] { disk.truncate(path, 0); }), HasSubstr(path));
  EXPECT_THAT(message([&] { disk.rename(path, path + "b"); }), HasSubstr(path));
  EXPECT_THAT(message([&] { disk.remove(path); }), HasSubstr(path));
  EXPECT_THAT(message([&] { disk.sync_folder(path); }), HasSubstr(path));
  EXPECT_THAT(message([&] { disk.read(folder.path(), 0, 1); }), HasSubstr("not a regular file"));
}

// What is full says so, and does not pretend.
TEST(SystemDisk, AFullDiskIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  EXPECT_THROW(system_disk().open_append("/dev/full")->append(bytes_of("x")), FileError);
}

}  // namespace
}  // namespace ballot

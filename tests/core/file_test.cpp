#include "core/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

RC_GTEST_PROP(File, WhatIsWrittenIsReadAndMapped, (const std::string& text)) {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  write_file_synced(path, std::string_view(text));
  RC_ASSERT(read_file(path) == text);
  const MappedFile mapped(path);
  RC_ASSERT(std::string(reinterpret_cast<const char*>(mapped.bytes().data()),
                        mapped.bytes().size()) == text);
}

TEST(File, ReadsAFileThatDoesNotSayItsSize) {
  EXPECT_THAT(read_file("/proc/self/status"), HasSubstr("Name:"));
}

TEST(File, ReadRefusesMoreThanItsLimitAndTakesExactlyIt) {
  const TemporaryFolder folder;
  write_file_synced(folder.file("x"), std::string_view("12345"));
  EXPECT_EQ(read_file(folder.file("x"), 5), "12345");
  EXPECT_THAT([&] { read_file(folder.file("x"), 4); },
              ThrowsMessage<FileError>(HasSubstr("expected at most 4")));
  EXPECT_THAT([&] { read_file("/dev/zero", 1000); },
              ThrowsMessage<FileError>(HasSubstr("expected at most 1000")));
}

TEST(File, AMissingFileIsNamedWithItsReason) {
  const auto says = ThrowsMessage<FileError>(
      testing::AllOf(HasSubstr("/nowhere/at/all"), HasSubstr("No such file")));
  EXPECT_THAT([] { read_file("/nowhere/at/all"); }, says);
  EXPECT_THAT([] { MappedFile("/nowhere/at/all"); }, says);
  EXPECT_THAT([] { OutputFile("/nowhere/at/all"); }, says);
  EXPECT_THAT([] { sync_folder("/nowhere/at/all"); }, says);
}

TEST(File, AFolderIsNoFile) {
  const TemporaryFolder folder;
  EXPECT_THROW(read_file(folder.path()), FileError);
  EXPECT_THROW(MappedFile{folder.path()}, FileError);
  EXPECT_THROW(OutputFile{folder.path()}, FileError);
}

TEST(File, AFileIsNoFolder) {
  const TemporaryFolder folder;
  write_file_synced(folder.file("x"), std::string_view("1"));
  EXPECT_NO_THROW(sync_folder(folder.path()));
  EXPECT_THROW(sync_folder(folder.file("x")), FileError);
}

TEST(File, AFullDiskIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "needs /dev/full";
  OutputFile file("/dev/full");
  EXPECT_THAT([&] { file.write("x"); }, ThrowsMessage<FileError>(HasSubstr("No space")));
}

TEST(File, OutputCountsItsBytesAndEndsWithFinish) {
  const TemporaryFolder folder;
  OutputFile file(folder.file("x"));
  file.write("abc");
  file.write("");
  file.write("de");
  EXPECT_EQ(file.written_bytes(), 5u);
  file.finish();
  EXPECT_EQ(read_file(folder.file("x")), "abcde");
  EXPECT_THROW(file.write("f"), LogicError);
  EXPECT_THROW(file.finish(), LogicError);
}

TEST(File, AMovedMappingStaysValid) {
  const TemporaryFolder folder;
  write_file_synced(folder.file("x"), std::string_view("hello"));
  MappedFile first(folder.file("x"));
  const std::byte* data = first.bytes().data();
  MappedFile second(std::move(first));
  EXPECT_EQ(second.bytes().data(), data);
  EXPECT_EQ(second.bytes()[4], std::byte{'o'});
}

TEST(File, AtomicReplaceLeavesTheNewTextAndNothingElse) {
  const TemporaryFolder folder;
  replace_file_atomically(folder.file("x"), "old");
  const MappedFile old(folder.file("x"));
  replace_file_atomically(folder.file("x"), "new text");
  EXPECT_EQ(read_file(folder.file("x")), "new text");
  EXPECT_EQ(old.bytes()[0], std::byte{'o'}) << "the old file lives on where it is mapped";
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator{}), 1);
}

TEST(File, AFailedReplaceLeavesNoTemporaryFile) {
  const TemporaryFolder folder;
  fs::create_directory(folder.file("x"));
  write_file_synced(folder.file("x/inside"), std::string_view("1"));
  EXPECT_THROW(replace_file_atomically(folder.file("x"), "text"), FileError);
  EXPECT_FALSE(fs::exists(folder.file("x.tmp")));
}

TEST(File, AtomicReplaceWorksOnABareName) {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  replace_file_atomically("bare", "text");
  fs::current_path(before);
  EXPECT_EQ(read_file(folder.file("bare")), "text");
}

}  // namespace
}  // namespace ballot

// Event files as TensorBoard would read them (its own reader: tests/interop/event_files.py), and
// disks that take no more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "proto/tensorboard.pb.h"
#include "runtime/metrics.h"
#include "runtime/metrics_names.h"
#include "runtime/watching/record_file.h"
#include "runtime/watching/tensorboard_log.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using tensorboard::Event;
using testing::ElementsAre;

// Whole records only; what is no record fails the test.
std::vector<Event> events_in(const std::string& path) {
  std::vector<Event> events;
  const std::string bytes = read_file(path);
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    EXPECT_LE(at + 16, bytes.size());
    std::memcpy(&length, bytes.data() + at, 8);
    if (at + 16 + length > bytes.size()) {
      ADD_FAILURE() << path << " is torn";
      return events;
    }
    const std::string body = bytes.substr(at + 12, length);
    EXPECT_EQ(bytes.substr(at, 16 + length), tf_record(body));
    events.emplace_back();
    EXPECT_TRUE(events.back().ParseFromString(body));
    at += 16 + length;
  }
  return events;
}

std::vector<std::string> files_of(const std::string& run) {
  std::set<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(run + "/tensorboard"))
    names.insert(file.path().string());
  return {names.begin(), names.end()};
}

TEST(RecordFile, ChecksumsAreCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(RecordFile, ARecordIsLengthChecksumBytesChecksum) {
  // As TensorFlow's own writer frames it.
  const std::string expected("\x03\0\0\0\0\0\0\0", 8);
  const std::string record = tf_record("abc");
  ASSERT_EQ(record.size(), 19u);
  EXPECT_EQ(record.substr(0, 8), expected);
  EXPECT_EQ(record.substr(12, 3), "abc");
  const auto number = [&](std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, record.data() + at, 4);
    return value;
  };
  const auto masked = [](std::uint32_t crc) { return (crc >> 15 | crc << 17) + 0xa282ead8u; };
  EXPECT_EQ(number(8), masked(crc32c(expected)));
  EXPECT_EQ(number(15), masked(0x364b3fb7u));  // CRC-32C of "abc"
}

TEST(TensorBoardLog, AFileSaysItsVersionWhereItBeginsAndItsValues) {
  const TemporaryFolder folder;
  {
    TensorBoardLog log(folder.path(), 8);
    log.add(8, {{"loss", 2.5}, {"vote/tie", 0.0}});
    log.add(9, {{"loss", 2.25}});
  }
  ASSERT_EQ(files_of(folder.path()).size(), 1u);
  const std::vector<Event> events = events_in(files_of(folder.path())[0]);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_EQ(events[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events[1].step(), 8);
  EXPECT_EQ(events[2].step(), 8);
  ASSERT_EQ(events[2].summary().value_size(), 2);
  EXPECT_EQ(events[2].summary().value(0).tag(), "loss");
  EXPECT_EQ(events[2].summary().value(0).simple_value(), 2.5f);
  EXPECT_TRUE(events[2].summary().value(1).has_simple_value());  // a 0 is a value
  EXPECT_GT(events[2].wall_time(), 1.6e9);
  EXPECT_EQ(events[3].summary().value(0).simple_value(), 2.25f);
}

TEST(TensorBoardLog, LaterFilesSortAfterEarlierOnesWhateverTheClockSays) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.file("tensorboard"));
  const std::string future = folder.file("tensorboard/events.out.tfevents.9876543210.00041.ballot"),
                    other = folder.file("tensorboard/events.out.tfevents.1500000000.host");
  write_file_synced(future, "");
  write_file_synced(other, "");
  std::vector<std::string> made;
  for (int i = 0; i < 3; ++i) {
    const std::vector<std::string> before = files_of(folder.path());
    const TensorBoardLog log(folder.path(), 0);
    const std::vector<std::string> after = files_of(folder.path());
    ASSERT_EQ(after.size(), before.size() + 1);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin())) << after.back();
  }
}

TEST(TensorBoardLog, AFullDiskIsSaidOnceAndLeavesWholeRecords) {
  const TemporaryFolder folder;
  struct sigaction before {};
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGXFSZ, &ignore, &before);
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  {
    TensorBoardLog log(folder.path(), 0);
    const rlimit small{300, limit.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
    testing::internal::CaptureStderr();
    for (int step = 1; step <= 50; ++step) log.add(step, {{"loss", 1.0 / step}});
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    EXPECT_THAT(said, testing::HasSubstr("events.out.tfevents"));
    log.add(51, {{"loss", 0.5}});  // there is room again
  }
  ::sigaction(SIGXFSZ, &before, nullptr);
  const std::vector<Event> events = events_in(files_of(folder.path())[0]);
  ASSERT_GT(events.size(), 4u);
  ASSERT_LT(events.size(), 50u);
  EXPECT_EQ(events.back().step(), 51);
}

TEST(TensorBoardLog, WhereItsFolderCannotBeMadeTheRunDoesNotBegin) {
  const TemporaryFolder folder;
  write_file_synced(folder.file("tensorboard"), "no folder");
  EXPECT_THROW(MetricsLog(folder.path(), 0, true), std::exception);
  EXPECT_NO_THROW(MetricsLog(folder.path(), 0));
}

StepMetrics step_with(std::int64_t step, double loss) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = loss;
  metrics.tokens = 10;
  metrics.step_seconds = 0.5;
  metrics.backend = "mpi";
  return metrics;
}

TEST(TensorBoardLog, HasTheNumbersOfTheRecordUnderTheirNames) {
  const TemporaryFolder folder;
  VoteStatistics votes;
  votes.elements = 100, votes.ties = 0, votes.blocks = 1;
  votes.agreed = {6, 0, 9}, votes.compared = {10, 0, 10};
  {
    MetricsLog log(folder.path(), 0, true);
    log.evaluation(0, 5.5, 1000, 0.1);
    StepMetrics metrics = step_with(1, 4.5);
    metrics.votes = &votes;
    log.step(metrics);
    log.step(step_with(2, std::numeric_limits<double>::quiet_NaN()));
    log.notice("alarm", 2, 1, "text");
  }
  {
    MetricsLog resumed(folder.path(), 1, true);  // from the checkpoint of step 1
    resumed.step(step_with(2, 4.25));
  }
  const std::vector<std::string> files = files_of(folder.path());
  ASSERT_EQ(files.size(), 2u);
  std::map<std::string, double> first;
  for (const Event& event : events_in(files[0]))
    for (const auto& value : event.summary().value())
      if (event.step() <= 1) first[value.tag()] = value.simple_value();
  EXPECT_EQ(first.at("evaluation/loss"), 5.5);
  EXPECT_EQ(first.at(metric::kLoss), 4.5);
  EXPECT_EQ(first.at(metric::kTieShare), 0);
  EXPECT_FLOAT_EQ(static_cast<float>(first.at("vote/agreement/2")), 0.9f);
  EXPECT_FALSE(first.contains("vote/agreement/1"));  // not known
  EXPECT_FALSE(first.contains(metric::kStep));
  EXPECT_FALSE(first.contains(metric::kBackend));  // no number
  EXPECT_FALSE(first.contains(metric::kCompression));
  for (const Event& event : events_in(files[0]))
    for (const auto& value : event.summary().value())
      EXPECT_FALSE(event.step() == 2 && value.tag() == metric::kLoss);  // not finite
  const std::vector<Event> second = events_in(files[1]);
  ASSERT_EQ(second.size(), 3u);
  EXPECT_EQ(second[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(second[1].step(), 2);  // what the first file says of it is void
  EXPECT_EQ(second[2].step(), 2);
}

}  // namespace
}  // namespace ballot

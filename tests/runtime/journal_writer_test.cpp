// The thread beside a journal: it waits for disks so that steps need not.
#include "runtime/journal/journal_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "core/error.h"
#include "tests/runtime/journal_support.h"
#include "tests/support/memory_disk.h"

namespace ballot {
namespace {

using testing::HasSubstr;

const std::string kFolder = "run/journal/worker-0";
const ShardPlan kAll;

std::unique_ptr<Journal> open(Disk& disk) {
  return std::make_unique<Journal>(disk, kFolder, kTestRun, kTestStart);
}

JournalWriterOptions options(std::uint64_t queue_bytes = 1 << 20) {
  JournalWriterOptions options;
  options.sync_every = std::chrono::milliseconds(1);
  options.queue_bytes = queue_bytes;
  options.patience = std::chrono::seconds(30);
  return options;
}

// Holds every sync of the disk until it is opened.
class Gate {
 public:
  explicit Gate(MemoryDisk& disk) {
    disk.on_change = [this](const std::string& what, const std::string&) {
      if (what != "sync") return;
      ++arrived;
      opened_.wait();
    };
  }
  void open() { promise_.set_value(); }
  std::atomic<int> arrived = 0;

 private:
  std::promise<void> promise_;
  std::shared_future<void> opened_ = promise_.get_future().share();
};

TEST(JournalWriter, WritesInOrderAndMakesDurableWhenAsked) {
  MemoryDisk disk;
  const auto records = make_records(50);
  {
    JournalWriter writer(open(disk), options());
    for (const Record& record : records) {
      writer.append(record, kAll);
      writer.append(AppliedRecord{record.step, 1, 2, {3}});
      if (record.step == 20) {
        writer.flush();
        EXPECT_GE(writer.durable().step, 20);
        EXPECT_EQ(writer.read_after(records[17].position(), 1 << 20).size(), 2u);
      }
    }
    writer.flush();
    EXPECT_EQ(writer.durable(), records.back().position());
    EXPECT_GT(writer.written_bytes(), 10000u);
  }
  disk.crash();
  const JournalReader reader(disk, kFolder);
  EXPECT_EQ(reader.end(), records.back().position());
  EXPECT_TRUE(reader.applied(50));
}

TEST(JournalWriter, MakesDurableByItselfAfterAWhile) {
  MemoryDisk disk;
  const auto records = make_records(1);
  JournalWriter writer(open(disk), options());
  writer.append(records[0], kAll);
  const Deadline limit = Deadline::in(std::chrono::seconds(20));
  while (writer.durable().step < 1 && !limit.passed()) std::this_thread::yield();
  EXPECT_EQ(writer.durable(), records[0].position());
}

TEST(JournalWriter, ItsEndLosesNothing) {
  MemoryDisk disk;
  const auto records = make_records(40);
  {
    JournalWriterOptions slow = options();
    slow.sync_every = std::chrono::hours(1);
    JournalWriter writer(open(disk), slow);
    for (const Record& record : records) writer.append(record, kAll);
  }
  disk.crash();
  EXPECT_EQ(JournalReader(disk, kFolder).end(), records.back().position());
}

TEST(JournalWriter, NoStepWaitsForAnFsync) {
  MemoryDisk disk;
  const auto records = make_records(30);
  auto journal = open(disk);
  Gate gate(disk);
  {
    JournalWriter writer(std::move(journal), options());
    double waited = 0;
    for (const Record& record : records) waited += writer.append(record, kAll);
    EXPECT_EQ(waited, 0);  // and the disk has not answered once
    EXPECT_EQ(writer.durable(), kTestStart);
    gate.open();
  }
  EXPECT_EQ(JournalReader(disk, kFolder).end(), records.back().position());
}

TEST(JournalWriter, AFullQueueMakesAStepWaitAndSaysHowLong) {
  MemoryDisk disk;
  const auto records = make_records(4);
  auto journal = open(disk);
  Gate gate(disk);
  {
    JournalWriter writer(std::move(journal), options(1));  // one record at a time
    writer.append(records[0], kAll);
    auto second = std::async(std::launch::async, [&] { return writer.append(records[1], kAll); });
    while (gate.arrived == 0) std::this_thread::yield();
    gate.open();
    second.get();
    double waited = 0;
    for (int i = 2; i < 4; ++i) waited += writer.append(records[static_cast<std::size_t>(i)], kAll);
    EXPECT_GE(waited, 0);
    writer.flush();
  }
  EXPECT_EQ(JournalReader(disk, kFolder).end(), records.back().position());
}

TEST(JournalWriter, AnEndlessWaitForTheDiskHasADeadlineThatNamesIt) {
  MemoryDisk disk;
  const auto records = make_records(3);
  auto journal = open(disk);
  Gate gate(disk);
  {
    JournalWriterOptions impatient = options(1);
    impatient.patience = std::chrono::milliseconds(20);
    JournalWriter writer(std::move(journal), impatient);
    writer.append(records[0], kAll);
    try {
      writer.append(records[1], kAll);
      FAIL() << "there was room";
    } catch (const Timeout& error) {
      EXPECT_THAT(error.what(), HasSubstr(kFolder));
      EXPECT_THAT(error.what(), HasSubstr("wait for the disk"));
    }
    EXPECT_THROW(writer.flush(), Timeout);
    gate.open();
  }
}

TEST(JournalWriter, AnErrorComesOutOfTheNextCallAndOfEveryLaterOne) {
  MemoryDisk disk;
  const auto records = make_records(3);
  JournalWriter writer(open(disk), options());
  writer.append(records[0], kAll);
  writer.flush();
  disk.on_change = [](const std::string& what, const std::string& path) {
    if (what == "sync") throw FileError("cannot fsync {}: Input/output error", path);
  };
  writer.append(records[1], kAll);
  EXPECT_THROW(writer.flush(), FileError);
  EXPECT_THROW(writer.append(records[2], kAll), FileError);
  EXPECT_THROW(writer.append(AppliedRecord{1, 1, 1, {}}), FileError);
  EXPECT_THROW(writer.durable(), FileError);
  EXPECT_THROW(writer.forget_until(1), FileError);
}

TEST(JournalWriter, SegmentsAndForgettingComeInTheirTurn) {
  MemoryDisk disk;
  const auto records = make_records(6);
  {
    JournalWriter writer(open(disk), options());
    for (const Record& record : records) {
      if (record.step % 2 == 1) writer.start_segment();
      writer.append(record, kAll);
    }
    writer.forget_until(4);
    writer.flush();
  }
  const JournalReader reader(disk, kFolder);
  EXPECT_EQ(reader.begin().step, 4);
  EXPECT_EQ(reader.end().step, 6);
}

}  // namespace
}  // namespace ballot

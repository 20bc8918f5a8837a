// What the shards of several disks hold together.
#include "runtime/journal/shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/runtime/journal_support.h"
#include "tests/support/memory_disk.h"

namespace ballot {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kWorkers = 3;

// Worker w's shard of records [from, to) by index.
void write_shard(Disk& disk, int worker, int copies, const std::vector<Record>& records,
                 std::size_t to, std::size_t from = 0, const Position& start = kTestStart) {
  Journal journal(disk, shard_folder("run", worker), kTestRun, start);
  for (std::size_t i = from; i < to; ++i) {
    journal.append(records[i], ShardPlan{worker, kWorkers, copies});
    journal.append(AppliedRecord{records[i].step, 7, 7, {7}});
  }
  journal.sync();
}

std::vector<Record> read_all(const JournalShards& shards, const JournalShards::History& history) {
  std::vector<Record> records;
  for (std::int64_t step = history.base.step + 1; step <= history.end.step; ++step)
    records.push_back(shards.read(history, step));
  return records;
}

TEST(JournalShards, OneCopyOfEachPartIsEnough) {
  for (const int copies : {1, 2, 0}) {
    MemoryDisk disk;
    const auto records = make_records(5);
    for (int w = 0; w < kWorkers; ++w) write_shard(disk, w, copies, records, 5);
    const JournalShards shards(disk, "run");
    const auto history = shards.history(kTestStart);
    EXPECT_EQ(history.end, records.back().position());
    EXPECT_EQ(history.gap, "");
    EXPECT_EQ(read_all(shards, history), records);
    EXPECT_TRUE(shards.applied(history, 5));
  }
}

TEST(JournalShards, WithTwoCopiesOneDiskMayBeLost) {
  for (int lost = 0; lost < kWorkers; ++lost) {
    MemoryDisk disk;
    const auto records = make_records(5);
    for (int w = 0; w < kWorkers; ++w)
      if (w != lost) write_shard(disk, w, 2, records, 5);
    const JournalShards shards(disk, "run");
    EXPECT_EQ(read_all(shards, shards.history(kTestStart)), records);
  }
}

TEST(JournalShards, WithOneCopyALostDiskEndsTheHistoryAndIsNamed) {
  MemoryDisk disk;
  const auto records = make_records(5);
  write_shard(disk, 0, 1, records, 5);
  write_shard(disk, 2, 1, records, 5);
  const JournalShards shards(disk, "run");
  const auto history = shards.history(kTestStart);
  EXPECT_EQ(history.end, kTestStart);
  EXPECT_EQ(history.longest_step, 5);
  EXPECT_THAT(history.gap, HasSubstr("step 1: part 2 of 4 is in none of the 2 shards"));
}

TEST(JournalShards, TheHistoryEndsWhereEveryPartIsStillCovered) {
  MemoryDisk disk;
  const auto records = make_records(6);
  write_shard(disk, 0, 1, records, 6);
  write_shard(disk, 1, 1, records, 3);
  write_shard(disk, 2, 1, records, 5);
  EXPECT_EQ(JournalShards(disk, "run").history(kTestStart).end, records[2].position());
  // With two copies the one that is behind is covered, until two are.
  MemoryDisk twice;
  write_shard(twice, 0, 2, records, 6);
  write_shard(twice, 1, 2, records, 3);
  write_shard(twice, 2, 2, records, 5);
  const JournalShards shards(twice, "run");
  const auto history = shards.history(kTestStart);
  EXPECT_EQ(history.end, records[4].position());
  EXPECT_EQ(read_all(shards, history), std::vector<Record>(records.begin(), records.begin() + 5));
}

TEST(JournalShards, ShardsMayBeginAtDifferentSteps) {
  MemoryDisk disk;
  const auto records = make_records(6);
  write_shard(disk, 0, 2, records, 6);
  write_shard(disk, 1, 2, records, 4);
  write_shard(disk, 2, 2, records, 6, 3, records[2].position());
  const JournalShards shards(disk, "run");
  EXPECT_EQ(shards.history(kTestStart).end, records.back().position());
  EXPECT_EQ(shards.history(records[3].position()).end, records.back().position());
  EXPECT_EQ(shards.history(records.back().position()).end, records.back().position());
  EXPECT_THAT(shards.begins(), ElementsAre(kTestStart, records[2].position()));
}

TEST(JournalShards, AnotherHistoryIsNotMixedIn) {
  MemoryDisk disk;
  const auto records = make_records(4);
  write_shard(disk, 0, 0, records, 4);
  write_shard(disk, 1, 0, records, 2);
  {  // worker 2 was cut off and went another way, in an older term
    Journal journal(disk, shard_folder("run", 2), kTestRun, kTestStart);
    RecordShape older;
    older.term = 0;
    for (const Record& record : make_records(6, kTestStart, 50, older)) journal.append(record);
    journal.sync();
  }
  const JournalShards shards(disk, "run");
  const auto history = shards.history(records[0].position());
  EXPECT_EQ(history.end, records.back().position());
  EXPECT_EQ(shards.read(history, 3), records[2]);
}

// C2: the greatest (term of the last record, step).
TEST(JournalShards, ALaterTermGoesBeforeMoreSteps) {
  MemoryDisk disk;
  RecordShape second;
  second.term = 2;
  const auto older = make_records(5, kTestStart, 10),
             newer = make_records(3, kTestStart, 20, second);
  write_shard(disk, 0, 0, older, 5);
  write_shard(disk, 1, 0, newer, 3);
  EXPECT_EQ(JournalShards(disk, "run").history(kTestStart).end, newer.back().position());
  // From a base of the older history only that one goes on.
  EXPECT_EQ(JournalShards(disk, "run").history(older[1].position()).end, older.back().position());
}

TEST(JournalShards, ADamagedShardCountsUpToItsDamage) {
  MemoryDisk disk;
  const auto records = make_records(6);
  for (int w = 0; w < kWorkers; ++w) write_shard(disk, w, 1, records, 6);
  auto& bytes = disk.bytes(shard_folder("run", 1) + "/000000000001.journal");
  bytes[bytes.size() / 2] ^= std::byte{4};
  const JournalShards shards(disk, "run");
  const auto history = shards.history(kTestStart);
  EXPECT_GT(history.end.step, 0);
  EXPECT_LT(history.end.step, 6);
  EXPECT_THAT(history.gap, HasSubstr("damaged at byte"));
  EXPECT_EQ(history.longest_step, 6);
}

TEST(JournalShards, OtherFoldersAreNoShards) {
  MemoryDisk disk;
  write_shard(disk, 0, 0, make_records(2), 2);
  for (const char* name : {"worker-0.aside-1", "worker-", "worker-01", "worker-x", "other"})
    disk.open_append(std::string("run/journal/") + name + "/x");
  EXPECT_THAT(shard_workers(disk, "run"), ElementsAre(0));
  EXPECT_EQ(JournalShards(disk, "run").shards().size(), 1u);
  EXPECT_TRUE(JournalShards(disk, "elsewhere").empty());
}

}  // namespace
}  // namespace ballot

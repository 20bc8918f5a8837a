// A shard on a disk that loses, tears and flips what it holds.
#include "runtime/journal/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <limits>
#include <random>

#include "core/error.h"
#include "runtime/journal/format.h"
#include "tests/runtime/journal_support.h"
#include "tests/support/memory_disk.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kFolder = "run/journal/worker-0";
const std::string kFirst = kFolder + "/000000000001.journal";

Journal open(Disk& disk, std::uint64_t segment_bytes = 1 << 30) {
  return Journal(disk, kFolder, kTestRun, kTestStart, {segment_bytes});
}

AppliedRecord applied_after(std::int64_t step) {
  return {step,
          static_cast<std::uint64_t>(step) * 77,
          step * 10,
          {1, static_cast<std::uint64_t>(step)}};
}

// A journal of these records, each followed by what it left, all durable.
void write(Disk& disk, const std::vector<Record>& records, std::uint64_t segment_bytes = 1 << 30) {
  Journal journal = open(disk, segment_bytes);
  for (const Record& record : records) {
    journal.append(record);
    journal.append(applied_after(record.step));
  }
  journal.sync();
}

void expect_records(const JournalReader& reader, const std::vector<Record>& records,
                    std::int64_t count) {
  ASSERT_EQ(reader.end().step, count);
  for (std::int64_t step = reader.begin().step + 1; step <= count; ++step)
    EXPECT_EQ(reader.read(step), records[static_cast<std::size_t>(step - 1)]) << step;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

TEST(Journal, HoldsWhatWasAppended) {
  MemoryDisk disk;
  const auto records = make_records(5);
  write(disk, records);
  const JournalReader reader(disk, kFolder);
  EXPECT_EQ(reader.begin(), kTestStart);
  EXPECT_EQ(reader.end(), records.back().position());
  EXPECT_EQ(reader.run(), kTestRun);
  expect_records(reader, records, 5);
  EXPECT_EQ(reader.applied(3), applied_after(3));
  EXPECT_EQ(reader.position_after(2), records[1].position());
  EXPECT_FALSE(reader.position_after(6));
  EXPECT_EQ(reader.end_term(), records.back().term);
  const auto later = reader.read_after(records[1].position(), 1 << 30);
  ASSERT_EQ(later.size(), 3u);
  EXPECT_EQ(later[0], records[2]);
  EXPECT_EQ(reader.read_after(records[1].position(), 1).size(), 1u);
}

TEST(Journal, AnEmptyOneBeginsWhereItIsTold) {
  MemoryDisk disk;
  const Position later{40, {4, 0}};
  {
    Journal journal(disk, kFolder, kTestRun, later);
    EXPECT_EQ(journal.end(), later);
    EXPECT_EQ(journal.durable(), later);
    EXPECT_TRUE(journal.contains(later));
  }
  EXPECT_TRUE(disk.paths().empty());  // and there is no file before there is a record
  Journal journal(disk, kFolder, kTestRun, later);
  journal.append(make_record(later, 1));
  EXPECT_THAT(disk.paths(), ElementsAre(kFolder + "/000000000041.journal"));
}

TEST(Journal, RefusesARecordThatDoesNotFollow) {
  MemoryDisk disk;
  const auto records = make_records(3);
  Journal journal = open(disk);
  journal.append(records[0]);
  EXPECT_THROW(journal.append(records[2]), LogicError);
  EXPECT_THROW(journal.append(records[0]), LogicError);
  Record other = records[1];
  other.previous.low ^= 1;
  EXPECT_THROW(journal.append(other), LogicError);
  other = records[1];
  other.term = records[0].term - 1;
  EXPECT_THROW(journal.append(other), LogicError);
  journal.append(records[1]);  // and none of that ended it
  EXPECT_EQ(journal.sync(), records[1].position());
}

TEST(Journal, GoesOnWhereItWasClosed) {
  MemoryDisk disk;
  const auto records = make_records(6);
  for (std::size_t i = 0; i < records.size(); ++i) {
    Journal journal = open(disk);
    ASSERT_EQ(journal.end().step, static_cast<std::int64_t>(i));
    journal.append(records[i]);
    journal.sync();
  }
  expect_records(JournalReader(disk, kFolder), records, 6);
}

TEST(Journal, AnotherRunsIsRefused) {
  MemoryDisk disk;
  write(disk, make_records(2));
  EXPECT_THAT(message_of([&] {
                Journal(disk, kFolder, Digest{9, 9}, kTestStart);
              }),
              HasSubstr("is the journal of run"));
}

// A kill or a power cut in the middle of the last writes.
TEST(Journal, ATornTailIsCutBackToTheLastWholeRecordAtEveryByte) {
  MemoryDisk whole;
  const auto records = make_records(4);
  write(whole, records);
  std::vector<std::uint64_t> ends;  // of each record's frame
  {
    MemoryDisk disk;
    Journal journal = open(disk);
    for (const Record& record : records) {
      journal.append(record);
      ends.push_back(journal.size_bytes());
      journal.append(applied_after(record.step));
    }
  }
  const std::uint64_t size = whole.bytes(kFirst).size();
  for (std::uint64_t cut = 0; cut <= size; ++cut) {
    MemoryDisk disk = whole.snapshot();
    disk.bytes(kFirst).resize(cut);
    const auto kept = std::ranges::count_if(ends, [cut](std::uint64_t end) { return end <= cut; });
    const JournalReader reader(disk, kFolder);  // changes nothing
    EXPECT_EQ(reader.end().step, kept) << cut;
    EXPECT_EQ(disk.bytes(kFirst).size(), cut);
    Journal journal = open(disk);
    ASSERT_EQ(journal.end().step, kept) << cut;
    EXPECT_EQ(journal.durable(), journal.end());
    if (cut % 7 != 0) continue;  // the rest for some of them
    expect_records(journal, records, kept);
    for (std::size_t i = static_cast<std::size_t>(kept); i < records.size(); ++i)
      journal.append(records[i]);
    journal.sync();
    disk.crash();
    expect_records(JournalReader(disk, kFolder), records, 4);
  }
}

// What a torn write leaves need not be short: the length may be there and the bytes not.
TEST(Journal, ATailOfZerosOrRubbishIsCutToo) {
  MemoryDisk whole;
  const auto records = make_records(3);
  write(whole, records);
  std::mt19937_64 random(1);
  for (const bool zeros : {true, false})
    for (const std::size_t length : {1, 8, 39, 40, 41, 1000, 3'000'000}) {
      MemoryDisk disk = whole.snapshot();
      for (std::size_t i = 0; i < length; ++i)
        disk.bytes(kFirst).push_back(zeros ? std::byte{0} : static_cast<std::byte>(random()));
      Journal journal = open(disk);
      EXPECT_EQ(journal.end(), records.back().position()) << length;
      EXPECT_EQ(disk.bytes(kFirst).size(), whole.bytes(kFirst).size());
    }
}

// Never silently less than what was there, never something else than what was written.
TEST(Journal, AFlippedBitAnywhereIsFound) {
  MemoryDisk whole;
  const auto records = make_records(3, kTestStart, 1, {2, 1, 2, 2, 1, false});
  write(whole, records);
  std::uint64_t last = 0;  // where the last frame begins
  {
    MemoryDisk disk;
    Journal journal = open(disk);
    for (const Record& record : records) {
      journal.append(record);
      last = journal.size_bytes();
      journal.append(applied_after(record.step));
    }
  }
  const std::uint64_t size = whole.bytes(kFirst).size();
  for (std::uint64_t at = 0; at < size; ++at) {
    MemoryDisk disk = whole.snapshot();
    disk.bytes(kFirst)[at] ^= static_cast<std::byte>(1 << at % 8);
    if (at < last) {
      EXPECT_THROW(open(disk), CorruptFile) << at;
      const JournalReader reader(disk, kFolder, OnDamage::stop);
      EXPECT_THAT(reader.damage(), HasSubstr("follows")) << at;
      expect_records(reader, records, reader.end().step);
    } else {  // of the last frame only its digests: a torn tail
      Journal journal = open(disk);
      EXPECT_EQ(journal.end(), records.back().position());
      EXPECT_FALSE(journal.applied(3));
    }
  }
}

TEST(Journal, DamageNamesFileAndByteAndWhatFollows) {
  MemoryDisk disk;
  write(disk, make_records(3));
  disk.bytes(kFirst)[200] ^= std::byte{1};
  EXPECT_THAT(
      message_of([&] { open(disk); }),
      testing::AllOf(HasSubstr(kFirst), HasSubstr("damaged at byte 64"), HasSubstr("follows")));
}

TEST(Journal, DamageBeforeALaterSegmentIsNoTornTail) {
  MemoryDisk disk;
  const auto records = make_records(6);
  write(disk, records, 1);  // a segment each
  ASSERT_EQ(disk.paths().size(), 6u);
  auto& third = disk.bytes(kFolder + "/000000000003.journal");
  third.resize(third.size() - 1);
  EXPECT_THAT(message_of([&] { open(disk); }), HasSubstr("another segment follows"));
  expect_records(JournalReader(disk, kFolder, OnDamage::stop), records, 3);
  disk.remove(kFolder + "/000000000003.journal");
  EXPECT_THAT(message_of([&] { open(disk); }), HasSubstr("the segment before it ends at step 2"));
}

TEST(Journal, FilesOfOthersInItsFolderAreLeftAlone) {
  MemoryDisk disk;
  const auto records = make_records(2);
  write(disk, records);
  disk.open_append(kFolder + "/000000000001.journal.bak");
  disk.open_append(kFolder + "/notes");
  disk.open_append(kFolder + "/0000000000001.journal");
  expect_records(JournalReader(disk, kFolder), records, 2);
}

// Whole by its checksum, and nothing can follow what it says: found by a fuzzer.
TEST(Journal, ASegmentThatBeginsElsewhereThanItsNameSaysIsRefused) {
  for (const std::int64_t step : {std::numeric_limits<std::int64_t>::max(), std::int64_t{1}}) {
    MemoryDisk disk;
    disk.open_append(kFirst)->append(
        journal::encode(journal::SegmentHeader{kTestRun, {step, {1, 2}}}));
    try {
      JournalReader reader(disk, kFolder);
      FAIL() << step;
    } catch (const CorruptFile& error) {
      EXPECT_THAT(error.what(), HasSubstr(fmt::format("says that it follows step {}", step)));
    }
  }
}

TEST(Journal, AFormatOfTheFutureIsNamed) {
  MemoryDisk disk;
  write(disk, make_records(1));
  disk.bytes(kFirst)[8] = std::byte{2};
  EXPECT_THAT(message_of([&] { open(disk); }), HasSubstr("header is damaged"));
  EXPECT_FALSE(journal::read_segment_header(disk.bytes(kFirst), "x"));
}

// The power goes: what sync() promised is there, and of the rest a prefix.
RC_GTEST_PROP(Journal, WhatWasSyncedSurvivesAPowerCut, (std::uint64_t seed)) {
  std::mt19937_64 random(seed);
  MemoryDisk disk;
  const auto records = make_records(20);
  std::int64_t durable = 0, done = 0;
  for (int start = 0; start < 4; ++start) {
    Journal journal = open(disk, 2000);
    RC_ASSERT(journal.end().step >= durable);
    RC_ASSERT(journal.end().step <= done);
    for (std::int64_t step = 1; step <= journal.end().step; ++step)
      RC_ASSERT(journal.read(step) == records[static_cast<std::size_t>(step - 1)]);
    done = durable = journal.end().step;
    for (int i = 0; i < 5; ++i) {
      journal.append(records[static_cast<std::size_t>(done++)]);
      durable = journal.durable().step;  // a new segment made the one before durable
      if (random() % 2 == 0) journal.append(applied_after(done));
      if (random() % 4 == 0) {
        RC_ASSERT(journal.sync().step == done);
        durable = done;
      }
      if (random() % 8 == 0) break;
    }
    disk.crash(random() % 3000);
  }
}

// Every change of the disk may be the last: whatever was durable before is there after.
TEST(Journal, SurvivesACrashBeforeEveryChangeOfTheDisk) {
  const auto records = make_records(8);
  struct Crash {};
  for (int at = 1;; ++at) {
    MemoryDisk disk;
    int changes = 0;
    std::int64_t durable = 0;
    bool crashed = false;
    disk.on_change = [&](const std::string&, const std::string&) {
      if (++changes == at) throw Crash();
    };
    try {
      Journal journal = open(disk, 3000);
      for (int i = 0; i < 6; ++i) {
        journal.append(records[static_cast<std::size_t>(i)]);
        if (i % 2 == 1) durable = journal.sync().step;
      }
      journal.forget_until(2);
      durable = 4;  // what is cut is lost on purpose
      journal.cut_after(records[3].position());
      journal.append(records[4]);
      durable = journal.sync().step;
    } catch (const Crash&) {
      crashed = true;
    }
    disk.on_change = nullptr;
    for (const std::uint64_t keep : {0, 100, 100000}) {
      MemoryDisk after = disk.clone();
      after.crash(keep);
      Journal journal = open(after);
      EXPECT_GE(journal.end().step, durable) << "crash at change " << at;
      expect_records(journal, records, journal.end().step);
    }
    if (!crashed) break;
    ASSERT_LT(at, 1000);
  }
}

TEST(Journal, AnFsyncErrorEndsItForGood) {
  MemoryDisk disk;
  const auto records = make_records(4);
  Journal journal = open(disk);
  journal.append(records[0]);
  const Position durable = journal.sync();
  journal.append(records[1]);
  disk.on_change = [](const std::string& what, const std::string& path) {
    if (what == "sync") throw FileError("cannot fsync {}: Input/output error", path);
  };
  EXPECT_THROW(journal.sync(), FileError);
  disk.on_change = nullptr;  // the disk is well again: it may have dropped the pages all the same
  const std::string error = "Input/output error";
  EXPECT_THAT(message_of([&] { journal.sync(); }), HasSubstr(error));
  EXPECT_THAT(message_of([&] { journal.append(records[2]); }), HasSubstr(error));
  EXPECT_THAT(message_of([&] { journal.append(applied_after(1)); }), HasSubstr(error));
  EXPECT_THAT(message_of([&] { journal.cut_after(durable); }), HasSubstr(error));
  EXPECT_THAT(message_of([&] { journal.forget_until(1); }), HasSubstr(error));
  EXPECT_THAT(message_of([&] { journal.start_segment(); }), HasSubstr(error));
  EXPECT_EQ(journal.durable(), durable);
}

TEST(Journal, AFullDiskEndsItForGood) {
  MemoryDisk disk;
  const auto records = make_records(3);
  Journal journal = open(disk);
  journal.append(records[0]);
  disk.on_change = [](const std::string& what, const std::string& path) {
    if (what == "append") throw FileError("cannot write {}: No space left on device", path);
  };
  EXPECT_THROW(journal.append(records[1]), FileError);
  disk.on_change = nullptr;
  EXPECT_THROW(journal.append(records[1]), FileError);
  expect_records(open(disk), records, 1);
}

TEST(Journal, CutsWhatComesAfterAPosition) {
  const auto records = make_records(6);
  const auto others = make_records(2, records[2].position(), 99);
  for (const std::uint64_t segment_bytes : {std::uint64_t{1} << 30, std::uint64_t{1}}) {
    MemoryDisk disk;
    write(disk, records, segment_bytes);
    {
      Journal journal = open(disk, segment_bytes);
      EXPECT_THROW(journal.cut_after(others[0].position()), LogicError);  // not of this history
      journal.cut_after(records.back().position());
      EXPECT_EQ(journal.end().step, 6);
      journal.cut_after(records[2].position());
      EXPECT_EQ(journal.end(), records[2].position());
      disk.crash();  // the cut was durable before anything was appended
      EXPECT_EQ(JournalReader(disk, kFolder).end(), records[2].position());
      EXPECT_EQ(JournalReader(disk, kFolder).applied(3).has_value(), true);
      journal.append(others[0]);
      journal.append(others[1]);
      journal.sync();
    }
    const JournalReader reader(disk, kFolder);
    EXPECT_EQ(reader.end(), others[1].position());
    EXPECT_EQ(reader.read(3), records[2]);
    EXPECT_EQ(reader.read(4), others[0]);
    EXPECT_FALSE(reader.applied(4));
  }
}

TEST(Journal, CutsEverything) {
  for (const std::uint64_t segment_bytes : {std::uint64_t{1} << 30, std::uint64_t{1}}) {
    MemoryDisk disk;
    const auto records = make_records(3);
    write(disk, records, segment_bytes);
    Journal journal = open(disk, segment_bytes);
    journal.cut_after(kTestStart);
    EXPECT_EQ(journal.end(), kTestStart);
    EXPECT_TRUE(disk.paths().empty());
    journal.append(records[0]);
    journal.sync();
    expect_records(JournalReader(disk, kFolder), records, 1);
  }
}

TEST(Journal, ForgetsWholeSegmentsOnly) {
  MemoryDisk disk;
  const auto records = make_records(9);
  Journal journal = open(disk);
  for (const Record& record : records) {
    if (record.step % 3 == 1) journal.start_segment();
    journal.append(record);
    journal.append(applied_after(record.step));
  }
  journal.sync();
  journal.forget_until(2);
  EXPECT_EQ(journal.begin(), kTestStart);
  journal.forget_until(5);
  EXPECT_EQ(journal.begin(), records[2].position());
  EXPECT_EQ(journal.read(4), records[3]);
  EXPECT_EQ(journal.applied(7), applied_after(7));
  EXPECT_FALSE(journal.position_after(2));
  journal.forget_until(100);  // the last segment stays: it says where the history is
  EXPECT_EQ(journal.begin(), records[5].position());
  disk.crash();
  const JournalReader reader(disk, kFolder);
  EXPECT_EQ(reader.begin(), records[5].position());
  EXPECT_EQ(reader.end(), records[8].position());
  EXPECT_EQ(reader.read(9), records[8]);
  // And it goes on, and can be cut.
  journal.cut_after(records[6].position());
  journal.append(records[7]);
  EXPECT_EQ(journal.sync(), records[7].position());
}

TEST(Journal, DigestsOfAForgottenStepAreNoDamage) {
  MemoryDisk disk;
  const auto records = make_records(2);
  Journal journal = open(disk);
  journal.append(records[0]);
  journal.start_segment();
  journal.append(records[1]);
  journal.append(applied_after(1));  // later than the next record, in the next segment
  journal.append(applied_after(2));
  journal.sync();
  EXPECT_EQ(JournalReader(disk, kFolder).applied(1), applied_after(1));
  journal.forget_until(1);
  const JournalReader reader(disk, kFolder);
  EXPECT_EQ(reader.begin().step, 1);
  EXPECT_EQ(reader.applied(2), applied_after(2));
}

TEST(Journal, SegmentsEndAtTheirSize) {
  MemoryDisk disk;
  const auto records = make_records(30);
  write(disk, records, 5000);
  EXPECT_GT(disk.paths().size(), 4u);
  for (const std::string& path : disk.paths()) EXPECT_LT(disk.bytes(path).size(), 8000u);
  expect_records(JournalReader(disk, kFolder), records, 30);
}

TEST(Journal, BeginsAnewElsewhere) {
  MemoryDisk disk;
  write(disk, make_records(4), 1);
  Journal journal = open(disk, 1);
  const Position later{100, {5, 5}};
  journal.restart_at(later);
  EXPECT_EQ(journal.end(), later);
  journal.append(make_record(later, 1));
  journal.sync();
  EXPECT_EQ(JournalReader(disk, kFolder).begin(), later);
}

// A record may be larger than memory should be: nothing is read twice over to look for damage.
TEST(Journal, AShardKeepsOnlyItsPart) {
  MemoryDisk disk;
  const auto records = make_records(3);
  Journal journal = open(disk);
  for (const Record& record : records) journal.append(record, ShardPlan{1, 3, 1});
  journal.sync();
  const JournalReader reader(disk, kFolder);
  EXPECT_EQ(reader.end(), records.back().position());
  EXPECT_THAT(reader.present(2), ElementsAre(false, true, false, false));
  const Record part = reader.read(2);
  EXPECT_EQ(part.chunks[1], records[1].chunks[1]);
  EXPECT_FALSE(part.whole());
}

// A real process on the real disk, killed at no particular moment.
TEST(Journal, AKilledProcessLosesNothingThatItSaidWasDurable) {
  const auto records = make_records(60, kTestStart, 3, {4, 1, 3, 4, 40, false});
  std::mt19937_64 random(7);
  for (int run = 0; run < 12; ++run) {
    const TemporaryFolder folder;
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        Journal journal(system_disk(), folder.file("shard"), kTestRun, kTestStart, {20000});
        for (const Record& record : records) {
          journal.append(record);
          journal.append(applied_after(record.step));
          if (record.step % 3 != 0) continue;
          const std::int64_t durable = journal.sync().step;
          if (::write(pipe_ends[1], &durable, sizeof durable) != sizeof durable) ::_exit(1);
        }
        ::_exit(0);
      } catch (...) {
        ::_exit(2);
      }
    }
    ::close(pipe_ends[1]);
    std::int64_t durable = 0;
    const auto kill_at = static_cast<std::int64_t>(3 * (random() % 19));
    std::int64_t said = 0;
    while (durable < kill_at && ::read(pipe_ends[0], &said, sizeof said) == sizeof said)
      durable = said;
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) != 0);
    while (::read(pipe_ends[0], &said, sizeof said) == sizeof said) durable = said;
    ::close(pipe_ends[0]);
    Journal journal(system_disk(), folder.file("shard"), kTestRun, kTestStart, {20000});
    EXPECT_GE(journal.end().step, durable);
    expect_records(journal, records, journal.end().step);
    for (std::int64_t step = 1; step <= durable; ++step)
      EXPECT_EQ(journal.applied(step), applied_after(step));
    for (auto i = static_cast<std::size_t>(journal.end().step); i < records.size(); ++i)
      journal.append(records[i]);
    journal.sync();
    expect_records(JournalReader(system_disk(), folder.file("shard")), records, 60);
  }
}

}  // namespace
}  // namespace ballot

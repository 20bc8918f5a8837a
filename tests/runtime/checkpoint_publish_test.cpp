// From shares to a checkpoint: whole or not there, whatever fails, whenever the power goes, however
// often it is published.
#include "runtime/checkpoint_publish.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "models/model_folder.h"
#include "runtime/checkpoint.h"
#include "runtime/checkpoint_writer.h"
#include "tests/runtime/checkpoint_support.h"
#include "tests/support/memory_disk.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr Duration kLong = std::chrono::seconds(60);
constexpr int kShares = 3;

CheckpointOptions small_options() {
  CheckpointOptions options;
  options.staging_bytes = 2000;
  options.shard_bytes = 0;
  options.patience = kLong;
  return options;
}

// Writes one share; its outcome.
ShareOutcome write_share(Disk& disk, const std::string& run, std::int64_t step, int index,
                         int count, std::uint64_t seed) {
  SmallState state(seed, index);
  CheckpointWriter writer(small_options(), disk);
  writer.begin({index, count, index}, small_training(step, state.digest(), count), state.digests(),
               state.arena(), state.state(), {run, ""});
  EXPECT_TRUE(writer.wait(Deadline::in(kLong)));
  const std::optional<ShareOutcome> outcome = writer.finished();
  EXPECT_TRUE(outcome);
  return *outcome;
}

void write_shares(Disk& disk, const std::string& run, std::int64_t step, int count = kShares) {
  for (int i = 0; i < count; ++i)
    EXPECT_EQ(write_share(disk, run, step, i, count, static_cast<std::uint64_t>(step)).error, "");
}

Digest chain_of(std::int64_t step) {
  return small_training(step, 0).journal->chain;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const WorldError& error) {
    return error.what();
  }
  return "no error";
}

// Of all that looks like a checkpoint, each is whole. The newest one's step, or -1.
std::int64_t newest_whole(Disk& disk) {
  std::int64_t newest = -1;
  for (const CheckpointName& one : checkpoint_names("run", disk)) {
    EXPECT_NO_THROW(verify_checkpoint(one.path, disk)) << one.path;
    newest = std::max(newest, one.step);
  }
  return newest;
}

// Shares of step 2 and their publication. Whether it was published.
bool save_second(Disk& disk) {
  try {
    for (int i = 0; i < kShares; ++i)
      if (!write_share(disk, "run", 2, i, kShares, 2).error.empty()) return false;
    publish_shares("run", 2, chain_of(2), disk);
    return true;
  } catch (const FileError&) {
    return false;
  }
}

MemoryDisk with_first() {
  MemoryDisk disk;
  write_shares(disk, "run", 1);
  publish_shares("run", 1, chain_of(1), disk);
  return disk.snapshot();
}

TEST(CheckpointPublish, AFailureAtAnyPointLeavesTheOneBeforeAndTheNextTrySucceeds) {
  const MemoryDisk start = with_first();
  bool published = false;
  for (int fails_at = 0; !published; ++fails_at) {
    MemoryDisk disk = start.clone();
    int change = 0;
    disk.on_change = [&](const std::string& what, const std::string& path) {
      if (change++ == fails_at) throw FileError("cannot {} {}: no space is left", what, path);
    };
    published = save_second(disk);
    ASSERT_LT(fails_at, 1000);
    disk.on_change = {};
    EXPECT_GE(newest_whole(disk), published ? 2 : 1) << fails_at;
    EXPECT_TRUE(save_second(disk)) << fails_at;
    EXPECT_EQ(newest_whole(disk), 2) << fails_at;
  }
}

TEST(CheckpointPublish, APowerCutAtAnyPointLeavesAWholeOne) {
  const MemoryDisk start = with_first();
  for (const std::uint64_t keeps : {std::uint64_t{0}, std::uint64_t{3}}) {
    bool published = false;
    for (int cut_at = 0; !published; ++cut_at) {
      MemoryDisk disk = start.clone();
      int change = 0;
      disk.on_change = [&](const std::string& what, const std::string& path) {
        if (change++ >= cut_at) throw FileError("cannot {} {}: the power is out", what, path);
      };
      published = save_second(disk);
      ASSERT_LT(cut_at, 1000);
      disk.on_change = {};
      disk.crash(keeps);
      const std::int64_t newest = newest_whole(disk);
      EXPECT_GE(newest, 1) << cut_at;
      if (published) {
        EXPECT_EQ(newest, 2) << "what was published is durable";
      }
      remove_partial_checkpoints("run", 100, disk);
      EXPECT_TRUE(save_second(disk)) << cut_at;
      EXPECT_EQ(newest_whole(disk), 2) << cut_at;
    }
  }
}

TEST(CheckpointPublish, AWriteErrorNamesTheFileAndNothingOfTheShareIsLeft) {
  MemoryDisk disk;
  disk.on_change = [](const std::string& what, const std::string& path) {
    if (what == "append" && path.ends_with("voter-1.safetensors"))
      throw FileError("cannot write {}: no space left on device", path);
  };
  const ShareOutcome outcome = write_share(disk, "run", 1, 1, kShares, 1);
  EXPECT_FALSE(outcome.written);
  EXPECT_THAT(outcome.error, testing::AllOf(HasSubstr("voter-1.safetensors"),
                                            HasSubstr("no space left on device")));
  EXPECT_THAT(disk.paths(), testing::IsEmpty());
}

TEST(CheckpointPublish, WaitsForAllShares) {
  MemoryDisk disk;
  const auto publish = [&disk] { publish_shares("run", 1, chain_of(1), disk); };
  EXPECT_THAT(message_of(publish), HasSubstr("run/checkpoints holds no shares of step 1"));
  write_share(disk, "run", 1, 0, kShares, 1);
  write_share(disk, "run", 1, 2, kShares, 1);
  EXPECT_THAT(message_of(publish), HasSubstr("share 2 of 3"));
  write_share(disk, "run", 1, 1, kShares, 1);
  EXPECT_EQ(publish_shares("run", 1, chain_of(1), disk), "run/checkpoints/step-00000001");
  EXPECT_EQ(newest_whole(disk), 1);
  publish();  // again
  EXPECT_EQ(newest_whole(disk), 1);
  EXPECT_THAT(message_of([&] { publish_shares("run", 1, chain_of(7), disk); }),
              HasSubstr("step 1 cannot be published"));
}

// The same step of two histories, or by another number of workers: their shares never meet.
TEST(CheckpointPublish, SharesOfAnotherHistoryOrNumberOfWorkersDoNotMix) {
  MemoryDisk disk;
  write_share(disk, "run", 1, 0, 2, /*seed=*/1);
  write_share(disk, "run", 1, 1, 2, /*seed=*/2);  // other parameters
  EXPECT_THAT(message_of([&] { publish_shares("run", 1, chain_of(1), disk); }),
              HasSubstr("is not finished"));
  write_share(disk, "run", 1, 1, 3, /*seed=*/1);
  EXPECT_THAT(message_of([&] { publish_shares("run", 1, chain_of(1), disk); }),
              HasSubstr("is not finished"));
  write_share(disk, "run", 1, 1, 2, /*seed=*/1);
  EXPECT_NO_THROW(publish_shares("run", 1, chain_of(1), disk));
  EXPECT_EQ(newest_whole(disk), 1);
}

TEST(CheckpointPublish, AShareThatShrankAfterItsPartWasWrittenIsFound) {
  MemoryDisk disk;
  write_shares(disk, "run", 1);
  for (const std::string& path : disk.paths())
    if (path.ends_with("voter-2.safetensors")) disk.bytes(path).pop_back();
  EXPECT_THAT(message_of([&] { publish_shares("run", 1, chain_of(1), disk); }),
              testing::AllOf(HasSubstr("voter-2.safetensors"), HasSubstr("share 3 has written")));
}

TEST(CheckpointPublish, TheSameStepWrittenAgainTakesTheOldOnesPlace) {
  const TemporaryFolder folder;
  const std::string run = folder.path();
  write_shares(system_disk(), run, 1);
  const std::string path = publish_checkpoint(run, 1, chain_of(1), {});
  fs::resize_file(path + "/trainer/voter-1.safetensors", 10);
  write_shares(system_disk(), run, 1);
  EXPECT_EQ(publish_checkpoint(run, 1, chain_of(1), {}), path);
  EXPECT_NO_THROW(verify_checkpoint(path));
  for (const auto& entry : fs::directory_iterator(run + "/checkpoints"))
    EXPECT_THAT(entry.path().filename().string(), testing::AnyOf("step-00000001", "latest"));
}

TEST(CheckpointPublish, SeveralAtOnceDoNoHarm) {
  const TemporaryFolder folder;
  const std::string run = folder.path();
  for (std::int64_t step = 1; step <= 10; ++step) {
    write_shares(system_disk(), run, step, 2);
    std::vector<std::thread> publishers;
    for (int i = 0; i < 4; ++i)
      publishers.emplace_back([&, i] {
        EXPECT_NO_THROW(publish_checkpoint(run, step, chain_of(step), {})) << step << " by " << i;
      });
    for (std::thread& one : publishers) one.join();
    const auto newest = find_newest_checkpoint(run);
    ASSERT_TRUE(newest);
    EXPECT_EQ(newest->step, step);
    EXPECT_EQ(fs::read_symlink(run + "/checkpoints/latest"), fs::path(newest->path).filename());
  }
  EXPECT_EQ(checkpoint_names(run).size(), 2u);
}

std::vector<std::int64_t> steps_of(const std::string& run) {
  std::vector<std::int64_t> steps;
  for (const CheckpointName& one : checkpoint_names(run)) steps.push_back(one.step);
  return steps;
}

TEST(CheckpointPublish, KeepsTheNewestAndThoseThatStayForEver) {
  const TemporaryFolder folder;
  const std::string run = folder.path();
  PublishPolicy policy;
  policy.keep = 2;
  policy.keep_every = 4;
  for (std::int64_t step = 1; step <= 11; ++step) {
    write_shares(system_disk(), run, step, 1);
    publish_checkpoint(run, step, chain_of(step), policy);
  }
  EXPECT_THAT(steps_of(run), testing::ElementsAre(11, 10, 8, 4));
}

// A writer that was stopped for long comes back with an old checkpoint.
TEST(CheckpointPublish, LatestOnlyMovesForwardUnlessTheRunWentBack) {
  const TemporaryFolder folder;
  const std::string run = folder.path();
  const auto latest = [&run] { return fs::read_symlink(run + "/checkpoints/latest").string(); };
  for (const std::int64_t step : {5, 3}) {
    write_shares(system_disk(), run, step, 1);
    publish_checkpoint(run, step, chain_of(step), {});
    EXPECT_EQ(latest(), "step-00000005");
  }
  EXPECT_THAT(steps_of(run), testing::ElementsAre(5, 3));
  PublishPolicy resumed;
  resumed.replaces_later = true;
  write_shares(system_disk(), run, 4, 1);
  publish_checkpoint(run, 4, chain_of(4), resumed);
  EXPECT_EQ(latest(), "step-00000004");
  EXPECT_THAT(steps_of(run), testing::ElementsAre(4, 3));
}

TEST(CheckpointPublish, PartsOfEarlierStepsGoWithTheNextCheckpointAndOthersStay) {
  const TemporaryFolder folder;
  const std::string run = folder.path();
  write_share(system_disk(), run, 1, 0, 2, 1);
  write_share(system_disk(), run, 3, 0, 2, 3);
  write_shares(system_disk(), run, 2, 1);
  fs::create_directories(run + "/checkpoints/.somebody's.partial");
  publish_checkpoint(run, 2, chain_of(2), {});
  int partial = 0;
  for (const auto& entry : fs::directory_iterator(run + "/checkpoints"))
    partial += entry.path().filename().string().starts_with(".step-00000003");
  EXPECT_EQ(partial, 1);
  remove_partial_checkpoints(run, 100);
  EXPECT_EQ(std::distance(fs::directory_iterator(run + "/checkpoints"), {}), 3);
  EXPECT_TRUE(fs::exists(run + "/checkpoints/.somebody's.partial"));
}

}  // namespace
}  // namespace ballot

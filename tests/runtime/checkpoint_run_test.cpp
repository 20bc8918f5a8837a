// Runs that save while they train: the bits of a run that waits, on any number of workers, through
// write errors and damage, and resumed by other numbers of workers and members.
#include "runtime/run_checkpoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <filesystem>
#include <map>
#include <mutex>

#include "core/error.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "runtime/checkpoint.h"
#include "runtime/metrics_names.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Names and bytes of all tensors' files.
std::map<std::string, std::string> tensors_of(const std::string& checkpoint) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(checkpoint))
    if (entry.path().extension() == ".safetensors")
      files[fs::relative(entry.path(), checkpoint).string()] = read_file(entry.path().string());
  return files;
}

TrainingHooks resuming(int) {
  TrainingHooks hooks;
  hooks.resume = true;
  hooks.resume_from = ResumeFrom::checkpoint;
  return hooks;
}

struct Case {
  int workers, members, threads;
  const char* preset;
  const char* shard_mib;
};

class SavingWhileTraining : public testing::TestWithParam<Case> {};

// Parameters and state of 2.5 MB each under 1 MiB of staging memory: every step finds tensors that
// are not copied yet.
TEST_P(SavingWhileTraining, GivesTheCheckpointsOfARunThatWaits) {
  const Case c = GetParam();
  TinyShape shape;
  shape.hidden = 128;
  shape.layers = 3;
  shape.intermediate = 256;
  const TinyRun tiny(shape);
  const auto run = [&](const char* name, const char* overlap) {
    return train_on(
        c.workers,
        tiny.run(name, fmt::format("[optimizer]\npreset = \"{}\"\n", c.preset),
                 {"train.steps=4", "train.checkpoint_every=1", "train.keep_checkpoints=9",
                  "checkpoint.staging_mib=1", std::string("checkpoint.overlap=") + overlap,
                  std::string("checkpoint.shard_mib=") + c.shard_mib,
                  "data.validation=", fmt::format("vote.members={}", c.members),
                  fmt::format("train.threads={}", c.threads)}));
  };
  const auto waits = run("waits", "false"), goes_on = run("goes-on", "true");
  EXPECT_EQ(waits[0].digest, goes_on[0].digest);
  for (int step = 1; step <= 4; ++step) {
    const std::string name = fmt::format("/checkpoints/step-{:08}", step);
    EXPECT_NO_THROW(verify_checkpoint(tiny.path("goes-on") + name));
    const auto expected = tensors_of(tiny.path("waits") + name);
    EXPECT_GE(expected.size(), 2u + static_cast<std::size_t>(c.workers));
    EXPECT_TRUE(tensors_of(tiny.path("goes-on") + name) == expected) << "step " << step;
    EXPECT_EQ(read_training_state(tiny.path("goes-on") + name),
              read_training_state(tiny.path("waits") + name));
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoint, SavingWhileTraining,
                         testing::Values(Case{1, 1, 2, "olion", "64"}, Case{2, 1, 1, "olion", "0"},
                                         Case{2, 2, 1, "olion", "0"}, Case{4, 1, 1, "adamw", "1"},
                                         Case{4, 2, 1, "olion", "0"}),
                         [](const auto& one) {
                           return fmt::format("{}Of{}With{}", one.param.workers, one.param.members,
                                              one.param.preset);
                         });

TEST(Checkpoint, OfSeveralWorkersIsAModelFolderOfSeveralFiles) {
  const TinyRun tiny;
  const auto results = train_on(4, tiny.run("run", "", {"checkpoint.shard_mib=0"}));
  const std::string path = results[0].checkpoint;
  EXPECT_FALSE(fs::exists(path + "/model.safetensors"));
  for (int i = 1; i <= 4; ++i)
    EXPECT_TRUE(fs::exists(fmt::format("{}/model-{:05}-of-00004.safetensors", path, i)));
  const ParameterArena arena(read_architecture(path)->parameter_shapes(), DType::f32);
  load_parameters(path, arena);
  EXPECT_EQ(fold(parameter_digests(arena)), results[0].digest);
  // And a model to start from.
  EXPECT_NO_THROW(train_on(1, tiny.run("next", "", {"model.folder=" + path, "train.steps=1"})));
}

// 4 -> 2 -> 3 voters, then 2 voters of 2 members: the parameters are those that were saved, and
// the run goes on.
TEST(Checkpoint, IsResumedByOtherNumbersOfWorkersAndMembers) {
  const TinyRun tiny;
  struct Part {
    int workers, members, until;
  };
  std::uint64_t digest = 0;
  for (const Part part :
       {Part{4, 1, 2}, Part{2, 1, 4}, Part{3, 1, 6}, Part{4, 2, 8}, Part{2, 1, 10}}) {
    const RunConfig config = tiny.run(
        "run", "",
        {fmt::format("train.steps={}", part.until), fmt::format("vote.members={}", part.members),
         "checkpoint.shard_mib=0", "data.validation="});
    if (part.until > 2) {  // what it will start from is what the others saved
      const auto newest = find_newest_checkpoint(config.output_folder);
      ASSERT_TRUE(newest);
      EXPECT_EQ(newest->step, part.until - 2);
      const ParameterArena arena(read_architecture(newest->path)->parameter_shapes(), DType::f32);
      load_parameters(newest->path, arena);
      EXPECT_EQ(fold(parameter_digests(arena)), digest);
    }
    const auto results =
        part.until > 2 ? train_on(part.workers, config, resuming) : train_on(part.workers, config);
    EXPECT_EQ(results[0].steps, part.until);
    EXPECT_NE(results[0].digest, digest);
    digest = results[0].digest;
    const TrainingState state = read_training_state(results[0].checkpoint);
    EXPECT_EQ(state.workers, part.workers);
    EXPECT_EQ(state.members, part.members);
    EXPECT_EQ(state.digest, digest);
  }
}

TEST(Checkpoint, ADamagedShardOfTheNewestLeadsToTheOneBefore) {
  const TinyRun tiny;
  const RunConfig config =
      tiny.run("run", "", {"train.steps=4", "train.checkpoint_every=2", "checkpoint.shard_mib=0"});
  const auto results = train_on(3, config);
  const std::string file = results[0].checkpoint + "/model-00002-of-00003.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1);
  EXPECT_EQ(find_newest_checkpoint(config.output_folder)->step, 2);
  EXPECT_EQ(train_on(3, config, resuming)[0].digest, results[0].digest);
  EXPECT_EQ(find_newest_checkpoint(config.output_folder)->step, 4);
}

// The machine's disk, but for one file of one step that does not fit.
class FullDisk final : public Disk {
 public:
  FullDisk(std::string step, std::string file) : step_(std::move(step)), file_(std::move(file)) {}
  std::vector<std::string> list(const std::string& folder) override { return disk_.list(folder); }
  std::uint64_t size_bytes(const std::string& path) override { return disk_.size_bytes(path); }
  std::vector<std::byte> read(const std::string& path, std::uint64_t offset,
                              std::uint64_t size) override {
    return disk_.read(path, offset, size);
  }
  std::unique_ptr<AppendFile> open_append(const std::string& path) override {
    const bool fails = path.find(step_) != std::string::npos && path.ends_with(file_);
    return std::make_unique<File>(disk_.open_append(path), fails ? path : "");
  }
  void truncate(const std::string& path, std::uint64_t size) override {
    disk_.truncate(path, size);
  }
  void make_folder(const std::string& path) override { disk_.make_folder(path); }
  void rename(const std::string& from, const std::string& to) override { disk_.rename(from, to); }
  void remove(const std::string& path) override { disk_.remove(path); }
  void sync_folder(const std::string& path) override { disk_.sync_folder(path); }

 private:
  class File final : public AppendFile {
   public:
    File(std::unique_ptr<AppendFile> file, std::string fails)
        : file_(std::move(file)), fails_(std::move(fails)) {}
    void append(std::span<const std::byte> bytes) override { file_->append(bytes); }
    void sync() override {
      if (!fails_.empty()) throw FileError("cannot fsync {}: no space left on device", fails_);
      file_->sync();
    }
    std::uint64_t size_bytes() const override { return file_->size_bytes(); }

   private:
    std::unique_ptr<AppendFile> file_;
    std::string fails_;
  };
  Disk& disk_ = system_disk();
  const std::string step_, file_;
};

TEST(Checkpoint, AWriteErrorIsNamedTheRunGoesOnAndTheNextIsSaved) {
  const TinyRun tiny;
  FullDisk disk("step-00000002", "voter-1.safetensors");
  const RunConfig config = tiny.run("run", "",
                                    {"train.steps=6", "train.checkpoint_every=2",
                                     "train.keep_checkpoints=9", "journal.sync_every_ms=1"});
  const auto on_full_disk = [&disk](int) {
    TrainingHooks hooks;
    hooks.disk = &disk;
    return hooks;
  };
  testing::internal::CaptureStderr();
  const auto results = train_on(3, config, on_full_disk);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(
      log, testing::ContainsRegex("share of the checkpoint of step 2 is given up: .*cannot fsync "
                                  ".*step-00000002.*voter-1.safetensors: no space left on device"));
  EXPECT_THAT(log, HasSubstr("the checkpoint of step 2 is given up: worker 1"));
  EXPECT_EQ(results[0].steps, 6);
  std::vector<std::int64_t> steps;
  for (const CheckpointName& one : checkpoint_names(config.output_folder))
    steps.push_back(one.step);
  EXPECT_THAT(steps, testing::ElementsAre(6, 4));
  const auto failed = metrics_of(config.output_folder, "checkpoint_failed");
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0]["step"], 2);
  EXPECT_EQ(failed[0]["worker"], 1);
  // Nothing of it is left.
  for (const auto& entry : fs::directory_iterator(config.output_folder + "/checkpoints"))
    EXPECT_THAT(entry.path().filename().string(), testing::Not(testing::StartsWith(".")));
}

TEST(Checkpoint, AtTheEndOfARunTheLastOneMustBeSaved) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"train.steps=4", "train.checkpoint_every=2"});
  std::vector<std::string> messages(2);
  run_loopback(2, [&](Transport& transport) {
    FullDisk disk("step-00000004", "voter-1.safetensors");
    TrainingHooks hooks;
    hooks.disk = &disk;
    try {
      train(config, transport, hooks);
    } catch (const FileError& error) {
      messages[static_cast<std::size_t>(transport.rank())] = error.what();
    }
  });
  EXPECT_THAT(messages[0], HasSubstr("worker 1 failed to save the last checkpoint, of step 4"));
  EXPECT_THAT(messages[1], HasSubstr("no space left on device"));
  EXPECT_EQ(find_newest_checkpoint(config.output_folder)->step, 2);
  EXPECT_EQ(train_on(2, config, resuming)[0].steps, 4);
}

// While a journal is not durable, a power cut would leave a checkpoint whose history nobody has.
// Between the last step and the last checkpoint no other worker's digest can tell. Resumed, the run
// ends as it would have.
TEST(Checkpoint, TheLastOneNeverHoldsABitThatChangedInMemory) {
  const TinyRun tiny;
  const auto clean = train_on(2, tiny.run("clean"));
  const auto flips = [](int rank) {
    TrainingHooks hooks;
    hooks.after_step = [rank](std::int64_t step, const ParameterArena& arena) {
      if (rank != 0 || step != 6) return;
      float& value = arena.find("model.layers.1.mlp.up_proj.weight").value.f32()[7];
      value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ (1u << 20));
    };
    return hooks;
  };
  try {
    train_on(2, tiny.run("flipped"), flips);
    FAIL() << "nobody noticed";
  } catch (const ReplicasDiffer& error) {
    EXPECT_THAT(error.what(), HasSubstr("the last checkpoint, of step 6, is not saved"));
  }
  EXPECT_FALSE(find_newest_checkpoint(tiny.path("flipped")));
  const auto resumed = train_on(2, tiny.run("flipped"), [](int) {
    TrainingHooks hooks;
    hooks.resume = true;
    return hooks;
  });
  EXPECT_EQ(resumed[0].digest, clean[0].digest);
  EXPECT_EQ(find_newest_checkpoint(tiny.path("flipped")).value().step, 6);
}

TEST(Checkpoint, NoneIsPublishedAheadOfTheJournal) {
  for (const std::string journal : {"on", "off"}) {
    const TinyRun tiny;
    const RunConfig config = tiny.run(
        "run", "",
        {journal == "on" ? "train.steps=20" : "train.steps=100000", "train.checkpoint_every=2",
         "data.validation=", "journal.sync_every_ms=3600000", "journal.enabled=" + journal});
    std::atomic<bool> published = false;
    const Deadline deadline = Deadline::in(std::chrono::seconds(60));
    const auto results = train_on(2, config, [&](int) {
      TrainingHooks hooks;
      hooks.should_stop = [&] {
        if (has_checkpoints(config.output_folder)) published = true;
        return published || deadline.passed();
      };
      return hooks;
    });
    EXPECT_EQ(published, journal == "off") << journal;
    EXPECT_EQ(find_newest_checkpoint(config.output_folder)->step, results[0].steps);
  }
}

TEST(Checkpoint, WhatItCostsIsInTheRecord) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"train.steps=6", "train.checkpoint_every=2"});
  train_on(2, config);
  const auto saved = metrics_of(config.output_folder, "checkpoint");
  ASSERT_EQ(saved.size(), 3u);
  for (std::size_t i = 0; i < saved.size(); ++i) {
    EXPECT_EQ(saved[i]["step"], 2 * (i + 1));
    EXPECT_GT(saved[i][metric::kCheckpointWriteSeconds].get<double>(), 0);
    EXPECT_GT(saved[i][metric::kCheckpointBytes].get<std::uint64_t>(), 3 * 300'000u);
  }
  double waited = 0;
  for (const auto& step : metrics_of(config.output_folder, "step"))
    if (step.contains(metric::kCheckpointWaitSeconds))
      waited += step[metric::kCheckpointWaitSeconds].get<double>();
  EXPECT_GT(waited, 0);
}

}  // namespace
}  // namespace ballot

// A share is the state of its step, whatever changes while it is written; shares together load
// again.
#include "runtime/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <filesystem>
#include <future>
#include <random>

#include "core/error.h"
#include "core/file.h"
#include "core/parallel.h"
#include "models/model_folder.h"
#include "runtime/checkpoint.h"
#include "runtime/checkpoint_publish.h"
#include "tests/runtime/checkpoint_support.h"
#include "tests/support/memory_disk.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr Duration kLong = std::chrono::seconds(60);
const bool kTwoThreads = (set_thread_count(2), true);

TEST(CheckpointWriter, SharesWrittenWhileEverythingChangesLoadAsTheStateOfTheirStep) {
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto workers = static_cast<int>(1 + random() % 4);
    CheckpointOptions options;
    options.staging_bytes = std::array{0, 500, 4000, 1 << 20}[random() % 4];
    options.shard_bytes = std::array{0, 3000, 1 << 20}[random() % 3];
    const TemporaryFolder folder;
    std::vector<std::vector<std::byte>> expected;
    for (int w = 0; w < workers; ++w) {
      SmallState state(seed, w);
      expected.push_back(state.bytes());
      CheckpointWriter writer(options);
      writer.begin({w, workers, w}, small_training(3, state.digest(), workers), state.digests(),
                   state.arena(), state.state(), {folder.path(), ""});
      const BeforeChange before_change = writer.hook();
      for (const Parameter& parameter : state.arena().parameters())
        for (const Changing what : {Changing::state, Changing::value}) {
          before_change(parameter, what);
          state.change(parameter, what, random());
        }
      ASSERT_TRUE(writer.wait(Deadline::in(kLong)));
      ASSERT_EQ(writer.finished().value().error, "");
    }
    const std::string path = publish_checkpoint(folder.path(), 3, std::nullopt, {});
    verify_checkpoint(path);
    for (int w = 0; w < workers; ++w) {
      SmallState loaded(seed + 1, w);
      const TrainingState training = load_checkpoint(path, loaded.arena(), loaded.state(), w);
      EXPECT_TRUE(loaded.bytes() == expected[static_cast<std::size_t>(w)]) << "voter " << w;
      EXPECT_EQ(training, small_training(3, loaded.digest(), workers));
    }
  }
}

// One bit of each tensor in turn, after its last update and before it is copied.
TEST(CheckpointWriter, ABitThatChangesInMemoryIsNeverWrittenAsAWholeShare) {
  for (const std::uint64_t staging : {0, 1001, 1 << 20}) {
    const TemporaryFolder folder;
    SmallState state(5);
    CheckpointOptions options;
    options.staging_bytes = staging;
    CheckpointWriter writer(options);
    std::int64_t step = 0;
    const auto save = [&](const std::vector<std::uint64_t>& digests) {
      writer.begin({}, small_training(++step, 0), digests, state.arena(), state.state(),
                   {folder.path(), ""});
      EXPECT_TRUE(writer.wait(Deadline::in(kLong)));
      return writer.finished().value();
    };
    const std::vector<std::uint64_t> digests = state.digests();
    for (const Parameter& parameter : state.arena().parameters()) {
      const std::int64_t last =
          (parameter.shape.rows - 1) * parameter.row_stride + parameter.shape.cols - 1;
      for (const std::int64_t element : {std::int64_t{0}, last}) {
        float& value = parameter.value.f32()[element];
        const float before = value;
        value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ 1u);
        const ShareOutcome damaged = save(digests);
        EXPECT_TRUE(damaged.damaged);
        EXPECT_FALSE(damaged.written);
        EXPECT_THAT(damaged.error, HasSubstr(parameter.shape.name + " has changed in memory"));
        EXPECT_THROW(publish_checkpoint(folder.path(), step, std::nullopt, {}), FileError);
        value = before;
      }
    }
    EXPECT_EQ(save(digests).error, "");
  }
}

TEST(CheckpointWriter, OneShareAloneWritesTheFileThatSavingAModelWrites) {
  const TemporaryFolder folder;
  SmallState state(3);
  CheckpointWriter writer({});
  writer.begin({}, small_training(1, state.digest()), state.digests(), state.arena(), state.state(),
               {folder.path(), ""});
  ASSERT_TRUE(writer.wait(Deadline::in(kLong)));
  const ShareOutcome outcome = writer.finished().value();
  ASSERT_TRUE(outcome.written) << outcome.error;
  const std::string path = publish_checkpoint(folder.path(), 1, std::nullopt, {});
  fs::create_directory(folder.file("saved"));
  save_parameters(folder.file("saved"), state.arena());
  EXPECT_TRUE(read_file(path + "/model.safetensors") ==
              read_file(folder.file("saved") + "/model.safetensors"));
  // What it says of itself.
  std::uint64_t bytes = 0;
  for (const std::string& file : outcome.written->files) bytes += fs::file_size(path + "/" + file);
  EXPECT_EQ(outcome.written->bytes, bytes);
  EXPECT_EQ(outcome.written->files.back(), part_file(0, 1));
  EXPECT_THAT(outcome.written->folder, HasSubstr("/checkpoints/.step-00000001-"));
}

TEST(CheckpointWriter, NoOddFileBesideTheModelEndsAShare) {
  const TemporaryFolder folder, model;
  write_file_synced(model.file("config.json"), std::string_view("{}"));
  for (const char* name : {"a.txt", "b.txt", "trainer",
                           "Stra\xdf"
                           "e.txt"})
    write_file_synced(model.file(name), std::string_view(name));
  fs::create_symlink("loop", model.file("loop"));
  MemoryDisk disk;
  disk.on_change = [&](const std::string&, const std::string& path) {
    if (path.ends_with("/a.txt")) fs::remove(model.file("b.txt"));  // after it was listed
  };
  SmallState state(3);
  CheckpointWriter writer({}, disk);
  const auto save = [&](std::int64_t step) {
    writer.begin({}, small_training(step, state.digest()), state.digests(), state.arena(),
                 state.state(), {"run", model.path()});
    EXPECT_TRUE(writer.wait(Deadline::in(kLong)));
    return writer.finished().value();
  };
  const ShareOutcome outcome = save(1);
  ASSERT_TRUE(outcome.written) << outcome.error;
  EXPECT_THAT(outcome.written->files, testing::IsSupersetOf({"config.json", "a.txt"}));
  EXPECT_THAT(outcome.written->files, testing::Not(testing::Contains("b.txt")));
  EXPECT_THAT(outcome.written->files, testing::Not(testing::Contains("trainer")));
  fs::remove(model.file("config.json"));
  EXPECT_THAT(save(2).error, HasSubstr("config.json")) << "without it the rest is no model";
}

TEST(CheckpointWriter, ADiskThatHangsFailsTheShareAndNotTheStep) {
  MemoryDisk disk;
  std::promise<void> reached, go_on;
  std::shared_future<void> goes_on = go_on.get_future().share();
  std::once_flag once;
  disk.on_change = [&](const std::string& what, const std::string&) {
    if (what != "append") return;
    std::call_once(once, [&] { reached.set_value(); });
    goes_on.wait();
  };
  CheckpointOptions options;
  options.staging_bytes = 500;
  options.patience = std::chrono::milliseconds(20);
  SmallState state(1);
  CheckpointWriter writer(options, disk);
  writer.begin({}, small_training(1, 0), state.digests(), state.arena(), state.state(),
               {"run", ""});
  reached.get_future().wait();
  for (const Parameter& parameter : state.arena().parameters()) {
    writer.before_change(parameter, Changing::state);
    writer.before_change(parameter, Changing::value);
  }
  EXPECT_GT(writer.take_wait_seconds(), 0);
  // The next one cannot begin either.
  writer.begin({}, small_training(2, 0), state.digests(), state.arena(), state.state(),
               {"run", ""});
  const ShareOutcome second = writer.finished().value();
  EXPECT_EQ(second.training.step, 2);
  EXPECT_THAT(second.error, HasSubstr("the share of step 1 was still being written"));
  go_on.set_value();
  ASSERT_TRUE(writer.wait(Deadline::in(kLong)));
  const ShareOutcome first = writer.finished().value();
  EXPECT_EQ(first.training.step, 1);
  EXPECT_THAT(first.error, HasSubstr("the disk took no byte of"));
  disk.on_change = {};
  writer.begin({}, small_training(3, 0), state.digests(), state.arena(), state.state(),
               {"run", ""});
  ASSERT_TRUE(writer.wait(Deadline::in(kLong)));
  EXPECT_EQ(writer.finished().value().error, "");
}

TEST(CheckpointWriter, WhatIsNotFinishedWhenTheRunEndsIsGivenUp) {
  const TemporaryFolder folder;
  SmallState state(1);
  CheckpointWriter writer({});
  writer.begin({}, small_training(1, 0), state.digests(), state.arena(), state.state(),
               {folder.path(), ""});
  writer.give_up("the test ends it");
  ASSERT_TRUE(writer.wait(Deadline::in(kLong)));
  const ShareOutcome outcome = writer.finished().value();
  if (!outcome.written) {  // else it was faster
    EXPECT_THAT(outcome.error, HasSubstr("the test ends it"));
    EXPECT_THROW(publish_checkpoint(folder.path(), 1, std::nullopt, {}), FileError);
  }
}

TEST(CheckpointWriter, TasksRunInTurnAndTheirErrorsEndNothing) {
  CheckpointWriter writer({});
  std::vector<int> done;
  std::promise<void> all;
  writer.enqueue([&] { done.push_back(1); });
  writer.enqueue([] { throw FileError("the test's own"); });
  writer.enqueue([&] { done.push_back(2); });
  writer.enqueue([&] { all.set_value(); });
  ASSERT_EQ(all.get_future().wait_for(std::chrono::seconds(60)), std::future_status::ready);
  EXPECT_THAT(done, testing::ElementsAre(1, 2));
}

std::string saved_by(const TemporaryFolder& folder, const TrainingState& training, int workers) {
  for (int w = 0; w < workers; ++w) {
    SmallState state(1, w);
    CheckpointWriter writer({});
    TrainingState mine = training;
    mine.digest = state.digest();
    writer.begin({w, workers, w}, mine, state.digests(), state.arena(), state.state(),
                 {folder.path(), ""});
    EXPECT_TRUE(writer.wait(Deadline::in(kLong)));
    EXPECT_EQ(writer.finished().value().error, "");
  }
  return publish_checkpoint(folder.path(), training.step, std::nullopt, {});
}

// Whoever is in the term when a checkpoint is made: places change, numbers do not.
TEST(Checkpoint, AWorkerTakesItsOwnMomentumByItsNumber) {
  const TemporaryFolder folder;
  const std::array numbers{1, 4, 16};
  for (int i = 0; i < 3; ++i) {
    SmallState state(1, numbers[static_cast<std::size_t>(i)]);
    CheckpointWriter writer({});
    writer.begin({i, 3, numbers[static_cast<std::size_t>(i)]}, small_training(2, state.digest(), 3),
                 state.digests(), state.arena(), state.state(), {folder.path(), ""});
    ASSERT_TRUE(writer.wait(Deadline::in(kLong)));
    ASSERT_EQ(writer.finished().value().error, "");
  }
  const std::string path = publish_checkpoint(folder.path(), 2, std::nullopt, {});
  for (const auto& [mine, whose] : {std::pair{1, 1}, {4, 4}, {16, 16}, {0, 1}, {2, 16}, {10, 4}}) {
    SmallState loaded(2, mine), expected(1, whose);
    load_checkpoint(path, loaded.arena(), loaded.state(), mine);
    EXPECT_TRUE(loaded.bytes() == expected.bytes()) << "worker " << mine;
  }
}

TEST(Checkpoint, KeepsWhatARunNeedsWhoseWorkersComeAndGo) {
  const TemporaryFolder folder;
  TrainingState training = small_training(4, 0);
  training.ledger = Ledger{40, {{3, 7}, {9, 10}}};
  training.history_term = 6;
  const std::string path = saved_by(folder, training, 1);
  const TrainingState found = read_training_state(path);
  EXPECT_EQ(found.ledger, training.ledger);
  EXPECT_EQ(found.history_term, training.history_term);
  EXPECT_EQ(found.journal, training.journal);
  for (const char* wrong :
       {R"({"next": 40, "unused": [[3, 3]]})", R"({"next": 4, "unused": [[3, 7]]})",
        R"({"next": 40, "unused": [[3, 7], [7, 9]]})", R"({"next": -1, "unused": []})",
        R"({"next": 40, "unused": [[5, 6], [1, 2]]})", R"({"next": 40})", R"([1])",
        R"({"next": 40, "unused": [[1.5, 2]]})"}) {
    std::string json = training_state_json(small_training(4, 0));
    json.insert(json.rfind('}'), std::string(", \"ledger\": ") + wrong);
    EXPECT_THROW(parse_training_state(json, "state.json"), CorruptFile) << wrong;
  }
}

TEST(Checkpoint, AStateFromBeforeThereWereLedgersIsReadAsItWas) {
  std::string json = training_state_json(small_training(4, 5));
  EXPECT_EQ(json.find("ledger"), std::string::npos);
  EXPECT_EQ(json.find("history_term"), std::string::npos);
  EXPECT_EQ(parse_training_state(json, "state.json"), small_training(4, 5));
}

TEST(Checkpoint, WithoutAnyVotersMomentumItBeginsAtZero) {
  const TemporaryFolder folder;
  const std::string path = saved_by(folder, small_training(2, 0, 2), 2);
  std::vector<FileFact> files = read_manifest(path);
  std::erase_if(files,
                [](const FileFact& file) { return file.path.starts_with("trainer/voter-"); });
  write_file_synced(path + "/trainer/manifest.json", manifest_json(files));
  SmallState state(9), expected(1);
  load_checkpoint(path, state.arena(), state.state(), 1);
  EXPECT_EQ(state.digest(), expected.digest());
  for (const ParameterState& s : state.state().states()) {
    if (!s.is_private) continue;
    const Tensor& momentum = s.momentum;
    for (std::int64_t i = 0;
         i < s.parameter->extent() * static_cast<std::int64_t>(size_bytes(momentum.type)); ++i)
      ASSERT_EQ(momentum.data[i], std::byte{0}) << s.parameter->shape.name;
  }
}

TEST(Checkpoint, EveryDamagedFileIsNamed) {
  const TemporaryFolder folder;
  const std::string path = saved_by(folder, small_training(2, 0, 2), 2);
  for (const FileFact& file : read_manifest(path)) {
    SCOPED_TRACE(file.path);
    const std::string full = path + "/" + file.path, whole = read_file(full);
    std::string damaged = whole;
    damaged[damaged.size() / 2] ^= 4;
    const std::vector<std::string> others = {damaged, whole.substr(0, whole.size() - 1),
                                             whole + "x"};
    for (const std::string& other : others) {
      write_file_synced(full, std::string_view(other));
      try {
        verify_checkpoint(path);
        ADD_FAILURE() << "it was taken for whole";
      } catch (const CorruptFile& error) {
        EXPECT_THAT(error.what(), HasSubstr(full));
      }
    }
    fs::remove(full);
    EXPECT_THROW(verify_checkpoint(path), CorruptFile);
    write_file_synced(full, std::string_view(whole));
    EXPECT_NO_THROW(verify_checkpoint(path));
  }
}

}  // namespace
}  // namespace ballot

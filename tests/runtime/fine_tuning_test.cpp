// Fine-tuning: what is frozen stays, what does not decay does not, the best checkpoint is kept, and
// a run that learns no more ends.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "core/error.h"
#include "runtime/checkpoint_publish.h"
#include "runtime/loss_history.h"
#include "runtime/parameter_rules.h"
#include "runtime/replay_run.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::map<std::string, std::vector<float>> parameters_in(const std::string& folder) {
  const ParameterArena arena(read_architecture(folder)->parameter_shapes(), DType::f32);
  load_parameters(folder, arena);
  std::map<std::string, std::vector<float>> all;
  for (const Parameter& p : arena.parameters())
    for (std::int64_t row = 0; row < p.shape.rows; ++row)
      all[p.shape.name].insert(all[p.shape.name].end(), p.value.f32() + row * p.row_stride,
                               p.value.f32() + row * p.row_stride + p.shape.cols);
  return all;
}

TEST(Patterns, FitWholeNames) {
  EXPECT_TRUE(fits_pattern("model.layers.0.mlp.up_proj.weight", "model.layers.0.*"));
  EXPECT_TRUE(fits_pattern("model.layers.10.mlp.up_proj.weight", "*layers.1?.*"));
  EXPECT_FALSE(fits_pattern("model.layers.1.mlp.up_proj.weight", "*layers.1?.*"));
  EXPECT_FALSE(fits_pattern("model.layers.0.mlp", "layers.0.*"));
  EXPECT_FALSE(fits_pattern("model.layers.0.mlp", "model.layers.0"));
  EXPECT_TRUE(fits_pattern("abcabd", "*ab?"));
  EXPECT_TRUE(fits_pattern("", "*"));
  EXPECT_FALSE(fits_pattern("", "?"));
  EXPECT_TRUE(fits_pattern("aaaa", "a*a*a"));
  EXPECT_FALSE(fits_pattern("aa", "a*a*a"));
}

TEST(Patterns, ThatFitNothingOrEverythingAreRefused) {
  const TinyRun tiny;
  const auto expect = [&](const char* setting, const char* message) {
    const RunConfig config = tiny.run("run", "", {setting});
    EXPECT_THAT([&] { train_on(1, config); },
                testing::ThrowsMessage<ConfigError>(HasSubstr(message)));
  };
  expect("train.freeze=[\"model.layer.0.*\"]",
         "train.freeze = \"model.layer.0.*\" fits no parameter of the model");
  expect("train.no_decay=[\"*.bias\"]", "train.no_decay = \"*.bias\" fits no parameter");
  expect("train.freeze=\"*\"", "nothing is trained");
}

class Frozen : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(Frozen, ParametersAreTheSameAtTheEndAndTheRestIsNot) {
  for (const bool tied : {false, true}) {
    const TinyRun tiny({.tied = tied});
    std::vector<std::string> settings = GetParam();
    settings.push_back("train.freeze=[\"model.embed_tokens.*\", \"model.layers.0.*\", \"*norm*\"]");
    const auto results = train_on(4, tiny.run("run", "", settings));
    const auto before = parameters_in(tiny.path("model")),
               after = parameters_in(results[0].checkpoint);
    for (const auto& [name, values] : before) {
      const bool frozen = name.find("embed_tokens") != std::string::npos ||
                          name.find("layers.0.") != std::string::npos ||
                          name.find("norm") != std::string::npos;
      EXPECT_EQ(after.at(name) == values, frozen) << name;
    }
    for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Runs, Frozen,
    testing::Values(std::vector<std::string>{},
                    std::vector<std::string>{"optimizer.preset=\"adamw\""},
                    std::vector<std::string>{"optimizer.preset=\"muon\"", "vote.overlap=false"},
                    std::vector<std::string>{"vote.members=2"},
                    std::vector<std::string>{"group.vector.reduce=\"mean-bf16\"",
                                             "train.recompute=\"layer\""}));

// No step changes what is frozen, and damage in it is found all the same.
TEST(FineTuning, AFlippedBitInAFrozenTensorIsFoundInTurnAndRepairedOnce) {
  const TinyRun tiny;
  const std::string tensor = "model.layers.0.mlp.down_proj.weight";
  constexpr std::int64_t kFlipped = 2, kFrozen = 9;  // after this step; tensors of a layer
  const auto results = train_on(
      3, tiny.run("run", "", {"train.steps=14", "train.freeze=\"model.layers.0.*\""}),
      [&](int rank) {
        TrainingHooks hooks;
        hooks.after_step = [&tensor, rank](std::int64_t step, const ParameterArena& arena) {
          if (rank != 1 || step != kFlipped) return;
          float& value = arena.find(tensor).value.f32()[70];
          value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ (1u << 20));
        };
        return hooks;
      });
  const auto repairs = metrics_of(tiny.path("run"), "repair");
  ASSERT_EQ(repairs.size(), 1u);
  EXPECT_GT(repairs[0]["step"], kFlipped);
  EXPECT_LE(repairs[0]["step"], kFlipped + kFrozen);
  EXPECT_EQ(repairs[0]["worker"], 1);
  EXPECT_THAT(repairs[0]["text"].get<std::string>(), HasSubstr(tensor));
  for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
  EXPECT_EQ(parameters_in(results[0].checkpoint).at(tensor),
            parameters_in(tiny.path("model")).at(tensor));
}

TEST(FineTuning, RecomputedLayersTrainToTheSameBits) {
  const TinyRun tiny;
  EXPECT_EQ(train_on(2, tiny.run("a"))[0].digest,
            train_on(2, tiny.run("b", "", {"train.recompute=\"layer\""}))[0].digest);
}

TEST(FineTuning, AFrozenRunResumesToTheSameBitsAndItsJournalReplays) {
  const TinyRun tiny;
  const std::vector<std::string> settings = {"train.freeze=\"model.layers.1.*\"",
                                             "train.checkpoint_every=3", "train.micro_batches=2"};
  const std::uint64_t whole = train_on(2, tiny.run("whole", "", settings))[0].digest;
  std::vector<std::string> half = settings;
  half.push_back("train.steps=3");
  half.push_back("schedule.shape=\"constant\"");
  std::vector<std::string> full = settings;
  full.push_back("schedule.shape=\"constant\"");
  const std::uint64_t constant = train_on(2, tiny.run("constant", "", full))[0].digest;
  train_on(2, tiny.run("half", "", half));
  const std::uint64_t resumed = train_on(2, tiny.run("half", "", full),
                                         [](int) {
                                           TrainingHooks hooks;
                                           hooks.resume = true;
                                           return hooks;
                                         })[0]
                                    .digest;
  EXPECT_EQ(resumed, constant);
  EXPECT_NE(whole, 0u);
  EXPECT_TRUE(replay_run(tiny.path("whole"), 5, tiny.path("replayed")).last_proved);
  const auto before = parameters_in(tiny.path("model")),
             after = parameters_in(tiny.path("replayed"));
  for (const auto& [name, values] : before)
    EXPECT_EQ(after.at(name) == values, name.find("layers.1.") != std::string::npos) << name;
}

TEST(FineTuning, WhatDoesNotDecayIsWhatAGroupWithoutDecayDoes) {
  const TinyRun tiny;
  const auto digest = [&](const char* name, std::vector<std::string> settings) {
    settings.push_back("optimizer.weight_decay=0.5");
    settings.push_back("optimizer.rate=0.01");
    return train_on(1, tiny.run(name, "", settings))[0].digest;
  };
  const std::uint64_t some = digest("some", {"train.no_decay=[\"*embed*\", \"lm_head.weight\"]"});
  EXPECT_EQ(some,
            digest("group", {"group.embedding.weight_decay=0.0", "group.head.weight_decay=0.0"}));
  EXPECT_NE(some, digest("all", {}));
}

// Its held-out loss at each step is what the test says.
class ScriptedModel final : public ModelAround {
 public:
  ScriptedModel(std::unique_ptr<Model> model, const std::map<std::int64_t, double>& losses,
                std::shared_ptr<std::int64_t> step)
      : ModelAround(std::move(model)), losses_(losses), step_(std::move(step)) {}
  Loss evaluate(const TokenBatch& batch) override {
    const auto tokens = static_cast<std::int64_t>(batch.targets.size());
    return {losses_.at(*step_) * static_cast<double>(tokens), tokens};
  }

 private:
  const std::map<std::int64_t, double>& losses_;
  std::shared_ptr<std::int64_t> step_;
};

class HeldOut : public testing::Test {
 protected:
  const TinyRun tiny;
  const std::map<std::int64_t, double> losses = {{0, 5.0},  {2, 4.0},  {4, 3.0},  {6, 3.5},
                                                 {8, 2.99}, {10, 3.7}, {12, 3.0}, {14, 9.0}};
  std::vector<TrainingResult> train(const std::string& name, std::vector<std::string> settings,
                                    bool resume = false) const {
    settings.insert(settings.begin(), {"train.steps=14", "train.evaluate_every=2"});
    return train_on(2, tiny.run(name, "", settings), [&](int) {
      const auto step = std::make_shared<std::int64_t>(0);
      TrainingHooks hooks;
      hooks.resume = resume;
      hooks.after_step = [step](std::int64_t now, const ParameterArena&) { *step = now; };
      hooks.wrap_model = [this, step](std::unique_ptr<Model> model, const ParameterArena&) {
        return std::make_unique<ScriptedModel>(std::move(model), losses, step);
      };
      return hooks;
    });
  }
  std::set<std::string> checkpoints(const std::string& name) const {
    std::set<std::string> names;
    for (const auto& one : std::filesystem::directory_iterator(tiny.path(name) + "/checkpoints"))
      names.insert(one.path().filename().string());
    return names;
  }
};

TEST_F(HeldOut, TheCheckpointOfTheLowestLossIsKeptAndNamed) {
  const auto results = train("run", {"train.keep_best=true", "train.keep_checkpoints=1"});
  EXPECT_EQ(results[0].best_step, 8);
  EXPECT_DOUBLE_EQ(results[0].best_loss, 2.99);
  EXPECT_EQ(results[1].best_step, 8);
  EXPECT_THAT(checkpoints("run"), ElementsAre("best", "latest", "step-00000008", "step-00000014"));
  const std::string folder = tiny.path("run") + "/checkpoints/";
  EXPECT_EQ(std::filesystem::read_symlink(folder + "best"), "step-00000008");
  EXPECT_FALSE(parameters_in(folder + "best").empty());
}

TEST_F(HeldOut, WithoutKeepBestNothingButTheNewestIsKept) {
  train("run", {"train.keep_checkpoints=1"});
  EXPECT_THAT(checkpoints("run"), ElementsAre("latest", "step-00000014"));
}

TEST_F(HeldOut, ARunThatGetsNoBetterEndsOnAllWorkers) {
  // 2.99 is lower than 3.0, but not by more than 0.1: 6, 8 and 10 are three without improvement.
  const std::vector<std::string> settings = {
      "train.early_stop_evaluations=3", "train.early_stop_min_delta=0.1", "train.keep_best=true"};
  const auto results = train("run", settings);
  for (const TrainingResult& result : results) {
    EXPECT_EQ(result.steps, 10);
    EXPECT_TRUE(result.stopped_early);
    EXPECT_FALSE(result.stopped);
    EXPECT_EQ(result.best_step, 8);
  }
  EXPECT_THAT(results[0].checkpoint, HasSubstr("step-00000010"));
  // It stays stopped, knows why, and goes on where it is allowed to.
  EXPECT_EQ(train("run", settings, true)[0].steps, 10);
  EXPECT_EQ(train("run", {"train.early_stop_evaluations=0", "train.keep_best=true"}, true)[0].steps,
            14);
  EXPECT_EQ(
      train("patient", {"train.early_stop_evaluations=4", "train.early_stop_min_delta=0.1"})[0]
          .steps,
      12);
  EXPECT_EQ(train("any", {"train.early_stop_evaluations=3"})[0].steps, 14);
}

TEST_F(HeldOut, WhatBestPointsAtStaysWhenTheRunGoesOnWithoutKeepingTheBest) {
  train("run", {"train.early_stop_evaluations=3", "train.early_stop_min_delta=0.1",
                "train.keep_best=true", "train.keep_checkpoints=1"});
  train("run", {"train.keep_checkpoints=1"}, true);
  EXPECT_THAT(checkpoints("run"), ElementsAre("best", "latest", "step-00000008", "step-00000014"));
  EXPECT_EQ(best_checkpoint(tiny.path("run")), 8);
}

TEST_F(HeldOut, ABestCheckpointThatIsGoneIsForgotten) {
  train("run", {"train.early_stop_evaluations=3", "train.early_stop_min_delta=0.1",
                "train.keep_best=true"});
  const std::string folder = tiny.path("run") + "/checkpoints/";
  std::filesystem::remove_all(folder + "step-00000008");
  EXPECT_EQ(best_checkpoint(tiny.path("run")), -1);
  const auto results = train("run", {"train.keep_best=true"}, true);
  EXPECT_EQ(results[0].best_step, 12) << "of 10: 3.7, 12: 3.0 and 14: 9.0";
  EXPECT_EQ(results[1].best_step, 12);
  EXPECT_EQ(std::filesystem::read_symlink(folder + "best"), "step-00000012");
}

TEST_F(HeldOut, LossesOfOtherWindowsAreForgotten) {
  const std::vector<std::string> settings = {"train.early_stop_evaluations=3",
                                             "train.early_stop_min_delta=0.1"};
  EXPECT_EQ(train("run", settings)[0].steps, 10);
  std::vector<std::string> other = settings;
  other.push_back("train.validation_windows=1");
  const auto results = train("run", other, true);
  EXPECT_EQ(results[0].steps, 14);
  EXPECT_EQ(results[0].best_step, 12);
}

TEST(FineTuning, KeysThatNeedALossAreRefusedWithoutHeldOutData) {
  const TinyRun tiny;
  for (const auto& [setting, message] :
       {std::pair{"train.keep_best=true", "train.keep_best = true without data.validation"},
        std::pair{"train.early_stop_evaluations=2",
                  "train.early_stop_evaluations = 2 without data.validation"}})
    EXPECT_THAT(
        [&] {
          tiny.run("run", "", {"data.validation=", setting});
        },
        testing::ThrowsMessage<ConfigError>(HasSubstr(message)));
  EXPECT_THAT([&] { tiny.run("run", "", {"train.early_stop_evaluations=2"}); },
              testing::ThrowsMessage<ConfigError>(HasSubstr("train.evaluate_every = 0")));
}

TEST(LossHistory, ALossThatIsNoNumberIsNoImprovement) {
  LossHistory losses;
  EXPECT_FALSE(losses.add(1, std::nan(""), 0));
  EXPECT_EQ(losses.best_step, -1);
  EXPECT_TRUE(losses.says_stop(1));
  EXPECT_TRUE(losses.add(2, 3.0, 0));
  EXPECT_FALSE(losses.says_stop(1));
  EXPECT_FALSE(losses.add(3, 3.0, 0));
  EXPECT_FALSE(losses.says_stop(0));
}

}  // namespace
}  // namespace ballot

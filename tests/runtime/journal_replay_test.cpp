// Whole runs and their journals: every step comes back, resumed runs lose none, damage is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "core/parallel.h"
#include "runtime/journal/format.h"
#include "runtime/metrics_names.h"
#include "runtime/replay_run.h"
#include "runtime/replica_audit.h"
#include "runtime/trainer.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::HasSubstr;

// Replays here run on the test's own thread, beside other tests.
const bool kOneThread = (set_thread_count(1), true);

using Digests = std::map<std::int64_t, std::uint64_t>;  // of all parameters, by step

// Trains and keeps worker 0's digest after each step.
std::vector<TrainingResult> train_on(int workers, const RunConfig& config, Digests* digests,
                                     TrainingHooks hooks = {}) {
  std::vector<TrainingResult> results(static_cast<std::size_t>(workers));
  run_loopback(workers, [&](Transport& transport) {
    TrainingHooks mine = hooks;
    mine.after_step = [&, rank = transport.rank()](std::int64_t step, const ParameterArena& arena) {
      if (rank == 0 && digests != nullptr) (*digests)[step] = fold(parameter_digests(arena));
      if (hooks.after_step) hooks.after_step(step, arena);
    };
    results[static_cast<std::size_t>(transport.rank())] = train(config, transport, mine);
  });
  return results;
}

// As a crash after `step` would: a worker throws, and all end.
void train_until(int workers, const RunConfig& config, std::int64_t step, Digests* digests,
                 TrainingHooks hooks = {}) {
  hooks.after_step = [step](std::int64_t done, const ParameterArena&) {
    if (done == step) throw DataError("the test ends this worker after step {}", done);
  };
  EXPECT_THROW(train_on(workers, config, digests, hooks), WorldError);
}

TrainingHooks resume(ResumeFrom from = ResumeFrom::journal) {
  TrainingHooks hooks;
  hooks.resume = true;
  hooks.resume_from = from;
  return hooks;
}

Json state_of(const TrainingResult& result) {
  return Json::parse(read_file(result.checkpoint + "/trainer/state.json"));
}

std::vector<std::int64_t> steps_in_metrics(const std::string& folder) {
  std::ifstream file(folder + "/metrics.jsonl");
  std::vector<std::int64_t> steps;
  for (std::string line; std::getline(file, line);)
    if (const Json parsed = Json::parse(line); parsed["type"] == "step")
      steps.push_back(parsed["step"]);
  return steps;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const WorldError& error) {
    return error.what();
  }
  return "no error";
}

void damage(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto middle = static_cast<std::streamoff>(fs::file_size(path) / 2);
  file.seekg(middle);
  const int byte = file.get();
  file.seekp(middle);
  file.put(static_cast<char>(byte ^ 0x10));
}

std::string only_segment(const std::string& folder) {
  const fs::directory_iterator first(folder);
  return first->path().string();
}

struct Recipe {
  const char* name;
  const char* optimizer;
};

class EveryJournaledRecipe : public testing::TestWithParam<Recipe> {};

TEST_P(EveryJournaledRecipe, EveryStepIsRebuiltFromTheStartAndProved) {
  const TinyRun tiny;
  Digests live;
  train_on(3, tiny.run("run", GetParam().optimizer, {"data.validation="}), &live);
  ASSERT_EQ(live.size(), 6u);
  for (const std::int64_t step : {2, 5, 6}) {
    const ReplayedRun replayed = replay_run(tiny.path("run"), step, "");
    EXPECT_EQ(replayed.parameters, live[step]) << step;
    EXPECT_EQ(replayed.to_step, step);
    EXPECT_TRUE(replayed.last_proved);
    EXPECT_EQ(replayed.from_step, step == 6 ? 6 : 0);  // the checkpoint of the end
    EXPECT_EQ(replayed.report.proved, step == 6 ? 0 : step);
  }
}

INSTANTIATE_TEST_SUITE_P(
    JournalReplay, EveryJournaledRecipe,
    testing::Values(
        Recipe{"olion_vote", "[optimizer]\nrate = 0.01\n"},
        Recipe{"olion_vote_hold", "[optimizer]\nrate = 0.01\n[vote]\nties = \"hold\"\n"},
        Recipe{"lion_vote", "[optimizer]\npreset = \"lion\"\nrate = 0.001\n"},
        Recipe{"adamw", "[optimizer]\npreset = \"adamw\"\nrate = 0.001\n"},
        Recipe{"adamw_bf16", "[optimizer]\npreset = \"adamw\"\nreduce = \"mean-bf16\"\n"},
        Recipe{"adamw_embeddings",
               "[group.embedding]\nrule = \"adamw\"\n[group.head]\nrule = "
               "\"adamw\"\n"},
        Recipe{"lion_mean", "[optimizer]\npreset = \"lion\"\nreduce = \"mean-fp32\"\n"},
        Recipe{"lion_mean_hold_bf16",
               "[optimizer]\npreset = \"lion\"\nreduce = \"mean-bf16\"\n[vote]\nties = \"hold\"\n"},
        Recipe{"signum_mean", "[optimizer]\npreset = \"signum\"\nreduce = \"mean-fp32\"\n"},
        Recipe{"sgd", "[optimizer]\npreset = \"sgd\"\nrate = 0.1\n"}),
    [](const auto& instance) { return instance.param.name; });

// Newton-Schulz of a mean has other bits on other processors: such a run says that it keeps none.
TEST(JournalReplay, WhatCannotBeReplayedIsRefusedOrSaysSo) {
  const TinyRun tiny;
  for (const char* optimizer :
       {"[optimizer]\npreset = \"muon\"\n", "[optimizer]\nreduce = \"mean-fp32\"\n",
        "[optimizer]\npreset = \"adamw\"\n[journal]\nmean_limit_bytes = 1000\n"}) {
    const std::string message = message_of(
        [&] { train_on(2, tiny.run("refused", optimizer, {"journal.enabled=on"}), nullptr); });
    EXPECT_THAT(message, HasSubstr("can only recover from checkpoints"));
    fs::remove_all(tiny.path("auto"));
    train_on(2, tiny.run("auto", optimizer, {"train.steps=2"}), nullptr);
    EXPECT_FALSE(fs::exists(tiny.path("auto") + "/journal"));
    EXPECT_THAT(message_of([&] { replay_run(tiny.path("auto"), {}, ""); }),
                HasSubstr("holds no journal"));
  }
  train_on(2, tiny.run("off", "", {"train.steps=2", "journal.enabled=off"}), nullptr);
  EXPECT_FALSE(fs::exists(tiny.path("off") + "/journal"));
}

TEST(JournalReplay, WritesAModelThatCanBeLoaded) {
  const TinyRun tiny;
  Digests live;
  train_on(2, tiny.run("run"), &live);
  const std::string output = tiny.path("rebuilt");
  replay_run(tiny.path("run"), 4, output);
  const ParameterArena arena(read_architecture(output)->parameter_shapes(), DType::f32);
  load_parameters(output, arena);
  EXPECT_EQ(fold(parameter_digests(arena)), live[4]);
  EXPECT_TRUE(fs::exists(output + "/tokenizer.json"));
  EXPECT_THAT(message_of([&] { replay_run(tiny.path("run"), 4, output); }), HasSubstr("not empty"));
}

TEST(JournalReplay, CopiesDecideWhichDisksMayBeLost) {
  const TinyRun tiny;
  for (const int copies : {1, 2, 0}) {
    Digests live;
    const std::string name = "run" + std::to_string(copies);
    train_on(3, tiny.run(name, "", {"journal.copies=" + std::to_string(copies)}), &live);
    EXPECT_EQ(replay_run(tiny.path(name), 5, "").parameters, live[5]);
    fs::remove_all(tiny.path(name) + "/journal/worker-1");
    if (copies == 1) {
      EXPECT_THAT(message_of([&] { replay_run(tiny.path(name), 5, ""); }),
                  testing::AllOf(HasSubstr("leads to step 5"), HasSubstr("worker 0 steps 1 to 6")));
    } else {
      EXPECT_EQ(replay_run(tiny.path(name), 5, "").parameters, live[5]);
    }
    fs::remove_all(tiny.path(name) + "/journal/worker-2");
    EXPECT_EQ(message_of([&] { replay_run(tiny.path(name), 5, ""); }) == "no error", copies == 0);
  }
  std::uintmax_t sizes[3];
  for (const int copies : {0, 1, 2})
    sizes[copies] = fs::file_size(
        only_segment(tiny.path("run" + std::to_string(copies)) + "/journal/worker-0"));
  EXPECT_LT(sizes[1], sizes[2]);
  EXPECT_LT(sizes[2], sizes[0]);
}

TEST(JournalReplay, KeepsWhatComesAfterTheOlderOfTheLastTwoCheckpoints) {
  const TinyRun tiny;
  Digests live;
  train_on(2, tiny.run("run", "", {"train.steps=9", "train.checkpoint_every=2"}), &live);
  for (const std::int64_t step : {8, 9})
    EXPECT_EQ(replay_run(tiny.path("run"), step, "").parameters, live[step]);
  EXPECT_THAT(message_of([&] { replay_run(tiny.path("run"), 7, ""); }),
              HasSubstr("no whole checkpoint from which the journal leads to step 7; it holds: "
                        "worker 0 steps 9 to 9"));
  EXPECT_THAT(message_of([&] { replay_run(tiny.path("run"), 10, ""); }), HasSubstr("step 10"));
  // The newest checkpoint damaged: the one before and the journal give the same.
  damage(tiny.path("run") + "/checkpoints/step-00000009/model.safetensors");
  const ReplayedRun replayed = replay_run(tiny.path("run"), {}, "");
  EXPECT_EQ(replayed.from_step, 8);
  EXPECT_EQ(replayed.to_step, 9);
  EXPECT_EQ(replayed.parameters, live[9]);
}

TEST(JournalReplay, AResumedRunLosesNoFinishedStep) {
  const TinyRun tiny;
  for (const char* copies : {"1", "0"}) {
    const std::string name = std::string("run") + copies;
    const RunConfig config = tiny.run(
        name, "",
        {"train.steps=8", "train.checkpoint_every=4", std::string("journal.copies=") + copies});
    Digests before, after;
    train_until(3, config, 7, &before);
    EXPECT_EQ(before.rbegin()->first, 7);
    const auto results = train_on(3, config, &after, resume());
    EXPECT_EQ(results[0].steps, 8);
    EXPECT_EQ(after.begin()->first, 8) << "a finished step was repeated";
    for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
    // Samples, tokens and the record go on as if nothing had happened.
    const Json state = state_of(results[0]);
    EXPECT_EQ(state["sample_counter"], 8 * 3 * 2);
    EXPECT_EQ(state["tokens_total"], 8 * 3 * 2 * 16);
    EXPECT_EQ(steps_in_metrics(tiny.path(name)),
              (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
    EXPECT_EQ(replay_run(tiny.path(name), 7, "").parameters, before[7]);
    EXPECT_EQ(replay_run(tiny.path(name), 8, "").parameters, results[0].digest);
  }
}

TEST(JournalReplay, AResumeFromTheCheckpointRepeatsTheStepsToTheSameBits) {
  const TinyRun tiny;
  const std::vector<std::string> settings = {"train.steps=8", "train.checkpoint_every=4",
                                             "checkpoint.overlap=false"};
  Digests whole, before, after;
  const auto straight = train_on(3, tiny.run("whole", "", settings), &whole);
  const RunConfig config = tiny.run("run", "", settings);
  train_until(3, config, 6, &before);
  const auto results = train_on(3, config, &after, resume(ResumeFrom::checkpoint));
  EXPECT_EQ(after.begin()->first, 5);
  EXPECT_EQ(results[0].digest, straight[0].digest);
  for (const char* file : {"model", "trainer/voter-0", "trainer/voter-2", "trainer/replicated"})
    EXPECT_TRUE(read_file(results[0].checkpoint + "/" + file + ".safetensors") ==
                read_file(straight[0].checkpoint + "/" + file + ".safetensors"))
        << file;
  // The repeated steps took the place of the old ones in the journal.
  for (const std::int64_t step : {5, 6, 7})
    EXPECT_EQ(replay_run(tiny.path("run"), step, "").parameters, whole[step]) << step;
}

TEST(JournalReplay, ARunWithoutACheckpointIsResumedFromItsStart) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"train.steps=6"});
  Digests before, after;
  train_until(2, config, 3, &before);
  EXPECT_THAT(message_of([&] { train_on(2, config, nullptr, resume(ResumeFrom::checkpoint)); }),
              HasSubstr("holds no whole checkpoint"));
  EXPECT_EQ(replay_run(tiny.path("run"), {}, "").parameters, before[3]);
  const auto results = train_on(2, config, &after, resume());
  EXPECT_EQ(after.begin()->first, 4);
  EXPECT_EQ(results[0].steps, 6);
  EXPECT_EQ(state_of(results[0])["sample_counter"], 6 * 2 * 2);
}

TEST(JournalReplay, ARunThatHadFinishedIsSavedWhenItIsResumed) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"train.steps=5", "train.checkpoint_every=2"});
  Digests live;
  train_until(2, config, 5, &live);  // it ends before the last checkpoint
  const auto results = train_on(2, config, nullptr, resume());
  EXPECT_EQ(results[0].steps, 5);
  EXPECT_EQ(results[0].digest, live[5]);
  EXPECT_THAT(results[0].checkpoint, HasSubstr("step-00000005"));
  EXPECT_TRUE(std::isfinite(results[0].last_loss));
}

TEST(JournalReplay, GoesOnWithAnotherNumberOfWorkers) {
  const TinyRun tiny;
  for (const auto& [first, second] : {std::pair{4, 2}, std::pair{2, 4}}) {
    const std::string name = fmt::format("run{}{}", first, second);
    const RunConfig config =
        tiny.run(name, "", {"train.steps=10", "train.checkpoint_every=3", "journal.copies=1"});
    Digests before, after;
    train_until(first, config, 5, &before);
    train_until(second, config, 8, &after, resume());
    EXPECT_EQ(after.begin()->first, 6);
    EXPECT_EQ(replay_run(tiny.path(name), 5, "").parameters, before[5]);
    EXPECT_EQ(replay_run(tiny.path(name), 8, "").parameters, after[8]);
    const auto results = train_on(first, config, nullptr, resume());
    EXPECT_EQ(results[0].steps, 10);
    EXPECT_EQ(state_of(results[0])["sample_counter"], (7 * first + 3 * second) * 2);
    EXPECT_EQ(replay_run(tiny.path(name), 10, "").parameters, results[0].digest);
  }
}

TEST(JournalReplay, ADamagedNewestCheckpointCostsNoStep) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"train.steps=6", "train.checkpoint_every=2"});
  Digests live;
  train_on(2, config, &live);
  damage(tiny.path("run") + "/checkpoints/step-00000006/model.safetensors");
  Digests repeated;
  const auto results = train_on(2, config, &repeated, resume());
  EXPECT_TRUE(repeated.empty());
  EXPECT_EQ(results[0].digest, live[6]);
  EXPECT_NO_THROW(verify_checkpoint(tiny.path("run") + "/checkpoints/step-00000006"));
}

TEST(JournalReplay, ADamagedShardIsRefusedUnlessOthersHoldItsPart) {
  const TinyRun tiny;
  for (const char* copies : {"1", "2"}) {
    const std::string name = std::string("run") + copies;
    const RunConfig config =
        tiny.run(name, "",
                 {"train.steps=9", "train.checkpoint_every=3", "checkpoint.overlap=false",
                  std::string("journal.copies=") + copies});
    train_until(3, config, 8, nullptr);
    const std::string shard = tiny.path(name) + "/journal/worker-1";
    damage(shard + "/000000000007.journal");
    Digests after;
    if (std::string(copies) == "1") {
      EXPECT_THAT(message_of([&] { train_on(3, config, nullptr, resume()); }),
                  testing::AllOf(HasSubstr("000000000007.journal: damaged at byte"),
                                 HasSubstr("--resume=checkpoint goes on from step 6")));
      train_on(3, config, &after, resume(ResumeFrom::checkpoint));
      EXPECT_EQ(after.begin()->first, 7);
    } else {
      train_on(3, config, &after, resume());
      EXPECT_EQ(after.begin()->first, 9);
    }
    EXPECT_TRUE(fs::exists(shard + ".aside-1"));  // nothing was deleted
    EXPECT_TRUE(fs::exists(shard));
    EXPECT_EQ(replay_run(tiny.path(name), 9, "").parameters, after[9]);
  }
}

// A shard that was not as far as the others is brought up to where all go on.
TEST(JournalReplay, AShardThatLagsIsFilledUp) {
  const TinyRun tiny;
  const RunConfig config =
      tiny.run("run", "", {"train.steps=9", "train.checkpoint_every=6", "journal.copies=2"});
  Digests before, after;
  train_until(3, config, 5, &before);
  const std::string segment = tiny.path("run") + "/journal/worker-2/000000000001.journal";
  fs::resize_file(segment, fs::file_size(segment) * 3 / 5);
  EXPECT_EQ(replay_run(tiny.path("run"), {}, "").to_step, 5);
  train_until(3, config, 6, &after, resume());
  EXPECT_EQ(after.begin()->first, 6);
  fs::remove_all(tiny.path("run") + "/journal/worker-0");  // and now 1 and 2 hold everything
  EXPECT_EQ(replay_run(tiny.path("run"), 5, "").parameters, before[5]);
  EXPECT_EQ(replay_run(tiny.path("run"), 6, "").parameters, after[6]);
}

TEST(JournalReplay, ARunThatGoesOnCanBeReplayed) {
  const TinyRun tiny;
  Digests live;
  std::map<std::int64_t, ReplayedRun> found;
  run_loopback(2, [&](Transport& transport) {
    TrainingHooks hooks;
    hooks.after_step = [&, rank = transport.rank()](std::int64_t step,
                                                    const ParameterArena& arena) {
      if (rank != 0) return;
      live[step] = fold(parameter_digests(arena));
      if (step % 4 == 0) found[step] = replay_run(tiny.path("run"), {}, "");
    };
    train(tiny.run("run", "",
                   {"train.steps=12", "train.checkpoint_every=3", "checkpoint.overlap=false",
                    "journal.sync_every_ms=1"}),
          transport, hooks);
  });
  ASSERT_EQ(found.size(), 3u);
  for (const auto& [step, replayed] : found) {
    EXPECT_LE(replayed.to_step, step);
    EXPECT_GE(replayed.to_step, (step - 1) / 3 * 3);  // durable since the last checkpoint
    EXPECT_EQ(replayed.parameters, live[replayed.to_step]) << step;
  }
}

// Everybody's gradient of a norm gain is bad in one step: no mean, no update, and AdamW's own count
// does not advance. The journal says so.
TEST(JournalReplay, AStepWithoutContributorsIsReplayedAsSuch) {
  class Poisoned final : public ModelAround {
   public:
    using ModelAround::ModelAround;
    Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
      struct Sink final : GradientSink {
        void loss_known(double loss) override { next->loss_known(loss); }
        void ready(const Parameter& p, Stream& stream) override {
          if (bad && p.shape.name == "model.norm.weight")
            p.gradient.f32()[3] = std::numeric_limits<float>::infinity();
          next->ready(p, stream);
        }
        GradientSink* next = nullptr;
        bool bad = false;
      } poison;
      poison.next = &sink;
      poison.bad = step_++ == 2;
      return model_->differentiate(batches, poison);
    }

   private:
    int step_ = 0;
  };
  const TinyRun tiny;
  TrainingHooks hooks;
  hooks.wrap_model = [](std::unique_ptr<Model> model, const ParameterArena&) {
    return std::make_unique<Poisoned>(std::move(model));
  };
  Digests live;
  train_on(2, tiny.run("run"), &live, hooks);
  for (const std::int64_t step : {3, 4, 5}) {
    const ReplayedRun replayed = replay_run(tiny.path("run"), step, "");
    EXPECT_EQ(replayed.parameters, live[step]);
    EXPECT_EQ(replayed.report.proved, step);
  }
}

TEST(JournalReplay, AnotherStartingModelIsNoBase) {
  const TinyRun tiny;
  train_on(2, tiny.run("run"), nullptr);
  write_tiny_model(tiny.path("model"), {}, 8);
  EXPECT_THAT(message_of([&] { replay_run(tiny.path("run"), 3, ""); }),
              HasSubstr("is not the model that"));
}

TEST(JournalReplay, AWrongDigestNamesTheStepAndTheFirstTensor) {
  const std::vector<ParameterShape> shapes = {{"a", ParameterKind::vector, 1, 4, false},
                                              {"b", ParameterKind::vector, 1, 4, false}};
  const ParameterArena arena(shapes, DType::f32);
  const std::vector<std::uint64_t> found = {1, 2};
  EXPECT_NO_THROW(require_digests({9, fold(found), 0, found}, found, arena));
  const std::vector<std::uint64_t> expected = {1, 3};
  EXPECT_THAT(
      message_of([&] {
        require_digests({9, fold(expected), 0, expected}, found, arena);
      }),
      testing::AllOf(HasSubstr("step 9:"), HasSubstr("the first tensor that differs is b")));
  EXPECT_THAT(message_of([&] {
                require_digests({9, 1, 0, {}}, found, arena);
              }),
              HasSubstr("does not say which tensor"));
}

// End to end: a journal whose record and digests do not belong together.
TEST(JournalReplay, AJournalThatDoesNotMatchItsDigestsIsFoundByStepAndTensor) {
  const TinyRun tiny;
  train_on(1, tiny.run("run"), nullptr);
  const std::string folder = tiny.path("run") + "/journal/worker-0";
  const JournalReader honest(system_disk(), folder);
  Digest run = honest.run();
  {
    Journal forged(system_disk(), tiny.path("forged"), run, honest.begin());
    for (std::int64_t step = 1; step <= honest.end().step; ++step) {
      forged.append(honest.read(step));
      AppliedRecord applied = *honest.applied(step);
      if (step == 4) ++applied.tensors[2];
      applied.parameters = fold(applied.tensors);
      forged.append(applied);
    }
  }
  fs::remove_all(folder);
  fs::rename(tiny.path("forged"), folder);
  EXPECT_NO_THROW(replay_run(tiny.path("run"), 3, ""));
  const std::string third = read_architecture(tiny.path("model"))->parameter_shapes()[2].name;
  EXPECT_THAT(message_of([&] { replay_run(tiny.path("run"), 5, ""); }),
              testing::AllOf(HasSubstr("step 4: the replayed parameters"), HasSubstr(third)));
}

// Without a journal for a while, a new history begins; the old one is not mixed in, nor deleted.
TEST(JournalReplay, AJournalThatWasOffForAWhileBeginsAnew) {
  const TinyRun tiny;
  Digests live;
  const auto config = [&tiny](const char* journal) {
    return tiny.run("run", "",
                    {"train.checkpoint_every=2", "checkpoint.overlap=false", "train.steps=9",
                     std::string("journal.enabled=") + journal});
  };
  train_until(2, config("auto"), 3, nullptr);
  train_until(2, config("off"), 5, &live, resume());
  EXPECT_EQ(live.begin()->first, 3);  // from the checkpoint
  train_on(2, config("auto"), &live, resume());
  EXPECT_TRUE(fs::exists(tiny.path("run") + "/journal/worker-1.aside-1"));
  EXPECT_EQ(replay_run(tiny.path("run"), 9, "").parameters, live[9]);
}

// Folders of workers that left go when no checkpoint needs them any more.
TEST(JournalReplay, ShardsOfDepartedWorkersAreKeptAsLongAsTheyCount) {
  const TinyRun tiny;
  const auto config = [&tiny](const char* steps) {
    return tiny.run("run", "", {std::string("train.steps=") + steps, "train.checkpoint_every=2"});
  };
  Digests live;
  train_until(3, config("20"), 3, &live);
  train_on(2, config("4"), &live, resume());
  EXPECT_TRUE(fs::exists(tiny.path("run") + "/journal/worker-2"));
  damage(tiny.path("run") + "/checkpoints/step-00000004/model.safetensors");
  EXPECT_EQ(replay_run(tiny.path("run"), 4, "").parameters, live[4]);  // by what worker 2 left
  fs::remove_all(tiny.path("run") + "/checkpoints/step-00000004");
  train_on(2, config("8"), &live, resume());
  EXPECT_FALSE(fs::exists(tiny.path("run") + "/journal/worker-2"));
  EXPECT_EQ(replay_run(tiny.path("run"), 7, "").parameters, live[7]);
}

TEST(JournalReplay, StepsSayWhatTheJournalCost) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"journal.sync_every_ms=1"});
  // The journal's thread may lag behind all of so short a run, so worker 0 waits for it. It counts
  // a record when it has written it: when the next one is in the file.
  std::uintmax_t seen = journal::kSegmentHeaderBytes;
  run_loopback(2, [&](Transport& transport) {
    TrainingHooks hooks;
    hooks.after_step = [&, rank = transport.rank()](std::int64_t step, const ParameterArena&) {
      if (rank != 0 || (step != 4 && step != 5)) return;
      const std::string segment = only_segment(tiny.path("run") + "/journal/worker-0");
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (fs::file_size(segment) <= seen && std::chrono::steady_clock::now() < deadline)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      seen = fs::file_size(segment);
    };
    train(config, transport, hooks);
  });
  std::ifstream file(tiny.path("run") + "/metrics.jsonl");
  double bytes = 0;
  for (std::string line; std::getline(file, line);) {
    const Json step = Json::parse(line);
    if (step["type"] != "step") continue;
    bytes += step[metric::kJournalBytes].get<double>();
    EXPECT_GE(step[metric::kJournalWaitSeconds].get<double>(), 0);
    EXPECT_LE(step[metric::kJournalLag].get<std::int64_t>(), step["step"].get<std::int64_t>());
  }
  EXPECT_GT(bytes, 0);
  EXPECT_LE(bytes, fs::file_size(only_segment(tiny.path("run") + "/journal/worker-0")));
}

TEST(JournalReplay, AFolderWithAJournalIsNotWrittenOver) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run");
  train_until(2, config, 2, nullptr);
  fs::remove(tiny.path("run") + "/metrics.jsonl");
  EXPECT_THAT(message_of([&] { train_on(2, config, nullptr); }), HasSubstr("already holds a run"));
}

}  // namespace
}  // namespace ballot

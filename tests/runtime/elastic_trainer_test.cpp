// Elastic training in one process: a coordinator and workers as threads, over real sockets, with
// faults inside the workers. Deaths of processes: tests/process/elastic_test.cpp.
#include "runtime/elastic/elastic_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

#include "core/disk.h"
#include "core/error.h"
#include "runtime/coordinator/coordinator_server.h"
#include "runtime/elastic/replica.h"
#include "runtime/journal/shards.h"
#include "runtime/metrics_names.h"
#include "runtime/replay_run.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;

class ElasticTraining : public testing::Test {
 protected:
  // All to their end; one may be refused, with `refusal`.
  std::vector<TrainingResult> train(int workers, const RunConfig& config,
                                    MembershipOptions membership,
                                    const std::function<TrainingHooks(int)>& hooks = {},
                                    std::string* refusal = nullptr) {
    CoordinatorServerOptions options;
    options.listen = "127.0.0.1:0";
    options.desk.coordinator.run = "test";
    membership.start_workers = workers;
    membership.heartbeat_timeout = 5s;
    options.desk.coordinator.membership = membership;
    options.desk.beat = 10ms;
    CoordinatorServer server(options, open_memory_store(make_memory_row()));
    std::vector<TrainingResult> results(static_cast<std::size_t>(workers));
    std::vector<std::thread> threads;
    for (int w = 0; w < workers; ++w)
      threads.emplace_back([&, w] {
        ElasticOptions elastic;
        elastic.worker = w;
        elastic.coordinator = server.address();
        elastic.run = "test";
        elastic.heartbeat = 50ms;
        elastic.late_grace = 10ms;
        try {
          results[static_cast<std::size_t>(w)] =
              train_elastic(config, elastic, hooks ? hooks(w) : TrainingHooks{});
        } catch (const SentAway& error) {
          if (refusal != nullptr)
            *refusal = error.what();
          else
            ADD_FAILURE() << "worker " << w << ": " << error.what();
        } catch (const std::exception& error) {
          ADD_FAILURE() << "worker " << w << ": " << error.what();
        }
      });
    for (std::thread& thread : threads) thread.join();
    return results;
  }
  static void expect_identical(const std::vector<TrainingResult>& results, std::int64_t steps) {
    for (const TrainingResult& result : results) {
      EXPECT_EQ(result.steps, steps);
      EXPECT_EQ(result.digest, results[0].digest);
      EXPECT_FALSE(result.stopped);
    }
  }
  // Every record of worker 0's journal.
  static std::vector<Record> records(const RunConfig& config) {
    std::vector<Record> all;
    const JournalReader journal(system_disk(), shard_folder(config.output_folder, 0));
    for (std::int64_t step = journal.begin().step + 1; step <= journal.end().step; ++step)
      all.push_back(journal.read(step));
    return all;
  }

  TinyRun run_;
};

// A model that takes its time.
class SlowModel : public ModelAround {
 public:
  SlowModel(std::unique_ptr<Model> model, Duration more)
      : ModelAround(std::move(model)), more_(more) {}
  Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
    std::this_thread::sleep_for(more_);
    return ModelAround::differentiate(batches, sink);
  }

 private:
  Duration more_;
};

TEST_F(ElasticTraining, GivesTheBitsOfAFixedJob) {
  const RunConfig config = run_.run("elastic"), fixed = run_.run("fixed");
  const auto results = train(3, config, {});
  expect_identical(results, 6);
  EXPECT_EQ(results[0].digest, train_on(3, fixed)[0].digest);
  EXPECT_NEAR(results[0].last_loss, metrics_of(config.output_folder, "evaluation").back()["loss"],
              1e-12);
  // And its record says the same of the votes.
  const auto lines = metrics_of(config.output_folder, "step"),
             expected = metrics_of(fixed.output_folder, "step");
  ASSERT_EQ(lines.size(), expected.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    for (const char* name : {metric::kTieShare, metric::kUnanimousShare, metric::kHeldShare,
                             metric::kAgreement, metric::kLossFaults, metric::kTokensTotal})
      EXPECT_EQ(lines[i][name], expected[i][name]) << name << " of step " << i + 1;
    for (const char* name : {metric::kJournalSeconds, metric::kJournalBytes,
                             metric::kJournalWaitSeconds, metric::kJournalLag})
      EXPECT_TRUE(lines[i].contains(name)) << name;
  }
}

TEST_F(ElasticTraining, FreezesWhatAFixedJobFreezes) {
  const std::vector<std::string> settings = {
      "train.freeze=[\"model.embed_tokens.weight\", \"model.layers.0.*\"]",
      "train.no_decay=\"lm_head.*\"", "optimizer.weight_decay=0.5"};
  const RunConfig config = run_.run("elastic", "", settings);
  const auto results = train(3, config, {});
  expect_identical(results, 6);
  EXPECT_EQ(results[0].digest, train_on(3, run_.run("fixed", "", settings))[0].digest);
}

TEST_F(ElasticTraining, WhatWorkersWouldHaveToAgreeOnIsRefusedByName) {
  for (const auto& [setting, name] :
       {std::pair{"train.keep_best=true", "train.keep_best = true"},
        std::pair{"train.early_stop_evaluations=2", "train.early_stop_evaluations = 2"}}) {
    const RunConfig config = run_.run("elastic", "", {"train.evaluate_every=1", setting});
    try {
      const Replica replica(config, TrainingHooks{});
      ADD_FAILURE() << setting;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
}

// A worker whose gradients have the wrong sign.
class InvertedModel : public ModelAround {
 public:
  using ModelAround::ModelAround;
  Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
    struct Invert : GradientSink {
      void loss_known(double loss) override { next->loss_known(loss); }
      void ready(const Parameter& p, Stream& stream) override {
        float* const gradient = p.gradient.f32();
        for (std::int64_t i = 0; i < p.extent(); ++i) gradient[i] = -gradient[i];
        next->ready(p, stream);
      }
      GradientSink* next = nullptr;
    } invert;
    invert.next = &sink;
    return model_->differentiate(batches, invert);
  }
};

// Named by all the others, and sent away if that is the policy: its process ends, the run goes on.
// All shapes, and all parameters, are the same.
TEST_F(ElasticTraining, AnotherModelOfTheSameShapesIsAnotherRunAndLoadsNoCheckpointOfIt) {
  const RunConfig config = run_.run("elastic");
  const auto results = train(2, config, {});
  const Digest before = Replica(config, TrainingHooks{}).config_digest();
  EXPECT_EQ(Replica(config, TrainingHooks{}).config_digest(), before);
  const std::string path = run_.path("model") + "/config.json";
  auto model = nlohmann::ordered_json::parse(read_file(path));
  model["rms_norm_eps"] = 0.25;
  write_file_synced(path, std::string_view(model.dump()));
  Replica replica(config, TrainingHooks{});
  EXPECT_NE(replica.config_digest(), before);
  try {
    replica.load(results[0].checkpoint, 0, false);
    ADD_FAILURE() << "it went on with another model";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("rms_norm_eps is 0.25"), std::string::npos)
        << error.what();
  }
}

TEST_F(ElasticTraining, AVoterAtChanceIsNamedAndMayBeSentAway) {
  for (const char* policy : {"warn", "abstain"}) {
    const std::string name = policy;
    const RunConfig config = run_.run(name, "[optimizer]\nrate = 0.003\n",
                                      {"train.steps=250", "train.batch=4",
                                       "audit.agreement_window=30", "audit.bad_voter=" + name});
    std::string refusal;
    const auto results = train(
        4, config, {},
        [](int w) {
          TrainingHooks hooks;
          // Slow enough that somebody is there to hear of it.
          hooks.after_step = [](std::int64_t, const ParameterArena&) {
            std::this_thread::sleep_for(10ms);
          };
          if (w == 1)
            hooks.wrap_model = [](std::unique_ptr<Model> model, const ParameterArena&) {
              return std::make_unique<InvertedModel>(std::move(model));
            };
          return hooks;
        },
        name == "abstain" ? &refusal : nullptr);
    for (const int w : {0, 2, 3}) {
      EXPECT_EQ(results[static_cast<std::size_t>(w)].steps, 250);
      EXPECT_EQ(results[static_cast<std::size_t>(w)].digest, results[0].digest);
    }
    const auto alarms = metrics_of(config.output_folder, "alarm");
    ASSERT_FALSE(alarms.empty());
    for (const auto& alarm : alarms) EXPECT_EQ(alarm["worker"], 1);
    // Layer by layer too: once in a window, and at the end.
    const auto layers = metrics_of(config.output_folder, "agreement");
    EXPECT_GE(layers.size(), 250u / 30 - 2);
    EXPECT_EQ(layers.back()["step"], 250);
    const auto steps = metrics_of(config.output_folder, "step");
    EXPECT_EQ(steps.back()[metric::kAgreement].size(), name == "warn" ? 4u : 3u);
    EXPECT_EQ(refusal.find("sent away: step") != std::string::npos, name == "abstain") << refusal;
  }
}

// With a quorum nobody waits for a late voter, whose samples somebody draws again: each is used
// once.
TEST_F(ElasticTraining, ALateVoterIsNotWaitedForAndItsSamplesAreDrawnAgain) {
  RunConfig config = run_.run("late", "", {"train.steps=24"});
  MembershipOptions membership;
  membership.quorum = 2;
  const auto results = train(3, config, membership, [](int w) {
    TrainingHooks hooks;
    if (w == 2)
      hooks.wrap_model = [](std::unique_ptr<Model> model, const ParameterArena&) {
        return std::make_unique<SlowModel>(std::move(model), 300ms);
      };
    return hooks;
  });
  expect_identical(results, 24);
  std::map<std::int64_t, std::int64_t> used;  // sample -> times
  std::int64_t without = 0;
  for (const Record& record : records(config)) {
    bool late = false;
    for (const VoterRange& range : record.ranges) {
      const bool counted = std::ranges::any_of(record.chunks, [&](const ChunkVerdictRecord& c) {
        return !c.counted.empty() && ((c.counted[0] >> range.voter) & 1u) != 0;
      });
      late |= !counted;
      for (std::int64_t id = range.samples.begin; counted && id < range.samples.end; ++id)
        ++used[id];
    }
    without += late;
  }
  EXPECT_GT(without, 0);
  for (const auto& [id, times] : used) EXPECT_EQ(times, 1) << "sample " << id;
  // None was passed over for long: what is missing below the last is what was late at the end.
  const std::int64_t last = used.rbegin()->first;
  EXPECT_LE(last + 1 - static_cast<std::int64_t>(used.size()), 3 * config.batch);
}

// Worker 1 flips one bit of its replica once, after step 5's digest was taken.
std::function<TrainingHooks(int)> flipping_once(std::atomic<bool>& flipped) {
  return [&flipped](int w) {
    TrainingHooks hooks;
    hooks.after_step = [&flipped, w](std::int64_t step, const ParameterArena& arena) {
      std::this_thread::sleep_for(20ms);  // steps slow enough that somebody is there to hear of it
      if (w != 1 || step != 5 || flipped.exchange(true)) return;
      const Parameter& p = arena.parameters()[3];
      auto* bits = reinterpret_cast<std::uint32_t*>(p.value.data);
      bits[1] ^= 1u << 20;
    };
    return hooks;
  };
}

// One bit of one replica, after the step's digest was taken: found at a later one, its worker goes
// out, rebuilds what it has from its journal and comes back.
TEST_F(ElasticTraining, AFlippedBitIsFoundAndItsReplicaRebuilt) {
  const RunConfig config = run_.run("flip", "", {"train.steps=60"});
  std::atomic<bool> flipped = false;
  const auto results = train(3, config, {}, flipping_once(flipped));
  EXPECT_TRUE(flipped);
  expect_identical(results, 60);
  EXPECT_EQ(replay_run(config.output_folder, 60, "").parameters, results[0].digest);
}

// With two nobody is the majority: both replay, one finds that it was wrong, and they go on alike.
TEST_F(ElasticTraining, OfTwoAFlippedBitIsJudgedByReplay) {
  const RunConfig config = run_.run("flip-of-two", "", {"train.steps=60"});
  MembershipOptions membership;
  membership.min_workers = 2;
  std::atomic<bool> flipped = false;
  const auto results = train(2, config, membership, flipping_once(flipped));
  EXPECT_TRUE(flipped);
  expect_identical(results, 60);
  EXPECT_EQ(replay_run(config.output_folder, 60, "").parameters, results[0].digest);
}

TEST_F(ElasticTraining, GoesOnInItsFolderAfterTheEndOfAnEarlierPart) {
  RunConfig config = run_.run("parts", "[journal]\nsegment_mib = 1\n",
                              {"train.steps=10", "train.checkpoint_every=3"});
  expect_identical(train(2, config, {}), 10);
  config.steps = 17;
  MembershipOptions membership;
  membership.recover = true;  // this coordinator's row is new
  membership.cold_wait = 500ms;
  const auto more = train(3, config, membership);  // and with one more worker
  expect_identical(more, 17);
  EXPECT_EQ(records(config).back().step, 17);
}

}  // namespace
}  // namespace ballot

// Voters of several members in whole runs: the same ballots as one worker with all their samples,
// momentum once per voter, faults, resume at another number of members.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "models/safetensors.h"
#include "runtime/metrics_names.h"
#include "runtime/trainer.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

// Share of the model's elements that lie within 1e-6 of one another: a sign that came out
// differently moves an element by 2 x 0.2 x rate.
double same_share(const std::string& one, const std::string& other) {
  const SafetensorsReader a(one + "/model.safetensors"), b(other + "/model.safetensors");
  double same = 0, all = 0;
  for (const StoredTensor& x : a.tensors()) {
    const StoredTensor& y = b.get(x.name);
    const float* const p = reinterpret_cast<const float*>(x.bytes.data());
    const float* const q = reinterpret_cast<const float*>(y.bytes.data());
    for (std::int64_t i = 0; i < x.count(); ++i) same += std::abs(p[i] - q[i]) < 1e-6f;
    all += static_cast<double>(x.count());
  }
  return same / all;
}

class Members : public testing::TestWithParam<int> {};

// One voter of G members with one sequence each against one worker with G sequences: equal samples,
// sums in another order. After one step, that is to say one ballot.
TEST_P(Members, CastTheBallotOfOneWorkerWithAllTheirSamplesToRounding) {
  const int members = GetParam();
  const TinyRun tiny;
  const std::string optimizer = "[optimizer]\nrate = 0.01\n";
  const auto together = train_on(members, tiny.run("together", optimizer,
                                                   {"train.steps=1", "train.batch=1",
                                                    "vote.members=" + std::to_string(members)}));
  const auto alone = train_on(
      1, tiny.run("alone", optimizer, {"train.steps=1", "train.batch=" + std::to_string(members)}));
  // Signs of what is 0 but for rounding may differ.
  const double same = same_share(together[0].checkpoint, alone[0].checkpoint);
  RecordProperty("same_share", std::to_string(same));
  EXPECT_GT(same, 0.998) << same;
  for (const TrainingResult& result : together) EXPECT_EQ(result.digest, together[0].digest);
}

TEST_P(Members, LearnAndStayIdentical) {
  const int members = GetParam(), workers = 4;
  const TinyRun tiny;
  for (const char* overlap : {"true", "false"}) {
    const auto results = train_on(
        workers, tiny.run(overlap, "[optimizer]\nrate = 0.02\n",
                          {"train.steps=25", "schedule.warmup_steps=3",
                           "vote.members=" + std::to_string(members), "train.checkpoint_every=25",
                           std::string("vote.overlap=") + overlap}));
    EXPECT_LT(results[0].last_loss, results[0].first_loss - 1.0);
    for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
    const Json step = metrics_of(tiny.path(overlap), "step").back();
    if (members < workers) {
      EXPECT_EQ(step[metric::kAgreement].size(), static_cast<std::size_t>(workers / members));
    }
    // Its gradients for what others work on, and its ballots to them: less than all of both.
    const double voted = 94464;
    const double inside = step.value(metric::kMemberBytesSent, 0.0);
    EXPECT_EQ(inside > 0, members > 1);
    EXPECT_LT(inside, (4 * voted + (members - 1) * voted / 8) * 1.2);
    // Each voter's momentum is there once, at one member or another.
    for (int voter = 0; voter < workers / members; ++voter) {
      std::map<std::string, int> holders;
      for (int m = 0; m < members; ++m) {
        const SafetensorsReader file(
            members == 1
                ? fmt::format("{}/trainer/voter-{}.safetensors", results[0].checkpoint, voter)
                : fmt::format("{}/trainer/voter-{}-member-{}.safetensors", results[0].checkpoint,
                              voter, m));
        for (const StoredTensor& tensor : file.tensors()) ++holders[tensor.name];
      }
      EXPECT_EQ(holders.size(), 16u);  // 2 layers of 7 matrices, the table and the head
      for (const auto& [name, count] : holders) EXPECT_EQ(count, 1) << name;
    }
  }
  EXPECT_EQ(read_file(tiny.path("true") + "/checkpoints/latest/model.safetensors"),
            read_file(tiny.path("false") + "/checkpoints/latest/model.safetensors"))
      << "overlap changes bits";
}

INSTANTIATE_TEST_SUITE_P(Voters, Members, testing::Values(1, 2, 4));

TEST(VoterMembers, AMemberWhoseGradientIsNotFiniteIsLeftOutOfTheMean) {
  const TinyRun tiny;
  const auto results = train_on(4, tiny.run("run", "", {"vote.members=2"}), [](int rank) {
    TrainingHooks hooks;
    if (rank == 3)
      hooks.wrap_model = [](std::unique_ptr<Model> model, const ParameterArena&) {
        struct Poisoned : ModelAround {
          using ModelAround::ModelAround;
          Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
            struct Poison : GradientSink {
              void loss_known(double loss) override { next->loss_known(loss); }
              void ready(const Parameter& p) override {
                if (p.shape.name == "model.layers.1.mlp.up_proj.weight")
                  p.gradient.f32()[7] = std::numeric_limits<float>::infinity();
                next->ready(p);
              }
              GradientSink* next = nullptr;
            } poison;
            poison.next = &sink;
            return model_->differentiate(batches, poison);
          }
        };
        return std::make_unique<Poisoned>(std::move(model));
      };
    return hooks;
  });
  for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
  EXPECT_TRUE(std::isfinite(results[0].last_loss));
  for (const Json& step : metrics_of(tiny.path("run"), "step"))
    EXPECT_EQ(step[metric::kGradientFaults], 1);  // its own, and its voter's ballot is whole
}

TEST(VoterMembers, ResumeAtAnotherNumberOfMembers) {
  const TinyRun tiny;
  const auto settings = [](int members, int steps) {
    return std::vector<std::string>{"vote.members=" + std::to_string(members),
                                    "train.steps=" + std::to_string(steps)};
  };
  TrainingHooks resume;
  resume.resume = true;
  // Two voters of two go on as two voters of one: the same momentum, gathered from both members.
  train_on(4, tiny.run("run", "", settings(2, 3)));
  const auto shrunk = train_on(2, tiny.run("run", "", settings(1, 5)), [&](int) { return resume; });
  EXPECT_EQ(shrunk[0].steps, 5);
  const auto grown = train_on(4, tiny.run("run", "", settings(4, 7)), [&](int) { return resume; });
  EXPECT_EQ(grown[0].steps, 7);
  EXPECT_TRUE(std::isfinite(grown[0].last_loss));
}

TEST(VoterMembers, OfWorkersThatCannotBeCutIntoThemAreRefused) {
  const TinyRun tiny;
  try {
    train_on(3, tiny.run("run", "", {"vote.members=2"}));
    FAIL() << "they started";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("3 workers cannot be cut into voters of 2"));
  }
}

}  // namespace
}  // namespace ballot

// Workers that look after one another: a replica that differs is found and repaired, a voter that
// agrees with nobody is named, and a healthy one is not.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "core/hash.h"
#include "runtime/agreement_watch.h"
#include "runtime/metrics_names.h"
#include "runtime/trainer.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

// Flips one bit of one element on one worker after one step.
struct Flip {
  int worker;
  std::int64_t step;
  const char* tensor;
  std::int64_t element;
  std::uint32_t bit;
};
std::function<TrainingHooks(int)> flipping(Flip flip) {
  return [flip](int rank) {
    TrainingHooks hooks;
    hooks.after_step = [rank, flip](std::int64_t step, const ParameterArena& arena) {
      if (rank != flip.worker || step != flip.step) return;
      float& value = arena.find(flip.tensor).value.f32()[flip.element];
      value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ (1u << flip.bit));
    };
    return hooks;
  };
}

TEST(ReplicaRepair, AFlippedBitIsFoundAtTheNextStepNamedAndRepaired) {
  const TinyRun tiny;
  for (const Flip flip : {Flip{2, 2, "model.layers.0.mlp.down_proj.weight", 70, 20},
                          Flip{0, 3, "model.norm.weight", 3, 15},  // averaged, with AdamW's moments
                          Flip{1, 1, "model.embed_tokens.weight", 64 * 101, 25}}) {
    const std::string name = fmt::format("run-{}", flip.worker);
    const auto results = train_on(3, tiny.run(name), flipping(flip));
    for (const TrainingResult& result : results) {
      EXPECT_EQ(result.steps, 6);
      EXPECT_EQ(result.digest, results[0].digest);
    }
    const std::vector<Json> repairs = metrics_of(tiny.path(name), "repair");
    ASSERT_EQ(repairs.size(), 1u) << flip.tensor;
    EXPECT_EQ(repairs[0]["step"], flip.step + 1);
    EXPECT_EQ(repairs[0]["worker"], flip.worker);
    EXPECT_THAT(repairs[0]["text"].get<std::string>(), HasSubstr(flip.tensor));
    EXPECT_EQ(metrics_of(tiny.path(name), "end").at(0)["replicas_identical"], true);
  }
}

// In a row of the table that no text touches, a flip changes no gradient: after the repair it is as
// if it had never been.
TEST(ReplicaRepair, LeavesTheRunThatWouldHaveBeen) {
  const TinyRun tiny;
  const auto clean = train_on(3, tiny.run("clean"));
  const auto flipped = train_on(3, tiny.run("flipped"),
                                flipping({1, 2, "model.embed_tokens.weight", 64 * 3 + 5, 22}));
  ASSERT_EQ(metrics_of(tiny.path("flipped"), "repair").size(), 1u);
  EXPECT_EQ(flipped[1].digest, clean[1].digest);
}

TEST(ReplicaRepair, OfTwoWorkersNobodyCanSayWhoIsRightWithoutAJournal) {
  const TinyRun tiny;
  try {
    train_on(2, tiny.run("run", "", {"journal.enabled=off"}),
             flipping({1, 2, "model.layers.1.mlp.up_proj.weight", 9, 20}));
    FAIL() << "nobody noticed";
  } catch (const ReplicasDiffer& error) {
    EXPECT_THAT(error.what(), HasSubstr("model.layers.1.mlp.up_proj.weight"));
    EXPECT_THAT(error.what(), HasSubstr("nobody can say who is right"));
  }
}

// ---- agreement ----

VoteStatistics statistics_of(const std::vector<double>& shares) {
  VoteStatistics s;
  for (const double share : shares) {
    s.compared.push_back(std::isnan(share) ? 0 : 1'000'000);
    s.agreed.push_back(std::isnan(share) ? 0 : static_cast<std::int64_t>(share * 1e6));
  }
  return s;
}

TEST(AgreementWatch, NamesAVoterAtChanceOnceAWindowHasPassed) {
  AgreementWatch watch({.window = 50});
  std::mt19937_64 random(1);
  std::normal_distribution<double> noise(0, 0.003);
  for (int step = 1; step <= 200; ++step) {
    const auto alarm = watch.add(statistics_of(
        {0.56 + noise(random), 0.55 + noise(random), 0.50 + noise(random), 0.56 + noise(random)}));
    EXPECT_EQ(alarm.has_value(), step == 50) << step;  // once
    if (alarm) {
      EXPECT_EQ(alarm->voter, 2);
      EXPECT_NEAR(alarm->agreement, 0.5, 0.01);
      EXPECT_NEAR(alarm->others, 0.56, 0.01);
      EXPECT_THAT(alarm->describe(50), HasSubstr("voter 2"));
    }
  }
  EXPECT_EQ(watch.alarming(), (std::vector<bool>{false, false, true, false}));
}

TEST(AgreementWatch, LeavesAHealthyVoterWithOtherDataAlone) {
  AgreementWatch watch({.window = 50});
  std::mt19937_64 random(2);
  std::normal_distribution<double> noise(0, 0.001);
  for (int step = 0; step < 500; ++step)  // always the last, but well above half of the others
    EXPECT_FALSE(watch.add(statistics_of(
        {0.56 + noise(random), 0.56 + noise(random), 0.54 + noise(random), 0.56 + noise(random)})));
}

TEST(AgreementWatch, SaysNothingWhereNobodyCanBeToldApart) {
  AgreementWatch two({.window = 10}), noise({.window = 10}), silent({.window = 10});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int step = 0; step < 100; ++step) {
    EXPECT_FALSE(two.add(statistics_of({0.4, 0.4})));
    // Nobody is above chance: there is no signal to be against.
    EXPECT_FALSE(noise.add(statistics_of({0.4999, 0.4998, 0.47, 0.4999})));
    EXPECT_FALSE(silent.add(statistics_of({0.56, nan, 0.56, 0.561})));
  }
}

// With equal voters P(X >= threshold) of X ~ Binomial(50, 1/4), times 4, is at most 1e-9; counted
// here for a rate that can be counted.
TEST(AgreementWatch, FalseAlarmsOfEqualVotersAreAsRareAsStated) {
  const AgreementWatch strict({.window = 50, .windows_per_false_alarm = 1e9});
  EXPECT_LE(strict.threshold(4), 50);
  EXPECT_GT(strict.threshold(4), 30);
  EXPECT_EQ(strict.threshold(2), 51);
  const AgreementWatch loose({.window = 20, .windows_per_false_alarm = 100});
  std::mt19937_64 random(3);
  int crossed = 0;
  constexpr int kWindows = 100'000;
  for (int window = 0; window < kWindows; ++window) {
    std::array<int, 4> last{};
    for (int step = 0; step < 20; ++step) ++last[random() % 4];
    crossed += *std::ranges::max_element(last) >= loose.threshold(4);
  }
  EXPECT_LE(crossed, kWindows / 100);
  EXPECT_GT(crossed, 0);
}

// A worker whose gradients are inverted, or whose labels are of other sentences.
class BadModel : public ModelAround {
 public:
  enum class Fault { inverted, shuffled };
  BadModel(std::unique_ptr<Model> model, Fault fault)
      : ModelAround(std::move(model)), fault_(fault) {}

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
    if (fault_ == Fault::inverted) return model_->differentiate(batches, invert);
    std::vector<TokenBatch> shuffled(batches.begin(), batches.end());
    for (TokenBatch& batch : shuffled) std::ranges::shuffle(batch.targets, random_);
    return model_->differentiate(shuffled, sink);
  }

 private:
  Fault fault_;
  std::mt19937_64 random_{5};
};

const char* const kFaultNames[] = {"InvertedGradients", "ShuffledLabels"};

class BadWorker : public testing::TestWithParam<BadModel::Fault> {};

TEST_P(BadWorker, IsRankedWorstAndNamed) {
  const TinyRun tiny;
  const BadModel::Fault fault = GetParam();
  const auto bad_hooks = [fault](int rank) {
    TrainingHooks hooks;
    if (rank == 1)
      hooks.wrap_model = [fault](std::unique_ptr<Model> model, const ParameterArena&) {
        return std::make_unique<BadModel>(std::move(model), fault);
      };
    return hooks;
  };
  for (const char* policy : {"warn", "abstain"}) {
    const std::string name = policy;
    train_on(4,
             tiny.run(name, "[optimizer]\nrate = 0.003\n",
                      {"train.steps=80", "train.batch=4", "audit.agreement_window=30",
                       "audit.bad_voter=" + name}),
             bad_hooks);
    const std::vector<Json> alarms = metrics_of(tiny.path(name), "alarm");
    ASSERT_FALSE(alarms.empty());
    EXPECT_EQ(alarms[0]["worker"], 1);
    for (const Json& alarm : alarms) EXPECT_EQ(alarm["worker"], 1);
    // Before the alarm: the last in nearly every step.
    const std::vector<Json> steps = metrics_of(tiny.path(name), "step");
    int last = 0;
    for (std::size_t i = 0; i < 30; ++i) last += steps[i][metric::kAgreementRank] == 1;
    EXPECT_GE(last, 25);
    // Afterwards it is silent, if that is the policy.
    EXPECT_EQ(steps.back()[metric::kAgreement][1].is_null(), name == "abstain");
  }
}

INSTANTIATE_TEST_SUITE_P(Audit, BadWorker,
                         testing::Values(BadModel::Fault::inverted, BadModel::Fault::shuffled),
                         [](const auto& instance) {
                           return std::string(kFaultNames[static_cast<int>(instance.param)]);
                         });

TEST(Agreement, RaisesNoAlarmInAThousandCleanSteps) {
  TinyShape shape;
  shape.layers = 1;
  const TinyRun tiny(shape);
  train_on(4, tiny.run("run", "[optimizer]\nrate = 0.003\n",
                       {"train.steps=1000", "train.batch=1", "journal.enabled=off"}));
  EXPECT_EQ(metrics_of(tiny.path("run"), "step").size(), 1000u);
  EXPECT_TRUE(metrics_of(tiny.path("run"), "alarm").empty());
  EXPECT_TRUE(metrics_of(tiny.path("run"), "repair").empty());
}

TEST(SlowestStage, NamesTheWorkerOfEveryStage) {
  const TinyRun tiny;
  train_on(3, tiny.run("run"));
  for (const Json& step : metrics_of(tiny.path("run"), "step"))
    for (const char* stage : {"data", "fwd", "bwd", "direction", "pack", "apply"}) {
      const std::string name = std::string(metric::kSlowestPrefix) + stage;
      ASSERT_TRUE(step.contains(name)) << stage;
      EXPECT_LT(step[name].get<int>(), 3);
      EXPECT_GE(step[name + "(s)"].get<double>(), step[name + "_median(s)"].get<double>());
    }
}

}  // namespace
}  // namespace ballot

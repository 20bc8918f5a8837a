// Voters of several members in whole runs: the same ballots as one worker with all their samples,
// momentum once per voter, faults, resume at another number of members.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <latch>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "models/safetensors.h"
#include "runtime/checkpoint_share.h"
#include "runtime/metrics_names.h"
#include "runtime/part_sums.h"
#include "runtime/part_text.h"
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

// One layer whose three large matrices neither two nor four members can share evenly: columns of
// down_proj (a row is 65 x 64 long: blocks of 64) and rows of gate_proj and up_proj.
constexpr TinyShape kLarge{.hidden = 128, .layers = 1, .intermediate = 4160};

struct Momentum {
  std::vector<float> values;  // of the whole matrix
  int parts = 0;
};

// The momentum of a voter, put together from what its members have saved.
std::map<std::string, Momentum> momentum_of(const std::string& checkpoint, int members,
                                            int voter = 0) {
  const SafetensorsReader model(checkpoint + "/model.safetensors");
  std::map<std::string, Momentum> all;
  for (int m = 0; m < members; ++m) {
    const SafetensorsReader file(checkpoint + "/" + voter_file(voter, m, members));
    for (const StoredTensor& tensor : file.tensors()) {
      const std::string name = tensor.name.substr(std::string("momentum.").size());
      const std::vector<std::int64_t> whole = model.get(name).shape;
      Momentum& momentum = all[name];
      if (momentum.parts++ == 0)
        momentum.values.assign(static_cast<std::size_t>(whole[0] * whole[1]),
                               std::numeric_limits<float>::quiet_NaN());
      std::int64_t row = 0, column = 0;
      if (const auto part = file.metadata().find(part_key(name)); part != file.metadata().end()) {
        std::istringstream text(part->second);
        std::string side;
        text >> side;
        text >> (side == "rows" ? row : column);
      }
      for (std::int64_t r = 0; r < tensor.shape[0]; ++r)
        std::memcpy(&momentum.values[static_cast<std::size_t>((row + r) * whole[1] + column)],
                    tensor.bytes.data() + r * tensor.shape[1] * 4,
                    static_cast<std::size_t>(tensor.shape[1]) * 4);
    }
  }
  return all;
}

int cut_tensors(const std::map<std::string, Momentum>& momentum) {
  return static_cast<int>(
      std::ranges::count_if(momentum, [](const auto& entry) { return entry.second.parts > 1; }));
}

// The largest difference, relative to the largest element of the tensor.
double largest_difference(const std::map<std::string, Momentum>& a,
                          const std::map<std::string, Momentum>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (const auto& [name, x] : a) {
    const std::vector<float>& y = b.at(name).values;
    EXPECT_EQ(x.values.size(), y.size()) << name;
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      EXPECT_TRUE(std::isfinite(x.values[i])) << name << " element " << i << " has no part";
      largest = std::max(largest, std::abs(static_cast<double>(y[i])));
      difference = std::max(difference, std::abs(static_cast<double>(x.values[i]) - y[i]));
    }
    if (largest > 0) most = std::max(most, difference / largest);
  }
  return most;
}

TEST_P(Members, WhoCutMatricesCastTheBallotOfOneWorkerToRounding) {
  const int members = GetParam();
  const TinyRun tiny(kLarge);
  const std::string optimizer = "[optimizer]\nrate = 0.01\n";
  const auto run = [&](const std::string& name, const char* cut) {
    return train_on(members,
                    tiny.run(name, optimizer,
                             {"train.steps=1", "train.batch=1", std::string("vote.cut=") + cut,
                              "vote.members=" + std::to_string(members)}));
  };
  const auto cut = run("cut", "true"), again = run("again", "true"), uncut = run("uncut", "false");
  const auto alone = train_on(
      1, tiny.run("alone", optimizer, {"train.steps=1", "train.batch=" + std::to_string(members)}));
  for (const TrainingResult& result : cut) EXPECT_EQ(result.digest, cut[0].digest);
  EXPECT_EQ(again[0].digest, cut[0].digest) << "the same seed, other bits";
  const double same = same_share(cut[0].checkpoint, alone[0].checkpoint);
  RecordProperty("same_share", std::to_string(same));
  EXPECT_GT(same, 0.998) << same;

  const auto momentum = momentum_of(cut[0].checkpoint, members);
  EXPECT_EQ(cut_tensors(momentum) > 0, members > 1);
  EXPECT_EQ(cut_tensors(momentum_of(uncut[0].checkpoint, members)), 0);
  // The mean of the same gradients in the same order; one worker adds its sequences differently.
  EXPECT_EQ(largest_difference(momentum, momentum_of(uncut[0].checkpoint, members)), 0);
  EXPECT_LT(largest_difference(momentum, momentum_of(alone[0].checkpoint, 1)), 1e-4);
}

TEST(VoterMembers, WithCutMatricesLearnAndAreTheSameTwiceAndWithoutOverlap) {
  const TinyRun tiny(kLarge);
  std::vector<std::uint64_t> digests;
  for (const char* overlap : {"true", "true", "false"}) {
    const std::string name = "run-" + std::to_string(digests.size());
    const auto results = train_on(
        4, tiny.run(name, "[optimizer]\nrate = 0.02\n",
                    {"train.steps=5", "schedule.warmup_steps=1", "vote.members=2", "vote.cut=true",
                     std::string("vote.overlap=") + overlap, "group.hidden.abstain_below=1"}));
    EXPECT_GT(cut_tensors(momentum_of(results[0].checkpoint, 2)), 0);
    EXPECT_LT(results[0].last_loss, results[0].first_loss - 0.2);
    for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
    digests.push_back(results[0].digest);
  }
  EXPECT_EQ(digests[1], digests[0]) << "the same seed, other bits";
  EXPECT_EQ(digests[2], digests[0]) << "overlap changes bits";
}

TEST(VoterMembers, ABlockOfACutMatrixAbstainsByTheRootMeanSquareOfTheWhole) {
  const TinyRun tiny(kLarge);
  // Some 64 elements of a block, the largest of which is near 2.3 times their RMS.
  const auto run = [&](const std::string& name, const std::string& cut) {
    return train_on(2, tiny.run(name, "[optimizer]\nrate = 0.01\nweight_decay = 0\n",
                                {"train.steps=1", "vote.members=2", "vote.cut=" + cut,
                                 "group.hidden.abstain_below=2.3"}))[0]
        .checkpoint;
  };
  const std::string cut = run("cut", "true"), uncut = run("uncut", "false");
  EXPECT_GT(same_share(cut, uncut), 0.998);
  for (const char* tensor :
       {"model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"}) {
    const SafetensorsReader start(tiny.path("model") + "/model.safetensors");
    const SafetensorsReader end(cut + "/model.safetensors");
    const std::span<const std::byte> a = start.get(tensor).bytes, b = end.get(tensor).bytes;
    std::size_t still = 0;
    for (std::size_t i = 0; i < a.size(); i += 4) still += std::memcmp(&a[i], &b[i], 4) == 0;
    EXPECT_GT(still, a.size() / 4 / 20) << tensor;
    EXPECT_LT(still, a.size() / 4 * 19 / 20) << tensor;
  }
}

// One gradient element of these workers is infinite in every step.
std::function<TrainingHooks(int)> poisoned(std::set<int> workers, std::string tensor) {
  return [=](int rank) {
    TrainingHooks hooks;
    if (!workers.contains(rank)) return hooks;
    hooks.wrap_model = [tensor](std::unique_ptr<Model> model, const ParameterArena&) {
      struct Poisoned : ModelAround {
        Poisoned(std::unique_ptr<Model> inner, std::string name)
            : ModelAround(std::move(inner)), tensor(std::move(name)) {}
        Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
          struct Poison : GradientSink {
            void loss_known(double loss) override { next->loss_known(loss); }
            void ready(const Parameter& p, Stream& stream) override {
              if (p.shape.name == *name)
                p.gradient.f32()[7] = std::numeric_limits<float>::infinity();
              next->ready(p, stream);
            }
            GradientSink* next = nullptr;
            const std::string* name = nullptr;
          } poison;
          poison.next = &sink;
          poison.name = &tensor;
          return model_->differentiate(batches, poison);
        }
        std::string tensor;
      };
      return std::make_unique<Poisoned>(std::move(model), tensor);
    };
    return hooks;
  };
}

TEST(VoterMembers, AMemberWhoseGradientIsNotFiniteIsLeftOutOfTheMean) {
  const TinyRun tiny;
  const auto results = train_on(4, tiny.run("run", "", {"vote.members=2"}),
                                poisoned({3}, "model.layers.1.mlp.up_proj.weight"));
  for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
  EXPECT_TRUE(std::isfinite(results[0].last_loss));
  for (const Json& step : metrics_of(tiny.path("run"), "step"))
    EXPECT_EQ(step[metric::kGradientFaults], 1);  // its own, and its voter's ballot is whole
}

TEST(VoterMembers, ACutTensorWithNoFiniteGradientAbstainsInAllItsParts) {
  const std::string tensor = "model.layers.0.mlp.down_proj.weight";
  const TinyRun tiny(kLarge);
  for (const std::set<int>& workers : {std::set<int>{1}, std::set<int>{0, 1}}) {
    const std::string name = "run-" + std::to_string(workers.size());
    const auto results = train_on(2,
                                  tiny.run(name, "[optimizer]\nrate = 0.01\nweight_decay = 0\n",
                                           {"train.steps=2", "vote.members=2", "vote.cut=true"}),
                                  poisoned(workers, tensor));
    EXPECT_EQ(results[0].digest, results[1].digest);
    EXPECT_TRUE(std::isfinite(results[0].last_loss));
    ASSERT_GT(momentum_of(results[0].checkpoint, 2).at(tensor).parts, 1);
    const SafetensorsReader start(tiny.path("model") + "/model.safetensors");
    const SafetensorsReader end(results[0].checkpoint + "/model.safetensors");
    const bool stood_still = std::ranges::equal(start.get(tensor).bytes, end.get(tensor).bytes);
    EXPECT_EQ(stood_still, workers.size() == 2);
    for (const Json& step : metrics_of(tiny.path(name), "step"))
      EXPECT_EQ(step[metric::kGradientFaults], static_cast<int>(workers.size()));
  }
}

TEST(PartSums, NameTheTensorAndTheMemberThatDoesNotCome) {
  std::latch over(1);
  run_loopback(4, [&](Transport& voter) {
    const std::int64_t sides[] = {8};
    PartSums sums(voter, {1, 3}, sides, std::chrono::milliseconds(50),
                  Deadline::in(std::chrono::seconds(60)));
    sums.work_on("down.weight");
    if (voter.rank() == 3) over.wait();
    if (voter.rank() != 1) return;
    try {
      sums.sum(1.0);
      ADD_FAILURE() << "nobody else was there";
    } catch (const Timeout& late) {
      EXPECT_THAT(late.what(), AllOf(HasSubstr("down.weight"), HasSubstr("rank 1"),
                                     HasSubstr("ranks 0 to 1 are members 1, 3 of this voter")));
      EXPECT_GT(sums.seconds(), 0);
    }
    over.count_down();
  });
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

TEST(VoterMembers, ResumeFromPartsWithOtherParts) {
  const TinyRun tiny(kLarge);
  const auto settings = [](int members, int steps, const char* cut) {
    return std::vector<std::string>{"vote.members=" + std::to_string(members),
                                    "train.steps=" + std::to_string(steps),
                                    std::string("vote.cut=") + cut, "train.keep_checkpoints=9"};
  };
  TrainingHooks resume;
  resume.resume = true;
  const auto first = train_on(4, tiny.run("run", "", settings(4, 2, "true")));
  ASSERT_GT(cut_tensors(momentum_of(first[0].checkpoint, 4)), 0);
  int steps = 2;
  for (const auto& [workers, members, cut] : std::vector<std::tuple<int, int, const char*>>{
           {2, 2, "true"}, {4, 4, "false"}, {2, 1, "true"}}) {
    const auto results = train_on(workers, tiny.run("run", "", settings(members, ++steps, cut)),
                                  [&](int) { return resume; });
    EXPECT_EQ(results[0].steps, steps);
    EXPECT_TRUE(std::isfinite(results[0].last_loss));
    for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
  }
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

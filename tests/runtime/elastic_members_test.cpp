// Elastic runs whose voters have several members: over loopback inside a voter, over gRPC between
// voters and to a real coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "core/hash.h"
#include "runtime/coordinator/coordinator_server.h"
#include "runtime/coordinator/row_store.h"
#include "runtime/elastic/elastic_trainer.h"
#include "runtime/elastic/member_orders.h"
#include "runtime/metrics_names.h"
#include "runtime/replay_run.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class MembersRun : public testing::Test {
 protected:
  using Hooks = std::function<TrainingHooks(int voter, int member)>;

  void start_coordinator(int voters, bool recover = false) {
    CoordinatorServerOptions options;
    options.listen = "127.0.0.1:0";
    options.desk.coordinator.run = "test";
    options.desk.coordinator.membership.start_workers = voters;
    options.desk.coordinator.membership.heartbeat_timeout = 5s;
    options.desk.coordinator.membership.recover = recover;  // the row of each one is new
    options.desk.coordinator.membership.cold_wait = 500ms;
    options.desk.beat = 10ms;
    server_ = std::make_unique<CoordinatorServer>(options, open_memory_store(make_memory_row()));
  }
  // One voter, until it ends; throws what its first member threw.
  TrainingResult voter(const RunConfig& config, int number, const Hooks& hooks) {
    ElasticOptions elastic;
    elastic.worker = number;
    elastic.coordinator = server_->address();
    elastic.run = "test";
    elastic.heartbeat = 50ms;
    elastic.late_grace = 10ms;
    std::vector<TrainingResult> results(static_cast<std::size_t>(config.members));
    run_loopback(static_cast<int>(config.members), [&](Transport& members) {
      results[static_cast<std::size_t>(members.rank())] = train_elastic(
          config, elastic, hooks ? hooks(number, members.rank()) : TrainingHooks{}, &members);
    });
    for (const TrainingResult& result : results) {
      EXPECT_EQ(result.digest, results[0].digest);
      EXPECT_EQ(result.steps, results[0].steps);
    }
    return results[0];
  }
  std::vector<TrainingResult> train(int voters, const RunConfig& config, const Hooks& hooks = {},
                                    bool recover = false) {
    start_coordinator(voters, recover);
    std::vector<TrainingResult> results(static_cast<std::size_t>(voters));
    std::vector<std::thread> threads;
    for (int v = 0; v < voters; ++v)
      threads.emplace_back([&, v] {
        try {
          results[static_cast<std::size_t>(v)] = voter(config, v, hooks);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "voter " << v << ": " << error.what();
        }
      });
    for (std::thread& thread : threads) thread.join();
    return results;
  }
  RunConfig config(const std::string& name, int members, int batch, std::int64_t steps,
                   std::vector<std::string> more = {}) const {
    more.push_back(fmt::format("vote.members={}", members));
    more.push_back(fmt::format("train.batch={}", batch));
    more.push_back(fmt::format("train.steps={}", steps));
    return run_.run(name, "", more);
  }

  TinyRun run_;
  std::unique_ptr<CoordinatorServer> server_;
};

// All values after the first step, from one member of one voter.
std::vector<float> after_first_step(
    const std::function<void(const std::function<TrainingHooks(int, int)>&)>& train) {
  std::vector<float> values;
  train([&](int voter, int member) {
    TrainingHooks hooks;
    if (voter == 0 && member == 0)
      hooks.after_step = [&](std::int64_t step, const ParameterArena& arena) {
        if (step != 1) return;
        for (const Parameter& p : arena.parameters())
          values.insert(values.end(), p.value.f32(), p.value.f32() + p.extent());
      };
    return hooks;
  });
  return values;
}

TEST_F(MembersRun, CastTheBallotsOfOneWorkerWithAllTheirSamplesToRounding) {
  std::map<int, std::vector<float>> values;
  std::map<int, std::vector<nlohmann::json>> lines;
  for (const int members : {1, 2, 4}) {
    const RunConfig one = config(fmt::format("members-{}", members), members, 4 / members, 3);
    values[members] = after_first_step([&](const Hooks& hooks) {
      const auto results = train(2, one, hooks);
      EXPECT_EQ(results[0].digest, results[1].digest);
      EXPECT_EQ(results[0].steps, 3);
      EXPECT_EQ(replay_run(one.output_folder, 3, "").parameters, results[0].digest);
    });
    lines[members] = metrics_of(one.output_folder, "step");
  }
  for (const int members : {2, 4}) {
    ASSERT_EQ(values[members].size(), values[1].size());
    std::size_t equal = 0;
    for (std::size_t i = 0; i < values[1].size(); ++i)
      equal += std::abs(values[members][i] - values[1][i]) < 1e-6f;
    EXPECT_GE(static_cast<double>(equal) / static_cast<double>(values[1].size()), 0.998) << members;
    ASSERT_EQ(lines[members].size(), lines[1].size());
    for (std::size_t i = 0; i < lines[1].size(); ++i) {
      EXPECT_NEAR(lines[members][i][metric::kLoss], lines[1][i][metric::kLoss],
                  i == 0 ? 1e-5 : 0.02);
      EXPECT_EQ(lines[members][i][metric::kTokensTotal], lines[1][i][metric::kTokensTotal]);
      EXPECT_GT(lines[members][i][metric::kMemberBytesSent], 0);
    }
  }
}

TEST_F(MembersRun, AreAsAFixedJobOfAsManyVotersAndMembers) {
  const RunConfig elastic = config("elastic", 2, 2, 5), fixed = config("fixed", 2, 2, 5);
  EXPECT_NEAR(train(2, elastic)[0].last_loss, train_on(4, fixed)[0].last_loss, 0.02);
}

// Twice the same, and the same again when the run is cut in two by its end and a longer one, whose
// momentum comes from every member's own file.
TEST_F(MembersRun, GiveTheSameBitsTwiceAndGoOnFromTheirCheckpoints) {
  const RunConfig whole = config("whole", 2, 2, 8, {"train.checkpoint_every=2"});
  const std::uint64_t digest = train(2, whole)[0].digest;
  const RunConfig again = config("again", 2, 2, 8);
  EXPECT_EQ(train(2, again)[0].digest, digest);
  RunConfig parts = config("parts", 2, 2, 4, {"train.checkpoint_every=2"});
  // The rates of the whole run.
  parts.schedule = whole.schedule;
  train(2, parts);
  for (const char* file :
       {"voter-0-member-0", "voter-0-member-1", "voter-1-member-0", "voter-1-member-1"})
    EXPECT_TRUE(std::filesystem::exists(fmt::format(
        "{}/checkpoints/step-{:08}/trainer/{}.safetensors", parts.output_folder, 4, file)))
        << file;
  parts.steps = 8;
  EXPECT_EQ(train(2, parts, {}, true)[0].digest, digest);
}

// Large matrices are cut among the members; in the checkpoint each has its part of their momentum.
TEST_F(MembersRun, MayCutMatricesAndGoOnFromTheirParts) {
  const TinyRun large({.hidden = 128, .layers = 1, .intermediate = 4160});
  const auto of = [&](const std::string& name, const char* cut, std::int64_t steps) {
    return large.run(name, "",
                     {"vote.members=2", "train.batch=1", fmt::format("train.steps={}", steps),
                      fmt::format("vote.cut={}", cut), "train.checkpoint_every=2"});
  };
  const RunConfig whole = of("whole", "true", 4), uncut = of("uncut", "false", 4);
  RunConfig parts = of("parts", "true", 2);
  parts.schedule = whole.schedule;  // the rates of the whole run
  const TrainingResult result = train(2, whole)[0];
  EXPECT_NEAR(result.last_loss, train(2, uncut)[0].last_loss, 0.02);
  train(2, parts);
  const auto has_parts = [](const RunConfig& config) {
    std::ifstream file(config.output_folder +
                       "/checkpoints/step-00000002/trainer/voter-0-member-1.safetensors");
    std::string head(20000, '\0');
    file.read(head.data(), static_cast<std::streamsize>(head.size()));
    return head.find("\"part.model.layers.0.mlp") != std::string::npos;
  };
  EXPECT_TRUE(has_parts(parts));
  EXPECT_FALSE(has_parts(uncut));
  parts.steps = 4;
  EXPECT_EQ(train(2, parts, {}, true)[0].digest, result.digest);
}

class BreaksAt : public ModelAround {
 public:
  BreaksAt(std::unique_ptr<Model> model, std::atomic<int>& left)
      : ModelAround(std::move(model)), left_(left) {}
  Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
    if (--left_ == 0) throw DataError("the member's device is gone");
    std::this_thread::sleep_for(20ms);
    return ModelAround::differentiate(batches, sink);
  }

 private:
  std::atomic<int>& left_;
};

TEST_F(MembersRun, AMemberThatIsLostEndsItsVoterWhichComesBackAsAWhole) {
  const RunConfig one = config("lost", 2, 1, 60, {"train.checkpoint_every=10"});
  start_coordinator(3);
  std::atomic<int> left = 8;
  const Hooks hooks = [&](int voter, int member) {
    TrainingHooks made;
    made.wrap_model = [&, voter, member](std::unique_ptr<Model> model,
                                         const ParameterArena&) -> std::unique_ptr<Model> {
      static std::atomic<int> never = 1 << 30;
      return std::make_unique<BreaksAt>(std::move(model), voter == 1 && member == 1 ? left : never);
    };
    return made;
  };
  std::vector<TrainingResult> results(3);
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int v = 0; v < 3; ++v)
    threads.emplace_back([&, v] {
      for (int attempt = 0; attempt < 2; ++attempt) {
        try {
          results[static_cast<std::size_t>(v)] = voter(one, v, hooks);
          return;
        } catch (const std::exception& error) {
          EXPECT_EQ(v, 1) << error.what();
          EXPECT_THAT(error.what(), HasSubstr("the member's device is gone"));
          ++failures;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 1);
  for (const TrainingResult& result : results) {
    EXPECT_EQ(result.steps, 60);
    EXPECT_EQ(result.digest, results[0].digest);
  }
  EXPECT_EQ(replay_run(one.output_folder, 60, "").parameters, results[0].digest);
}

// A member whose parameters are not the first's says so before its part of a ballot leaves.
TEST_F(MembersRun, AFlippedBitInAMemberEndsItsVoterNamingIt) {
  const RunConfig one = config("flipped", 2, 2, 40);
  start_coordinator(1);
  std::atomic<bool> flipped = false;
  const Hooks hooks = [&](int, int member) {
    TrainingHooks made;
    if (member == 1)
      made.after_step = [&](std::int64_t step, const ParameterArena& arena) {
        if (step != 3 || flipped.exchange(true)) return;
        reinterpret_cast<std::uint32_t*>(arena.parameters()[2].value.data)[5] ^= 1u << 21;
      };
    return made;
  };
  try {
    voter(one, 0, hooks);
    FAIL() << "nobody noticed";
  } catch (const ReplicasDiffer& error) {
    EXPECT_THAT(error.what(), HasSubstr("member "));
    EXPECT_THAT(error.what(), HasSubstr("stands at step 4"));
  }
  EXPECT_EQ(voter(one, 0, hooks).steps, 40);  // from its journal
}

TEST_F(MembersRun, AVoterStartedWithAnotherNumberOfMembersIsRefusedByBothNumbers) {
  const RunConfig one = config("refused", 4, 1, 2);
  start_coordinator(1);
  ElasticOptions elastic;
  elastic.worker = 0;
  elastic.coordinator = server_->address();
  elastic.run = "test";
  try {
    train_elastic(one, elastic);
    FAIL() << "started alone";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("vote.members = 4"));
    EXPECT_THAT(error.what(), HasSubstr("started with 1"));
  }
}

TEST_F(MembersRun, MembersWithOtherConfigurationsAreRefusedNamingTheLine) {
  start_coordinator(1);
  const RunConfig one = config("same", 2, 1, 2), other = config("same", 2, 1, 2, {"train.seed=5"});
  std::mutex mutex;
  std::vector<std::string> told;
  ElasticOptions elastic;
  elastic.worker = 0;
  elastic.coordinator = server_->address();
  elastic.run = "test";
  run_loopback(2, [&](Transport& members) {
    try {
      train_elastic(members.rank() == 0 ? one : other, elastic, {}, &members);
    } catch (const ConfigError& error) {
      const std::lock_guard lock(mutex);
      told.push_back(error.what());
    }
  });
  ASSERT_EQ(told.size(), 2u);
  EXPECT_THAT(told[0], HasSubstr("seed = 5"));
}

TEST(MemberOrders, ComeInOrderWithWhatFollowsThem) {
  run_loopback(3, [](Transport& members) {
    MemberOrders orders(members, 1000, 20s);
    if (members.rank() == 0) {
      const std::string path = "checkpoints/step-00000007";
      orders.tell({.kind = MemberOrder::Kind::cast, .voter = 2, .step = 6, .samples = {8, 12}});
      orders.tell({.kind = MemberOrder::Kind::load, .keep_momentum = 1},
                  std::as_bytes(std::span(path)));
      EXPECT_THROW(orders.tell({}, std::vector<std::byte>(1001)), LogicError);
      return;
    }
    const auto first = orders.take(), second = orders.take();
    EXPECT_EQ(first.order.kind, MemberOrder::Kind::cast);
    EXPECT_EQ(first.order.samples, (SampleRange{8, 12}));
    EXPECT_TRUE(first.bytes.empty());
    EXPECT_EQ(second.order.keep_momentum, 1);
    EXPECT_EQ(second.bytes.size(), 25u);
  });
}

}  // namespace
}  // namespace ballot

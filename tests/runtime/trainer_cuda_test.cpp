// Whole runs on device "cuda": what they share with the CPU's to the bit, and what to rounding.
#include <gtest/gtest.h>

#include <array>

#include "collectives/transport/nccl_transport.h"
#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "core/host_bytes.h"
#include "runtime/replay_run.h"
#include "runtime/trainer.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

// Small: under test plugins every CUDA thread is run on the CPU.
constexpr TinyShape kShape{
    .hidden = 32, .layers = 1, .heads = 2, .key_value_heads = 1, .intermediate = 64};

class TrainerOnCuda : public testing::Test {
 protected:
  RunConfig run(const std::string& name, std::vector<std::string> settings = {},
                const std::string& device = "cuda") const {
    settings.push_back("train.device=\"" + device + "\"");
    settings.push_back("train.steps=4");
    settings.insert(settings.begin(), "train.compute=\"f32\"");
    settings.push_back("train.validation_windows=2");
    return tiny_.run(name, "", settings);
  }
  std::string parameters(const TrainingResult& result) const {
    return read_file(result.checkpoint + "/model.safetensors");
  }
  std::vector<double> losses(const std::string& name) const {
    std::vector<double> all;
    for (const nlohmann::json& step : metrics_of(tiny_.path(name), "step"))
      all.push_back(step["loss_metrics/global_avg_loss"].get<double>());
    return all;
  }

  TinyRun tiny_{kShape};
};

TEST_F(TrainerOnCuda, LearnsWhatTheCpuLearns) {
  for (const std::string preset : {"olion", "adamw", "muon"}) {
    const std::string rule = "optimizer.preset=\"" + preset + "\"";
    const auto there = train_on(1, run("cuda-" + preset, {rule}));
    const auto here = train_on(1, run("cpu-" + preset, {rule}, "cpu"));
    const std::vector<double> a = losses("cuda-" + preset), b = losses("cpu-" + preset);
    ASSERT_EQ(a.size(), 4u);
    ASSERT_EQ(b.size(), 4u);
    EXPECT_NEAR(a[0], b[0], 1e-5) << preset;
    // A sign that rounding flips moves a parameter by two steps.
    for (std::size_t i = 1; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 2e-2) << preset << i;
    EXPECT_NEAR(there[0].last_loss, here[0].last_loss, 2e-2) << preset;
    EXPECT_LT(there[0].last_loss, there[0].first_loss) << preset;
  }
}

TEST_F(TrainerOnCuda, GivesTheSameBitsTwice) {
  EXPECT_EQ(parameters(train_on(2, run("a"))[0]), parameters(train_on(2, run("b"))[0]));
}

// Replicas stay identical whatever computed the ballots: the audit of every step says so.
TEST_F(TrainerOnCuda, VotesWithWorkersOnTheCpu) {
  std::vector<RunConfig> configs = {run("mixed"), run("mixed", {}, "cpu"), run("mixed")};
  std::vector<TrainingResult> results(3);
  run_loopback(3, [&](Transport& transport) {
    const auto rank = static_cast<std::size_t>(transport.rank());
    results[rank] = train(configs[rank], transport);
  });
  EXPECT_EQ(results[0].digest, results[1].digest);
  EXPECT_EQ(results[0].digest, results[2].digest);
  EXPECT_EQ(metrics_of(tiny_.path("mixed"), "end").at(0)["replicas_identical"], true);
}

// The same votes from GPU to GPU by every schedule that goes there; the agreement of voters by
// tensor too.
TEST_F(TrainerOnCuda, VotesOverNcclToTheSameBits) {
  if (cuda_core().device_count() < 3) GTEST_SKIP() << "needs 3 GPUs";
  const std::vector<std::string> settings = {"audit.agreement_window=4"};
  const std::uint64_t digest = train_on(3, run("loopback", settings))[0].digest;
  const auto agreement_of = [&](const std::string& name) {
    std::vector<nlohmann::json> lines = metrics_of(tiny_.path(name), "agreement");
    for (nlohmann::json& line : lines) line.erase("time");
    return lines;
  };
  const auto agreement = agreement_of("loopback");
  EXPECT_GE(agreement.size(), 1u);
  const std::vector<std::vector<std::string>> schedules = {
      {},
      {"vote.schedule=\"lanes\""},
      {"vote.schedule=\"hierarchical\""},
      {"vote.schedule=\"hierarchical\"", "vote.node_size=3"}};
  for (std::size_t i = 0; i < schedules.size(); ++i) {
    const std::string name = "nccl-" + std::to_string(i);
    std::vector<std::string> all = settings;
    all.insert(all.end(), schedules[i].begin(), schedules[i].end());
    std::vector<TrainingResult> results(3);
    run_loopback(3, [&](Transport& control) {
      const auto rank = static_cast<std::size_t>(control.rank());
      RunConfig config = run(name, all);
      config.device = "cuda:" + std::to_string(rank);
      const auto nccl = make_nccl_transport(control, {Device::Kind::cuda, control.rank()},
                                            Deadline::in(std::chrono::minutes(1)));
      results[rank] = train(config, *nccl);
    });
    for (const TrainingResult& result : results) EXPECT_EQ(result.digest, digest) << name;
    EXPECT_EQ(agreement_of(name), agreement) << name;
  }
}

// Means too: of AdamW's gradients, and with the wire in bf16; what a journal holds replays.
TEST_F(TrainerOnCuda, AveragesOverNcclToTheSameBits) {
  if (cuda_core().device_count() < 3) GTEST_SKIP() << "needs 3 GPUs";
  const std::string head = "group.head.";
  const std::vector<std::pair<std::string, std::vector<std::string>>> runs = {
      {"mean-fp32", {"optimizer.preset=\"adamw\"", "optimizer.reduce=\"mean-fp32\""}},
      {"mean-bf16", {"optimizer.preset=\"adamw\"", "optimizer.reduce=\"mean-bf16\""}},
      {"both-beside-a-vote", {head + "rule=\"adamw\"", head + "reduce=\"mean-bf16\""}}};
  for (const auto& [reduce, settings] : runs) {
    std::vector<TrainingResult> results(3);
    run_loopback(3, [&](Transport& control) {
      const auto rank = static_cast<std::size_t>(control.rank());
      RunConfig config = run("nccl-" + reduce, settings);
      config.device = "cuda:" + std::to_string(rank);
      const auto nccl = make_nccl_transport(control, {Device::Kind::cuda, control.rank()},
                                            Deadline::in(std::chrono::minutes(1)));
      results[rank] = train(config, *nccl);
    });
    EXPECT_EQ(results[0].digest, results[1].digest);
    EXPECT_EQ(results[0].digest, results[2].digest);
    EXPECT_EQ(results[0].digest, train_on(3, run("loopback-" + reduce, settings))[0].digest);
  }
}

TEST_F(TrainerOnCuda, ProductsInTf32AreRoundedAndSaySo) {
  const auto rounded = train_on(1, run("tf32", {"train.compute=\"tf32\""}));
  const auto full = train_on(1, run("f32"));
  EXPECT_NEAR(rounded[0].last_loss, full[0].last_loss, 2e-2);
  EXPECT_NE(rounded[0].digest, full[0].digest);
  EXPECT_EQ(metrics_of(tiny_.path("tf32"), "run").front()["compute"], "tf32");
}

// Memory that is given back waits for the whole device, and so for what a lost worker would have to
// send.
TEST_F(TrainerOnCuda, AWorkerThatFailsEndsTheOthersOverNccl) {
  if (cuda_core().device_count() < 3) GTEST_SKIP() << "needs 3 GPUs";
  std::array<int, 3> codes{};
  run_loopback(3, [&](Transport& control) {
    RunConfig config = run("lost");
    config.device = "cuda:" + std::to_string(control.rank());
    const auto deadline = Deadline::in(std::chrono::minutes(1));
    const auto nccl = make_nccl_transport(control, {Device::Kind::cuda, control.rank()}, deadline);
    TrainingHooks hooks;
    if (control.rank() == 1)
      hooks.after_step = [](std::int64_t step, const ParameterArena&) {
        if (step == 1) throw DataError("a test");
      };
    try {
      train(config, *nccl, hooks);
    } catch (const Error& error) {
      codes[static_cast<std::size_t>(control.rank())] = static_cast<int>(error.exit_code());
    }
  });
  EXPECT_EQ(codes, (std::array{4, 3, 4}));
}

// What a GPU wrote down a CPU applies to the same bits.
TEST_F(TrainerOnCuda, ItsJournalReplaysOnTheCpu) {
  const RunConfig config = run("journal", {"train.checkpoint_every=4"});
  train_on(2, config);
  const ReplayedRun replayed = replay_run(config.output_folder, 3, "");
  EXPECT_EQ(replayed.from_step, 0);
  EXPECT_EQ(replayed.to_step, 3);
  EXPECT_EQ(replayed.report.proved, 3);
  EXPECT_TRUE(replayed.last_proved);
}

TEST_F(TrainerOnCuda, ResumesAsIfItHadNeverStopped) {
  for (const std::string preset : {"olion", "adamw"}) {
    const std::vector<std::string> rule{"optimizer.preset=\"" + preset + "\""};
    const auto whole = train_on(2, run("whole-" + preset, rule));
    train_on(2, run("parts-" + preset, rule), [](int) {
      TrainingHooks hooks;
      const auto steps = std::make_shared<int>(0);
      hooks.should_stop = [steps] { return ++*steps == 2; };
      return hooks;
    });
    const auto rest = train_on(2, run("parts-" + preset, rule), [](int) {
      TrainingHooks hooks;
      hooks.resume = true;
      return hooks;
    });
    EXPECT_EQ(parameters(rest[0]), parameters(whole[0])) << preset;
    for (const char* file : {"voter-0", "voter-1", "replicated"}) {
      const std::string name = std::string("/trainer/") + file + ".safetensors";
      EXPECT_EQ(read_file(rest[0].checkpoint + name), read_file(whole[0].checkpoint + name))
          << preset << " " << file;
    }
  }
}

// Bits of one replica flip behind the run's back, in what a GPU holds: found, and taken from the
// majority.
TEST_F(TrainerOnCuda, ARepairReachesTheDevice) {
  const RunConfig config = run("flip", {"audit.repairs=true"});
  const auto flip = [](int rank) {
    TrainingHooks hooks;
    if (rank == 1)
      hooks.after_step = [](std::int64_t step, const ParameterArena& arena) {
        if (step != 2) return;
        const HostBytes host(arena.parameters().front().value);
        host.data()[1] ^= std::byte{1};
        host.put_back();
      };
    return hooks;
  };
  const auto results = train_on(3, config, flip);
  EXPECT_EQ(results[0].digest, results[1].digest);
  EXPECT_EQ(metrics_of(config.output_folder, "repair").size(), 1u);
}

TEST_F(TrainerOnCuda, RefusesVotersOfSeveralMembers) {
  try {
    run("members", {"vote.members=2"});
    FAIL() << "was accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("vote.members = 2"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace ballot

// Where no majority of workers agrees: the journal, replayed, says who is right, or why it cannot.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "runtime/replay_judge.h"
#include "runtime/replica_audit.h"
#include "tests/runtime/checkpoint_support.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// A row of the table that no text touches: a flip there changes no gradient, so after a repair it
// is as if it had never been.
constexpr const char* kTable = "model.embed_tokens.weight";
constexpr std::int64_t kUnseen = 64 * 3 + 5;

void flip(const ParameterArena& arena, const char* tensor, std::int64_t element, int bit) {
  float& value = arena.find(tensor).value.f32()[element];
  value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ (1u << bit));
}

// Calls `action` on each worker after that step.
std::function<TrainingHooks(int)> after(
    std::int64_t at, std::function<void(int rank, const ParameterArena& arena)> action) {
  return [at, action = std::move(action)](int rank) {
    TrainingHooks hooks;
    hooks.after_step = [at, action, rank](std::int64_t step, const ParameterArena& arena) {
      if (step == at) action(rank, arena);
    };
    return hooks;
  };
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const ReplicasDiffer& error) {
    return error.what();
  }
  return "no refusal";
}

class WrongWorkers : public testing::TestWithParam<std::pair<int, std::set<int>>> {};

TEST_P(WrongWorkers, AreNamedAndTakeWhatTheReplayConfirms) {
  const auto& [workers, wrong] = GetParam();
  const TinyRun tiny;
  const auto clean = train_on(workers, tiny.run("clean"));
  const auto judged = train_on(workers, tiny.run("judged"),
                               after(2, [&wrong = wrong](int rank, const ParameterArena& arena) {
                                 if (wrong.contains(rank)) flip(arena, kTable, kUnseen, 22);
                               }));
  for (const TrainingResult& result : judged) EXPECT_EQ(result.digest, clean[0].digest);
  const std::vector<Json> repairs = metrics_of(tiny.path("judged"), "repair");
  ASSERT_EQ(repairs.size(), 1u);
  EXPECT_EQ(repairs[0]["step"], 3);
  EXPECT_EQ(repairs[0]["worker"], *wrong.begin());
  int right = 0;
  while (wrong.contains(right)) ++right;
  EXPECT_THAT(repairs[0]["text"].get<std::string>(),
              AllOf(HasSubstr(fmt::format("parameter {} of worker {}", kTable, *wrong.begin())),
                    HasSubstr("replayed by worker 0 from step 0"),
                    HasSubstr(fmt::format("it takes that from worker {}", right))));
  EXPECT_EQ(metrics_of(tiny.path("judged"), "end").at(0)["replicas_identical"], true);
}

INSTANTIATE_TEST_SUITE_P(ReplayJudge, WrongWorkers,
                         testing::Values(std::pair(2, std::set{0}), std::pair(2, std::set{1}),
                                         std::pair(4, std::set{1, 3}),
                                         std::pair(4, std::set{0, 1})),
                         [](const auto& instance) {
                           std::string name = fmt::format("Of{}Workers", instance.param.first);
                           for (const int rank : instance.param.second)
                             name += fmt::format("Wrong{}", rank);
                           return name;
                         });

// Different tensors of both workers: each is right in one.
TEST(ReplayJudge, JudgesTensorByTensor) {
  const TinyRun tiny;
  const auto judged =
      train_on(2, tiny.run("run"), after(2, [](int rank, const ParameterArena& arena) {
                 if (rank == 0) flip(arena, kTable, kUnseen, 22);
                 if (rank == 1) flip(arena, "lm_head.weight", 7, 0);
               }));
  EXPECT_EQ(judged[0].digest, judged[1].digest);
  EXPECT_NE(judged[0].digest, 0u);
  std::set<int> named;
  for (const Json& repair : metrics_of(tiny.path("run"), "repair"))
    named.insert(repair["worker"].get<int>());
  EXPECT_EQ(named, (std::set{0, 1}));
}

// The last bit of a value that AdamW follows is found with the next step.
TEST(ReplayJudge, JudgesWhatAdamWFollows) {
  const TinyRun tiny;
  const char* const adamw = "[group.embedding]\nrule = \"adamw\"\n[group.head]\nrule = \"adamw\"\n";
  const auto clean = train_on(2, tiny.run("clean", adamw));
  for (const int wrong : {0, 1}) {
    const std::string name = fmt::format("wrong-{}", wrong);
    const auto judged =
        train_on(2, tiny.run(name, adamw), after(3, [wrong](int rank, const ParameterArena& arena) {
                   if (rank == wrong) flip(arena, kTable, kUnseen, 0);
                 }));
    for (const TrainingResult& result : judged) EXPECT_EQ(result.digest, clean[0].digest);
    EXPECT_EQ(metrics_of(tiny.path(name), "repair").size(), 1u);
  }
}

TEST(ReplayJudge, BeginsAtACheckpointAndPassesADamagedOneOver) {
  const TinyRun tiny;
  const std::vector<std::string> settings = {"train.checkpoint_every=2",
                                             "checkpoint.overlap=false"};
  const auto clean = train_on(2, tiny.run("clean", "", settings));
  const auto text_of = [&](const std::string& name, const auto& action) {
    const auto judged = train_on(2, tiny.run(name, "", settings), action);
    EXPECT_EQ(judged[0].digest, clean[0].digest);
    EXPECT_EQ(judged[1].digest, clean[0].digest);
    const std::vector<Json> repairs = metrics_of(tiny.path(name), "repair");
    return repairs.size() == 1 ? repairs[0]["text"].get<std::string>() : "no repair";
  };
  EXPECT_THAT(text_of("whole", after(5,
                                     [](int rank, const ParameterArena& arena) {
                                       if (rank == 1) flip(arena, kTable, kUnseen, 22);
                                     })),
              HasSubstr("from step 4"));
  EXPECT_THAT(text_of("damaged", after(5,
                                       [&](int rank, const ParameterArena& arena) {
                                         if (rank != 1) return;
                                         flip(arena, kTable, kUnseen, 22);
                                         fs::resize_file(
                                             tiny.path("damaged") +
                                                 "/checkpoints/step-00000004/model.safetensors",
                                             1000);
                                       })),
              HasSubstr("from step 2"));
  // Saved by the worker that was wrong: every file is whole, and not what the run had.
  EXPECT_THAT(text_of("saved", after(4,
                                     [](int rank, const ParameterArena& arena) {
                                       if (rank == 0) flip(arena, kTable, kUnseen, 22);
                                     })),
              HasSubstr("from step 2"));
}

TEST(ReplayJudge, RefusesWhereAllAreDamaged) {
  const TinyRun tiny;
  const std::string text = refusal([&] {
    train_on(2, tiny.run("run"), after(2, [](int rank, const ParameterArena& arena) {
               flip(arena, kTable, kUnseen, 20 + rank);
             }));
  });
  EXPECT_THAT(text, AllOf(HasSubstr("step 3"), HasSubstr(kTable), HasSubstr("all are damaged")));
  EXPECT_EQ(metrics_of(tiny.path("run"), "end").at(0)["replicas_identical"], false);
}

TEST(ReplayJudge, SaysWhyItCannotReplay) {
  const TinyRun tiny;
  const auto refused = [&](const std::string& name, const std::function<void()>& spoil) {
    return refusal([&] {
      train_on(2, tiny.run(name), after(2, [&](int rank, const ParameterArena& arena) {
                 if (rank != 0) return;
                 flip(arena, kTable, kUnseen, 20);
                 spoil();
               }));
    });
  };
  // Folders stay: a writer may be about to sync them.
  const auto remove_shard = [&](const std::string& name, int worker) {
    const std::string shard = fmt::format("{}/journal/worker-{}", tiny.path(name), worker);
    // A writer makes its file with the first that it writes, which may be later than the step.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (fs::is_empty(shard) && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (const auto& file : fs::directory_iterator(shard)) fs::remove(file);
  };
  EXPECT_THAT(refused("no-journal",
                      [&] {
                        remove_shard("no-journal", 0);
                        remove_shard("no-journal", 1);
                      }),
              AllOf(HasSubstr(kTable), HasSubstr("worker 0"), HasSubstr("cannot be replayed")));
  EXPECT_THAT(refused("half-a-journal", [&] { remove_shard("half-a-journal", 1); }),
              AllOf(HasSubstr("cannot be replayed"), HasSubstr("no whole checkpoint")));
  EXPECT_THAT(refused("other-start", [&] { write_tiny_model(tiny.path("model"), {}, 8); }),
              HasSubstr("is not the model that"));
}

// A worker with its own view of the run folder, after the run.
struct Witness {
  RunConfig config;
  ParameterArena arena;
  OptimizerState state;
  StepLayout layout;
  TrainingState training;
  explicit Witness(const RunConfig& of, const std::string& checkpoint)
      : config(of),
        arena(read_architecture(checkpoint)->parameter_shapes(), DType::f32),
        state(arena, config.groups),
        layout(state),
        training(load_checkpoint(checkpoint, arena, state, 0)) {}
};

TEST(ReplayJudge, WhoeverSeesTheJournalReplays) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run");
  const std::string checkpoint = train_on(3, config)[0].checkpoint;
  for (const std::set<int>& blind : {std::set<int>{}, {0}, {0, 1}, {0, 1, 2}}) {
    run_loopback(3, [&](Transport& transport) {
      Witness witness(config, checkpoint);
      const Duration patience = std::chrono::seconds(60);
      RunJournal journal(witness.config, witness.layout, witness.training, nullptr, transport,
                         patience);
      RunConfig seen = config;
      if (blind.contains(transport.rank())) seen.output_folder = tiny.path("elsewhere");
      ReplayJudge judge(seen, journal, transport, patience);
      const std::vector<std::uint64_t> live = parameter_digests(witness.arena);
      const Judgement judgement = judge.judge(6, live.size());
      EXPECT_EQ(judgement.judge, blind.size() == 3 ? -1 : static_cast<int>(blind.size()));
      if (judgement.judge >= 0) {
        EXPECT_EQ(judgement.tensors, live);
        EXPECT_EQ(judgement.from_step, 6);
      } else {
        EXPECT_THAT(judgement.why_not, AllOf(HasSubstr("worker 0"), HasSubstr("elsewhere")));
      }
    });
  }
}

TEST(ReplayJudge, IsNoWitnessWhereWorkersWroteOtherDecisions) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run");
  const std::string checkpoint = train_on(2, config)[0].checkpoint;
  run_loopback(2, [&](Transport& transport) {
    Witness witness(config, checkpoint);
    if (transport.rank() == 1) {
      witness.config.output_folder = tiny.path("other");
      witness.training.journal->chain.low ^= 1;
      fs::create_directories(tiny.path("other"));
    }
    const Duration patience = std::chrono::seconds(60);
    RunJournal journal(witness.config, witness.layout, witness.training, nullptr, transport,
                       patience);
    ReplayJudge judge(config, journal, transport, patience);
    const Judgement judgement = judge.judge(6, witness.arena.parameters().size());
    EXPECT_EQ(judgement.judge, -1);
    EXPECT_THAT(judgement.why_not, HasSubstr("worker 1 wrote another decision of step 6"));
  });
}

// With the values go the moments and the count of updates, and nothing else changes.
TEST(ReplayJudge, TheRepairBringsMomentsToo) {
  for (const int wrong : {0, 1}) {
    run_loopback(2, [wrong](Transport& transport) {
      const bool damaged = transport.rank() == wrong;
      const std::uint64_t seed = 5;
      SmallState right(seed, transport.rank()), mine(seed, transport.rank());
      const std::vector<std::uint64_t> expected = parameter_digests(right.arena());
      const Parameter& norm = mine.arena().find("layers.0.norm");
      if (damaged) {
        mine.change(norm, Changing::value, 77);
        mine.change(norm, Changing::state, 78);
      }
      ReplicaAudit audit(mine.arena(), mine.state(), transport, true);
      int asked = 0;
      audit.judge_by([&](std::int64_t step) {
        ++asked;
        EXPECT_EQ(step, 9);
        Judgement judgement;
        judgement.judge = 1;
        judgement.from_step = 4;
        judgement.tensors = expected;
        return judgement;
      });
      WorkerReport report;
      report.step = 9;
      std::vector<std::uint64_t> digests = parameter_digests(mine.arena());
      const Deadline deadline = Deadline::in(std::chrono::seconds(60));
      audit.exchange(report, digests, deadline);
      EXPECT_EQ(digests, expected);
      EXPECT_EQ(mine.digest(), right.digest());
      ASSERT_EQ(audit.repaired().size(), 1u);
      EXPECT_EQ(audit.repaired()[0].others, std::vector{wrong});
      EXPECT_EQ(audit.repaired()[0].judge, 1);
      for (std::size_t i = 0; i < right.state().states().size(); ++i) {
        const ParameterState &a = right.state().states()[i], &b = mine.state().states()[i];
        EXPECT_EQ(a.count, b.count) << i;
        for (const auto moment : {&ParameterState::momentum, &ParameterState::second}) {
          const Tensor x = (a.*moment).view(), y = (b.*moment).view();
          if (x.data == nullptr) continue;
          const std::size_t bytes = static_cast<std::size_t>(x.count()) * size_bytes(x.type);
          EXPECT_EQ(std::memcmp(x.data, y.data, bytes), 0) << i;
        }
      }
      // Nobody is asked where nobody differs.
      audit.exchange(report, digests, deadline);
      EXPECT_EQ(asked, 1);
      EXPECT_TRUE(audit.repaired().empty());
    });
  }
}

// What a journal has written cannot be taken back, and its checkpoints would never be published.
TEST(ReplicaAudit, AJournalWithAnotherRecordEndsTheRunAndIsNamed) {
  run_loopback(3, [](Transport& transport) {
    SmallState mine(3);
    ReplicaAudit audit(mine.arena(), mine.state(), transport, true);
    WorkerReport report;
    report.step = 4;
    report.record = 0xabc;
    std::vector<std::uint64_t> digests = mine.digests();
    audit.exchange(report, digests, Deadline::in(std::chrono::seconds(60)));
    report.step = 5;
    if (transport.rank() == 1) report.record = 0xdef;
    try {
      audit.exchange(report, digests, Deadline::in(std::chrono::seconds(60)));
      ADD_FAILURE() << "nobody noticed";
    } catch (const ReplicasDiffer& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("different records of step 5"));
      EXPECT_THAT(error.what(), testing::HasSubstr("0000000000000abc of workers 0, 2"));
      EXPECT_THAT(error.what(), testing::HasSubstr("0000000000000def of worker 1"));
    }
  });
}

}  // namespace
}  // namespace ballot

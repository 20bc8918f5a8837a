// The whole loop with ranks as threads: learning, identical replicas, resume, faults, bytes.
#include "runtime/trainer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "core/parallel.h"
#include "runtime/checkpoint.h"
#include "runtime/metrics_names.h"
#include "runtime/replay_run.h"
#include "runtime/replica_audit.h"
#include "runtime/run_checkpoints.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

std::string parameters_of(const TrainingResult& result) {
  return read_file(result.checkpoint + "/model.safetensors");
}

TEST(Trainer, FourVotersLearnAndStayIdentical) {
  const TinyRun tiny;
  const auto results = train_on(4, tiny.run("run", "[optimizer]\nrate = 0.02\n",
                                            {"train.steps=25", "schedule.warmup_steps=3"}));
  EXPECT_LT(results[0].last_loss, results[0].first_loss - 1.0);
  for (const TrainingResult& result : results) {
    EXPECT_EQ(result.digest, results[0].digest);
    EXPECT_DOUBLE_EQ(result.last_loss, results[0].last_loss);
  }
  EXPECT_EQ(metrics_of(tiny.path("run"), "step").size(), 25u);
  EXPECT_EQ(metrics_of(tiny.path("run"), "end").at(0)["replicas_identical"], true);
}

TEST(Trainer, SameSeedGivesTheSameBitsAndAnotherSeedDoesNot) {
  const TinyRun tiny;
  const std::string a = parameters_of(train_on(3, tiny.run("a"))[0]);
  EXPECT_EQ(a, parameters_of(train_on(3, tiny.run("b"))[0]));
  EXPECT_NE(a, parameters_of(train_on(3, tiny.run("c", "", {"train.seed=2"}))[0]));
}

// How ballots travel decides nothing: not overlap, nor the schedule, nor the size of pieces.
TEST(Trainer, GivesTheSameBitsHoweverItsBallotsTravel) {
  const TinyRun tiny;
  const std::string a = parameters_of(
      train_on(4, tiny.run("a", "", {"vote.overlap=false", "vote.schedule=sharded"}))[0]);
  const std::vector<std::vector<std::string>> others = {
      {"vote.overlap=true", "vote.schedule=sharded"},
      {"vote.overlap=true", "vote.schedule=sharded", "vote.piece_elements=2048"},
      {"vote.overlap=true", "vote.schedule=gathered", "vote.piece_elements=512"},
      {"vote.overlap=true", "vote.schedule=lanes", "vote.piece_elements=4096"},
      {"vote.overlap=true", "vote.schedule=hierarchical", "vote.node_size=2"},
      {"vote.overlap=false", "vote.schedule=hierarchical", "vote.node_size=4"},
      {"vote.schedule=auto"}};
  for (std::size_t i = 0; i < others.size(); ++i)
    EXPECT_EQ(a, parameters_of(train_on(4, tiny.run(fmt::format("b{}", i), "", others[i]))[0]))
        << testing::PrintToString(others[i]);
  const std::string mean = parameters_of(
      train_on(3, tiny.run("m", "", {"optimizer.preset=\"adamw\"", "vote.overlap=false"}))[0]);
  EXPECT_EQ(
      mean,
      parameters_of(train_on(
          3, tiny.run("n", "", {"optimizer.preset=\"adamw\"", "vote.piece_elements=640"}))[0]));
}

TEST(Trainer, OverlapHidesCommunicationBehindBackward) {
  const TinyRun tiny;
  for (const char* overlap : {"false", "true"}) {
    train_on(3, tiny.run(overlap, "", {std::string("vote.overlap=") + overlap}));
    double hidden = 0;
    for (const Json& step : metrics_of(tiny.path(overlap), "step")) {
      EXPECT_GE(step[metric::kExposedSeconds].get<double>(), 0);
      hidden += step[metric::kHiddenSeconds].get<double>();
    }
    EXPECT_EQ(hidden > 0, std::string(overlap) == "true");
  }
}

struct Recipe {
  const char* name;
  const char* preset;
  const char* reduce;
  const char* ties;
};

class EveryRecipe : public testing::TestWithParam<Recipe> {};

// Three steps, an end, and three more are six steps: parameters, momentum and AdamW state, bit for
// bit.
TEST_P(EveryRecipe, ResumesAsIfItHadNeverStopped) {
  const Recipe recipe = GetParam();
  const TinyRun tiny;
  const std::string optimizer = std::string("[optimizer]\nrate = 0.01\npreset = \"") +
                                recipe.preset + "\"\nreduce = \"" + recipe.reduce +
                                "\"\n[vote]\nties = \"" + recipe.ties + "\"\n";
  const auto whole = train_on(3, tiny.run("whole", optimizer));
  const auto stop_after_three = [](int) {
    TrainingHooks hooks;
    const auto steps = std::make_shared<int>(0);
    hooks.should_stop = [steps] { return ++*steps == 3; };
    return hooks;
  };
  const auto half = train_on(3, tiny.run("parts", optimizer), stop_after_three);
  EXPECT_EQ(half[0].steps, 3);
  EXPECT_TRUE(half[0].stopped);
  const auto rest = train_on(3, tiny.run("parts", optimizer), [](int) {
    TrainingHooks hooks;
    hooks.resume = true;
    return hooks;
  });
  EXPECT_EQ(rest[0].steps, 6);
  EXPECT_EQ(rest[0].digest, whole[0].digest);
  EXPECT_EQ(parameters_of(rest[0]), parameters_of(whole[0]));
  for (const char* file : {"voter-0", "voter-1", "voter-2", "replicated"})
    EXPECT_EQ(read_file(rest[0].checkpoint + "/trainer/" + file + ".safetensors"),
              read_file(whole[0].checkpoint + "/trainer/" + file + ".safetensors"))
        << file;
  EXPECT_EQ(metrics_of(tiny.path("parts"), "step").size(), 6u);
}

INSTANTIATE_TEST_SUITE_P(Trainer, EveryRecipe,
                         testing::Values(Recipe{"olion_vote", "olion", "vote", "coin"},
                                         Recipe{"olion_vote_hold", "olion", "vote", "hold"},
                                         Recipe{"olion_mean", "olion", "mean-fp32", "coin"},
                                         Recipe{"olion_mean_bf16", "olion", "mean-bf16", "coin"},
                                         Recipe{"lion_vote", "lion", "vote", "coin"},
                                         Recipe{"signum_vote", "signum", "vote", "coin"},
                                         Recipe{"muon", "muon", "mean-fp32", "coin"},
                                         Recipe{"adamw", "adamw", "mean-fp32", "coin"},
                                         Recipe{"sgd", "sgd", "mean-fp32", "coin"}),
                         [](const auto& instance) { return instance.param.name; });

TEST(Trainer, ResumesWithAnotherNumberOfWorkers) {
  const TinyRun tiny;
  train_on(4, tiny.run("run", "", {"train.steps=3"}));
  const auto more = train_on(6, tiny.run("run", "", {"train.steps=5"}), [](int) {
    TrainingHooks hooks;
    hooks.resume = true;
    return hooks;
  });
  EXPECT_EQ(more[0].steps, 5);
  // Samples go on where they stopped: 3 steps of 4 x 2, then 2 steps of 6 x 2.
  const Json state = Json::parse(read_file(more[0].checkpoint + "/trainer/state.json"));
  EXPECT_EQ(state["sample_counter"], 3 * 4 * 2 + 2 * 6 * 2);
}

TEST(Trainer, GradientAccumulationIsOneLargerBatchUpToRounding) {
  const TinyRun tiny;
  const auto one = train_on(1, tiny.run("one", "[optimizer]\npreset = \"adamw\"\nrate = 0.001\n",
                                        {"train.batch=4", "train.micro_batches=1"}));
  const auto two = train_on(1, tiny.run("two", "[optimizer]\npreset = \"adamw\"\nrate = 0.001\n",
                                        {"train.batch=2", "train.micro_batches=2"}));
  EXPECT_NEAR(one[0].last_loss, two[0].last_loss, 1e-4);
}

// What a vote sends, from the transport's counters as the run recorded them.
TEST(Trainer, VotedBytesAreWhatTheCostTableSays) {
  TinyShape shape;
  shape.hidden = 192;
  shape.heads = 6;
  shape.intermediate = 512;
  shape.layers = 6;
  const TinyRun tiny(shape);
  for (const int workers : {2, 3, 4, 8}) {
    const std::string name = "run" + std::to_string(workers);
    train_on(workers, tiny.run(name, "",
                               {"train.steps=1", "data.sequence_length=8",
                                "data.validation=", "vote.schedule=sharded"}));
    const Json step = metrics_of(tiny.path(name), "step").at(0),
               run = metrics_of(tiny.path(name), "run").at(0);
    const double voted = run["voted_parameters"].get<double>(),
                 share = 2.0 * (workers - 1) / workers;
    const double sent = step[metric::kVoteBytesSent].get<double>();
    // Rows of 192 have blocks of 64 and rows of 512 blocks of 512, so abstentions cost at most 1/64
    // more.
    EXPECT_GE(sent, share * voted / 8 * (1 - 0.01))
        << workers;  // chunks differ by 512 elements between owners
    EXPECT_LE(sent, share * voted / 8 * (1 + 1.0 / 64 + 0.02)) << workers;
    EXPECT_GT(step[metric::kBytesSent].get<double>(),
              sent);  // the unvoted groups are counted beside it
    EXPECT_NEAR(step[metric::kFp32Bytes].get<double>(), share * 4 * run["parameters"].get<double>(),
                1);
  }
}

// A model whose gradients or loss go bad at chosen steps, as a faulty worker's would.
class FaultyModel : public ModelAround {
 public:
  enum class Fault { matrix, gain, embedding, loss, failure };
  FaultyModel(std::unique_ptr<Model> model, Fault fault, std::int64_t step)
      : ModelAround(std::move(model)), fault_(fault), fault_step_(step) {}

  Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
    struct Poison : GradientSink {
      void loss_known(double loss) override {
        next->loss_known(active && fault == Fault::loss ? std::numeric_limits<double>::quiet_NaN()
                                                        : loss);
      }
      void ready(const Parameter& p, Stream& stream) override {
        if (active && fault == Fault::failure &&
            p.shape.name == "model.layers.0.mlp.up_proj.weight")
          throw DataError("the gradient of {} is not to be had", p.shape.name);
        const bool hit =
            (fault == Fault::matrix && p.shape.name == "model.layers.1.mlp.up_proj.weight") ||
            (fault == Fault::gain && p.shape.name == "model.norm.weight") ||
            (fault == Fault::embedding && p.shape.name == "model.embed_tokens.weight");
        if (active && hit)
          p.gradient.f32()[p.count() / 2] = std::numeric_limits<float>::quiet_NaN();
        next->ready(p, stream);
      }
      GradientSink* next;
      Fault fault;
      bool active;
    } poison;
    poison.next = &sink;
    poison.fault = fault_;
    poison.active = step_++ == fault_step_;
    Loss loss = model_->differentiate(batches, poison);
    if (poison.active && fault_ == Fault::loss) loss.sum = std::numeric_limits<double>::quiet_NaN();
    return loss;
  }

 private:
  Fault fault_;
  std::int64_t fault_step_, step_ = 0;
};

// A worker that fails while its ballots are already on the wire ends in its own error; nobody
// hangs.
TEST(Trainer, AFailureDuringBackwardStopsTheCommunicationThread) {
  const TinyRun tiny;
  EXPECT_THROW(train_on(3, tiny.run("run", "", {"vote.piece_elements=512"}),
                        [](int rank) {
                          TrainingHooks hooks;
                          if (rank == 1)
                            hooks.wrap_model = [](std::unique_ptr<Model> model,
                                                  const ParameterArena&) {
                              return std::make_unique<FaultyModel>(std::move(model),
                                                                   FaultyModel::Fault::failure, 2);
                            };
                          return hooks;
                        }),
               WorldError);
}

const char* const kFaultNames[] = {"NanInAMatrix", "NanInANormGain", "NanInTheEmbedding",
                                   "NanLoss"};

class FaultyWorker : public testing::TestWithParam<FaultyModel::Fault> {};

TEST_P(FaultyWorker, IsLeftOutForTheStepAndVotesAgain) {
  const TinyRun tiny;
  const FaultyModel::Fault fault = GetParam();
  const auto results = train_on(3, tiny.run("run"), [fault](int rank) {
    TrainingHooks hooks;
    if (rank == 1)
      hooks.wrap_model = [fault](std::unique_ptr<Model> model, const ParameterArena&) {
        return std::make_unique<FaultyModel>(std::move(model), fault, 2);
      };
    return hooks;
  });
  EXPECT_TRUE(std::isfinite(results[0].last_loss));
  for (const TrainingResult& result : results) EXPECT_EQ(result.digest, results[0].digest);
  const std::vector<Json> steps = metrics_of(tiny.path("run"), "step");
  ASSERT_EQ(steps.size(), 6u);
  const bool loss = fault == FaultyModel::Fault::loss;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Json& step = steps[i];
    if (i != 2) {
      EXPECT_EQ(step[metric::kGradientFaults], 0) << i;
      EXPECT_EQ(step[metric::kLossFaults], 0) << i;
    } else if (loss) {
      EXPECT_EQ(step[metric::kLossFaults], 1);
      EXPECT_GT(step[metric::kGradientFaults], 10);        // every tensor of that worker
      EXPECT_TRUE(step[metric::kAgreement][1].is_null());  // it said nothing at all
    } else {
      EXPECT_EQ(step[metric::kGradientFaults], 1);
    }
    EXPECT_TRUE(step[metric::kLoss].is_number()) << i;
  }
  EXPECT_TRUE(steps[3][metric::kAgreement][1].is_number());
  // Its momentum holds no trace of the fault.
  const SafetensorsReader momentum(results[0].checkpoint + "/trainer/voter-1.safetensors");
  for (const StoredTensor& tensor : momentum.tensors()) {
    const auto* values = reinterpret_cast<const float*>(tensor.bytes.data());
    for (std::int64_t i = 0; i < tensor.count(); ++i)
      ASSERT_TRUE(std::isfinite(values[i])) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Trainer, FaultyWorker,
                         testing::Values(FaultyModel::Fault::matrix, FaultyModel::Fault::gain,
                                         FaultyModel::Fault::embedding, FaultyModel::Fault::loss),
                         [](const auto& instance) {
                           return std::string(kFaultNames[static_cast<int>(instance.param)]);
                         });

class HiddenSizes : public testing::TestWithParam<int> {};

// The text has lower-case letters, spaces and full stops; every other row of the table has never
// been seen.
TEST_P(HiddenSizes, NeverSeenEmbeddingRowsDoNotMove) {
  TinyShape shape;
  shape.hidden = GetParam();
  shape.heads = shape.key_value_heads = 1;
  shape.intermediate = 64;
  shape.layers = 1;
  const TinyRun tiny(shape);
  RunConfig config =
      tiny.run("run", "[optimizer]\nrate = 0.01\nweight_decay = 0\n",
               {"train.steps=100", "data.validation=", "data.sequence_length=4", "train.batch=1",
                "group.hidden.newton_schulz=false"});  // not what this is about, and slow
  const std::vector<ParameterShape> shapes =
      read_architecture(tiny.path("model"))->parameter_shapes();
  const ParameterArena before(shapes, DType::f32), after(shapes, DType::f32);
  load_parameters(tiny.path("model"), before);
  load_parameters(train_on(2, config)[0].checkpoint, after);
  const std::string text = tiny_text();
  std::vector<bool> seen(258, false);
  for (const char c : text) seen[static_cast<unsigned char>(c)] = true;
  const Tensor old_table = before.find("model.embed_tokens.weight").value,
               table = after.find("model.embed_tokens.weight").value;
  int moved = 0;
  for (std::int64_t row = 0; row < 258; ++row) {
    const bool same = std::equal(old_table.f32() + row * old_table.stride[0],
                                 old_table.f32() + row * old_table.stride[0] + old_table.extent[1],
                                 table.f32() + row * table.stride[0]);
    EXPECT_TRUE(same || seen[row]) << row;
    moved += !same;
  }
  EXPECT_GT(moved, 5);
}

INSTANTIATE_TEST_SUITE_P(Trainer, HiddenSizes, testing::Values(192, 576, 768));

TEST(Trainer, AReplicaThatDiffersIsNamedWithItsTensor) {
  const TinyRun tiny;
  try {
    train_on(3, tiny.run("run", "", {"audit.repairs=false"}), [](int rank) {
      TrainingHooks hooks;
      hooks.after_step = [rank](std::int64_t step, const ParameterArena& arena) {
        if (rank == 2 && step == 2)
          arena.find("model.layers.0.mlp.down_proj.weight").value.f32()[5] += 1e-3f;
      };
      return hooks;
    });
    FAIL() << "nobody noticed";
  } catch (const ReplicasDiffer& error) {
    EXPECT_THAT(error.what(), HasSubstr("after step 3"));
    EXPECT_THAT(error.what(), HasSubstr("model.layers.0.mlp.down_proj.weight of worker 2"));
  }
  EXPECT_EQ(metrics_of(tiny.path("run"), "end").at(0)["replicas_identical"], false);
}

TEST(Trainer, WorkersWithDifferentConfigurationsDoNotStart) {
  const TinyRun tiny;
  try {
    run_loopback(2, [&](Transport& transport) {
      train(tiny.run("run", "", {"train.seed=" + std::to_string(transport.rank())}), transport);
    });
    FAIL() << "they started";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("seed = "));
  }
}

TEST(Trainer, VotersMayHaveDifferentNumbersOfThreads) {
  const TinyRun tiny;
  std::vector<TrainingResult> results(2);
  run_loopback(2, [&](Transport& transport) {
    RunConfig config = tiny.run("run");
    config.threads = 1 + transport.rank();
    results[transport.rank()] = train(config, transport);
  });
  EXPECT_EQ(results[0].digest, results[1].digest);
}

TEST(Trainer, AResumedRunIsTheSameRun) {
  const TinyRun tiny;
  train_on(1, tiny.run("run", "", {"train.steps=2"}));
  const auto resume = [](int) {
    TrainingHooks hooks;
    hooks.resume = true;
    return hooks;
  };
  try {
    train_on(1, tiny.run("run", "", {"train.steps=3", "train.seed=9", "group.hidden.rate=0.5"}),
             resume);
    FAIL() << "it went on as another run";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("train.seed = 9, was 1"));
    EXPECT_THAT(error.what(), HasSubstr("group.hidden.rate = 0.5, was 0.006"));
  }
  EXPECT_EQ(
      train_on(1, tiny.run("run", "", {"train.steps=3", "train.checkpoint_every=1"}), resume)[0]
          .steps,
      3);
}

// All shapes are as before.
TEST(Trainer, AnotherModelOfTheSameShapesIsNoneToResumeWith) {
  const TinyRun tiny;
  train_on(1, tiny.run("run", "", {"train.steps=2"}));
  const std::string path = tiny.path("model") + "/config.json";
  auto model = nlohmann::ordered_json::parse(read_file(path));
  model["rms_norm_eps"] = 0.25;
  write_file_synced(path, std::string_view(model.dump()));
  const auto resume = [](int) {
    TrainingHooks hooks;
    hooks.resume = true;
    return hooks;
  };
  EXPECT_THAT([&] { train_on(1, tiny.run("run", "", {"train.steps=3"}), resume); },
              testing::ThrowsMessage<DataError>(
                  testing::AllOf(HasSubstr("model/config.json is not the model that was saved in"),
                                 HasSubstr("step-00000002"), HasSubstr("rms_norm_eps is 0.25"))));
}

// 2^24 tokens of 2^16 floats would be 4 TiB.
TEST(Trainer, ATableThatTheFolderDoesNotHoldIsToldBeforeMemoryIsTaken) {
  const TinyRun tiny;
  const std::string path = tiny.path("model") + "/config.json";
  auto model = nlohmann::ordered_json::parse(read_file(path));
  model["vocab_size"] = 1 << 24;
  model["hidden_size"] = 1 << 16;
  write_file_synced(path, std::string_view(model.dump()));
  EXPECT_THAT([&] { train_on(1, tiny.run("run")); },
              testing::ThrowsMessage<DataError>(
                  HasSubstr("model.embed_tokens.weight is (258, 64), expected (16777216, 65536)")));
}

// Everything between the model and the vote is the same for every family.
TEST(Trainer, AGpt2IsTrainedByVoteAndItsJournalReplays) {
  const TinyRun tiny;
  const std::unique_ptr<Architecture> gpt2 = new_architecture("gpt2", {.hidden = 32,
                                                                       .layers = 2,
                                                                       .heads = 2,
                                                                       .vocabulary = 258,
                                                                       .max_positions = 64,
                                                                       .tied = true,
                                                                       .bos_token = 256,
                                                                       .eos_token = 257});
  const ParameterArena fresh(gpt2->parameter_shapes(), DType::f32);
  gpt2->initialize(fresh, 3);
  write_file_synced(tiny.path("model") + "/config.json", std::string_view(gpt2->to_json()));
  save_parameters(tiny.path("model"), fresh);
  const RunConfig config =
      tiny.run("run", "[optimizer]\nrate = 0.003\n", {"train.steps=8", "train.device=auto"});
  std::map<std::int64_t, std::uint64_t> digests;
  const std::vector<TrainingResult> results = train_on(3, config, [&](int rank) {
    TrainingHooks hooks;
    if (rank == 0)
      hooks.after_step = [&](std::int64_t step, const ParameterArena& arena) {
        digests[step] = fold(parameter_digests(arena));
      };
    return hooks;
  });
  EXPECT_LT(results[0].last_loss, results[0].first_loss - 0.1);
  EXPECT_EQ(results[0].digest, results[2].digest);
  EXPECT_EQ(read_architecture(results[0].checkpoint)->to_json(), gpt2->to_json());
  for (const std::int64_t step : {3, 7}) {  // from the start, which is a GPT-2 too
    const ReplayedRun replayed = replay_run(tiny.path("run"), step, "");
    EXPECT_EQ(replayed.parameters, digests[step]) << step;
    EXPECT_TRUE(replayed.last_proved);
  }
}

TEST(Trainer, WhenNoWorkerHasAFiniteLossTheRunEndsAndKeepsItsCheckpoints) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"train.checkpoint_every=1"});
  EXPECT_THROW(train_on(2, config,
                        [](int) {
                          TrainingHooks hooks;
                          hooks.wrap_model = [](std::unique_ptr<Model> model,
                                                const ParameterArena&) {
                            return std::make_unique<FaultyModel>(std::move(model),
                                                                 FaultyModel::Fault::loss, 2);
                          };
                          return hooks;
                        }),
               DataError);
  EXPECT_EQ(std::filesystem::read_symlink(tiny.path("run") + "/checkpoints/latest"),
            "step-00000002");
}

TEST(Trainer, ASequenceLongerThanTheModelsPositionsIsRefused) {
  const TinyRun tiny;
  EXPECT_THROW(train_on(1, tiny.run("run", "", {"data.sequence_length=300"})), ConfigError);
}

TEST(Trainer, DataShorterThanOneSequenceIsRefusedByName) {
  const TinyRun tiny;
  write_file_synced(tiny.path("train.txt"), std::string_view("too short"));
  try {
    train_on(1, tiny.run("run"));
    FAIL() << "it trained";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("data.train"));
  }
}

TEST(Trainer, AFolderThatHoldsARunIsNotWrittenOver) {
  const TinyRun tiny;
  train_on(1, tiny.run("run", "", {"train.steps=1"}));
  EXPECT_THROW(train_on(1, tiny.run("run", "", {"train.steps=1"})), ConfigError);
}

TEST(Checkpoint, ADamagedOneIsPassedOverForTheOneBefore) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "", {"train.steps=4", "train.checkpoint_every=2"});
  const auto results = train_on(2, config);
  std::fstream file(results[0].checkpoint + "/trainer/voter-1.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-3, std::ios::end);
  file.put('\x7f');
  file.close();
  EXPECT_THROW(verify_checkpoint(results[0].checkpoint), CorruptFile);
  run_loopback(2, [&](Transport& transport) {
    const auto found = find_checkpoint(tiny.path("run"), transport, std::chrono::seconds(10));
    ASSERT_TRUE(found);
    EXPECT_THAT(*found, HasSubstr("step-00000002"));
  });
  // And from there it comes to the same end.
  const auto again = train_on(2, config, [](int) {
    TrainingHooks hooks;
    hooks.resume = true;
    return hooks;
  });
  EXPECT_EQ(again[0].digest, results[0].digest);
}

// A later checkpoint that turned out damaged must not push out the ones that a resumed run writes.
TEST(Checkpoint, ResumedRunReplacesWhatCameAfterItsStart) {
  const TinyRun tiny;
  const auto resume = [](int) {
    TrainingHooks hooks;
    hooks.resume = true;
    return hooks;
  };
  train_on(1, tiny.run("run", "", {"train.steps=6", "train.checkpoint_every=3"}));
  std::filesystem::resize_file(tiny.path("run") + "/checkpoints/step-00000006/model.safetensors",
                               100);
  std::filesystem::create_directory(tiny.path("run") +
                                    "/checkpoints/step-00000009.bak");  // somebody's copy
  const auto again =
      train_on(1, tiny.run("run", "", {"train.steps=5", "train.keep_checkpoints=1"}), resume);
  EXPECT_THAT(again[0].checkpoint, HasSubstr("step-00000005"));
  EXPECT_NO_THROW(verify_checkpoint(tiny.path("run") + "/checkpoints/latest"));
  EXPECT_FALSE(std::filesystem::exists(tiny.path("run") + "/checkpoints/step-00000006"));
  EXPECT_TRUE(std::filesystem::exists(tiny.path("run") + "/checkpoints/step-00000009.bak"));
}

TEST(Checkpoint, OnlyTheNewestAreKept) {
  const TinyRun tiny;
  train_on(1, tiny.run("run", "",
                       {"train.steps=5", "train.checkpoint_every=1", "train.keep_checkpoints=2"}));
  int kept = 0;
  for (const auto& entry : std::filesystem::directory_iterator(tiny.path("run") + "/checkpoints"))
    kept += entry.is_directory() && !entry.is_symlink();
  EXPECT_EQ(kept, 2);
  EXPECT_EQ(std::filesystem::read_symlink(tiny.path("run") + "/checkpoints/latest"),
            "step-00000005");
}

}  // namespace
}  // namespace ballot

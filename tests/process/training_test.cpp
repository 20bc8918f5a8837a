// A job from start to end: several real workers under mpirun train one model and leave a record
// anyone can read.
#include <filesystem>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

using Training = SmallRun;

TEST_F(Training, FourWorkersEndWithIdenticalReplicasAndAWholeRecord) {
  // Named: what is chosen by a measurement depends on what else the machine does, bytes with it.
  train(4, "out", {"vote.schedule=sharded"});
  const auto starts = metrics("out", "run"), steps = metrics("out", "step"),
             ends = metrics("out", "end");
  ASSERT_EQ(starts.size(), 1u);
  EXPECT_EQ(starts[0]["workers"], 4);
  ASSERT_EQ(steps.size(), 8u);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i]["step"], i + 1);
    EXPECT_EQ(steps[i]["faults/gradient"], 0);
    EXPECT_GT(steps[i]["comm/vote_bytes_tx"], 0);
    EXPECT_GT(steps[i]["comm/compression_vs_fp32"], 20);
  }
  EXPECT_EQ(steps.back()["tokens_total"],
            8 * 4 * 2 * 32);  // steps, workers, batch, sequence length
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0]["step"], 8);
  EXPECT_EQ(ends[0]["replicas_identical"], true);
  const auto evaluations = metrics("out", "evaluation");
  ASSERT_EQ(evaluations.size(), 2u);
  EXPECT_LT(evaluations[1]["loss"].get<double>(), evaluations[0]["loss"].get<double>() - 0.1);
}

TEST_F(Training, LatestPointsAtACheckpointThatEvaluatesToTheLossInTheRecord) {
  // In bf16 the loss would depend on how many threads multiply.
  train(4, "out", {"train.compute=f32"});
  EXPECT_EQ(fs::read_symlink(file("out/checkpoints/latest")), "step-00000008");
  const Ended ended = ballot({"eval", "--model", "out/checkpoints/latest", "--data", "held-out.txt",
                              "--seq-len", "32", "--compute", "f32", "--json"});
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const auto result = nlohmann::json::parse(ended.output),
             recorded = metrics("out", "evaluation").back();
  EXPECT_EQ(result["tokens"], recorded["tokens"]);
  // The record's sum is that of four workers' parts.
  EXPECT_NEAR(result["loss"].get<double>(), recorded["loss"].get<double>(), 1e-6);
}

TEST_F(Training, ACheckpointIsAModelToTrainOn) {
  train(2, "first");
  train(2, "second", {"model.folder=first/checkpoints/latest"});
  EXPECT_NEAR(metrics("second", "evaluation").front()["loss"].get<double>(),
              metrics("first", "evaluation").back()["loss"].get<double>(), 1e-6);
}

TEST_F(Training, TheSameSeedGivesTheSameBitsAndAnotherDoesNot) {
  train(4, "one");
  train(4, "two");
  train(4, "three", {"train.seed=2"});
  expect_same_bits("one/checkpoints/latest", "two/checkpoints/latest");
  EXPECT_TRUE(read("one/checkpoints/latest/model.safetensors") !=
              read("three/checkpoints/latest/model.safetensors"));
}

TEST_F(Training, OneWorkerUnderMpirunGivesTheBitsOfOneWithoutIt) {
  train(1, "under-mpirun", {"train.threads=1"});
  const Ended alone =
      ballot({"train", "run.toml", "--set", "output.folder=alone", "--set", "train.threads=1"});
  ASSERT_EQ(alone.exit_code, 0) << alone.output;
  expect_same_bits("under-mpirun/checkpoints/latest", "alone/checkpoints/latest");
}

// gRPC between the same processes: other bytes on the wire, the same bits in the model.
TEST_F(Training, OverGrpcGivesTheBitsOfMpi) {
  train(3, "mpi");
  std::vector<std::string> arguments = launch(3, "grpc");
  arguments.insert(arguments.end(), {"--transport", "grpc"});
  const Ended ended = ballot(arguments);
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("3 workers over grpc"));
  EXPECT_EQ(metrics("grpc", "run").at(0)["comm/backend"], "grpc");
  expect_same_bits("mpi/checkpoints/latest", "grpc/checkpoints/latest");
}

TEST_F(Training, EachWorkersLogIsItsOwn) {
  const std::string output = train(2, "out");
  EXPECT_THAT(output, HasSubstr("worker 0 | "));
  EXPECT_THAT(output, HasSubstr("step 8/8"));
  EXPECT_THAT(read("out/logs/worker-0.log"), HasSubstr("2 workers over mpi"));
  EXPECT_EQ(read("out/logs/worker-1.log"), "");  // nothing went wrong, and worker 0 speaks for all
}

TEST_F(Training, TheResolvedRunFileRepeatsTheRun) {
  train(2, "out", {"train.seed=7", "optimizer.rate=0.002"});
  write("run.toml", read("out/run.toml"));
  train(2, "again");
  expect_same_bits("out/checkpoints/latest", "again/checkpoints/latest");
}

TEST_F(Training, MoreWorkersThanVotersOfTheOldJobCanGoOn) {
  train(2, "out", {"train.steps=4"});
  const std::string output = train(3, "out", {"train.steps=8", "--resume"});
  EXPECT_THAT(output, HasSubstr("it was saved by 2 voters, these are 3"));
  const auto steps = metrics("out", "step");
  ASSERT_EQ(steps.size(), 8u);
  EXPECT_EQ(steps[3]["tokens_total"], 4 * 2 * 2 * 32);
  EXPECT_EQ(steps[7]["tokens_total"], 4 * 2 * 2 * 32 + 4 * 3 * 2 * 32);
}

TEST_F(Training, ReportAndCompareReadTheRecord) {
  train(4, "vote", {"vote.schedule=sharded"});  // whose bytes are looked at below
  train(4, "mean", {"optimizer.reduce=mean-fp32"});
  const Ended report = ballot({"report", "vote", "mean"});
  EXPECT_EQ(report.exit_code, 0) << report.output;
  EXPECT_THAT(report.output, HasSubstr("vote/report.html"));
  EXPECT_THAT(read("vote/report.html"), HasSubstr("<svg"));
  const Ended table = ballot({"compare", "vote", "mean"});
  EXPECT_EQ(table.exit_code, 0) << table.output;
  EXPECT_THAT(table.output,
              testing::ContainsRegex("vote +olion vote +4 +8 .*[23][0-9]\\.[0-9]x +yes"));
  EXPECT_THAT(table.output,
              testing::ContainsRegex("mean +olion mean-fp32 +4 +8 .* (1\\.0|0\\.9)x +yes"));
}

}  // namespace
}  // namespace ballot

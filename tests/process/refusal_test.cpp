// What cannot work is refused with the right exit code and a message that names it, before any
// worker starts.
#include <filesystem>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

constexpr int kConfiguration = 2, kData = 3;  // core/error.h

class Refusal : public SmallRun {
 protected:
  // `launch` ends with `exit_code` and output that has all `words`, and mpirun was never started.
  void expect_refused(const std::vector<std::string>& settings, int exit_code,
                      const std::vector<std::string>& words,
                      const Environment& variables = {}) const {
    const Ended ended = ballot(launch(2, "refused", settings), variables);
    expect(ended, exit_code, words);
    EXPECT_THAT(ended.output, Not(HasSubstr("mpirun")));
    EXPECT_FALSE(fs::exists(file("refused"))) << "the run's folder was made";
  }
  void expect(const Ended& ended, int exit_code, const std::vector<std::string>& words) const {
    EXPECT_EQ(ended.exit_code, exit_code) << ended.output;
    for (const std::string& word : words) EXPECT_THAT(ended.output, HasSubstr(word));
  }
  // A copy of the model whose config.json says something else than its weights.
  void copy_model(const std::string& to, const std::string& key,
                  const nlohmann::json& value) const {
    fs::copy(file("model"), file(to), fs::copy_options::recursive);
    auto config = nlohmann::json::parse(read("model/config.json"));
    ASSERT_TRUE(config.contains(key));
    config[key] = value;
    write(to + "/config.json", config.dump());
  }
};

TEST_F(Refusal, OfARunFileNamesEveryMistakeAtOnceWithLineAndNearestKey) {
  write("run.toml",
        "[model]\nfoldr = \"model\"\n[data]\ntrain = 3\n[train]\nstepz = 8\nbatch = \"2\"\ncompute "
        "= \"fp8\"\n"
        "[vote]\nties = false\n");
  expect_refused(
      {"train.seed=-1", "nonsense"}, kConfiguration,
      {"8 problems", "run.toml:2: unknown key model.foldr; the nearest valid key is model.folder",
       "run.toml:4: data.train = 3: expected a string",
       "run.toml:6: unknown key train.stepz; the nearest valid key is train.steps",
       "run.toml:7: train.batch = '2': expected a whole number",
       "run.toml:8: train.compute = 'fp8': expected one of \"auto\", \"f32\", \"tf32\", \"bf16\"",
       "run.toml:10: vote.ties = false: expected one of \"coin\", \"hold\"",
       "--set: train.seed = -1: expected at least 0", "--set nonsense: expected key=value"});
}

TEST_F(Refusal, OfARunFileThatIsNotTomlNamesTheLine) {
  write("run.toml", "[model]\nfolder = \"model\n");
  expect_refused({}, kConfiguration, {"run.toml:2"});
}

TEST_F(Refusal, OfAMissingRunFile) {
  fs::remove(file("run.toml"));
  expect_refused({}, kConfiguration, {"cannot read the run file run.toml"});
}

TEST_F(Refusal, OfMissingFilesAndDevicesAtOnce) {
  expect_refused({"model.folder=nowhere", "data.train=nothing.txt", "train.device=cuda"},
                 kConfiguration,
                 {"3 problems", "model.folder = \"nowhere\"", "data.train = \"nothing.txt\"",
                  "train.device = \"cuda\": "});
}

TEST_F(Refusal, OfAVoteByADenseRule) {
  for (const std::string rule : {"adamw", "sgd"})
    expect_refused({"optimizer.preset=" + rule, "optimizer.reduce=vote"}, kConfiguration,
                   {"group.hidden: rule \"" + rule + "\" is dense and cannot vote"});
}

TEST_F(Refusal, OfBf16WhereTheProcessorHasNoneIsByName) {
  expect_refused({"train.compute=bf16"}, kConfiguration,
                 {"train.compute = \"bf16\": this processor (avx2) has no bf16 products"},
                 {{"DNNL_MAX_CPU_ISA", "AVX2"}});
}

TEST_F(Refusal, OfATruncatedModel) {
  fs::copy(file("model"), file("cut"), fs::copy_options::recursive);
  fs::resize_file(file("cut/model.safetensors"), fs::file_size(file("cut/model.safetensors")) - 1);
  expect_refused({"model.folder=cut"}, kData, {"cut/model.safetensors"});
}

TEST_F(Refusal, OfAModelWithoutWeights) {
  fs::copy(file("model"), file("bare"), fs::copy_options::recursive);
  fs::remove(file("bare/model.safetensors"));
  expect_refused({"model.folder=bare"}, kData, {"bare/model.safetensors"});
}

TEST_F(Refusal, OfAModelWithoutATokenizer) {
  fs::copy(file("model"), file("mute"), fs::copy_options::recursive);
  fs::remove(file("mute/tokenizer.json"));
  expect_refused({"model.folder=mute"}, kData, {"mute/tokenizer.json"});
}

TEST_F(Refusal, OfMissingTensorsNamesThemAll) {
  copy_model("deeper", "num_hidden_layers", 3);
  expect_refused({"model.folder=deeper"}, kData,
                 {"model.layers.2.self_attn.q_proj.weight is missing",
                  "model.layers.2.mlp.down_proj.weight is missing",
                  "model.layers.2.input_layernorm.weight is missing"});
}

TEST_F(Refusal, OfTensorsOfAWrongShapeNamesThemAll) {
  copy_model("wider", "intermediate_size", 320);
  expect_refused({"model.folder=wider"}, kData,
                 {"model.layers.0.mlp.up_proj.weight is (192, 64), expected (320, 64)",
                  "model.layers.1.mlp.down_proj.weight is (64, 192), expected (64, 320)"});
}

TEST_F(Refusal, OfAModelOfAnUnknownFamily) {
  copy_model("other", "model_type", "mamba");
  expect_refused({"model.folder=other"}, kData,
                 {"other/config.json", "mamba", "\"llama\" or \"gpt2\""});
}

TEST_F(Refusal, OfDataShorterThanOneSequence) {
  write("short.txt", "ten bytes\n");
  expect_refused({"data.train=short.txt"}, kData,
                 {"data.train has 10 tokens, a window of 32 needs 33"});
  expect_refused({"data.validation=short.txt"}, kData,
                 {"data.validation has 10 tokens, a window of 32 needs 33"});
}

TEST_F(Refusal, OfAnOutputFolderThatHoldsARunLeavesThatRunAlone) {
  train(2, "out");
  const std::string record = read("out/metrics.jsonl");
  for (const Ended& ended :
       {ballot(launch(2, "out")), ballot({"train", "run.toml", "--set", "output.folder=out"})})
    expect(ended, kConfiguration,
           {"output.folder = \"out\" already holds a run; resume it with --resume"});
  EXPECT_EQ(read("out/metrics.jsonl"), record);
}

TEST_F(Refusal, OfResumingWhereThereIsNoCheckpoint) {
  expect_refused({"--resume"}, kConfiguration,
                 {"--resume: refused/checkpoints holds no whole checkpoint"});
}

TEST_F(Refusal, OfResumingAsAnotherRunNamesEveryKeyThatChanged) {
  train(2, "out");
  const Ended ended =
      ballot(launch(2, "out", {"--resume", "train.steps=12", "train.seed=2", "train.batch=1"}));
  expect(ended, kConfiguration, {"train.seed = 2, was 1", "train.batch = 1, was 2"});
  EXPECT_THAT(ended.output, Not(HasSubstr("\n  train.steps")));  // may change
  EXPECT_THAT(ended.output, Not(HasSubstr("mpirun")));
}

TEST_F(Refusal, OfASequenceLongerThanTheModelsPositions) {
  expect_refused({"data.sequence_length=1025"}, kConfiguration,
                 {"data.sequence_length = 1025: the model has 1024 positions"});
}

TEST_F(Refusal, OfAnEnvironmentThatContradictsItself) {
  const std::vector<std::string> train{"train", "run.toml"};
  expect(ballot(train, {{"RANK", "0"},
                        {"WORLD_SIZE", "2"},
                        {"OMPI_COMM_WORLD_RANK", "1"},
                        {"OMPI_COMM_WORLD_SIZE", "2"}}),
         kConfiguration,
         {"RANK = 0 of WORLD_SIZE = 2, but OMPI_COMM_WORLD_RANK = 1 of OMPI_COMM_WORLD_SIZE = 2"});
  expect(ballot(train, {{"RANK", "2"}, {"WORLD_SIZE", "2"}}), kConfiguration,
         {"RANK = 2", "WORLD_SIZE = 2"});
  expect(ballot(train, {{"WORLD_SIZE", "2"}}), kConfiguration,
         {"WORLD_SIZE is set and RANK is not"});
  expect(ballot(train, {{"RANK", "zero"}, {"WORLD_SIZE", "2"}}), kConfiguration,
         {"RANK = \"zero\""});
}

TEST_F(Refusal, OfTransportsThatAreNotThere) {
  const Environment two = {{"RANK", "0"}, {"WORLD_SIZE", "2"}};
  expect(ballot({"train", "run.toml"}, two), kConfiguration, {"grpc: MASTER_ADDR is not set"});
  expect(ballot({"train", "run.toml", "--transport", "mpi"}, two), kConfiguration,
         {"mpirun did not start this process"});
  expect(ballot({"train", "run.toml", "--transport", "loopback"}, two), kConfiguration,
         {"worker 0 of 2"});
  expect(ballot({"launch", "run.toml", "--workers", "2", "--insecure"}), kConfiguration,
         {"--insecure: needs --transport grpc"});
}

TEST_F(Refusal, OfAWrongCommandLineSaysWhatWasWrong) {
  expect(ballot({}), kConfiguration, {"subcommand is required"});
  expect(ballot({"trian"}), kConfiguration, {"trian"});
  expect(ballot({"launch", "run.toml"}), kConfiguration, {"--workers"});
  expect(ballot({"launch", "run.toml", "--workers", "0"}), kConfiguration, {"--workers", "0"});
  expect(ballot({"launch", "run.toml", "--workers", "two"}), kConfiguration, {"--workers", "two"});
  expect(ballot({"eval", "--model", "model"}), kConfiguration, {"--data"});
  expect(ballot({"init", "--out", "model"}), kConfiguration, {"there is a model in it already"});
  expect(ballot({"init", "--out", "odd", "--hidden", "64", "--heads", "5"}), kConfiguration,
         {"--hidden 64"});
  expect(ballot({"init", "--out", "odd", "--kv-heads", "-2"}), kConfiguration,
         {"--kv-heads", "-2"});
  expect(ballot({"init", "--out", "odd", "--intermediate", "-5"}), kConfiguration,
         {"--intermediate", "-5"});
  expect(ballot({"report", "nowhere"}), kData, {"nowhere/metrics.jsonl"});
}

}  // namespace
}  // namespace ballot

// Run files: defaults and presets, overrides, and every mistake reported at once.
#include "runtime/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/tiny_run.h"

namespace ballot {
namespace {

using testing::HasSubstr;

std::string problems_of(const std::string& text, const std::vector<std::string>& settings = {}) {
  try {
    parse_run_config(text, "run.toml", settings);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::configuration);
    return error.what();
  }
  return "";
}

TEST(RunConfig, OlionPresetVotesOnEveryMatrixAndAveragesVectors) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run", "[optimizer]\npreset = \"olion\"\nrate = 0.012\n");
  const ParameterGroup& hidden = config.group(ParameterKind::hidden_matrix);
  EXPECT_EQ(hidden.rule, Rule::olion);
  EXPECT_EQ(hidden.reduce, Reduce::vote);
  EXPECT_TRUE(hidden.newton_schulz);
  EXPECT_DOUBLE_EQ(hidden.rate, 0.012);
  EXPECT_DOUBLE_EQ(hidden.weight_decay, 0.1);
  for (const ParameterKind kind : {ParameterKind::embedding, ParameterKind::head}) {
    EXPECT_EQ(config.group(kind).rule, Rule::olion);
    EXPECT_EQ(config.group(kind).reduce, Reduce::vote);
    EXPECT_FALSE(config.group(kind).newton_schulz);
  }
  const ParameterGroup& vector = config.group(ParameterKind::vector);
  EXPECT_EQ(vector.rule, Rule::adamw);
  EXPECT_EQ(vector.reduce, Reduce::mean_f32);
  EXPECT_DOUBLE_EQ(vector.rate, 1e-3);
  EXPECT_DOUBLE_EQ(vector.weight_decay, 0);
}

TEST(RunConfig, ReduceMeanMakesTheSameRuleABaseline) {
  const TinyRun tiny;
  const RunConfig config =
      tiny.run("run", "[optimizer]\npreset = \"olion\"\nreduce = \"mean-bf16\"\n");
  EXPECT_EQ(config.group(ParameterKind::hidden_matrix).reduce, Reduce::mean_bf16);
  EXPECT_EQ(config.group(ParameterKind::vector).reduce, Reduce::mean_bf16);
}

TEST(RunConfig, GroupsAndSettingsOverrideThePresetInThatOrder) {
  const TinyRun tiny;
  const RunConfig config = tiny.run(
      "run", "[optimizer]\npreset = \"olion\"\n[group.embedding]\nrate = 0.5\nrule = \"adamw\"\n",
      {"group.embedding.rate=0.25", "vote.ties=hold"});
  const ParameterGroup& embedding = config.group(ParameterKind::embedding);
  EXPECT_EQ(embedding.rule, Rule::adamw);
  EXPECT_EQ(embedding.reduce, Reduce::mean_f32);
  EXPECT_DOUBLE_EQ(embedding.rate, 0.25);
  EXPECT_DOUBLE_EQ(embedding.beta1, default_group(Rule::adamw).beta1);
  EXPECT_EQ(config.ties, Ties::hold);
}

TEST(RunConfig, ResolvedFileReadsBackAsTheSame) {
  const TinyRun tiny;
  const RunConfig config = tiny.run("run",
                                    "[optimizer]\npreset = \"muon\"\nrate = "
                                    "0.02\n[group.head]\nrule = \"lion\"\nreduce = \"vote\"\n");
  const std::string text = to_toml(config);
  EXPECT_EQ(to_toml(parse_run_config(text, "resolved.toml", {})), text);
}

TEST(RunConfig, EachRuleHasARateOfItsOwnWhereNoneIsSet) {
  const TinyRun tiny;
  const auto rate = [&](const std::string& optimizer, ParameterKind kind) {
    return tiny.run("run", optimizer).group(kind).rate;
  };
  const ParameterKind hidden = ParameterKind::hidden_matrix, head = ParameterKind::head;
  EXPECT_EQ(rate("", hidden), 0.006);
  EXPECT_EQ(rate("", ParameterKind::vector), 0.001);
  EXPECT_EQ(rate("[optimizer]\npreset = \"adamw\"\n", hidden), 0.001);
  EXPECT_EQ(rate("[optimizer]\npreset = \"lion\"\n", hidden), 0.001);
  EXPECT_EQ(rate("[optimizer]\npreset = \"muon\"\n", hidden), 0.006);
  EXPECT_EQ(rate("[optimizer]\npreset = \"muon\"\n", head), 0.001);  // by AdamW
  EXPECT_EQ(rate("[group.head]\nrule = \"adamw\"\n", head), 0.001);
  EXPECT_EQ(rate("[optimizer]\nrate = 0.02\n[group.head]\nrule = \"adamw\"\n", head), 0.02);
  EXPECT_EQ(rate("[optimizer]\nrate = 0.02\npreset = \"muon\"\n", head), 0.02);
  EXPECT_EQ(rate("[group.head]\nrate = 0.5\nrule = \"adamw\"\n", head), 0.5);
}

TEST(RunConfig, ProductsInTf32AreOfAGpu) {
  EXPECT_THAT(problems_of("", {"train.compute=\"tf32\"", "train.device=\"cpu\""}),
              HasSubstr("train.compute = \"tf32\": only a GPU has such products"));
  EXPECT_THROW(resolve_compute(Compute::tf32, Device{}), Unavailable);
  const Device gpu{Device::Kind::cuda, 0};
  EXPECT_EQ(resolve_compute(Compute::tf32, gpu), DType::f32);
  EXPECT_STREQ(name_of_products(Compute::tf32, DType::f32), "tf32");
  EXPECT_STREQ(name_of_products(Compute::automatic, DType::bf16), "bf16");
}

TEST(RunConfig, EveryMistakeIsReportedAtOnceWithItsLine) {
  const std::string problems = problems_of(
      "[train]\nsteps = \"many\"\nbach = 4\n[optimizer]\npreset = \"adamx\"\n[vote]\nties = "
      "\"coin\"\n",
      {"lr=3", "x"});
  EXPECT_THAT(problems, HasSubstr("run.toml:2: train.steps = 'many': expected a whole number"));
  EXPECT_THAT(
      problems,
      HasSubstr("run.toml:3: unknown key train.bach; the nearest valid key is train.batch"));
  EXPECT_THAT(problems, HasSubstr("optimizer.preset"));
  EXPECT_THAT(problems, HasSubstr("--set: unknown key lr"));
  EXPECT_THAT(problems, HasSubstr("--set x: expected key=value"));
  EXPECT_THAT(problems, HasSubstr("5 problems"));
}

TEST(RunConfig, ImpossibleCombinationsAreReportedTogether) {
  const std::string problems = problems_of(
      "[model]\nfolder = \"/nowhere\"\n[data]\ntrain = \"/nowhere.txt\"\n[train]\nsteps = "
      "5\n[schedule]\n"
      "warmup_steps = 9\n[optimizer]\npreset = \"adamw\"\nreduce = "
      "\"vote\"\n[group.vector]\nreduce = \"vote\"\n"
      "[group.embedding]\nabstain_below = 0.5\nreduce = \"mean-fp32\"\n");
  EXPECT_THAT(problems, HasSubstr("model.folder = \"/nowhere\""));
  EXPECT_THAT(problems, HasSubstr("data.train = \"/nowhere.txt\": there is no such file"));
  EXPECT_THAT(problems, HasSubstr("output.folder is missing"));
  EXPECT_THAT(problems, HasSubstr("schedule.warmup_steps = 9 is more than train.steps = 5"));
  EXPECT_THAT(problems, HasSubstr("group.hidden: rule \"adamw\" is dense and cannot vote"));
  EXPECT_THAT(problems, HasSubstr("group.embedding: abstain_below"));
  EXPECT_THAT(problems, HasSubstr("group.vector"));
}

TEST(RunConfig, WhoLooksAtTheRunIsNobodyUnlessAskedFor) {
  const TinyRun tiny;
  const RunConfig quiet = tiny.run("run", "");
  EXPECT_EQ(quiet.prometheus, "");
  EXPECT_FALSE(quiet.tensorboard);
  const RunConfig seen =
      tiny.run("run", "", {"output.prometheus=\"[::1]:0\"", "output.tensorboard=true"});
  EXPECT_EQ(seen.prometheus, "[::1]:0");
  EXPECT_TRUE(seen.tensorboard);
  const RunConfig again = parse_run_config(to_toml(seen), "run.toml", {});
  EXPECT_EQ(again.prometheus, "[::1]:0");
  EXPECT_TRUE(again.tensorboard);
  for (const char* wrong : {"9400", "localhost", ":9400", "127.0.0.1:70000", "127.0.0.1:-1"})
    EXPECT_THAT(
        problems_of("[output]\nfolder = \"x\"\nprometheus = \"" + std::string(wrong) + "\"\n"),
        HasSubstr("output.prometheus = \"" + std::string(wrong) + "\": expected host:port"));
  EXPECT_THAT(problems_of("[output]\ntensorboard = \"yes\"\n"), HasSubstr("output.tensorboard"));
}

TEST(RunConfig, ContradictionsInTheDataAreReportedTogether) {
  const std::string problems = problems_of(
      "[data]\ntrain = \"/nowhere.txt\"\ntrain_template = \"{x}\"\nvalidation = "
      "\"/nowhere.jsonl\"\nvalidation_last_part = 0.5\nwindows = \"stream\"\ntrain_on = "
      "\"completion\"\n");
  EXPECT_THAT(problems,
              HasSubstr("data.train = /nowhere.txt: rows and row templates are for jsonl"));
  EXPECT_THAT(problems, HasSubstr("data.validation = /nowhere.jsonl: parts are for text"));
  EXPECT_THAT(problems, HasSubstr("data.train_on = \"completion\" with data.windows = \"stream\""));
  EXPECT_THAT(problems_of("[data]\nwindows = \"pack\"\nchat_template = \"vicuna\"\n"),
              testing::AllOf(HasSubstr("expected one of \"auto\", \"stream\", \"packed\""),
                             HasSubstr("\"llama3.1\"")));
}

TEST(RunConfig, DamagedTomlIsOneProblemWithItsLine) {
  EXPECT_THAT(problems_of("[train]\nsteps = = 3\n"), HasSubstr("run.toml:2"));
}

TEST(RunConfig, NumbersOutOfRangeNameTheRange) {
  EXPECT_THAT(problems_of("[train]\nbatch = 0\n"), HasSubstr("train.batch = 0: expected 1 to"));
  EXPECT_THAT(problems_of("[optimizer]\nrate = nan\n"),
              HasSubstr("optimizer.rate = nan: expected"));
  EXPECT_THAT(problems_of("[schedule]\nfinal_factor = 1.5\n"), HasSubstr("expected 0 to 1"));
}

}  // namespace
}  // namespace ballot

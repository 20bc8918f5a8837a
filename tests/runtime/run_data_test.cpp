// A run's data when the run goes on: the same documents, or it is another run.
#include "runtime/run_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "runtime/checkpoint_state.h"
#include "runtime/run_folder.h"
#include "tests/runtime/run_data_support.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

class RunDataTest : public testing::Test {
 protected:
  RunConfig config_of(const std::string& rows, Windows windows) {
    RunConfig config;
    config.train_data.path = folder_.file(fmt::format("{}.jsonl", ++files_));
    write_file_synced(config.train_data.path, std::string_view(rows));
    config.documents.windows = windows;
    config.sequence_length = 8;
    return config;
  }
  Digest digest_of_rows(const std::string& rows) {
    return RunData(config_of(rows, Windows::packed), byte_tokenizer()).training_digest();
  }

  TemporaryFolder folder_;
  int files_ = 0;
};

constexpr const char* kRows = "{\"text\":\"abcdefgh\"}\n{\"text\":\"ijkl\"}\n";
constexpr const char* kOthers = "{\"text\":\"abcdefgh\"}\n{\"text\":\"ijkm\"}\n";

TEST_F(RunDataTest, OtherDocumentsAreAnotherRunAndAnotherStreamIsNot) {
  const Digest before = digest_of_rows(kRows), others = digest_of_rows(kOthers);
  const RunData same(config_of(kRows, Windows::packed), byte_tokenizer());
  EXPECT_NO_THROW(same.require_same_as(before, true));
  EXPECT_NO_THROW(same.require_same_as(std::nullopt, true));
  for (const Windows windows : {Windows::packed, Windows::single}) {
    const RunData other(config_of(kOthers, windows), byte_tokenizer());
    EXPECT_THAT([&] { other.require_same_as(before, true); },
                ThrowsMessage<ConfigError>(
                    AllOf(HasSubstr(to_string(before)), HasSubstr(to_string(others)))));
  }
  const RunData stream(config_of(kOthers, Windows::stream), byte_tokenizer());
  EXPECT_NO_THROW(stream.require_same_as(before, true));
}

TEST_F(RunDataTest, WorkersWithOtherDataOrOtherHeldOutDataDiffer) {
  RunConfig config = config_of(kRows, Windows::automatic);
  const std::string alone = RunData(config, byte_tokenizer()).identity();
  config.validation_data.path = config.train_data.path;
  const std::string both = RunData(config, byte_tokenizer()).identity();
  EXPECT_NE(alone, both);
  EXPECT_NE(alone, RunData(config_of(kOthers, Windows::automatic), byte_tokenizer()).identity());
}

TEST_F(RunDataTest, WhatIsHeldOutIsCutAsWhatIsTrainedOn) {
  RunConfig config = config_of("{\"prompt\":\"abc\",\"completion\":\"de\"}\n{\"text\":\"x\"}\n",
                               Windows::automatic);
  config.validation_data.path = folder_.file("held-out.jsonl");
  write_file_synced(config.validation_data.path,
                    std::string_view("{\"question\":\"q\",\"answer\":\"a\"}\n"));
  config.sequence_length = 40;
  const RunData data(config, byte_tokenizer());
  ASSERT_NE(data.windows(), nullptr);
  EXPECT_EQ(data.held_out().trained(), 4);  // " a", the line's end and eos
}

TEST_F(RunDataTest, AStateKeepsTheDigestOfItsData) {
  TrainingState state;
  state.data = digest_of_rows(kRows);
  EXPECT_EQ(parse_training_state(training_state_json(state), "state.json"), state);
  EXPECT_THAT(training_state_json(TrainingState{}), Not(HasSubstr("\"data\"")));
}

TEST_F(RunDataTest, AKeyThatAnOldRunDoesNotHaveHadItsDefault) {
  RunConfig config = config_of(kRows, Windows::automatic);
  config.output_folder = folder_.path();
  std::string old = to_toml(config);
  for (const std::string key : {"windows", "freeze"}) {
    const std::size_t begin = old.find("\n" + key + " = ");
    ASSERT_NE(begin, std::string::npos) << key;
    old.erase(begin, old.find('\n', begin + 1) - begin);
  }
  write_file_synced(folder_.file("run.toml"), std::string_view(old));
  EXPECT_NO_THROW(require_same_run(config));
  config.documents.windows = Windows::packed;
  config.freeze = {"lm_head.*"};
  EXPECT_THAT([&] { require_same_run(config); },
              ThrowsMessage<ConfigError>(AllOf(HasSubstr("data.windows = 'packed', was 'auto'"),
                                               HasSubstr("train.freeze = ['lm_head.*'], was []"))));
}

}  // namespace
}  // namespace ballot

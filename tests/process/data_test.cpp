// Data as users bring it: `ballot tokenize`, rows with prompts, conversations; trained on by a job
// of several workers.
#include <filesystem>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Data : public SmallRun {
 protected:
  void SetUp() override {
    SmallRun::SetUp();
    std::string rows, held_out, chats;
    for (int i = 0; i < 120; ++i) {
      const std::string row = R"({"prompt":"the square of )" + std::to_string(i) +
                              R"( is","completion":" )" + std::to_string(i * i) + "\"}\n";
      (i % 10 == 0 ? held_out : rows) += row;
      chats += R"({"messages":[{"role":"user","content":")" + std::to_string(i) +
               R"(?"},{"role":"assistant","content":")" + std::to_string(i * i) + "\"}]}\n";
    }
    write("rows.jsonl", rows);
    write("held-out.jsonl", held_out);
    write("chats.jsonl", chats);
  }

  static std::vector<std::string> on(const std::string& train, const std::string& validation) {
    return {"data.train=" + train, "data.validation=" + validation, "data.sequence_length=64"};
  }
};

TEST_F(Data, ATokenFileHasTheSameBytesByAnyNumberOfThreadsAndTrainsAsItsRowsDo) {
  for (const char* const threads : {"1", "3"}) {
    const std::string output = std::string("rows-") + threads + ".bin";
    const Ended ended =
        ballot({"tokenize", "model", "rows.jsonl", "--output", output, "--threads", threads});
    ASSERT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_THAT(ended.output,
                AllOf(HasSubstr(output), HasSubstr("108 documents"), HasSubstr("% trained on")));
  }
  EXPECT_EQ(read("rows-1.bin"), read("rows-3.bin"));
  train(2, "from-rows", on("rows.jsonl", "held-out.jsonl"));
  train(2, "from-tokens", on("rows-1.bin", "held-out.jsonl"));
  expect_same_bits("from-rows/checkpoints/latest", "from-tokens/checkpoints/latest");
}

TEST_F(Data, OnlyCompletionsAreTrainedOnAndTheFirstSampleIsShown) {
  const std::string output = train(1, "out", on("rows.jsonl", "held-out.jsonl"));
  EXPECT_THAT(output, AllOf(HasSubstr("data.train: 108 documents"), HasSubstr("% filled"),
                            HasSubstr("<|begin_of_text|>the square of "), HasSubstr(" is>> "),
                            HasSubstr("<|end_of_text|><<")));
  // Held out: the answers of 0, 10, .. 110 and their ends.
  const auto lines = metrics("out", "evaluation");
  ASSERT_FALSE(lines.empty());
  int answers = 0;
  for (int i = 0; i < 120; i += 10) answers += 2 + static_cast<int>(std::to_string(i * i).size());
  EXPECT_EQ(lines[0].at("tokens"), answers) << lines[0];
}

TEST_F(Data, ConversationsNeedATemplate) {
  const Ended ended = ballot(launch(1, "none", on("chats.jsonl", "chats.jsonl")));
  EXPECT_EQ(ended.exit_code, 3) << ended.output;
  EXPECT_THAT(ended.output, AllOf(HasSubstr("has no chat template"), HasSubstr("zephyr")));
  std::vector<std::string> settings = on("chats.jsonl", "chats.jsonl");
  settings.push_back("data.chat_template=zephyr");
  EXPECT_THAT(train(1, "out", settings),
              AllOf(HasSubstr("<|user|>"), testing::ContainsRegex("<\\|assistant\\|>\n.*>>[0-9]")));
}

TEST_F(Data, AResumeWithOtherDocumentsIsRefusedByTheirDigests) {
  train(2, "out", on("rows.jsonl", "held-out.jsonl"));
  write("rows.jsonl", read("rows.jsonl") + "{\"prompt\":\"a\",\"completion\":\"b\"}\n");
  std::vector<std::string> settings = on("rows.jsonl", "held-out.jsonl");
  std::vector<std::string> words = launch(2, "out", settings);
  words.push_back("--resume");
  const Ended ended = ballot(words);
  EXPECT_EQ(ended.exit_code, 2) << ended.output;
  EXPECT_THAT(ended.output, AllOf(HasSubstr("data.train = \"rows.jsonl\" has digest"),
                                  HasSubstr("the checkpoint was trained on")));
}

TEST_F(Data, WhatCannotBeIsRefusedByName) {
  const auto refused = [&](const std::vector<std::string>& words, int code,
                           const std::string& what) {
    const Ended ended = ballot(words);
    EXPECT_EQ(ended.exit_code, code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(what));
  };
  refused({"tokenize", "model", "rows.jsonl", "--output", "x.bin", "--format", "llmc"}, 2,
          "--train-on all");
  refused({"tokenize", "model", "text.txt", "--output", "x.bin", "--train-on", "completion"}, 3,
          "text.txt: all of ");
  EXPECT_FALSE(std::filesystem::exists(file("x.bin")));
  write("y.jsonl.tmp", "{\"text\":\"a\"}\n");
  for (const char* const output : {"rows.jsonl", "y.jsonl"})
    refused({"tokenize", "model", "rows.jsonl", "y.jsonl.tmp", "--input-format", "jsonl",
             "--output", output},
            2, "is an input");
  EXPECT_EQ(read("y.jsonl.tmp"), "{\"text\":\"a\"}\n");
  refused({"tokenize", "model", "rows.jsonl", "--output", "model"}, 2, "is a folder");
  std::vector<std::string> settings = on("rows.jsonl", "held-out.jsonl");
  settings.insert(settings.end(), {"data.train_on=completion", "data.windows=stream"});
  refused(launch(1, "none", settings), 2, "data.train_on = \"completion\" with data.windows");
  settings = on("text.txt", "held-out.jsonl");
  settings.push_back("data.train_on=completion");
  refused(launch(1, "none", settings), 3, "text.txt: all of its");
}

}  // namespace
}  // namespace ballot

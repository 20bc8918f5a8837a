// `ballot eval` measures what its help says: the mean loss in nats per predicted token. And every
// subcommand has help.
#include <cmath>
#include <cstring>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

using testing::HasSubstr;

class Evaluation : public SmallRun {
 protected:
  nlohmann::json evaluate(const std::string& model, const std::string& data,
                          const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"eval", "--model",   model, "--data",
                                   data,   "--seq-len", "32",  "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const Ended ended = ballot(words);
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    const auto result = nlohmann::json::parse(ended.output, nullptr, false);
    EXPECT_TRUE(result.is_object()) << "not one JSON object: " << ended.output;
    return result;
  }
};

TEST_F(Evaluation, OfAModelThatKnowsNothingIsTheLogarithmOfItsVocabulary) {
  // A last norm of zeros makes all logits zero.
  std::string bytes = read("model/model.safetensors");
  std::uint64_t header_length = 0;
  std::memcpy(&header_length, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_length));
  const auto offsets = header.at("model.norm.weight").at("data_offsets");
  const std::size_t begin = 8 + header_length + offsets[0].get<std::size_t>(),
                    end = 8 + header_length + offsets[1].get<std::size_t>();
  ASSERT_EQ(end - begin, 64 * sizeof(float));
  bytes.replace(begin, end - begin, end - begin, '\0');
  write("model/model.safetensors", bytes);

  const auto result = evaluate("model", "held-out.txt");
  EXPECT_NEAR(result["loss"].get<double>(), std::log(258.0), 1e-6);
  EXPECT_NEAR(result["perplexity"].get<double>(), 258.0, 1e-3);
}

TEST_F(Evaluation, CountsTheTokensOfWholeWindows) {
  const std::string text = read("held-out.txt");
  for (const std::size_t length :
       {std::size_t{33}, std::size_t{64}, std::size_t{65}, std::size_t{1000}}) {
    write("part.txt", text.substr(0, length));
    const auto result = evaluate("model", "part.txt");
    EXPECT_EQ(result["tokens"], (length - 1) / 32 * 32) << length;
    EXPECT_EQ(result["sequence_length"], 32);
  }
}

TEST_F(Evaluation, IsTheMeanOverWindowsThatMeet) {
  const std::string text = read("held-out.txt").substr(0, 2 * 32 + 1);
  write("both.txt", text);
  write("first.txt", text.substr(0, 33));
  write("second.txt", text.substr(32));
  const double both = evaluate("model", "both.txt")["loss"],
               first = evaluate("model", "first.txt")["loss"],
               second = evaluate("model", "second.txt")["loss"];
  EXPECT_GT(std::abs(first - second), 1e-4);
  EXPECT_NEAR(both, (first + second) / 2, 1e-6);
}

TEST_F(Evaluation, DoesNotDependOnBatchOrThreads) {
  const double loss = evaluate("model", "held-out.txt")["loss"];
  EXPECT_NEAR(evaluate("model", "held-out.txt", {"--batch", "3"})["loss"].get<double>(), loss,
              1e-6);
  EXPECT_NEAR(evaluate("model", "held-out.txt", {"--threads", "1"})["loss"].get<double>(), loss,
              1e-6);
}

TEST_F(Evaluation, RefusesWhatItCannotMeasure) {
  write("short.txt", "ten bytes\n");
  const Ended tooshort =
      ballot({"eval", "--model", "model", "--data", "short.txt", "--seq-len", "32"});
  EXPECT_EQ(tooshort.exit_code, 3);
  EXPECT_THAT(tooshort.output, HasSubstr("short.txt has 10 tokens, a window of 32 needs 33"));
  const Ended nodata =
      ballot({"eval", "--model", "model", "--data", "nothing.txt", "--seq-len", "32"});
  EXPECT_EQ(nodata.exit_code, 3);
  EXPECT_THAT(nodata.output, HasSubstr("nothing.txt"));
  const Ended nomodel =
      ballot({"eval", "--model", "nowhere", "--data", "held-out.txt", "--seq-len", "32"});
  EXPECT_EQ(nomodel.exit_code, 3);
  EXPECT_THAT(nomodel.output, HasSubstr("nowhere/config.json"));
  const Ended nobf16 = ballot({"eval", "--model", "model", "--data", "held-out.txt", "--seq-len",
                               "32", "--compute", "bf16"},
                              {{"DNNL_MAX_CPU_ISA", "AVX2"}});
  EXPECT_EQ(nobf16.exit_code, 2);
  EXPECT_THAT(nobf16.output, HasSubstr("bf16"));
}

TEST_F(Evaluation, AsksQuestionsAndCountsWhatMatches) {
  write("questions.jsonl",
        "{\"question\": \"1+1?\", \"answer\": \"two\\n#### 2\"}\n"
        "{\"question\": \"2+2?\", \"answer\": \"four\\n#### 4\"}\n");
  const std::vector<std::string> words = {
      "eval", "--model", "model", "--questions", "questions.jsonl", "--max-tokens", "8", "--json"};
  const Ended ended = ballot(words);
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const auto result = nlohmann::json::parse(ended.output);
  EXPECT_EQ(result["questions"], 2);
  EXPECT_EQ(result["matches"], 0) << "the model is random";
  EXPECT_EQ(result["without_answer"], 2);
  std::vector<std::string> shots = words;
  shots.insert(shots.end(), {"--shots", "3", "--shots-file", "questions.jsonl"});
  const Ended few = ballot(shots);
  EXPECT_EQ(few.exit_code, 3);
  EXPECT_THAT(few.output, HasSubstr("questions.jsonl has 2 rows, --shots 3 asks for more"));
  const Ended itself = ballot({"eval", "--model", "model", "--questions", "questions.jsonl",
                               "--shots", "1", "--shots-file", "questions.jsonl"});
  EXPECT_EQ(itself.exit_code, 3);
  EXPECT_THAT(itself.output, HasSubstr("question 1 is shot 1 too"));
  const std::vector<std::pair<std::vector<std::string>, std::string>> refused = {
      {{"--questions", "questions.jsonl", "--shots-file", "questions.jsonl"},
       "--shots-file questions.jsonl without --shots"},
      {{"--questions", "questions.jsonl", "--seq-len", "32"}, "--seq-len with --questions"},
      {{"--questions", "questions.jsonl", "--windows", "packed"}, "--windows with --questions"},
      {{"--data", "held-out.txt", "--seq-len", "32", "--limit", "3"}, "--limit with --data"},
      {{"--data", "held-out.txt", "--seq-len", "32", "--show"}, "--show with --data"}};
  for (const auto& [more, message] : refused) {
    std::vector<std::string> mixed = {"eval", "--model", "model"};
    mixed.insert(mixed.end(), more.begin(), more.end());
    const Ended wrong = ballot(mixed);
    EXPECT_EQ(wrong.exit_code, 2) << message;
    EXPECT_THAT(wrong.output, HasSubstr(message));
  }
  std::vector<std::string> anywhere = words;
  anywhere.insert(anywhere.end(), {"--device", "auto"});
  const Ended automatic = ballot(anywhere);
  ASSERT_EQ(automatic.exit_code, 0) << automatic.output;
  EXPECT_EQ(nlohmann::json::parse(automatic.output)["device"], result["device"]);
  const Ended both = ballot({"eval", "--model", "model"});
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_THAT(both.output, HasSubstr("--data (loss) or --questions"));
}

using Generate = SmallRun;

TEST_F(Generate, TellsTheSameTextAsItComesAndInJson) {
  const Ended text = ballot({"generate", "--model", "model", "the cat", "--max-tokens", "24"});
  ASSERT_EQ(text.exit_code, 0) << text.output;
  const Ended json =
      ballot({"generate", "--model", "model", "the cat", "--max-tokens", "24", "--json"});
  ASSERT_EQ(json.exit_code, 0) << json.output;
  const auto result = nlohmann::json::parse(json.output);
  EXPECT_EQ(result["prompt_tokens"], 8);  // with the one that begins a text
  EXPECT_LE(result["tokens"].size(), 24u);
  EXPECT_EQ(result["ended"] == "max_tokens", result["tokens"].size() == 24);
  EXPECT_EQ(ballot({"generate", "--model", "model", "the cat", "--max-tokens", "24"}).output,
            text.output);
}

// The model's files name another end; the template's ends the text all the same.
TEST_F(Generate, AChatEndsWhereTheAssistantsTurnDoes) {
  constexpr int kEnd = 257;
  write("model/generation_config.json", "{\"eos_token_id\": 5}");
  for (int seed = 1; seed <= 6; ++seed) {  // so hot that every token comes soon
    const Ended ended =
        ballot({"generate", "--model", "model", "hi", "--json", "--chat-template", "zephyr",
                "--temperature", "50", "--max-tokens", "220", "--seed", std::to_string(seed)});
    ASSERT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_THAT(nlohmann::json::parse(ended.output)["tokens"],
                testing::Not(testing::Contains(kEnd)));
  }
}

TEST_F(Generate, DrawsTheSameForTheSameSeedAndRefusesWhatItCannot) {
  const auto drawn = [&](const char* seed) {
    const Ended ended = ballot({"generate", "--model", "model", "a", "--temperature", "2", "--seed",
                                seed, "--json", "--max-tokens", "20"});
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    return nlohmann::json::parse(ended.output)["tokens"];
  };
  EXPECT_EQ(drawn("1"), drawn("1"));
  EXPECT_NE(drawn("1"), drawn("2"));
  const Ended system = ballot({"generate", "--model", "model", "a", "--system", "be brief"});
  EXPECT_EQ(system.exit_code, 2);
  EXPECT_THAT(system.output, HasSubstr("--system without --chat-template"));
  const Ended long_prompt =
      ballot({"generate", "--model", "model", std::string(5000, 'a'), "--max-tokens", "1"});
  EXPECT_EQ(long_prompt.exit_code, 3);
  EXPECT_THAT(long_prompt.output, HasSubstr("there is no room"));
}

using Help = SmallRun;

TEST_F(Help, OfEverySubcommandEndsWell) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> commands = {
      {{}, "Exit codes"},        {{"train"}, "optimizer.preset"},
      {{"launch"}, "--workers"}, {{"eval"}, "--seq-len"},
      {{"generate"}, "--top-p"}, {{"report"}, "--output"},
      {{"compare"}, "runs"},     {{"init"}, "--kv-heads"},
      {{"bench"}, "model"},      {{"bench", "model"}, "--compute"}};
  for (auto [words, expected] : commands) {
    words.push_back("--help");
    const Ended ended = ballot(words);
    EXPECT_EQ(ended.exit_code, 0) << words[0];
    EXPECT_THAT(ended.output, HasSubstr(expected));
  }
  const Ended version = ballot({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.output, testing::MatchesRegex("ballot [0-9]+\\.[0-9]+\\.[0-9]+[^\n]*\n"));
}

}  // namespace
}  // namespace ballot

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

using Help = SmallRun;

TEST_F(Help, OfEverySubcommandEndsWell) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> commands = {
      {{}, "Exit codes"},
      {{"train"}, "optimizer.preset"},
      {{"launch"}, "--workers"},
      {{"eval"}, "--seq-len"},
      {{"report"}, "--output"},
      {{"compare"}, "runs"},
      {{"init"}, "--kv-heads"},
      {{"bench"}, "model"},
      {{"bench", "model"}, "--compute"}};
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

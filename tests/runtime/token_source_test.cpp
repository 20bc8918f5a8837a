#include "runtime/token_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "tests/runtime/run_data_support.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<std::int32_t> tokens_of(const TokenData& data) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(data.tokens().size()));
  data.tokens().copy_inputs(0, data.tokens().size(), tokens.data());
  return tokens;
}
std::vector<std::int32_t> parse(const std::string& bytes, const TokenSource& source) {
  return tokens_of(parse_token_data(bytes, source, reader_of()));
}
TokenSource named(const std::string& path) {
  TokenSource source;
  source.path = path;
  return source;
}
template <class Error>
void expect_error(const std::string& bytes, const TokenSource& source, const std::string& what) {
  EXPECT_THAT([&] { parse(bytes, source); },
              ThrowsMessage<Error>(AllOf(HasSubstr(source.path), HasSubstr(what))));
}

// BOS, the text's bytes, EOS.
std::vector<std::int32_t> framed(std::initializer_list<std::string> rows) {
  std::vector<std::int32_t> tokens;
  for (const std::string& row : rows) {
    tokens.push_back(256);
    for (const char c : row) tokens.push_back(static_cast<unsigned char>(c));
    tokens.push_back(257);
  }
  return tokens;
}

std::string bin_of(const std::vector<std::uint16_t>& tokens, std::int32_t magic = 20240520,
                   std::int32_t version = 1) {
  std::int32_t header[256] = {magic, version, static_cast<std::int32_t>(tokens.size())};
  std::string bytes(reinterpret_cast<const char*>(header), sizeof header);
  return bytes + std::string(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2);
}

RC_GTEST_PROP(TextSource, IsItsBytesWithoutSpecials, (const std::string& text)) {
  RC_ASSERT(byte_tokenizer().decode(parse(text + "<|end_of_text|>", named("a.txt"))) ==
            text + "<|end_of_text|>");
}

RC_GTEST_PROP(TextSource, NeighbouringPartsMeet, (const std::string& text)) {
  const double cut = *rc::gen::inRange(1, 100) / 100.0;
  TokenSource left = named("a.txt"), right = named("a.txt");
  left.last_part = right.first_part = cut;
  std::vector<std::int32_t> joined = parse(text, left);
  const std::vector<std::int32_t> rest = parse(text, right);
  joined.insert(joined.end(), rest.begin(), rest.end());
  RC_ASSERT(joined == parse(text, named("a.txt")));
}

TEST(TextSource, NinetyPercentOfTheFileIsTheFirstNinety) {
  TokenSource source = named("a.txt");
  source.last_part = 0.9;
  EXPECT_EQ(parse("0123456789", source).size(), 9u);
}

TEST(JsonlSource, RowsAreFramedAndBlankLinesAreNone) {
  EXPECT_EQ(parse("{\"text\":\"ab\"}\n\n  \r\n{\"text\":\"c\\u00e9\"}\r\n{\"text\":\"\"}",
                  named("a.jsonl")),
            framed({"ab", "c\xc3\xa9", ""}));
}

TEST(JsonlSource, QuestionsAndAnswersHaveATemplateOfTheirOwn) {
  EXPECT_EQ(parse(R"({"question":"q","answer":"a"})", named("a.jsonl")),
            framed({"Question: q\nAnswer: a\n"}));
}

TEST(JsonlSource, SpecialsInARowAreItsBytes) {
  EXPECT_EQ(parse(R"({"text":"<|end_of_text|>"})", named("a.jsonl")), framed({"<|end_of_text|>"}));
}

TEST(JsonlSource, ATemplateTakesFieldsAndDoubledBraces) {
  TokenSource source = named("a.jsonl");
  source.row_template = "{{{x}}} {y}{x}\n";
  EXPECT_EQ(parse(R"({"x":"1","y":"{x}"})", source), framed({"{1} {x}1\n"}))
      << "what is put in is not read again";
}

TEST(JsonlSource, ATemplateThatDoesNotEndIsAConfigError) {
  for (const char* text : {"{", "a {x", "{}", "a}", "{x{y}}", "{{x}"}) {
    TokenSource source = named("a.jsonl");
    source.row_template = text;
    expect_error<ConfigError>(R"({"x":"1"})", source, "row template");
  }
}

TEST(JsonlSource, ErrorsNameTheLine) {
  TokenSource source = named("a.jsonl");
  expect_error<DataError>("{\"text\":\"a\"}\n\n{\"txt\":\"b\"}", source,
                          "a.jsonl:3: the row has neither");
  expect_error<DataError>("{\"question\":\"a\"}", source,
                          "a.jsonl:1: the row has no field \"answer\"");
  expect_error<DataError>("{\"text\":5}", source,
                          "a.jsonl:1: field \"text\" is 5, expected a string");
  expect_error<DataError>("\n[1]", source, "a.jsonl:2: the row is an array");
  expect_error<CorruptFile>("{\"text\":\"a\"}\n{\"text\":", source, "a.jsonl:2");
  expect_error<CorruptFile>("{\"text\":\"\xff\"}", source, "a.jsonl:1");
  expect_error<CorruptFile>("{\"text\":\"a\",\"text\":\"b\"}", source, "stands twice");
  source.row_template = "{missing}";
  expect_error<DataError>("{\"text\":\"a\"}", source,
                          "a.jsonl:1: the row has no field \"missing\"");
}

TEST(JsonlSource, ARangeOfRowsCountsRowsNotLines) {
  const std::string file = "{\"text\":\"0\"}\n\n{\"text\":\"1\"}\n{\"text\":\"2\"}\n";
  TokenSource source = named("a.jsonl");
  source.first_row = 1;
  EXPECT_EQ(parse(file, source), framed({"1", "2"}));
  source.last_row = 2;
  EXPECT_EQ(parse(file, source), framed({"1"}));
  source.last_row = 3;
  EXPECT_EQ(parse(file, source), framed({"1", "2"}));
  source.last_row = 4;
  expect_error<DataError>(file, source, "has 3 rows, asked for [1, 4)");
  source = named("a.jsonl");
  source.first_row = 3;
  expect_error<DataError>(file, source, "has 3 rows, asked for [3, end)");
  expect_error<DataError>("\n", named("a.jsonl"), "has 0 rows");
}

TEST(JsonlSource, ReadsGsm8k) {
  TokenSource source = named(BALLOT_SHARED_DATA "/gsm8k-train.jsonl");
  if (!std::filesystem::exists(source.path)) GTEST_SKIP() << "needs " << source.path;
  const std::vector<std::int32_t> tokens = tokens_of(read_token_data(source, reader_of()));
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), 256), 7473);
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), 257), 7473);
  const std::string start = "Question: Natalia sold clips";
  EXPECT_EQ(byte_tokenizer().decode(
                {tokens.begin(), tokens.begin() + 1 + static_cast<std::ptrdiff_t>(start.size())}),
            start);
  source.first_row = 7000;
  const std::vector<std::int32_t> held = tokens_of(read_token_data(source, reader_of()));
  EXPECT_EQ(std::count(held.begin(), held.end(), 256), 473);
  EXPECT_TRUE(std::equal(held.rbegin(), held.rend(), tokens.rbegin()));
}

TEST(BinSource, ReadsTokensOfLlmC) {
  EXPECT_THAT(parse(bin_of({1, 257, 0}), named("a.bin")), ElementsAre(1, 257, 0));
  EXPECT_TRUE(parse(bin_of({}), named("a.bin")).empty());
}

TEST(BinSource, EveryTruncationAndEveryExtensionIsCorrupt) {
  const std::string file = bin_of({1, 2, 3});
  for (std::size_t length = 0; length < file.size(); ++length)
    EXPECT_THROW(parse(file.substr(0, length), named("a.bin")), CorruptFile) << length;
  expect_error<CorruptFile>(file + "x", named("a.bin"),
                            "has 1031 bytes, its header of 3 tokens needs 1030");
}

TEST(BinSource, AWrongHeaderIsCorrupt) {
  expect_error<CorruptFile>(bin_of({1}, 20240801), named("a.bin"), "starts with 20240801 1");
  expect_error<CorruptFile>(bin_of({1}, 20240520, 2), named("a.bin"), "starts with 20240520 2");
  std::string negative = bin_of({1});
  const std::int32_t count = -1;
  std::memcpy(negative.data() + 8, &count, 4);
  expect_error<CorruptFile>(negative, named("a.bin"), "-1 tokens");
}

TEST(BinSource, ATokenOutsideTheVocabularyIsNamed) {
  expect_error<DataError>(bin_of({1, 258}), named("a.bin"),
                          "token 1 of the file is 258, the vocabulary has 258");
}

TEST(TokenSource, TheFormatFollowsTheExtensionUnlessStated) {
  TokenSource source = named("a.bin");
  source.format = "text";
  EXPECT_EQ(parse("{}", source).size(), 2u);
  source = named("a.jsonl.txt");
  EXPECT_EQ(parse("{}", source).size(), 2u);
  source.format = "jsonl";
  EXPECT_THROW(parse("{}", source), DataError);
  source.format = "parquet";
  expect_error<ConfigError>("", source, "format is \"parquet\"");
}

TEST(TokenSource, OptionsThatContradictAreConfigErrors) {
  const auto refused = [](const std::string& path, auto change) {
    TokenSource source = named(path);
    change(source);
    EXPECT_THROW(parse("{\"text\":\"a\"}", source), ConfigError);
  };
  refused("a.txt", [](TokenSource& s) { s.first_row = 1; });
  refused("a.txt", [](TokenSource& s) { s.row_template = "{x}"; });
  refused("a.jsonl", [](TokenSource& s) { s.last_part = 0.5; });
  refused("a.jsonl", [](TokenSource& s) { s.last_row = 0; });
  refused("a.jsonl", [](TokenSource& s) { s.first_row = -1; });
  refused("a.txt", [](TokenSource& s) { s.last_part = 1.5; });
  refused("a.txt", [](TokenSource& s) { s.first_part = -0.5; });
  refused("a.txt", [](TokenSource& s) { s.first_part = s.last_part = 0.5; });
  refused("a.txt", [](TokenSource& s) { s.first_part = std::numeric_limits<double>::quiet_NaN(); });
}

TEST(TokenSource, AMissingFileIsAFileError) {
  EXPECT_THROW(read_token_data(named("/nowhere/a.txt"), reader_of()), FileError);
}

TEST(TokenSource, APipeIsReadToItsEnd) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const std::string rows = "{\"text\":\"ab\"}\n{\"text\":\"c\"}\n";
  ASSERT_EQ(::write(ends[1], rows.data(), rows.size()), static_cast<ssize_t>(rows.size()));
  ::close(ends[1]);
  TokenSource source = source_of(fmt::format("/dev/fd/{}", ends[0]));
  source.format = "jsonl";
  const TokenData data = read_token_data(source, reader_of());
  ::close(ends[0]);
  EXPECT_EQ(data.documents(), 2);
  EXPECT_EQ(data.tokens().size(), 7);
}

}  // namespace
}  // namespace ballot

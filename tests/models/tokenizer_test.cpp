#include "models/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

json byte_json() {
  return json::parse(byte_tokenizer_json());
}
std::unique_ptr<Tokenizer> parse(const json& root) {
  return parse_tokenizer(root.dump(), "tokenizer.json");
}
void expect_refused(const json& root, const std::string& what) {
  EXPECT_THAT([&] { parse(root); }, ThrowsMessage<DataError>(HasSubstr(what)));
}
json added(int id, const std::string& text, bool special = true) {
  return {{"id", id}, {"content", text}, {"special", special}};
}

// A model folder with these files.
std::unique_ptr<Tokenizer> read_from(const std::string& tokenizer_config,
                                     const std::string& config) {
  const TemporaryFolder folder;
  write_file_synced(folder.file("tokenizer.json"), std::string_view(byte_tokenizer_json()));
  if (!tokenizer_config.empty())
    write_file_synced(folder.file("tokenizer_config.json"), std::string_view(tokenizer_config));
  if (!config.empty()) write_file_synced(folder.file("config.json"), std::string_view(config));
  return read_tokenizer(folder.path());
}

RC_GTEST_PROP(Tokenizer, AnyBytesComeBack, (const std::string& text)) {
  static const std::unique_ptr<Tokenizer> tokenizer = parse(byte_json());
  const std::vector<std::int32_t> tokens = tokenizer->encode(text);
  RC_ASSERT(tokens.size() == text.size());
  RC_ASSERT(tokenizer->decode(tokens) == text);
}

TEST(Tokenizer, EveryByteIsItsOwnToken) {
  const std::unique_ptr<Tokenizer> tokenizer = parse(byte_json());
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  const std::vector<std::int32_t> tokens = tokenizer->encode(all);
  for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(tokens[byte], byte);
  EXPECT_EQ(tokenizer->decode(tokens), all);
  EXPECT_EQ(tokenizer->vocabulary(), 258);
}

TEST(Tokenizer, TheVocabularyNeedNotBeInByteOrder) {
  json root = byte_json();
  json& vocabulary = root["model"]["vocab"];
  std::swap(vocabulary["A"], vocabulary["\u0120"]);  // the space
  const std::unique_ptr<Tokenizer> tokenizer = parse(root);
  EXPECT_THAT(tokenizer->encode("A B"), ElementsAre(' ', 'A', 'B'));
  EXPECT_EQ(tokenizer->decode({' ', 'A', 'B'}), "A B");
}

TEST(Tokenizer, SpecialsAreBytesUnlessAskedFor) {
  const std::unique_ptr<Tokenizer> tokenizer = parse(byte_json());
  const std::string text = "a<|end_of_text|>b";
  EXPECT_EQ(tokenizer->encode(text).size(), text.size());
  EXPECT_THAT(tokenizer->encode(text, true), ElementsAre('a', 257, 'b'));
  EXPECT_EQ(tokenizer->decode({'a', 257, 'b'}), "ab") << "left out";
}

TEST(Tokenizer, TheLongestAddedTokenWins) {
  json root = byte_json();
  root["added_tokens"].push_back(added(258, "<|end"));
  root["added_tokens"].push_back(added(259, "<|end_of_text|>!"));
  const std::unique_ptr<Tokenizer> tokenizer = parse(root);
  EXPECT_THAT(tokenizer->encode("<|end_of_text|>!", true), ElementsAre(259));
  EXPECT_THAT(tokenizer->encode("<|end_of_text|>?", true), ElementsAre(257, '?'));
  EXPECT_THAT(tokenizer->encode("<|end?", true), ElementsAre(258, '?'));
  EXPECT_EQ(tokenizer->vocabulary(), 260);
}

TEST(Tokenizer, AnAddedTokenThatIsNotSpecialIsText) {
  json root = byte_json();
  root["added_tokens"].push_back(added(300, "hello", false));
  const std::unique_ptr<Tokenizer> tokenizer = parse(root);
  EXPECT_EQ(tokenizer->decode({300}), "hello");
  EXPECT_EQ(tokenizer->vocabulary(), 301);
}

TEST(Tokenizer, ATokenOutsideTheVocabularyIsNamed) {
  const std::unique_ptr<Tokenizer> tokenizer = parse(byte_json());
  EXPECT_THAT([&] { tokenizer->decode({258}); }, ThrowsMessage<DataError>(HasSubstr("258")));
  EXPECT_THROW(tokenizer->decode({-1}), DataError);
}

TEST(Tokenizer, ReadsTheTinyModels) {
  const std::string folder = BALLOT_SHARED_DATA "/llama-tiny-shakespeare";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "needs " << folder;
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(folder);
  EXPECT_EQ(tokenizer->vocabulary(), 258);
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_EQ(tokenizer->eos(), 257);
  EXPECT_EQ(json::parse(byte_tokenizer_json()), json::parse(read_file(folder + "/tokenizer.json")))
      << "what we write is what it has";
  const json greedy = json::parse(read_file(folder + "/greedy.json"));
  std::vector<std::int32_t> ids = greedy["ids"];
  const std::vector<std::int32_t> prompt = tokenizer->encode(greedy["prompt"].get<std::string>());
  ASSERT_GE(ids.size(), prompt.size() + 1);
  EXPECT_EQ(ids[0], tokenizer->bos());
  EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), ids.begin() + 1));
  EXPECT_EQ(tokenizer->encode(tokenizer->decode(ids)),
            std::vector<std::int32_t>(ids.begin() + 1, ids.end()));
}

TEST(Tokenizer, BosAndEosComeFromTheTokenizerConfigElseFromTheConfig) {
  const auto both =
      read_from(byte_tokenizer_config_json(), R"({"bos_token_id":1,"eos_token_id":2})");
  EXPECT_EQ(both->bos(), 256);
  EXPECT_EQ(both->eos(), 257);
  const auto objects =
      read_from(R"({"eos_token":{"content":"<|end_of_text|>"},"bos_token":null})", "");
  EXPECT_EQ(objects->bos(), -1);
  EXPECT_EQ(objects->eos(), 257);
  const auto ids = read_from("", R"({"bos_token_id":3,"eos_token_id":[4,5]})");
  EXPECT_EQ(ids->bos(), 3);
  EXPECT_EQ(ids->eos(), 4);
  const auto none = read_from("", "");
  EXPECT_EQ(none->bos(), -1);
  EXPECT_EQ(none->eos(), -1);
  EXPECT_THAT([] { read_from(R"({"bos_token":"<s>"})", ""); },
              ThrowsMessage<DataError>(HasSubstr("\"<s>\"")));
  EXPECT_THAT([] { read_from(R"({"bos_token":5})", ""); },
              ThrowsMessage<DataError>(HasSubstr("bos_token is 5")));
  EXPECT_THAT([] { read_from("", R"({"eos_token_id":258})"); },
              ThrowsMessage<DataError>(HasSubstr("258")));
  EXPECT_THROW(read_from("{", ""), CorruptFile);
}

TEST(Tokenizer, RefusesWhatItDoesNotDoByName) {
  const auto changed = [](const std::string& pointer, json value) {
    json root = byte_json();
    root[json::json_pointer(pointer)] = std::move(value);
    return root;
  };
  expect_refused(changed("/model/merges", {"a b"}),
                 "model.merges has \"a b\", but model.vocab has no");
  expect_refused(changed("/model/merges", {"a b c"}), "expected \"a b\"");
  expect_refused(changed("/model/merges", {{"a"}}), "expected \"a b\"");
  expect_refused(changed("/model/merges", 5), "model.merges is 5");
  expect_refused(changed("/model/type", "Unigram"), "model.type \"Unigram\" is not supported");
  expect_refused(changed("/normalizer", {{"type", "NFC"}}), "normalizer \"NFC\" is not supported");
  expect_refused(changed("/pre_tokenizer", {{"type", "Metaspace"}}), "pre_tokenizer.replacement");
  expect_refused(changed("/pre_tokenizer", {{"type", "BertPreTokenizer"}}),
                 "pre_tokenizer \"BertPreTokenizer\"");
  expect_refused(changed("/pre_tokenizer/add_prefix_space", 1), "add_prefix_space is 1");
  expect_refused(changed("/decoder", {{"type", "WordPiece"}}), "decoder \"WordPiece\"");
  expect_refused(changed("/model/byte_fallback", true), "byte_fallback");
  expect_refused(changed("/model/dropout", 0.1), "dropout");
  expect_refused(changed("/added_tokens/0/lstrip", "x"), "lstrip is \"x\"");
  expect_refused(changed("/model/vocab/A", "65"), "expected an id");
  expect_refused(changed("/model/vocab/A", -1), "expected an id");
  expect_refused(changed("/model/vocab/A", 66), "id 66 is given twice");
  expect_refused(changed("/model/vocab", json::array()), "expected an object");
  expect_refused(changed("/added_tokens/0/id", 1 << 30), "expected a text and an id");
  expect_refused(changed("/added_tokens/0/id", 300), "is 256 in model.vocab and 300");
  expect_refused(changed("/added_tokens/0/content", ""), "expected a text and an id");
  expect_refused(changed("/added_tokens", "x"), "expected an array");
  json missing = byte_json();
  missing["model"]["vocab"].erase("A");
  expect_refused(missing, "has 255 of the 256 bytes");
  json twice = byte_json();
  twice["added_tokens"].push_back(added(400, "<|end_of_text|>"));
  expect_refused(twice, "stands twice");
  expect_refused(json::array(), "expected a JSON object");
  expect_refused(json::object(), "model.type");
  EXPECT_THROW(parse_tokenizer("{", "tokenizer.json"), CorruptFile);
}

}  // namespace
}  // namespace ballot

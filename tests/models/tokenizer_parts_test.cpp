// The parts of a tokenizer.json one by one, on vocabularies small enough to follow by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <nlohmann/json.hpp>

#include <random>

#include "core/error.h"
#include "models/tokenizer.h"

namespace ballot {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The byte tokenizer with these merges of letters; the token of each is 300, 301, ... in order.
json byte_json(const std::vector<std::string>& merges = {}) {
  json root = json::parse(byte_tokenizer_json());
  int id = 300;
  for (const std::string& merge : merges) {
    root["model"]["merges"].push_back(merge);
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    if (!root["model"]["vocab"].contains(joined)) root["model"]["vocab"][joined] = id++;
  }
  return root;
}

json split_json(const json& pattern, const char* behavior, bool invert = false) {
  const json split = {
      {"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}};
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}};
}

// Llama 2's kind: characters, bytes where a character is none; "▁" is the space.
json llama2_json() {
  json root = json::parse(R"({
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "added_tokens": [
      {"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true},
      {"id": 2, "content": "</s>", "special": true}],
    "model": {"type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
      "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 300, "a": 301, "b": 302, "▁a": 303, "é": 304, "▁▁": 305},
      "merges": [["▁", "▁"], ["▁", "a"]]}})");
  for (int byte = 0; byte < 256; ++byte)
    root["model"]["vocab"][fmt::format("<0x{:02X}>", byte)] = byte + 3;
  return root;
}

std::unique_ptr<Tokenizer> parse(const json& root) {
  return parse_tokenizer(root.dump(), "tokenizer.json");
}
json changed(json root, const std::string& pointer, json value) {
  root[json::json_pointer(pointer)] = std::move(value);
  return root;
}
void expect_refused(const json& root, const std::string& what) {
  EXPECT_THAT([&] { parse(root); }, ThrowsMessage<DataError>(HasSubstr(what)));
}
json added(int id, const std::string& text, const json& flags = json::object()) {
  json token = {{"id", id}, {"content", text}};
  token.update(flags);
  return token;
}

// The words that a pre_tokenizer makes of a text: every part of it is a token, and a word that is a
// token becomes that token.
std::vector<std::string> words_of(const json& pre_tokenizer, const std::string& text) {
  json root = byte_json();
  root["model"]["ignore_merges"] = true;
  root["pre_tokenizer"] = pre_tokenizer;
  for (std::size_t begin = 0, id = 1000; begin < text.size(); ++begin) {
    for (std::size_t length = 2; begin + length <= text.size(); ++length) {
      std::string symbols;
      for (const char byte : text.substr(begin, length))
        symbols += byte == ' '    ? "Ġ"
                   : byte == '\n' ? "Ċ"
                   : byte == '\r' ? "č"
                                  : std::string(1, byte);
      if (!root["model"]["vocab"].contains(symbols)) root["model"]["vocab"][symbols] = id++;
    }
  }
  const std::unique_ptr<Tokenizer> tokenizer = parse(root);
  std::vector<std::string> words;
  for (const std::int32_t token : tokenizer->encode(text))
    words.push_back(tokenizer->decode({token}));
  return words;
}

TEST(Bpe, TheMergeOfTheLowestRankGoesFirstWhereverItStands) {
  const auto bc_first = parse(byte_json({"b c", "a b"}));
  EXPECT_THAT(bc_first->encode("abc"), ElementsAre('a', 300));
  const auto ab_first = parse(byte_json({"a b", "b c"}));
  EXPECT_THAT(ab_first->encode("abc"), ElementsAre(300, 'c'));
}

TEST(Bpe, OfEqualMergesTheLeftmostGoesFirst) {
  const auto tokenizer = parse(byte_json({"a a"}));
  EXPECT_THAT(tokenizer->encode("aaa"), ElementsAre(300, 'a'));
  EXPECT_THAT(tokenizer->encode("aaaaa"), ElementsAre(300, 300, 'a'));
}

TEST(Bpe, WhatMergesMakeIsMergedAgain) {
  const auto tokenizer = parse(byte_json({"l l", "h e", "he ll", "hell o"}));
  EXPECT_THAT(tokenizer->encode("hello hell"), ElementsAre(303, ' ', 302));
}

TEST(Bpe, MergesMayBePairs) {
  json root = byte_json({"a b", "ab c"});
  root["model"]["merges"] = json::parse(R"([["a","b"],["ab","c"]])");
  EXPECT_THAT(parse(root)->encode("abcab"), ElementsAre(301, 300));
}

TEST(Bpe, AWordThatIsATokenNeedsNoMergesIfTheyAreIgnored) {
  json root = byte_json({"a b"});
  root["model"]["vocab"]["abc"] = 400;
  EXPECT_THAT(parse(root)->encode("abc"), ElementsAre(300, 'c'));
  root["model"]["ignore_merges"] = true;
  EXPECT_THAT(parse(root)->encode("abc"), ElementsAre(400));
  EXPECT_THAT(parse(root)->encode("abcd"), ElementsAre(300, 'c', 'd'));
}

// The definition, word for word: join the first pair of the lowest rank until there is none.
std::vector<std::string> merge_slowly(std::vector<std::string> parts,
                                      const std::vector<std::string>& merges) {
  for (;;) {
    std::size_t best = merges.size(), at = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      for (std::size_t rank = 0; rank < best; ++rank) {
        if (merges[rank] == parts[i] + " " + parts[i + 1]) {
          best = rank;
          at = i;
        }
      }
    }
    if (best == merges.size()) return parts;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(Bpe, IsItsDefinition) {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"}, merges;
    while (merges.size() < 12) {
      const std::string left = tokens[random() % tokens.size()],
                        right = tokens[random() % tokens.size()];
      if (std::find(merges.begin(), merges.end(), left + " " + right) != merges.end()) continue;
      merges.push_back(left + " " + right);
      tokens.push_back(left + right);
    }
    const json root = byte_json(merges);
    const auto tokenizer = parse(root);
    for (int text_number = 0; text_number < 20; ++text_number) {
      std::string text;
      std::vector<std::string> letters;
      for (int i = 0; i < 40; ++i) letters.emplace_back(1, "abc"[random() % 3]);
      for (const std::string& letter : letters) text += letter;
      std::vector<std::int32_t> wanted;
      for (const std::string& part : merge_slowly(letters, merges))
        wanted.push_back(root["model"]["vocab"][part].get<std::int32_t>());
      EXPECT_EQ(tokenizer->encode(text), wanted) << text;
    }
  }
}

TEST(Bpe, ALongWordIsNoTrouble) {
  const auto tokenizer = parse(byte_json({"a a", "aa aa", "aaaa aaaa"}));
  const std::string text(1'000'001, 'a');
  const std::vector<std::int32_t> tokens = tokenizer->encode(text);
  EXPECT_EQ(tokens.size(), 125'001u);
  EXPECT_EQ(tokenizer->decode(tokens), text);
}

TEST(PreTokenizer, ByteLevelCutsWordsAsGpt2Does) {
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  EXPECT_THAT(words_of(bytes, "I'll  go: 12ab"),
              ElementsAre("I", "'ll", " ", " go", ":", " 12", "ab"));
  EXPECT_THAT(words_of(bytes, "a \n\n b  "), ElementsAre("a", " \n\n", " b", "  "));
}

TEST(PreTokenizer, LlamasExpressionIsFollowed) {
  EXPECT_THAT(words_of(split_json({{"Regex", kLlama3}}, "Isolated"), "I'LL go\r\n12345 (x)!\n  y"),
              ElementsAre("I", "'LL", " go", "\r\n", "123", "45", " (", "x", ")!\n", " ", " y"));
}

TEST(PreTokenizer, EveryBehaviorOfSplit) {
  const json dash = {{"String", "-"}};
  const std::string text = "-ab--cd-";
  EXPECT_THAT(words_of(split_json(dash, "Removed"), text), ElementsAre("ab", "cd"));
  EXPECT_THAT(words_of(split_json(dash, "Isolated"), text),
              ElementsAre("-", "ab", "-", "-", "cd", "-"));
  EXPECT_THAT(words_of(split_json(dash, "MergedWithPrevious"), text),
              ElementsAre("-", "ab-", "-", "cd-"));
  EXPECT_THAT(words_of(split_json(dash, "MergedWithNext"), text),
              ElementsAre("-ab", "-", "-cd", "-"));
  EXPECT_THAT(words_of(split_json(dash, "Contiguous"), text),
              ElementsAre("-", "ab", "--", "cd", "-"));
  EXPECT_THAT(words_of(split_json(dash, "Removed", true), text), ElementsAre("-", "-", "-", "-"));
}

TEST(PreTokenizer, DigitsStandAloneOrInRuns) {
  json pre = split_json({{"String", "-"}}, "Isolated");
  pre["pretokenizers"][0] = {{"type", "Digits"}, {"individual_digits", true}};
  EXPECT_THAT(words_of(pre, "ab123c"), ElementsAre("ab", "1", "2", "3", "c"));
  pre["pretokenizers"][0]["individual_digits"] = false;
  EXPECT_THAT(words_of(pre, "ab123c"), ElementsAre("ab", "123", "c"));
}

TEST(PreTokenizer, ASpaceIsPutBeforeTheTextUnlessThereIsOne) {
  const auto tokenizer = parse(changed(byte_json(), "/pre_tokenizer/add_prefix_space", true));
  EXPECT_THAT(tokenizer->encode("a"), ElementsAre(' ', 'a'));
  EXPECT_THAT(tokenizer->encode(" a"), ElementsAre(' ', 'a'));
  EXPECT_THAT(tokenizer->encode(""), ElementsAre());
  EXPECT_FALSE(tokenizer->lossless());
}

RC_GTEST_PROP(PreTokenizer, AnyBytesComeBackThroughLlamasExpression, (const std::string& text)) {
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    json root = byte_json({"a b", "Ġ a", "Ã ©"});
    root["pre_tokenizer"] = split_json({{"Regex", kLlama3}}, "Isolated");
    return parse(root);
  }();
  RC_ASSERT(tokenizer->lossless());
  RC_ASSERT(tokenizer->decode(tokenizer->encode(text)) == text);
  RC_ASSERT(tokenizer->decode(tokenizer->encode("\xc3\xa9 ab\xff\xe2\x82" + text)) ==
            "\xc3\xa9 ab\xff\xe2\x82" + text);
}

TEST(PreTokenizer, ARegularExpressionThatWeCannotFollowIsRefused) {
  const auto refused = [](const std::string& expression, const std::string& what) {
    expect_refused(
        changed(byte_json(), "/pre_tokenizer", split_json({{"Regex", expression}}, "Isolated")),
        what);
  };
  refused("\\w+", "\"\\w\" (supported: \\s");
  refused("[[:alpha:]]", "a class in a class");
  refused("[a&&b]", "&& in a class");
  refused("(?m:a)", "\"(?m:\"");
  refused("(*LIMIT_MATCH=1)a", "(*");
  refused("a{2}+", "}+");
  refused("\\p{Greek}", "the property \"Greek\"");
  refused("[\\P{L}]", "\\P in a class");
  refused("(a", "missing closing parenthesis");
  refused("[a", "a [ without its ]");
  refused("a\\", "a \\ at the end");
  refused("\\x{110000000}", "is not supported");
  refused("\\x{110000}", "too large");
  refused(std::string(20000, 'a'), "it has 20000 bytes");
}

TEST(PreTokenizer, AnExpressionThatTakesTooLongGivesUpByName) {
  json root = byte_json();
  root["pre_tokenizer"] = split_json({{"Regex", "(a+)+[bc]"}}, "Isolated");
  const auto tokenizer = parse(root);
  EXPECT_THAT([&] { tokenizer->encode(std::string(2000, 'a')); },
              ThrowsMessage<DataError>(HasSubstr("(a+)+[bc]")));
}

TEST(AddedTokens, AreFoundInsideWordsUnlessTheyMustBeWords) {
  json root = byte_json();
  root["added_tokens"].push_back(added(400, "cat"));
  EXPECT_THAT(parse(root)->encode("acat"), ElementsAre('a', 400));
  root["added_tokens"].back()["single_word"] = true;
  EXPECT_THAT(parse(root)->encode("acat"), ElementsAre('a', 'c', 'a', 't'));
  EXPECT_THAT(parse(root)->encode("-cat!"), ElementsAre('-', 400, '!'));
  EXPECT_THAT(parse(root)->encode("cat"), ElementsAre(400));
  EXPECT_THAT(parse(root)->encode("cat\xc3\xa9"), ElementsAre('c', 'a', 't', 0xc3, 0xa9));
}

TEST(AddedTokens, MayTakeTheSpaceBesideThem) {
  json root = byte_json();
  root["added_tokens"].push_back(added(400, "<l>", {{"lstrip", true}}));
  root["added_tokens"].push_back(added(401, "<r>", {{"rstrip", true}}));
  const auto tokenizer = parse(root);
  EXPECT_THAT(tokenizer->encode("a \n\u00a0<l> b"), ElementsAre('a', 400, ' ', 'b'));
  EXPECT_THAT(tokenizer->encode("a <r>\t \u2003b"), ElementsAre('a', ' ', 401, 'b'));
  EXPECT_THAT(tokenizer->encode("<r>  <l>"), ElementsAre(401, 400));
  EXPECT_FALSE(tokenizer->lossless());
}

TEST(AddedTokens, ThatAreNotSpecialAreFoundInAnyText) {
  json root = byte_json();
  root["added_tokens"].push_back(added(400, "cat"));
  EXPECT_EQ(parse(root)->encode("cat<|end_of_text|>", false).size(), 16u);
  EXPECT_THAT(parse(root)->encode("cat<|end_of_text|>", true), ElementsAre(400, 257));
  EXPECT_TRUE(parse(root)->lossless());
}

TEST(AddedTokens, AreFoundInTheNormalizedTextIfTheySaySo) {
  json root = llama2_json();
  root["added_tokens"].push_back(added(400, "b b", {{"normalized", true}}));
  root["added_tokens"].push_back(added(401, "b a", {{"normalized", false}}));
  const auto tokenizer = parse(root);
  EXPECT_THAT(tokenizer->encode("b b"), ElementsAre(400)) << "as ▁b▁b";
  EXPECT_THAT(tokenizer->encode("ab b"), ElementsAre(303, 302, 300, 302));
  EXPECT_THAT(tokenizer->encode("ab a"), ElementsAre(303, 401));
}

TEST(ByteFallback, SpellsWhatTheVocabularyLacks) {
  const auto tokenizer = parse(llama2_json());
  EXPECT_THAT(tokenizer->encode("a é  b"), ElementsAre(303, 300, 304, 305, 302));
  EXPECT_THAT(tokenizer->encode("€"), ElementsAre(300, 0xe2 + 3, 0x82 + 3, 0xac + 3));
  EXPECT_THAT(tokenizer->encode("\xff"), ElementsAre(300, 0xff + 3));
  EXPECT_THAT(tokenizer->encode(""), ElementsAre());
  EXPECT_EQ(tokenizer->vocabulary(), 306);
}

RC_GTEST_PROP(ByteFallback, AnyBytesComeBackBehindTheSpaceThatIsPutBeforeThem,
              (const std::string& text)) {
  static const std::unique_ptr<Tokenizer> tokenizer = parse(llama2_json());
  RC_ASSERT(!tokenizer->lossless());
  RC_ASSERT(tokenizer->decode(tokenizer->encode(text + " a é€  b\xff")) == text + " a é€  b\xff");
}

TEST(ByteFallback, ATemplateAddsItsTokens) {
  json root = llama2_json();
  EXPECT_THAT(parse(root)->with_template({7}), ElementsAre(1, 7));
  EXPECT_THAT(parse(byte_json())->with_template({7}), ElementsAre(7));
  root["post_processor"]["special_tokens"]["<s>"]["ids"] = {1, 2};
  root["post_processor"]["single"].push_back({{"SpecialToken", {{"id", "<s>"}}}});
  EXPECT_THAT(parse(root)->with_template({7}), ElementsAre(1, 2, 7, 1, 2));
}

TEST(TokenizerJson, WhatIsNotSupportedIsRefusedByNameAndValue) {
  const json llama2 = llama2_json();
  expect_refused(changed(llama2, "/model/byte_fallback", false), "model.byte_fallback is false");
  json missing = llama2;
  missing["model"]["vocab"].erase("<0x41>");
  expect_refused(missing, "has 255 of the 256 bytes");
  expect_refused(changed(llama2, "/decoder", nullptr), "decoder null");
  expect_refused(changed(llama2, "/decoder/decoders/3/content", "ab"), "decoder Strip");
  expect_refused(changed(llama2, "/decoder/decoders/1/type", "Metaspace"), "decoder \"Metaspace\"");
  expect_refused(changed(llama2, "/decoder/decoders", 5), "decoder.decoders is 5");
  expect_refused(changed(llama2, "/normalizer/normalizers/0/type", "NFC"), "normalizer \"NFC\"");
  expect_refused(changed(llama2, "/normalizer/normalizers/0/prepend", 1), "prepend is 1");
  expect_refused(changed(llama2, "/normalizer/normalizers/1/pattern/String", ""),
                 "normalizer.pattern");
  expect_refused(changed(llama2, "/post_processor/type", "BertProcessing"), "\"BertProcessing\"");
  expect_refused(changed(llama2, "/post_processor/single", json::array()), "Sequence A 0 times");
  expect_refused(changed(llama2, "/post_processor/single/0/SpecialToken/id", "<x>"),
                 "special_tokens");
  expect_refused(changed(llama2, "/post_processor/special_tokens/<s>/ids/0", 999), "token 999");
  expect_refused(changed(byte_json(), "/pre_tokenizer", split_json({{"String", "x"}}, "Merged")),
                 "behavior is \"Merged\"");
  json twice = split_json({{"String", "x"}}, "Isolated");
  twice["pretokenizers"].push_back(twice["pretokenizers"][1]);
  expect_refused(changed(byte_json(), "/pre_tokenizer", twice), "follows ByteLevel");
  json nested = split_json({{"String", "x"}}, "Isolated");
  nested["pretokenizers"][0] = {{"type", "Sequence"}, {"pretokenizers", json::array()}};
  expect_refused(changed(byte_json(), "/pre_tokenizer", nested), "a Sequence in a Sequence");
  json many = byte_json();
  for (int i = 0; i < 100; ++i) many["model"]["merges"].push_back(fmt::format("q{} x", i));
  expect_refused(many, "and 80 more");
}

}  // namespace
}  // namespace ballot

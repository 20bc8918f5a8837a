// SentencePiece's tokenizer.model on a vocabulary small enough to follow by hand.
#include "models/tokenizer/sentence_piece.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"
#include "tests/models/sentence_piece_support.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

constexpr int kSpace = 259, kA = 260, kB = 261, kAb = 262, kSpaceA = 263, kSpaceAb = 264;
int byte_id(int byte) {
  return 3 + byte;
}

std::vector<std::int32_t> encode(const std::string& text, const SmallModel& model = {}) {
  return parse_sentence_piece(sentence_piece_model(model), "tokenizer.model")->encode(text);
}
std::string decode(const std::vector<std::int32_t>& tokens, const SmallModel& model = {}) {
  return parse_sentence_piece(sentence_piece_model(model), "tokenizer.model")->decode(tokens);
}

TEST(SentencePiece, TheHighestScoreIsJoinedFirst) {
  EXPECT_THAT(encode("ab"), ElementsAre(kSpaceAb));  // ab, then _ab
  EXPECT_THAT(encode("ba"), ElementsAre(kSpace, kB, kA));
  EXPECT_THAT(encode("aab ab"), ElementsAre(kSpaceA, kAb, kSpaceAb));
}

TEST(SentencePiece, WhatIsNoPieceIsSpelledInBytes) {
  EXPECT_THAT(encode("a\u00e9"), ElementsAre(kSpaceA, byte_id(0xc3), byte_id(0xa9)));
  EXPECT_THAT(encode("\xff"), ElementsAre(kSpace, byte_id(0xff)));
  EXPECT_THAT(encode("<s>"), ElementsAre(kSpace, byte_id('<'), byte_id('s'), byte_id('>')));
  EXPECT_EQ(decode({byte_id(0xc3), byte_id(0xa9)}), "\u00e9");
}

TEST(SentencePiece, SpacesAreKeptOrTrimmedAsTheModelSays) {
  const SmallModel trims{.remove_extra_spaces = true}, bare{.dummy_prefix = false};
  EXPECT_THAT(encode("  a"), ElementsAre(kSpace, kSpace, kSpaceA));
  EXPECT_THAT(encode("  a  b ", trims), ElementsAre(kSpaceA, kSpace, kB));
  EXPECT_THAT(encode("a", bare), ElementsAre(kA));
  EXPECT_THAT(encode(""), IsEmpty());
  EXPECT_THAT(encode("  ", trims), IsEmpty());
  EXPECT_EQ(decode({kSpace, kSpace, kSpaceA}), "  a");
  EXPECT_EQ(decode({kSpaceA}, trims), "a");
  EXPECT_EQ(decode({1, kSpaceA, 2, kSpaceA}), "a a");
}

TEST(SentencePiece, ASymbolOfTheUserIsJoinedToNothing) {
  EXPECT_THAT(encode("aab", {.user_defined = kA}), ElementsAre(kSpace, kA, kA, kB));
}

TEST(SentencePiece, NobodysTextIsASpecialTokenWhateverItsPieceIs) {
  for (const int user_defined : {-1, kAb}) {
    const std::string model = sentence_piece_model({.user_defined = user_defined});
    EXPECT_THAT(parse_sentence_piece(model, "tokenizer.model")->encode("bab"), Contains(kAb));
    const TemporaryFolder folder;
    write_file_synced(folder.file("tokenizer.model"), std::string_view(model));
    write_file_synced(
        folder.file("tokenizer_config.json"),
        std::string_view(
            R"({"added_tokens_decoder": {"262": {"content": "ab", "special": true}}})"));
    const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(folder.path());
    EXPECT_THAT(tokenizer->encode("bab"), ElementsAre(kSpace, kB, kA, kB));
    EXPECT_THAT(tokenizer->encode("bab", true), Contains(kAb));
    EXPECT_EQ(tokenizer->find_special("ab"), kAb);
    EXPECT_EQ(tokenizer->decode({kB, kAb, kB}), "bb");
  }
}

TEST(SentencePiece, TheLongestSymbolOfTheUserIsTaken) {
  const std::string model =
      sentence_piece_model() +
      WireMessage().bytes(1, WireMessage().bytes(1, "aba").number(3, 4).text()).text() +
      WireMessage().bytes(1, WireMessage().bytes(1, "abaab").number(3, 4).text()).text();
  const auto tokenizer = parse_sentence_piece(model, "tokenizer.model");
  EXPECT_THAT(tokenizer->encode("abaab"), ElementsAre(kSpace, 266));
  EXPECT_THAT(tokenizer->encode("abaaa"), ElementsAre(kSpace, 265, kA, kA));
}

TEST(SentencePiece, AByteHasOnePiece) {
  const std::string model =
      sentence_piece_model() +
      WireMessage().bytes(1, WireMessage().bytes(1, "<0x41>").number(3, 6).text()).text();
  EXPECT_THAT([&] { parse_sentence_piece(model, "tokenizer.model"); },
              ThrowsMessage<DataError>(HasSubstr("piece 265 is \"<0x41>\", as piece 68")));
}

TEST(SentencePiece, AFolderWithoutTokenizerJsonIsReadByIt) {
  const TemporaryFolder folder;
  write_file_synced(folder.file("tokenizer.model"), std::string_view(sentence_piece_model()));
  EXPECT_EQ(read_tokenizer(folder.path())->bos(), 1);
  write_file_synced(folder.file("tokenizer_config.json"), std::string_view(R"({"bos_token": "<s>",
    "eos_token": {"content": "<end>"}, "add_eos_token": true, "added_tokens_decoder": {
    "1": {"content": "<s>", "special": true}, "265": {"content": "<end>", "special": true},
    "266": {"content": "aa"}}})"));
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->eos(), 265);
  EXPECT_EQ(tokenizer->vocabulary(), 267);
  EXPECT_EQ(tokenizer->special_text(265), "<end>");
  EXPECT_THAT(tokenizer->encode("aab"), ElementsAre(266, kSpace, kB));
  EXPECT_THAT(tokenizer->with_template(tokenizer->encode("a<s>", true)),
              ElementsAre(1, kSpaceA, 1, 265));
  EXPECT_EQ(tokenizer->decode({1, kSpaceA, 266, 265}), "aaa");
}

TEST(SentencePiece, OthersAreRefusedByName) {
  const auto refused = [](const SmallModel& model, const std::string& what) {
    EXPECT_THAT([&] { encode("a", model); },
                ThrowsMessage<DataError>(AllOf(HasSubstr("tokenizer.model"), HasSubstr(what))));
  };
  refused({.model_type = 1}, "model_type is 1 (unigram), supported is 2 (bpe)");
  refused({.byte_fallback = false}, "byte_fallback is false");
  refused({.charsmap = "xyz"}, "\"nmt_nfkc\" has a character map of 3 bytes");
}

TEST(SentencePiece, ADamagedFileIsRefusedWhereverItIsCut) {
  const std::string whole = sentence_piece_model();
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_THROW(parse_sentence_piece(whole.substr(0, length), "tokenizer.model"), WorldError)
        << length;
  EXPECT_THAT([&] { parse_sentence_piece("\x0a\xff\x01", "tokenizer.model"); },
              ThrowsMessage<CorruptFile>(HasSubstr("tokenizer.model: length 255 at byte 3")));
}

}  // namespace
}  // namespace ballot

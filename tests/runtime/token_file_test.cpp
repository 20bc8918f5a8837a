// Token files: what is written is read again; damage is found; others' formats by their bytes.
#include "runtime/data/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "tests/runtime/run_data_support.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::string write_words(const TemporaryFolder& folder, const std::vector<std::uint32_t>& words,
                        TokenFormat format = TokenFormat::ballot, std::int64_t vocabulary = 4096) {
  const std::string path = folder.file("tokens.bin");
  TokenFileWriter writer(path, format, vocabulary);
  writer.write(words);
  writer.finish();
  return read_file(path);
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

RC_GTEST_PROP(TokenFile, WhatIsWrittenIsReadAgain, ()) {
  const auto lengths =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<int>>(rc::gen::inRange(1, 40)));
  const std::vector<std::uint32_t> words = documents_of(lengths, *rc::gen::inRange(0, 5));
  const TemporaryFolder folder;
  const std::string file = write_words(folder, words, TokenFormat::ballot, 1 << 20);
  RC_ASSERT(file.size() == 128 + 4 * words.size());
  const TokenFile read = parse_token_file(bytes_of(file), "tokens.bin");
  RC_ASSERT(read.tokens.size() == static_cast<std::int64_t>(words.size()));
  RC_ASSERT(TokenData("a", nullptr, read.tokens).digest() == TokenData("b", words).digest());
}

TEST(TokenFile, EveryChangedByteIsFound) {
  const TemporaryFolder folder;
  const std::string file = write_words(folder, documents_of({5, 3}, 2));
  for (std::size_t i = 0; i < file.size(); ++i) {
    std::string changed = file;
    changed[i] = static_cast<char>(changed[i] ^ 4);
    EXPECT_THROW(parse_token_file(bytes_of(changed), "tokens.bin"), WorldError) << i;
  }
  for (std::size_t i = 0; i < file.size(); ++i)
    EXPECT_THROW(parse_token_file(bytes_of(file.substr(0, i)), "tokens.bin"), WorldError) << i;
  EXPECT_THROW(parse_token_file(bytes_of(file + "x"), "tokens.bin"), CorruptFile);
}

TEST(TokenFile, AnotherVersionIsRefusedByItsNumber) {
  const TemporaryFolder folder;
  std::string file = write_words(folder, documents_of({5}));
  file[8] = 2;
  EXPECT_THAT([&] { parse_token_file(bytes_of(file), "tokens.bin"); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("version 2"), HasSubstr("supported is 1"))));
}

TEST(TokenFile, ItsBytesAreTheSameForever) {
  const TemporaryFolder folder;
  EXPECT_EQ(to_string(digest_of(std::string_view(write_words(folder, documents_of({5, 3}, 2))))),
            "dbc704ac53f6b6035ea75376a3372d20");
}

TEST(TokenFile, AFileIsThereWholeOrNotAtAll) {
  const TemporaryFolder folder;
  const std::string path = folder.file("tokens.bin");
  {
    TokenFileWriter writer(path, TokenFormat::ballot, 4096);
    writer.write(documents_of({5}));
    EXPECT_TRUE(std::filesystem::exists(path + ".tmp"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));
}

TEST(TokenFile, ItsTemporaryFileGoesWhereItCannotBeRenamed) {
  const TemporaryFolder folder;
  const std::string path = folder.file("tokens.bin");
  std::filesystem::create_directories(path + "/full");
  {
    TokenFileWriter writer(path, TokenFormat::ballot, 4096);
    writer.write(documents_of({5}));
    EXPECT_THROW(writer.finish(), FileError);
  }
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));
}

TEST(TokenFile, LlmcIsSixteenBitsWhereTheVocabularyFitsElseThirtyTwo) {
  const TemporaryFolder folder;
  const std::vector<std::uint32_t> words = documents_of({5, 3}, 2);
  const std::string narrow = write_words(folder, words, TokenFormat::llmc, 65536),
                    wide = write_words(folder, words, TokenFormat::llmc, 65537);
  EXPECT_EQ(narrow.size(), 1024 + 2 * words.size());
  EXPECT_EQ(wide.size(), 1024 + 4 * words.size());
  for (const std::string* file : {&narrow, &wide}) {
    const TokenFile read = parse_token_file(bytes_of(*file), "tokens.bin");
    ASSERT_EQ(read.tokens.size(), 8);
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(read.tokens.token(i), static_cast<std::int32_t>(words[i] & kTokenBits));
      EXPECT_TRUE(read.tokens.trained(i));
    }
  }
}

template <class Value>
void put(std::string& bytes, Value value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Two documents, of two sequences and of one.
struct Megatron {
  std::string index, bin;
};
Megatron small_megatron(std::uint8_t code = 8) {
  Megatron made;
  made.index.assign("MMIDIDX\0\0", 9);
  put<std::uint64_t>(made.index, 1);
  put(made.index, code);
  put<std::uint64_t>(made.index, 3);
  put<std::uint64_t>(made.index, 3);
  for (const std::int32_t length : {2, 3, 4}) put(made.index, length);
  for (const std::int64_t begin : {0, 2, 5})
    put<std::int64_t>(made.index, begin * (code == 8 ? 2 : 4));
  for (const std::int64_t first : {0, 2, 3}) put(made.index, first);
  for (int token = 1; token <= 9; ++token)
    code == 8 ? put(made.bin, static_cast<std::uint16_t>(token)) : put(made.bin, token);
  return made;
}
TokenFile parse(const Megatron& made) {
  return parse_megatron(bytes_of(made.index), bytes_of(made.bin), "a.idx", "a.bin");
}

TEST(MegatronFile, DocumentsAreTheirSequencesInARow) {
  for (const std::uint8_t code : {4, 8}) {
    const Megatron made = small_megatron(code);
    const TokenFile read = parse(made);
    EXPECT_EQ(read.tokens.size(), 9);
    EXPECT_EQ(read.tokens.token(8), 9);
    EXPECT_THAT(read.starts, testing::ElementsAre(0, 5));
  }
}

TEST(MegatronFile, DamageAndOtherTypesAreRefused) {
  const Megatron whole = small_megatron();
  for (std::size_t i = 0; i < whole.index.size(); ++i) {
    Megatron cut = whole;
    cut.index.resize(i);
    EXPECT_THROW(parse(cut), WorldError) << i;
  }
  Megatron other = whole;
  other.index[17] = 6;
  EXPECT_THAT([&] { parse(other); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("a.idx"), HasSubstr("type 6"))));
  other = whole;
  other.bin += "x";
  EXPECT_THAT([&] { parse(other); }, ThrowsMessage<CorruptFile>(HasSubstr("a.bin has 19 bytes")));
  other = whole;
  other.index[34 + 12 + 8] = 6;  // where the second sequence begins
  EXPECT_THAT([&] { parse(other); }, ThrowsMessage<CorruptFile>(HasSubstr("sequence 1")));
}

TEST(TokenSource, ABinReadFromDiskIsMappedAndKeepsItsMasks) {
  const TemporaryFolder folder;
  const std::string path = folder.file("tokens.bin");
  TokenFileWriter writer(path, TokenFormat::ballot, 258);
  std::vector<std::uint32_t> words;
  for (int i = 0; i < 20; ++i)
    words.push_back(static_cast<std::uint32_t>(i) | (i % 10 == 0 ? kBeginsDocument : 0) |
                    (i % 10 < 4 ? kNotTrained : 0));
  writer.write(words);
  writer.finish();
  const TokenData data = read_token_data(source_of(path), reader_of());
  EXPECT_EQ(data.documents(), 2);
  EXPECT_EQ(data.trained(), 12);
  EXPECT_EQ(data.predictable(), 18);
  EXPECT_EQ(resolve_windows({}, data), Windows::packed);
  EXPECT_EQ(read_token_data(source_of(path), reader_of(rules_of(Windows::automatic, TrainOn::all)))
                .trained(),
            18);
}

TEST(TokenSource, MegatronIsReadByEitherNameOfThePair) {
  const TemporaryFolder folder;
  const Megatron made = small_megatron();
  write_file_synced(folder.file("a.idx"), std::string_view(made.index));
  write_file_synced(folder.file("a.bin"), std::string_view(made.bin));
  for (const char* const name : {"a.idx", "a.bin", "a"}) {
    TokenSource source = source_of(folder.file(name));
    source.format = "megatron";
    EXPECT_EQ(read_token_data(source, reader_of()).documents(), 2) << name;
  }
}

}  // namespace
}  // namespace ballot

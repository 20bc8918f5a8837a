// Files of tokens: Ballot's own, llm.c's and Megatron's. docs/data.md states each byte.
//
// Readers take a mapped file's bytes, check every length against them, and return views into them.
// CorruptFile where the bytes are not what their header says, DataError for what is not supported.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "runtime/data/token_view.h"

namespace ballot {

struct TokenFile {
  TokenView tokens;
  std::vector<std::int64_t> starts;  // of documents; empty: as the words say, or one document
};

// Ballot's or llm.c's, told apart by their first bytes.
TokenFile parse_token_file(std::span<const std::byte> bytes, const std::string& path);

// Megatron's: NAME.idx, and NAME.bin that it describes.
TokenFile parse_megatron(std::span<const std::byte> index, std::span<const std::byte> bin,
                         const std::string& index_path, const std::string& bin_path);

enum class TokenFormat {
  ballot,
  llmc  // 16 bits a token where the vocabulary fits, else 32 (llm.c's Llama 3); no masks, no ends
};

// Writes a token file from front to back into PATH.tmp, which finish() makes PATH: readers see it
// whole or not at all. Without finish() the temporary file is removed.
class TokenFileWriter {
 public:
  TokenFileWriter(const std::string& path, TokenFormat format, std::int64_t vocabulary);
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;
  ~TokenFileWriter();

  void write(std::span<const std::uint32_t> words);  // see token_view.h
  void finish();

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return documents_; }
  std::int64_t trained() const { return trained_; }  // of those in predictable()
  std::int64_t predictable() const { return tokens_ - documents_; }

 private:
  void put(std::span<const std::byte> bytes);
  void remove_temporary();
  std::vector<std::byte> header() const;

  std::string path_;
  TokenFormat format_;
  std::int64_t vocabulary_;
  int descriptor_ = -1;
  bool finished_ = false;  // the temporary file is no longer ours
  std::int64_t tokens_ = 0, documents_ = 0, trained_ = 0, not_trained_ = 0;
  DigestStream digest_;
  std::vector<std::uint16_t> narrow_;
  std::vector<std::uint32_t> plain_;
};

}  // namespace ballot

// Byte-pair encoding of one word: "model" of a tokenizer.json.
//
// Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units" (2016): of
// all neighbours that have a merge the one of the lowest rank is joined, the leftmost first, until
// none has. With a queue over a linked list, O(n log n) in the word's length. Safe from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/tokenizer/merges.h"
#include "models/tokenizer/reading.h"
#include "models/tokenizer/word_cache.h"

namespace ballot {

// A vocabulary's symbols as the file spells them.
using Vocabulary = std::unordered_map<std::string, std::int32_t>;

class Bpe {
 public:
  // Whether a model is one of ours, before its vocabulary is looked at.
  static void check_kind(const nlohmann::json& model, bool byte_level, Refusals& refusals);
  // `byte_level`: symbols are spelled in byte_alphabet(), and words are taken byte by byte. Else
  // words are taken character by character, and what is in no symbol is spelled <0xNN> (byte
  // fallback). Either way all 256 bytes must have a token.
  static std::unique_ptr<Bpe> read(const nlohmann::json& model, bool byte_level,
                                   Refusals& refusals);

  const Vocabulary& vocabulary() const { return vocabulary_; }

  // Whether encode may return this token.
  bool can_make(std::int32_t token) const;

  // Appends the tokens of `word`, any bytes, at most 2^31 - 1 of them.
  void encode(std::string_view word, std::vector<std::int32_t>& tokens) const;

 private:
  Bpe() = default;
  void read_vocabulary(const nlohmann::json& value, bool byte_level, Refusals& refusals);
  void read_merges(const nlohmann::json& value, Refusals& refusals);
  void merge(std::string_view word, std::vector<std::int32_t>& tokens) const;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };
  Vocabulary vocabulary_;
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> token_of_text_;
  std::array<std::int32_t, 256> token_of_byte_{};
  MergeTable merges_;
  std::vector<bool> made_by_merges_;  // by token
  bool byte_level_ = false;
  bool ignore_merges_ = false;  // a word that is a token is that token, whatever merges would make
  mutable WordCache cache_;
};

}  // namespace ballot

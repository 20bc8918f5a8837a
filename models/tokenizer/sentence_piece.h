// A tokenizer as SentencePiece's tokenizer.model states it: Llama 2's and its kin.
//
// BPE models with byte fallback. Kudo, Richardson, "SentencePiece" (2018): of all neighbours whose
// concatenation is a piece, those of the highest score are joined, the leftmost first. The ids are
// those of the `sentencepiece` library. docs/tokenizers.md lists what is read. Immutable; safe from
// any thread.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/tokenizer.h"
#include "models/tokenizer/added_tokens.h"
#include "models/tokenizer/word_cache.h"

namespace ballot {

class SentencePiece final : public Tokenizer {
 public:
  // Throws CorruptFile, or DataError with all that is refused. `added`: tokens behind the pieces
  // (tokenizer_config.json's), with ids of their own.
  SentencePiece(std::string_view model, const std::string& path,
                std::vector<AddedToken> added = {});

  std::vector<std::int32_t> encode(std::string_view text, bool specials,
                                   bool at_start) const override;
  std::string decode(const std::vector<std::int32_t>& tokens) const override;
  std::vector<std::int32_t> with_template(std::vector<std::int32_t> tokens) const override;
  bool lossless() const override { return false; }  // U+2581 becomes a space
  std::int32_t bos() const override { return bos_; }
  std::int32_t eos() const override { return eos_; }
  std::int32_t find_special(std::string_view text) const override;
  std::string special_text(std::int32_t token) const override;
  std::int64_t vocabulary() const override { return size_; }

  std::int64_t pieces() const { return static_cast<std::int64_t>(pieces_.size()); }
  void set_bos_and_eos(std::int32_t bos, std::int32_t eos) { bos_ = bos, eos_ = eos; }
  // Whether a text that follows a special token gets a space in front too (transformers' "legacy").
  void set_legacy(bool legacy) { legacy_ = legacy; }
  // What with_template adds.
  void set_template(bool bos, bool eos) { adds_bos_ = bos, adds_eos_ = eos; }

 private:
  enum class Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::normal;
  };
  void read(std::string_view model, const std::string& path, Refusals& refusals);
  void check_pieces(Refusals& refusals);
  void list_user_defined();
  std::string normalize(std::string_view text, bool prefix) const;
  // Bytes of the user-defined piece that `text` begins with; 0: none.
  std::size_t user_defined_at(std::string_view text) const;
  void encode_text(std::string_view text, bool prefix, std::vector<std::int32_t>& tokens) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& tokens) const;
  void merge(std::string_view word, std::vector<std::int32_t>& tokens) const;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };
  std::vector<Piece> pieces_;
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> id_of_;  // mergeable
  std::array<std::int32_t, 256> id_of_byte_{};
  std::vector<std::int16_t> byte_of_id_;  // -1: no byte
  // A tree of the user-defined pieces: (place, byte) to the next place, and where a piece ends.
  std::unordered_map<std::uint64_t, std::uint32_t> user_defined_;
  std::vector<bool> user_defined_ends_ = {false};
  std::vector<AddedToken> added_;
  std::unique_ptr<AddedTokenFinder> find_added_;
  bool add_dummy_prefix_ = true, remove_extra_spaces_ = true;
  // Whether no piece goes on into the next word, so that words can be encoded one by one.
  bool words_apart_ = true;
  bool legacy_ = true, adds_bos_ = true, adds_eos_ = false;
  std::int32_t bos_ = -1, eos_ = -1;
  std::int64_t size_ = 0;
  mutable WordCache cache_;
};

}  // namespace ballot

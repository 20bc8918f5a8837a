// A tokenizer as a tokenizer.json states it: its parts in a row.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "models/tokenizer.h"
#include "models/tokenizer/added_tokens.h"
#include "models/tokenizer/bpe.h"
#include "models/tokenizer/decoder.h"
#include "models/tokenizer/normalizer.h"
#include "models/tokenizer/post_processor.h"
#include "models/tokenizer/pre_tokenizer.h"

namespace ballot {

class JsonTokenizer final : public Tokenizer {
 public:
  // Throws DataError with all that is refused.
  JsonTokenizer(const nlohmann::json& root, const std::string& path);

  std::vector<std::int32_t> encode(std::string_view text, bool specials,
                                   bool at_start) const override;
  std::string decode(const std::vector<std::int32_t>& tokens) const override;
  std::vector<std::int32_t> with_template(std::vector<std::int32_t> tokens) const override;
  bool lossless() const override { return lossless_; }
  std::int32_t bos() const override { return bos_; }
  std::int32_t eos() const override { return eos_; }
  std::int32_t find_special(std::string_view text) const override;
  std::string special_text(std::int32_t token) const override;
  std::int64_t vocabulary() const override { return size_; }

  bool has(std::int32_t token) const { return bytes_of_token_.contains(token); }
  const AddedToken* find_added(std::string_view text) const;
  void set_bos_and_eos(std::int32_t bos, std::int32_t eos) { bos_ = bos, eos_ = eos; }

 private:
  void list_tokens(Refusals& refusals);
  bool find_whether_lossless() const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::unique_ptr<Bpe> bpe_;
  std::vector<AddedToken> added_;
  std::unique_ptr<AddedTokenFinder> find_plain_, find_normalized_;
  Decoder decoder_;
  PostProcessor post_processor_;
  std::unordered_map<std::int32_t, std::string> bytes_of_token_;  // special tokens: empty
  std::int32_t bos_ = -1, eos_ = -1;
  std::int64_t size_ = 0;
  bool lossless_ = false;
};

}  // namespace ballot

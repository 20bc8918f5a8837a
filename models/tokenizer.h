// Text to token ids and back, as a Hugging Face tokenizer.json states it.
//
// So far byte-level vocabularies without merges: each byte is one token through the GPT-2 byte
// alphabet, special
// ("added") tokens are matched first, longest first. A tokenizer.json with merges, or of another
// kind, is refused by name (DataError). Immutable; safe from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // No special tokens are added. `specials` = false treats their text as plain bytes.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool specials = false) const = 0;
  virtual std::string decode(
      const std::vector<std::int32_t>& tokens) const = 0;  // special tokens are left out
  virtual std::int32_t bos() const = 0;                    // -1: none
  virtual std::int32_t eos() const = 0;                    // -1: none
  virtual std::int64_t vocabulary() const = 0;
};

// Reads DIR/tokenizer.json, and bos/eos from tokenizer_config.json, else from config.json's ids.
std::unique_ptr<Tokenizer> read_tokenizer(const std::string& folder);
// The text of a tokenizer.json alone, without bos and eos; `path` stands in messages.
std::unique_ptr<Tokenizer> parse_tokenizer(const std::string& json_text, const std::string& path);

// 256 bytes, <|begin_of_text|> 256, <|end_of_text|> 257: what `ballot init` and the quickstart
// write.
std::string byte_tokenizer_json();
std::string byte_tokenizer_config_json();

}  // namespace ballot

// Text to token ids and back, as a Hugging Face tokenizer.json states it, or a tokenizer.model of
// SentencePiece.
//
// Byte-pair encodings: byte-level ones (GPT-2, Llama 3, SmolLM2) and those of characters with byte
// fallback (Llama 2). The ids are those of the `tokenizers` library. docs/tokenizers.md lists what
// is read; anything else is refused by name (DataError). Immutable; safe from any thread.
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
  // No special tokens are added around the text (see with_template). `specials` = false treats the
  // text of special tokens as any other: right for what strangers wrote. Bytes that are no UTF-8
  // are encoded too.
  // `at_start` = false: other tokens stand before it, as a chat's do; some tokenizers put a space
  // only before the first of a text's words.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool specials = false,
                                           bool at_start = true) const = 0;
  // Bytes; special tokens are left out. The tokens of half a character give half its bytes.
  virtual std::string decode(const std::vector<std::int32_t>& tokens) const = 0;
  // What encode returned, with the tokens that post_processor puts around a text (a bos, most
  // often).
  virtual std::vector<std::int32_t> with_template(std::vector<std::int32_t> tokens) const = 0;
  // Whether decode(encode(text)) is `text` for any bytes: not where the text is normalized, say.
  virtual bool lossless() const = 0;
  virtual std::int32_t bos() const = 0;  // -1: none
  virtual std::int32_t eos() const = 0;  // -1: none
  // The id of a special token's text; -1: there is none.
  virtual std::int32_t find_special(std::string_view text) const = 0;
  // The text of a token that decode leaves out; empty for any other.
  virtual std::string special_text(std::int32_t token) const = 0;
  virtual std::int64_t vocabulary() const = 0;  // the largest id and one
};

// Reads DIR/tokenizer.json, else DIR/tokenizer.model, and bos/eos from tokenizer_config.json, else
// from config.json's ids.
std::unique_ptr<Tokenizer> read_tokenizer(const std::string& folder);
// The text of a tokenizer.json alone, without bos and eos; `path` stands in messages.
std::unique_ptr<Tokenizer> parse_tokenizer(const std::string& json_text, const std::string& path);
// The bytes of a tokenizer.model alone, likewise.
std::unique_ptr<Tokenizer> parse_sentence_piece(std::string_view model, const std::string& path);

// 256 bytes, <|begin_of_text|> 256, <|end_of_text|> 257: what `ballot init` and the quickstart
// write.
std::string byte_tokenizer_json();
std::string byte_tokenizer_config_json();

}  // namespace ballot

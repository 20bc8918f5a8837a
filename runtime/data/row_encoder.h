// The tokens of one row of JSONL, and which of them are trained on.
//
// A prompt and its completion are encoded as one text, as they would be read later. Trained on are
// the tokens from the first that the prompt alone would not have had there. Safe from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"
#include "runtime/data/token_data.h"

namespace ballot {

class ChatTemplate;

class RowEncoder {
 public:
  // `row_template`: empty: by the row's fields. `path` stands in messages. The tokenizer must
  // outlive it.
  RowEncoder(const Tokenizer& tokenizer, const DocumentRules& rules, std::string model_folder,
             const std::string& row_template, const std::string& path);
  ~RowEncoder();

  // Appends a document's words (token_view.h), at least one if the tokenizer has a BOS or EOS or
  // the text is not empty. `where` names the row. DataError, CorruptFile.
  void encode(std::string_view line, const std::string& where,
              std::vector<std::uint32_t>& words) const;
  // Whether a row so far had a part that is not to be trained on, if an empty one.
  bool told_apart() const { return told_apart_; }
  // Whether a row so far was a question that is trained on though nobody asked for it.
  bool whole_questions() const { return whole_questions_; }

 private:
  struct Piece {
    std::string text;
    std::string field;  // empty: none; "|": here the completion begins
  };
  static std::vector<Piece> parse_template(const std::string& text, const std::string& path);
  void encode_text(const std::string& prompt, const std::string& whole, bool masks,
                   std::vector<std::uint32_t>& words) const;
  const ChatTemplate& chat_template(const std::string& where) const;

  struct Chat;
  const Tokenizer& tokenizer_;
  DocumentRules rules_;
  std::string model_folder_;
  std::vector<Piece> given_;
  bool has_template_ = false;
  std::unique_ptr<Chat> chat_;
  mutable std::atomic<bool> told_apart_ = false, whole_questions_ = false;
};

}  // namespace ballot

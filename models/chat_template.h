// A conversation's tokens as a family of models was taught them, and which of them its assistant
// said.
//
// The families' templates are built in; there is no Jinja here. A model's own template
// (chat_template.jinja, or "chat_template" in tokenizer_config.json) is known by its text, and one
// that is not is refused. Contents are encoded without special tokens: nobody's text ends a turn.
// docs/tokenizers.md says what each writes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace ballot {

struct ChatMessage {
  std::string role, content;
};

struct ChatTokens {
  std::vector<std::int32_t> tokens;
  std::vector<bool> trained;  // what assistants say, and the end of their turns
};

class ChatTemplate {
 public:
  // One of chat_template_names(). The tokenizer must outlive it; DataError where it lacks the
  // template's special tokens. ConfigError for another name.
  ChatTemplate(const std::string& name, const Tokenizer& tokenizer);

  const std::string& name() const { return name_; }
  std::int32_t end_of_turn() const;  // the token after an assistant's words
  // All turns. DataError, naming `where`, for roles or an order that the template has no place for.
  ChatTokens encode(std::span<const ChatMessage> messages, const std::string& where) const;
  // The same, and what stands before the assistant's next words.
  std::vector<std::int32_t> prompt(std::span<const ChatMessage> messages,
                                   const std::string& where) const;

 private:
  enum class Kind { llama2, llama3, llama31, chatml, smollm2, zephyr };
  // A special token, or a text between two.
  struct Part {
    std::string text;
    std::int32_t token = -1;
    bool trained = false;
  };
  class Writer;
  void write(std::span<const ChatMessage> messages, const std::string& where, Writer& writer) const;
  std::int32_t token(std::string_view text) const;

  std::string name_;
  Kind kind_;
  const Tokenizer& tokenizer_;
};

const std::vector<std::string>& chat_template_names();

// The name of the built-in template that a text in Jinja is; empty: none of them.
std::string recognize_chat_template(std::string_view jinja);

// `choice`: a name, or "auto": the one that FOLDER's files hold. DataError naming the file where
// that is none of the built-in ones, or there is none.
ChatTemplate read_chat_template(const std::string& folder, const std::string& choice,
                                const Tokenizer& tokenizer);

}  // namespace ballot

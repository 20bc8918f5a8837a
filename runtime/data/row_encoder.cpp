#include "runtime/data/row_encoder.h"

#include <algorithm>
#include <mutex>
#include <optional>

#include "core/error.h"
#include "models/chat_template.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

using nlohmann::json;

std::string text_field(const json& row, const std::string& field, const std::string& where) {
  const auto value = row.find(field);
  if (value == row.end()) throw DataError("{}: the row has no field {}", where, shown(field));
  if (!value->is_string())
    throw DataError("{}: field {} is {}, expected a string", where, shown(field), shown(*value));
  return value->get<std::string>();
}

std::vector<ChatMessage> messages_of(const json& value, const std::string& where) {
  if (!value.is_array() || value.empty())
    throw DataError("{}: \"messages\" is {}, expected a list of {{\"role\", \"content\"}}", where,
                    shown(value));
  std::vector<ChatMessage> messages;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string place = fmt::format("{}: message {}", where, i + 1);
    if (!value[i].is_object())
      throw DataError("{} is {}, expected an object", place, shown(value[i]));
    for (const char* const key : {"tool_calls", "tool_call_id"})
      if (value[i].contains(key) && !value[i][key].is_null() && !value[i][key].empty())
        throw DataError("{} has {}: tools are not supported, only texts are", place, key);
    messages.push_back(
        {text_field(value[i], "role", place), text_field(value[i], "content", place)});
  }
  return messages;
}

// What a template would put into the text for the model to call.
void refuse_tools(const json& row, const std::string& where) {
  for (const char* const key : {"tools", "functions"}) {
    const auto value = row.find(key);
    if (value == row.end() || value->empty() || *value == "" || *value == "[]") continue;
    throw DataError("{}: the row has {}: tools are not supported, only texts are", where,
                    shown(key));
  }
}

}  // namespace

struct RowEncoder::Chat {
  mutable std::once_flag once;
  mutable std::optional<ChatTemplate> found;
};

RowEncoder::RowEncoder(const Tokenizer& tokenizer, const DocumentRules& rules,
                       std::string model_folder, const std::string& row_template,
                       const std::string& path)
    : tokenizer_(tokenizer),
      rules_(rules),
      model_folder_(std::move(model_folder)),
      given_(parse_template(row_template, path)),
      has_template_(!row_template.empty()),
      chat_(std::make_unique<Chat>()) {}

RowEncoder::~RowEncoder() = default;

std::vector<RowEncoder::Piece> RowEncoder::parse_template(const std::string& text,
                                                          const std::string& path) {
  std::vector<Piece> pieces(1);
  bool completion_begins = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c == '{' || c == '}') && i + 1 < text.size() && text[i + 1] == c) {
      pieces.back().text += c;
      ++i;
    } else if (c == '{') {
      const std::size_t end = text.find_first_of("{}", i + 1);
      if (end == std::string::npos || text[end] != '}' || end == i + 1)
        throw ConfigError(
            "{}: row template {} opens a field at byte {} that does not end, expected {{name}}",
            path, shown(text), i);
      pieces.back().field = text.substr(i + 1, end - i - 1);
      if (pieces.back().field == "|" && std::exchange(completion_begins, true))
        throw ConfigError("{}: row template {} has {{|}} twice; a completion begins once", path,
                          shown(text));
      pieces.emplace_back();
      i = end;
    } else if (c == '}') {
      throw ConfigError("{}: row template {} has a lone }} at byte {}, expected }}}}", path,
                        shown(text), i);
    } else {
      pieces.back().text += c;
    }
  }
  return pieces;
}

const ChatTemplate& RowEncoder::chat_template(const std::string& where) const {
  std::call_once(chat_->once, [&] {
    if (model_folder_.empty() && rules_.chat_template == "auto")
      throw DataError("{}: the row has messages, and there is no model folder with a chat template",
                      where);
    chat_->found.emplace(read_chat_template(model_folder_, rules_.chat_template, tokenizer_));
  });
  return *chat_->found;
}

void RowEncoder::encode(std::string_view line, const std::string& where,
                        std::vector<std::uint32_t>& words) const {
  static const std::vector<Piece> text_row = parse_template("{text}", ""),
                                  prompt_row = parse_template("{prompt}{|}{completion}", ""),
                                  question_row = parse_template(
                                      "Question: {question}\nAnswer:{|} {answer}\n", "");
  const json row = parse_strict_json(line, where);
  if (!row.is_object()) throw DataError("{}: the row is {}, expected an object", where, shown(row));
  const bool all = rules_.train_on == TrainOn::all;
  const auto has = [&row](const char* key) {
    const auto value = row.find(key);
    return value != row.end() && !value->is_null();
  };
  // A row that has several forms is read as the first of: text, messages, prompt, question.
  if (!has_template_ && !has("text") && has("messages")) {
    refuse_tools(row, where);
    if (!all) told_apart_ = true;
    const ChatTokens chat = chat_template(where).encode(messages_of(row["messages"], where), where);
    for (std::size_t i = 0; i < chat.tokens.size(); ++i)
      words.push_back(static_cast<std::uint32_t>(chat.tokens[i]) | (i == 0 ? kBeginsDocument : 0) |
                      (all || chat.trained[i] ? 0 : kNotTrained));
    return;
  }
  const std::vector<Piece>* pieces = &given_;
  // Rows that were one text before masks were known stay so unless they are asked for.
  bool masks = !all;
  if (!has_template_) {
    if (has("text")) {
      pieces = &text_row;
    } else if (has("prompt") && has("completion")) {
      pieces = &prompt_row;
    } else if (has("question")) {
      pieces = &question_row;
      masks = masks && (rules_.train_on == TrainOn::completion ||
                        rules_.windows == Windows::packed || rules_.windows == Windows::single);
      if (!masks && !all) whole_questions_ = true;
    } else {
      throw DataError(
          "{}: the row has neither \"messages\", \"prompt\" and \"completion\", \"text\", nor "
          "\"question\" and \"answer\", and there is no template",
          where);
    }
  }
  std::string whole, prompt;
  bool split = false;
  for (const Piece& piece : *pieces) {
    whole += piece.text;
    if (piece.field == "|") {
      split = true;
      prompt = whole;
    } else if (!piece.field.empty()) {
      whole += text_field(row, piece.field, where);
    }
  }
  if (masks && split) told_apart_ = true;
  encode_text(prompt, whole, masks && split, words);
}

void RowEncoder::encode_text(const std::string& prompt, const std::string& whole, bool masks,
                             std::vector<std::uint32_t>& words) const {
  const std::size_t first = words.size();
  const std::uint32_t mask = masks ? kNotTrained : 0;
  if (tokenizer_.bos() >= 0) words.push_back(static_cast<std::uint32_t>(tokenizer_.bos()) | mask);
  const std::vector<std::int32_t> tokens = tokenizer_.encode(whole);
  std::size_t in_prompt = 0;
  if (masks) {
    const std::vector<std::int32_t> alone = tokenizer_.encode(prompt);
    while (in_prompt < alone.size() && in_prompt < tokens.size() &&
           alone[in_prompt] == tokens[in_prompt])
      ++in_prompt;
  }
  for (std::size_t i = 0; i < tokens.size(); ++i)
    words.push_back(static_cast<std::uint32_t>(tokens[i]) | (i < in_prompt ? kNotTrained : 0));
  if (tokenizer_.eos() >= 0) words.push_back(static_cast<std::uint32_t>(tokenizer_.eos()));
  if (words.size() > first) words[first] |= kBeginsDocument;
}

}  // namespace ballot

#include "models/chat_template.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "models/known_chat_templates.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

using nlohmann::json;

// What Jinja's trim and Python's strip() take off: Unicode's White_Space and U+001C to U+001F.
bool is_space_at(std::string_view text, std::size_t& length) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  length = 1;
  if (byte(0) < 0x80) return (byte(0) >= 9 && byte(0) <= 13) || (byte(0) >= 28 && byte(0) <= 32);
  for (const std::string_view space :
       {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005",
        "\u2006", "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f",
        "\u3000"})
    if (text.starts_with(space)) {
      length = space.size();
      return true;
    }
  return false;
}

std::string strip(std::string_view text) {
  std::size_t length = 0;
  while (!text.empty() && is_space_at(text, length)) text.remove_prefix(length);
  for (bool found = true; found && !text.empty();) {
    found = false;
    for (std::size_t back = 1; back <= 3 && back <= text.size() && !found; ++back) {
      const std::string_view end = text.substr(text.size() - back);
      if (is_space_at(end, length) && length == back) {
        text.remove_suffix(back);
        found = true;
      }
    }
  }
  return std::string(text);
}

constexpr const char* kDate = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
constexpr const char* kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

}  // namespace

// Collects special tokens and the texts between them.
class ChatTemplate::Writer {
 public:
  void special(std::int32_t token, bool trained = false) { parts_.push_back({"", token, trained}); }
  // `trained`: assistants say it. A text runs on until the next special token.
  void text(std::string_view text, bool trained = false) {
    if (!text.empty()) parts_.push_back({std::string(text), -1, trained});
  }
  ChatTokens encode(const Tokenizer& tokenizer) const {
    ChatTokens result;
    for (std::size_t i = 0; i < parts_.size();) {
      if (parts_[i].token >= 0) {
        result.tokens.push_back(parts_[i].token);
        result.trained.push_back(parts_[i++].trained);
        continue;
      }
      std::string before, whole;  // what stands before the first trained part
      bool trained = false;
      for (; i < parts_.size() && parts_[i].token < 0; ++i) {
        trained = trained || parts_[i].trained;
        if (!trained) before += parts_[i].text;
        whole += parts_[i].text;
      }
      const bool at_start = result.tokens.empty();
      const std::vector<std::int32_t> tokens = tokenizer.encode(whole, false, at_start);
      std::size_t masked = tokens.size();
      if (trained) {
        const std::vector<std::int32_t> alone = tokenizer.encode(before, false, at_start);
        masked = static_cast<std::size_t>(
            std::mismatch(alone.begin(), alone.end(), tokens.begin(), tokens.end()).second -
            tokens.begin());
      }
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        result.tokens.push_back(tokens[t]);
        result.trained.push_back(t >= masked);
      }
    }
    return result;
  }

 private:
  std::vector<Part> parts_;
};

const std::vector<std::string>& chat_template_names() {
  static const std::vector<std::string> names = {"llama2", "llama3",  "llama3.1",
                                                 "chatml", "smollm2", "zephyr"};
  return names;
}

ChatTemplate::ChatTemplate(const std::string& name, const Tokenizer& tokenizer)
    : name_(name), tokenizer_(tokenizer) {
  const std::vector<std::string>& names = chat_template_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end())
    throw ConfigError("data.chat_template = {}: expected auto, {}", shown(name),
                      fmt::join(names, ", "));
  kind_ = static_cast<Kind>(found - names.begin());
  const auto needs = [&](const char* what, std::int32_t id) {
    if (id < 0)
      throw DataError("data.chat_template = \"{}\" needs {}, which the tokenizer does not have",
                      name_, what);
  };
  switch (kind_) {
    case Kind::llama2:
    case Kind::zephyr:
      if (kind_ == Kind::llama2) needs("a bos token", tokenizer.bos());
      needs("an eos token", tokenizer.eos());
      break;
    case Kind::llama3:
    case Kind::llama31:
      needs("a bos token", tokenizer.bos());
      for (const char* const text : {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})
        needs(fmt::format("the special token {}", text).c_str(), token(text));
      break;
    case Kind::chatml:
    case Kind::smollm2:
      for (const char* const text : {"<|im_start|>", "<|im_end|>"})
        needs(fmt::format("the special token {}", text).c_str(), token(text));
      break;
  }
}

std::int32_t ChatTemplate::token(std::string_view text) const {
  return tokenizer_.find_special(text);
}

std::int32_t ChatTemplate::end_of_turn() const {
  switch (kind_) {
    case Kind::llama3:
    case Kind::llama31:
      return token("<|eot_id|>");
    case Kind::chatml:
    case Kind::smollm2:
      return token("<|im_end|>");
    case Kind::llama2:
    case Kind::zephyr:
      break;
  }
  return tokenizer_.eos();
}

void ChatTemplate::write(std::span<const ChatMessage> messages, const std::string& where,
                         Writer& writer) const {
  if (messages.empty()) throw DataError("{}: a conversation without messages", where);
  const bool has_system = messages.front().role == "system";
  const std::span<const ChatMessage> turns = messages.subspan(has_system ? 1 : 0);
  const auto one_of = [&](const ChatMessage& message, std::initializer_list<const char*> roles) {
    if (std::find(roles.begin(), roles.end(), message.role) == roles.end())
      throw DataError("{}: a message of role {}, the chat template {} has {}", where,
                      shown(message.role), name_, fmt::join(roles, ", "));
  };
  switch (kind_) {
    case Kind::llama2:
      for (std::size_t i = 0; i < turns.size(); ++i) {
        one_of(turns[i], {"system", "user", "assistant"});
        if (turns[i].role != (i % 2 == 0 ? "user" : "assistant"))
          throw DataError(
              "{}: turn {} is of role {}; the chat template llama2 has a system message, then "
              "user and assistant in turns",
              where, i + 1, shown(turns[i].role));
        if (i % 2 == 0) {
          const std::string content = i == 0 && has_system
                                          ? fmt::format("<<SYS>>\n{}\n<</SYS>>\n\n{}",
                                                        messages.front().content, turns[i].content)
                                          : turns[i].content;
          writer.special(tokenizer_.bos());
          writer.text(fmt::format("[INST] {} [/INST]", strip(content)));
        } else {
          writer.text(fmt::format(" {} ", strip(turns[i].content)), true);
          writer.special(tokenizer_.eos(), true);
        }
      }
      if (turns.empty())
        throw DataError("{}: a system message alone; the chat template llama2 needs a user's",
                        where);
      break;
    case Kind::llama3:
    case Kind::llama31: {
      const auto turn = [&](const std::string& role, const std::string& text) {
        const bool trained = role == "assistant";
        writer.special(token("<|start_header_id|>"));
        writer.text(role);
        writer.special(token("<|end_header_id|>"));
        writer.text("\n\n");
        writer.text(text, trained);
        writer.special(token("<|eot_id|>"), trained);
      };
      writer.special(tokenizer_.bos());
      if (kind_ == Kind::llama31)
        turn("system", kDate + (has_system ? strip(messages.front().content) : ""));
      for (const ChatMessage& message : kind_ == Kind::llama31 ? turns : messages) {
        one_of(message, {"system", "user", "assistant"});
        turn(message.role, strip(message.content));
      }
      break;
    }
    case Kind::chatml:
    case Kind::smollm2: {
      const auto turn = [&](const std::string& role, const std::string& text) {
        const bool trained = role == "assistant";
        writer.special(token("<|im_start|>"));
        writer.text(role + "\n");
        writer.text(text, trained);
        writer.special(token("<|im_end|>"), trained);
        writer.text("\n");
      };
      if (kind_ == Kind::smollm2 && !has_system) turn("system", kSmolLm2System);
      for (const ChatMessage& message : messages) {
        one_of(message, {"system", "user", "assistant"});
        turn(message.role, message.content);
      }
      break;
    }
    case Kind::zephyr:
      for (const ChatMessage& message : messages) {
        one_of(message, {"system", "user", "assistant"});
        const bool trained = message.role == "assistant";
        const std::string tag = fmt::format("<|{}|>", message.role);
        if (const std::int32_t special = token(tag); special >= 0)
          writer.special(special);
        else
          writer.text(tag);
        writer.text("\n");
        writer.text(message.content, trained);
        writer.special(tokenizer_.eos(), trained);
        writer.text("\n");
      }
      break;
  }
}

ChatTokens ChatTemplate::encode(std::span<const ChatMessage> messages,
                                const std::string& where) const {
  Writer writer;
  write(messages, where, writer);
  return writer.encode(tokenizer_);
}

std::vector<std::int32_t> ChatTemplate::prompt(std::span<const ChatMessage> messages,
                                               const std::string& where) const {
  Writer writer;
  write(messages, where, writer);
  switch (kind_) {
    case Kind::llama2:  // nothing: what the assistant says follows [/INST]
      break;
    case Kind::llama3:
    case Kind::llama31:
      writer.special(token("<|start_header_id|>"));
      writer.text("assistant");
      writer.special(token("<|end_header_id|>"));
      writer.text("\n\n");
      break;
    case Kind::chatml:
    case Kind::smollm2:
      writer.special(token("<|im_start|>"));
      writer.text("assistant\n");
      break;
    case Kind::zephyr:
      if (const std::int32_t special = token("<|assistant|>"); special >= 0)
        writer.special(special);
      else
        writer.text("<|assistant|>");
      writer.text("\n");
      break;
  }
  return writer.encode(tokenizer_).tokens;
}

std::string recognize_chat_template(std::string_view jinja) {
  // A line break inside a string of Jinja is written as one, or as \n.
  std::string text;
  for (std::size_t i = 0; i < jinja.size(); ++i) {
    if (jinja.substr(i, 2) == "\\n") {
      text += '\n';
      ++i;
    } else {
      text += jinja[i];
    }
  }
  while (text.ends_with('\n')) text.pop_back();
  const std::string digest = to_string(digest_of(text));
  for (const KnownChatTemplate& known : kKnownChatTemplates)
    if (digest == known.digest) return known.name;
  return "";
}

ChatTemplate read_chat_template(const std::string& folder, const std::string& choice,
                                const Tokenizer& tokenizer) {
  if (choice != "auto") return ChatTemplate(choice, tokenizer);
  constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 20;
  const std::string advice =
      fmt::format("data.chat_template can name one of {}", fmt::join(chat_template_names(), ", "));
  const std::string jinja_path = folder + "/chat_template.jinja",
                    config_path = folder + "/tokenizer_config.json";
  std::string text, path = jinja_path;
  if (std::filesystem::exists(jinja_path)) {
    text = read_file(jinja_path, kMaxBytes);
  } else if (std::filesystem::exists(config_path)) {
    path = config_path;
    const json root = parse_strict_json(read_file(config_path, std::uint64_t{64} << 20), path);
    const auto found = root.is_object() ? root.find("chat_template") : root.end();
    if (root.is_object() && found != root.end() && !found->is_null()) {
      if (found->is_string()) {
        text = found->get<std::string>();
      } else if (found->is_array()) {  // several by name; "default" is the one
        for (const json& entry : *found)
          if (entry.is_object() && entry.value("name", json()) == json("default") &&
              entry.contains("template") && entry["template"].is_string())
            text = entry["template"].get<std::string>();
      } else {
        throw DataError("{}: chat_template is {}, expected a text", path, shown(*found));
      }
    }
  }
  if (text.empty())
    throw DataError(
        "{} has no chat template (chat_template.jinja, or chat_template in "
        "tokenizer_config.json); {}",
        folder, advice);
  const std::string name = recognize_chat_template(text);
  if (name.empty())
    throw DataError("{}: the chat template {} is none of those known here; {}", path, shown(text),
                    advice);
  return ChatTemplate(name, tokenizer);
}

}  // namespace ballot

// interop_chat FOLDER NAME LINES OUT: the tokens of many conversations, for those who compare them
// with another program's.
//
// NAME: a built-in chat template, or auto. LINES: JSON, one a line: [{"role", "content"}, ...].
// OUT: a JSON a line: [tokens; 1 where an assistant says them, else 0; the tokens of a prompt].
#include <cstdio>
#include <fstream>
#include <string>

#include "core/error.h"
#include "models/chat_template.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

using nlohmann::json;

void write_chats(const std::string& folder, const std::string& name, const std::string& in_path,
                 const std::string& out_path) {
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(folder);
  const ChatTemplate chat = read_chat_template(folder, name, *tokenizer);
  std::ifstream in(in_path);
  std::ofstream out(out_path);
  std::size_t number = 0;
  for (std::string line; std::getline(in, line); ++number) {
    std::vector<ChatMessage> messages;
    for (const json& message : parse_strict_json(line, in_path))
      messages.push_back({message.at("role"), message.at("content")});
    const ChatTokens encoded = chat.encode(messages, in_path);
    out << json::array({encoded.tokens, encoded.trained, chat.prompt(messages, in_path)}) << '\n';
  }
  if (number == 0) throw DataError("{} holds no lines", in_path);
  out.close();
  if (!out) throw_file_error("write", out_path);
}

}  // namespace
}  // namespace ballot

int main(int count, char** words) {
  if (count != 5) {
    std::fprintf(stderr, "expected FOLDER NAME LINES OUT\n");
    return 2;
  }
  try {
    ballot::write_chats(words[1], words[2], words[3], words[4]);
    return 0;
  } catch (const std::exception& error) {
    const ballot::Failure failure = ballot::describe_failure(error);
    std::fprintf(stderr, "%s\n", failure.message.c_str());
    return static_cast<int>(failure.exit_code);
  }
}

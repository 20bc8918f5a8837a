// interop_tokens FOLDER LINES OUT: the tokens of many texts and what they decode to, for those who
// compare them with another program's.
//
// LINES: JSON, one a line: a text is encoded, a list of ids decoded. OUT: a JSON a line: of a text
// [its tokens, with special ones as text; the tokens with special ones and the template's], of a
// list the bytes, one character each.
#include <cstdio>
#include <fstream>
#include <string>

#include "core/error.h"
#include "models/strict_json.h"
#include "models/tokenizer.h"

namespace ballot {
namespace {

using nlohmann::json;

// Bytes as the characters U+0000 to U+00FF: JSON holds no others.
std::string as_characters(const std::string& bytes) {
  std::string text;
  for (const char byte : bytes) {
    const unsigned code = static_cast<unsigned char>(byte);
    if (code < 0x80) {
      text += byte;
    } else {
      text += static_cast<char>(0xc0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 0x3f));
    }
  }
  return text;
}

void write_tokens(const std::string& folder, const std::string& in_path,
                  const std::string& out_path) {
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(folder);
  std::ifstream in(in_path);
  std::ofstream out(out_path);
  std::size_t number = 0;
  for (std::string line; std::getline(in, line); ++number) {
    const json value = parse_strict_json(line, in_path);
    if (value.is_string()) {
      const std::string& text = value.get_ref<const std::string&>();
      out << json::array(
          {tokenizer->encode(text), tokenizer->with_template(tokenizer->encode(text, true))});
    } else {
      out << json(as_characters(tokenizer->decode(value.get<std::vector<std::int32_t>>())));
    }
    out << '\n';
  }
  if (number == 0) throw DataError("{} holds no lines", in_path);
  out.close();
  if (!out) throw_file_error("write", out_path);
}

}  // namespace
}  // namespace ballot

int main(int count, char** words) {
  if (count != 4) {
    std::fprintf(stderr, "expected FOLDER LINES OUT\n");
    return 2;
  }
  try {
    ballot::write_tokens(words[1], words[2], words[3]);
    return 0;
  } catch (const std::exception& error) {
    const ballot::Failure failure = ballot::describe_failure(error);
    std::fprintf(stderr, "%s\n", failure.message.c_str());
    return static_cast<int>(failure.exit_code);
  }
}

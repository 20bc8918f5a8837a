// Tokens from a file: plain text, JSONL rows or llm.c's token bins, as one stream.
//
//   text   one stream without special tokens
//   jsonl  one row a line: BOS, the row's text, EOS (those that the tokenizer has). The text is
//   `row_template` with
//          {field} replaced by the row's string fields, {{ and }} standing for braces; without one:
//          {"text"} as it is, or {"question","answer"} as "Question: ..\nAnswer: ..\n". Blank lines
//          are no rows.
//   bin    llm.c: 256 int32 header {20240520, 1, token count}, then uint16; the file's size must
//   match exactly
// A damaged file is CorruptFile / DataError naming file, line and what was expected; options that
// contradict each other are ConfigError.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace ballot {

struct TokenSource {
  std::string path;
  std::string format = "auto";  // by extension: .jsonl, .bin, anything else is text
  std::string row_template;     // jsonl only
  std::int64_t first_row = 0;   // jsonl only: rows [first_row, last_row); -1 = to the end
  std::int64_t last_row = -1;
  double first_part = 0;  // text and bin: the part [first_part, last_part) of the stream, 0..1
  double last_part = 1;
};

std::vector<std::int32_t> read_tokens(const TokenSource& source, const Tokenizer& tokenizer);
// The same for a file's bytes already in memory (tests, fuzzing).
std::vector<std::int32_t> parse_tokens(std::string_view bytes, const TokenSource& source,
                                       const Tokenizer& tokenizer);

}  // namespace ballot

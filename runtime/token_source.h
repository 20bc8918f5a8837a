// Tokens from a file: plain text, JSONL rows, or token files (Ballot's, llm.c's, Megatron's).
//
//   text      one document without special tokens
//   jsonl     one document a line; blank lines are none. {"messages"} through the model's chat
//             template, which gives all its tokens. Else BOS, a text, EOS (those that the tokenizer
//             has): {"prompt","completion"}, {"text"}, or {"question","answer"} as
//             "Question: ..\nAnswer: ..\n"; or `row_template` with {field} replaced by the row's
//             string fields, {{ and }} standing for braces, {|} where the completion begins
//   bin       runtime/data/token_file.h
//   megatron  NAME.idx with NAME.bin beside it
// A damaged file is CorruptFile / DataError naming file, line and what was expected; options that
// contradict each other are ConfigError.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "models/tokenizer.h"
#include "runtime/data/token_data.h"

namespace ballot {

struct TokenSource {
  std::string path;
  std::string format = "auto";  // by extension: .jsonl, .bin, .idx; anything else is text
  std::string row_template;     // jsonl only
  std::int64_t first_row = 0;   // jsonl only: rows [first_row, last_row); -1 = to the end
  std::int64_t last_row = -1;
  double first_part = 0;  // but jsonl: the part [first_part, last_part), see TokenData::part
  double last_part = 1;
};

// What a file's rows are read by.
struct DataReader {
  const Tokenizer& tokenizer;
  DocumentRules rules;
  std::string model_folder;  // whose chat template is asked for where rows have messages
};

// With OpenMP's threads; the same tokens by any number of them.
TokenData read_token_data(const TokenSource& source, const DataReader& reader);
// The same for a text's or JSONL file's bytes, or a bin's, already in memory, which must outlive
// what is returned (tests, fuzzing).
TokenData parse_token_data(std::string_view bytes, const TokenSource& source,
                           const DataReader& reader);

// "text", "jsonl", "bin" or "megatron", `auto` settled; ConfigError for options that contradict it.
std::string settled_format(const TokenSource& source);

}  // namespace ballot

// Questions with answers that end in "#### 42" (GSM8K: Cobbe et al. 2021, arXiv:2110.14168): their
// file, their prompts, and the number that counts.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

struct QuestionAnswer {
  std::string question, answer;  // as the row has them
};

// Rows {"question", "answer"} of a JSONL file, [first, last); last -1: to its end. DataError naming
// file and row where a field is missing or an answer has no number after ####.
std::vector<QuestionAnswer> read_questions(const std::string& path, std::int64_t first = 0,
                                           std::int64_t last = -1);
// The same of text in memory; `path` stands in messages.
std::vector<QuestionAnswer> parse_questions(std::string_view text, const std::string& path,
                                            std::int64_t first = 0, std::int64_t last = -1);

// The last number of the line after the first ####, without thousands' commas, a plus sign, a
// currency's sign and a fraction of zeros ("#### -$1,200.0" is "-1200"); none: there is no such
// number, or it is a piece of something else ("1/2", "1e3", "10:30").
std::optional<std::string> final_answer(std::string_view text);

// "Question: ..\nAnswer:", after the shots with their answers: as rows of a question and an answer
// are trained on (runtime/token_source.h).
std::string question_prompt(std::span<const QuestionAnswer> shots, const std::string& question);

}  // namespace ballot

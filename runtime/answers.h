// Questions asked of a model, and its answers compared with the right ones.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "models/tokenizer.h"
#include "runtime/decoding.h"
#include "runtime/question_answers.h"

namespace ballot {

struct AnswerScore {
  std::int64_t questions = 0, matches = 0, without_answer = 0;
  double share() const {
    return questions == 0 ? 0.0 : static_cast<double>(matches) / static_cast<double>(questions);
  }
};

// Greedy, `at_once` questions at a time. DataError where a shot is one of the questions: its answer
// would stand before it. `told` hears of each as it is scored; none may be given.
struct AskedQuestion {
  std::size_t index = 0;
  std::string text;                   // the model's
  std::optional<std::string> answer;  // in it
  bool matches = false;
};
AnswerScore ask(Model& model, const Tokenizer& tokenizer, std::span<const QuestionAnswer> questions,
                std::span<const QuestionAnswer> shots, std::int64_t at_once,
                const DecodingLimits& limits,
                const std::function<void(const AskedQuestion&)>& told = {});

}  // namespace ballot

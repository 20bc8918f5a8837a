#include "runtime/answers.h"

#include <algorithm>

#include "core/error.h"
#include "models/strict_json.h"

namespace ballot {

AnswerScore ask(Model& model, const Tokenizer& tokenizer, std::span<const QuestionAnswer> questions,
                std::span<const QuestionAnswer> shots, std::int64_t at_once,
                const DecodingLimits& limits,
                const std::function<void(const AskedQuestion&)>& told) {
  require(at_once > 0, "{} questions at once", at_once);
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const auto same = std::ranges::find(shots, questions[i].question, &QuestionAnswer::question);
    if (same != shots.end())
      throw DataError(
          "question {} is shot {} too ({}): it would be asked with its answer before it; expected "
          "shots that are not asked",
          i + 1, same - shots.begin() + 1, shown(questions[i].question));
  }
  std::vector<std::vector<std::int32_t>> prompts;
  for (const QuestionAnswer& one : questions) {
    std::vector<std::int32_t> tokens = tokenizer.encode(question_prompt(shots, one.question));
    if (tokenizer.bos() >= 0) tokens.insert(tokens.begin(), tokenizer.bos());
    if (static_cast<std::int64_t>(tokens.size()) >= limits.max_length)
      throw DataError(
          "question {} has {} tokens with its {} shots, the model has {} positions: there is no "
          "room "
          "for an answer",
          prompts.size() + 1, tokens.size(), shots.size(), limits.max_length);
    prompts.push_back(std::move(tokens));
  }
  AnswerScore score;
  const auto step = static_cast<std::size_t>(at_once);
  for (std::size_t first = 0; first < prompts.size(); first += step) {
    const std::size_t count = std::min(step, prompts.size() - first);
    const std::vector<Continuation> texts =
        continue_texts(model, std::span(prompts).subspan(first, count), limits, Sampling{});
    for (std::size_t i = 0; i < count; ++i) {
      AskedQuestion asked;
      asked.index = first + i;
      asked.text = tokenizer.decode(texts[i].tokens);
      asked.answer = final_answer(asked.text);
      asked.matches = asked.answer == final_answer(questions[asked.index].answer);
      ++score.questions;
      score.matches += asked.matches;
      score.without_answer += !asked.answer;
      if (told) told(asked);
    }
  }
  return score;
}

}  // namespace ballot

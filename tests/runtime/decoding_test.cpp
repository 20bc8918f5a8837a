// Choosing tokens, continuing several prompts at once, text as it comes, and scored answers.
#include "runtime/decoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/hash.h"
#include "models/architecture.h"
#include "models/growing_texts.h"
#include "models/model_folder.h"
#include "runtime/answers.h"
#include "runtime/text_stream.h"
#include "tests/support/tiny_run.h"

namespace ballot {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ChooseToken, GreedyTakesTheFirstOfTheLargest) {
  const std::vector<float> logits = {1, 7, -3, 7};
  EXPECT_EQ(choose_token(logits, {}, 0.99), 1);
}

TEST(ChooseToken, DrawsByProbability) {
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  std::vector<int> counts(3);
  for (int i = 0; i < 8000; ++i)
    ++counts[static_cast<std::size_t>(
        choose_token(logits, {.temperature = 1, .top_p = 1, .seed = 1}, (i + 0.5) / 8000))];
  EXPECT_THAT(counts, ElementsAre(1000, 2000, 5000));
  for (int i = 0; i < 100; ++i)  // 5/8 alone is not 0.7 of all; with the next it is
    EXPECT_NE(choose_token(logits, {.temperature = 1, .top_p = 0.7, .seed = 1}, i / 100.0), 0);
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(choose_token(logits, {.temperature = 1, .top_p = 0.6, .seed = 1}, i / 100.0), 2);
  for (int i = 0; i < 100; ++i)  // cold: nearly greedy
    EXPECT_EQ(choose_token(logits, {.temperature = 0.02, .top_p = 1, .seed = 1}, (i + 0.5) / 100),
              2);
}

TEST(ChooseToken, ALogitThatIsNoNumberIsADataError) {
  EXPECT_THROW(choose_token(std::vector<float>{1, std::nanf("")}, {}, 0.5), DataError);
}

class Decoding : public testing::Test {
 protected:
  const TinyRun tiny;
  const std::unique_ptr<Architecture> architecture = read_architecture(tiny.path("model"));
  const ParameterArena arena{architecture->parameter_shapes(), DType::f32};
  const std::unique_ptr<Model> model = [this] {
    load_parameters(tiny.path("model"), arena);
    return architecture->make_model(arena);
  }();
  const std::vector<std::vector<std::int32_t>> prompts = {
      {256, 't', 'h', 'e'}, {256}, {256, 'a', ' ', 'd', 'o', 'g', ' ', 's'}};

  // The slow truth: the whole forward for every token.
  std::vector<std::int32_t> greedy(std::vector<std::int32_t> text, std::int64_t count) const {
    const std::size_t prompt = text.size();
    for (std::int64_t i = 0; i < count; ++i) {
      const Tensor logits = model->logits({1, static_cast<std::int64_t>(text.size()), text, {}});
      const float* last = logits.f32() + (logits.extent[0] - 1) * logits.extent[1];
      text.push_back(choose_token({last, static_cast<std::size_t>(logits.extent[1])}, {}, 0));
    }
    return {text.begin() + static_cast<std::int64_t>(prompt), text.end()};
  }
};

TEST_F(Decoding, SeveralPromptsAtOnceAreEachWhatTheWholeForwardSays) {
  std::vector<std::vector<std::int32_t>> heard(3);
  const auto texts =
      continue_texts(*model, prompts, {12, 256, {}}, {},
                     [&](std::size_t text, std::int32_t token) { heard[text].push_back(token); });
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(texts[i].tokens, greedy(prompts[i], 12)) << i;
    EXPECT_EQ(heard[i], texts[i].tokens);
    EXPECT_EQ(texts[i].ended, Ended::max_tokens);
  }
}

// More rows than go through the model at once: the last prompt is cut.
TEST_F(Decoding, PromptsThatAreCutSayTheSameAsWhole) {
  std::vector<std::vector<std::int32_t>> several;
  for (std::int32_t i = 0; i < 6; ++i) {
    several.push_back({256});
    for (std::int32_t t = 0; t < 190; ++t) several.back().push_back((t * (3 + i) + i) % 251);
  }
  ASSERT_GT(6 * 191, GrowingTexts::kRowsAtOnce);
  const auto texts = continue_texts(*model, several, {4, 256, {}}, {});
  for (std::size_t i = 0; i < several.size(); ++i)
    EXPECT_EQ(texts[i].tokens, greedy(several[i], 4)) << i;
}

TEST(GrowingTexts, HandOutEachTokenOnceInItsPlaceAFewRowsAtATime) {
  GrowingTexts texts(4, 20, 100, 5);
  std::vector<std::vector<std::int32_t>> grown(4);
  std::vector<std::size_t> passes;
  const auto extend = [&](const std::vector<std::vector<std::int32_t>>& tokens) {
    texts.extend(tokens, [&](const GrowingTexts::Pass& pass) {
      passes.push_back(pass.inputs.size());
      std::int64_t row = 0;
      for (const NewPositions& one : pass.where) {
        EXPECT_EQ(one.first_row, row);
        std::vector<std::int32_t>& text = grown[static_cast<std::size_t>(one.sequence)];
        EXPECT_EQ(one.position, static_cast<std::int64_t>(text.size()));
        for (std::int64_t i = 0; i < one.rows; ++i)
          text.push_back(pass.inputs[static_cast<std::size_t>(row++)]);
      }
      EXPECT_EQ(row, static_cast<std::int64_t>(pass.inputs.size()));
    });
  };
  extend({{1, 2, 3, 4, 5, 6, 7}, {}, {8, 9, 10, 11, 12, 13, 14, 15, 16}, {17}});
  EXPECT_THAT(passes, ElementsAre(5, 5, 5, 2));
  extend({{18}, {19}, {}, {20, 21, 22}});
  EXPECT_THAT(passes, ElementsAre(5, 5, 5, 2, 5));
  EXPECT_THAT(grown[0], ElementsAre(1, 2, 3, 4, 5, 6, 7, 18));
  EXPECT_THAT(grown[1], ElementsAre(19));
  EXPECT_THAT(grown[2], ElementsAre(8, 9, 10, 11, 12, 13, 14, 15, 16));
  EXPECT_THAT(grown[3], ElementsAre(17, 20, 21, 22));
  for (std::int64_t i = 0; i < 4; ++i)
    EXPECT_EQ(texts.length(i),
              static_cast<std::int64_t>(grown[static_cast<std::size_t>(i)].size()));
  EXPECT_THROW(extend({{100}, {}, {}, {}}), DataError);
}

TEST_F(Decoding, AnyStopTokenEndsATextAndIsNoPartOfIt) {
  const std::vector<std::int32_t> whole = greedy(prompts[0], 12);
  const std::int32_t stop = whole[5];
  const auto first = std::ranges::find(whole, stop) - whole.begin();
  const auto text = continue_texts(*model, {prompts.data(), 1}, {12, 256, {999, stop}}, {})[0];
  EXPECT_EQ(text.ended, Ended::stop_token);
  EXPECT_EQ(text.tokens, std::vector<std::int32_t>(whole.begin(), whole.begin() + first));
}

TEST_F(Decoding, EndsWhereTheModelHasNoMorePositions) {
  const auto texts = continue_texts(*model, prompts, {100, 10, {}}, {});
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(prompts[i].size() + texts[i].tokens.size(), 10u);
    EXPECT_EQ(texts[i].ended, Ended::max_length);
  }
  EXPECT_THROW(continue_texts(*model, prompts, {100, 8, {}}, {}), DataError);
  EXPECT_THROW(continue_texts(*model, std::vector<std::vector<std::int32_t>>{{}}, {1, 8, {}}, {}),
               DataError);
}

TEST_F(Decoding, WhatIsDrawnDependsOnTheSeedAndNotOnTheNeighbours) {
  const Sampling sampling{.temperature = 1.5, .top_p = 0.9, .seed = 4};
  const auto together = continue_texts(*model, prompts, {20, 256, {}}, sampling);
  for (std::size_t i = 0; i < prompts.size(); ++i)
    EXPECT_EQ(continue_texts(*model, std::span(prompts).subspan(i, 1), {20, 256, {}}, sampling, {},
                             static_cast<std::int64_t>(i))[0]
                  .tokens,
              together[i].tokens);
  Sampling other = sampling;
  other.seed = 5;
  EXPECT_NE(continue_texts(*model, prompts, {20, 256, {}}, other)[0].tokens, together[0].tokens);
}

// A model that cannot says so by name.
TEST_F(Decoding, AModelWithoutACacheIsRefusedByName) {
  class Plain final : public Model {
   public:
    explicit Plain(Model& model) : model_(model) {}
    Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
      return model_.differentiate(batches, sink);
    }
    Loss evaluate(const TokenBatch& batch) override { return model_.evaluate(batch); }
    Tensor logits(const TokenBatch& batch) override { return model_.logits(batch); }
    Times times() const override { return model_.times(); }
    Stream& stream() override { return model_.stream(); }
    std::string name() const override { return "a plain one"; }
    std::int64_t vocabulary() const override { return model_.vocabulary(); }
    double flops_per_token(std::int64_t length) const override {
      return model_.flops_per_token(length);
    }

   private:
    Model& model_;
  } plain(*model);
  EXPECT_THAT(
      [&] {
        continue_texts(plain, prompts, {1, 8000, {}}, {});
      },
      testing::ThrowsMessage<Unavailable>(HasSubstr("a plain one")));
  EXPECT_THROW(plain.recompute_layers(true), Unavailable);
  plain.recompute_layers(false);
  EXPECT_FALSE(plain.training_memory(1, 1).has_value());
}

TEST(WholeCharacters, HoldBackABeginningOnly) {
  EXPECT_EQ(whole_characters(""), 0u);
  EXPECT_EQ(whole_characters("abc"), 3u);
  EXPECT_EQ(whole_characters("a\xC3"), 1u);
  EXPECT_EQ(whole_characters("a\xC3\xA9"), 3u);
  EXPECT_EQ(whole_characters("\xF0\x9F\x98"), 0u);
  EXPECT_EQ(whole_characters("\xF0\x9F\x98\x80"), 4u);
  EXPECT_EQ(whole_characters("\xA9\xA9\xA9\xA9"), 4u) << "begins no character";
}

RC_GTEST_PROP(TextStream, TellsTheTextByWholeCharacters, ()) {
  const std::unique_ptr<Tokenizer> bytes = parse_tokenizer(byte_tokenizer_json(), "tokenizer.json");
  std::string text;
  for (int i = *rc::gen::inRange(0, 12); i > 0; --i)
    text += *rc::gen::element<std::string>("a", "\n", "\u00e9", "\u20ac", "\U0001f600");
  const std::size_t split = *rc::gen::inRange<std::size_t>(0, 3);
  const std::string before = std::string(split, 'x');
  TextStream stream(*bytes, bytes->encode(before));
  std::string told;
  for (const std::int32_t token : bytes->encode(text)) {
    told += stream.add(token);
    RC_ASSERT(whole_characters(told) == told.size());
    RC_ASSERT(text.starts_with(told));
  }
  RC_ASSERT(told == text);
  RC_ASSERT(stream.finish().empty());
  RC_ASSERT(stream.add(0xe2).empty());
  RC_ASSERT(stream.finish() == "\xEF\xBF\xBD");
}

TEST(Answers, AreTheLastNumberOfTheLineAfterTheMark) {
  const auto answer = [](const char* text) { return final_answer(text).value_or("none"); };
  EXPECT_EQ(answer("2 + 2 = 4\n#### 4"), "4");
  EXPECT_EQ(answer("#### 1,234,567"), "1234567");
  EXPECT_EQ(answer("#### -12"), "-12");
  EXPECT_EQ(answer("#### $18.00."), "18");
  EXPECT_EQ(answer("#### 0.50"), "0.5");
  EXPECT_EQ(answer("#### .5"), "0.5");
  EXPECT_EQ(answer("#### 007"), "7");
  EXPECT_EQ(answer("#### +5 apples"), "5");
  EXPECT_EQ(answer("#### 3 of 10\nQuestion: and 7?\n#### 8"), "10");
  EXPECT_EQ(answer("#### many"), "none");
  EXPECT_EQ(answer("42"), "none");
  EXPECT_EQ(answer("####\n42"), "none");
  EXPECT_EQ(answer("#### -0"), "0");
  EXPECT_EQ(answer("#### -$5"), "-5");
  EXPECT_EQ(answer("#### $-1,005.50"), "-1005.5");
  EXPECT_EQ(answer("#### \u22127"), "-7");
  EXPECT_EQ(answer("#### -\u20ac7"), "-7");
  EXPECT_EQ(answer("#### 10-12"), "12");
  EXPECT_EQ(answer("#### 10\u221212"), "12");
  EXPECT_EQ(answer("#### 10 - 12"), "12");
  EXPECT_EQ(answer("#### - 5"), "-5");
  EXPECT_EQ(answer("#### 1/2"), "none");
  EXPECT_EQ(answer("#### 1e3"), "none");
  EXPECT_EQ(answer("#### 1E-3"), "none");
  EXPECT_EQ(answer("#### 1.2.3"), "none");
  EXPECT_EQ(answer("#### 10:30"), "none");
  EXPECT_EQ(answer("#### e5"), "5");
}

TEST(Answers, RowsAreReadAndMistakesNamed) {
  const std::string text =
      "{\"question\": \"1+1?\", \"answer\": \"#### 2\"}\n\n"
      "{\"question\": \"2+2?\", \"answer\": \"two twos\\n#### 4\", \"more\": 1}\n";
  const auto rows = parse_questions(text, "q.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].question, "2+2?");
  EXPECT_EQ(parse_questions(text, "q.jsonl", 1)[0].question, "2+2?");
  const auto wrong = [](const char* row, const char* message) {
    EXPECT_THAT([&] { parse_questions(row, "q.jsonl"); },
                testing::ThrowsMessage<WorldError>(HasSubstr(message)))
        << row;
  };
  wrong("{\"question\": \"?\"}", "q.jsonl:1: expected a string \"answer\"");
  wrong("\n{\"question\": \"?\", \"answer\": \"5\"}", "q.jsonl:2: the answer \"5\" has no number");
  wrong("[1]", "q.jsonl:1: the row is an array");
  wrong("{", "q.jsonl:1");
  wrong("", "q.jsonl has no rows");
  EXPECT_THROW(parse_questions(text, "q.jsonl", 2), DataError);
}

TEST(Answers, AShotIsWhatTheModelIsTrainedOn) {
  const std::vector<QuestionAnswer> shots = {{"1+1?", "two\n#### 2"}};
  EXPECT_EQ(question_prompt(shots, "2+2?"),
            "Question: 1+1?\nAnswer: two\n#### 2\n\nQuestion: 2+2?\nAnswer:");
  EXPECT_EQ(question_prompt({}, "2+2?"), "Question: 2+2?\nAnswer:");
}

TEST_F(Decoding, AShotThatIsAskedTooIsADataError) {
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(tiny.path("model"));
  const std::vector<QuestionAnswer> all = {{"1+1?", "#### 2"}, {"2+2?", "#### 4"}};
  const auto with_shots = [&](std::span<const QuestionAnswer> asked,
                              std::span<const QuestionAnswer> shots) {
    return ask(*model, *tokenizer, asked, shots, 2, {1, 256, {}});
  };
  EXPECT_THAT([&] { with_shots(all, std::span(all).subspan(1)); },
              testing::ThrowsMessage<DataError>(HasSubstr("question 2 is shot 1 too (\"2+2?\")")));
  EXPECT_EQ(with_shots(std::span(all).first(1), std::span(all).subspan(1)).questions, 1);
}

// A model that says the same after every prompt: the score counts exactly its matches, whatever
// goes together.
TEST_F(Decoding, AsksEveryQuestionOnce) {
  class Parrot final : public Generation {
   public:
    Parrot(std::int64_t texts, std::string text) : text_(std::move(text)), said_(texts, -1) {}
    Tensor extend(std::span<const std::vector<std::int32_t>> tokens) override {
      logits_ = OwnedTensor(DType::f32, {static_cast<std::int64_t>(said_.size()), 258});
      for (std::size_t i = 0; i < said_.size(); ++i) {
        if (tokens[i].empty()) continue;
        lengths_ += static_cast<std::int64_t>(tokens[i].size());
        const auto next = static_cast<std::size_t>(++said_[i]);
        const int token = next < text_.size() ? static_cast<unsigned char>(text_[next]) : 257;
        logits_.view().f32()[static_cast<std::int64_t>(i) * 258 + token] = 1;
      }
      return logits_;
    }
    std::int64_t length(std::int64_t) const override { return 1; }

   private:
    std::string text_;
    std::vector<std::int64_t> said_;
    std::int64_t lengths_ = 0;
    OwnedTensor logits_;
  };
  class Sayer final : public Model {
   public:
    explicit Sayer(Model& model) : model_(model) {}
    Loss differentiate(std::span<const TokenBatch> b, GradientSink& s) override {
      return model_.differentiate(b, s);
    }
    Loss evaluate(const TokenBatch& batch) override { return model_.evaluate(batch); }
    Tensor logits(const TokenBatch& batch) override { return model_.logits(batch); }
    std::unique_ptr<Generation> start(std::int64_t texts, std::int64_t) override {
      return std::make_unique<Parrot>(texts, " so\n#### 1,004\n");
    }
    Times times() const override { return model_.times(); }
    Stream& stream() override { return model_.stream(); }
    std::int64_t vocabulary() const override { return 258; }
    double flops_per_token(std::int64_t length) const override {
      return model_.flops_per_token(length);
    }

   private:
    Model& model_;
  } sayer(*model);
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(tiny.path("model"));
  std::vector<QuestionAnswer> questions;
  for (int i = 0; i < 7; ++i)
    questions.push_back({std::to_string(i), i % 3 == 0 ? "#### 1004" : "#### 5"});
  for (const std::int64_t at_once : {1, 3, 7}) {
    std::vector<std::size_t> told;
    const AnswerScore score = ask(sayer, *tokenizer, questions, {}, at_once, {64, 4096, {257}},
                                  [&](const AskedQuestion& asked) { told.push_back(asked.index); });
    EXPECT_EQ(score.questions, 7);
    EXPECT_EQ(score.matches, 3);
    EXPECT_EQ(score.without_answer, 0);
    EXPECT_THAT(told, ElementsAre(0, 1, 2, 3, 4, 5, 6));
  }
}

}  // namespace
}  // namespace ballot

// Documents in windows: each once an epoch, none seeing another, only what is trained on counted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/parallel.h"
#include "models/tokenizer/utf8.h"
#include "runtime/data/first_sample.h"
#include "runtime/sampler.h"
#include "tests/runtime/run_data_support.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TokenData data_of(const std::vector<int>& lengths, int masked = 0) {
  return TokenData("rows.jsonl", documents_of(lengths, masked));
}

// Each (input, target) pair that counts, of all rows.
std::multiset<std::pair<std::int32_t, std::int32_t>> pairs_of(const TokenBatch& batch) {
  std::multiset<std::pair<std::int32_t, std::int32_t>> pairs;
  for (std::size_t i = 0; i < batch.inputs.size(); ++i)
    if (batch.targets[i] != kNoTarget) pairs.emplace(batch.inputs[i], batch.targets[i]);
  return pairs;
}

RC_GTEST_PROP(Shuffled, IsABijectionForEveryKey, ()) {
  const auto count = *rc::gen::inRange<std::int64_t>(1, 3000);
  const auto key = *rc::gen::arbitrary<std::uint64_t>();
  std::vector<bool> seen(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = shuffled(i, count, key);
    RC_ASSERT(at >= 0 && at < count && !seen[static_cast<std::size_t>(at)]);
    seen[static_cast<std::size_t>(at)] = true;
  }
}

TEST(Shuffled, EveryPlaceIsReachedAboutEquallyOften) {
  std::array<int, 10> count{};
  for (std::uint64_t key = 0; key < 10000; ++key)
    ++count.at(static_cast<std::size_t>(shuffled(3, 10, key)));
  for (const int times : count) EXPECT_NEAR(times, 1000, 150);
}

RC_GTEST_PROP(DocumentSampler, AnEpochHoldsEveryTargetOnceAndNoWindowMixesDocuments, ()) {
  const auto lengths =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<int>>(rc::gen::inRange(2, 60)));
  const auto length = *rc::gen::inRange<std::int64_t>(4, 40);
  const auto windows = *rc::gen::element(Windows::packed, Windows::single);
  const int masked = *rc::gen::inRange(0, 8);
  RC_PRE(*std::max_element(lengths.begin(), lengths.end()) > masked);
  const TokenData data = data_of(lengths, masked);
  const DocumentSampler sampler(data, windows, LongDocuments::cut, length,
                                *rc::gen::arbitrary<std::uint64_t>());
  const std::int64_t epoch = *rc::gen::inRange(0, 3) * sampler.packing().windows();
  TokenBatch batch;
  sampler.draw(epoch, sampler.packing().windows(), batch);
  std::multiset<std::pair<std::int32_t, std::int32_t>> wanted;
  for (std::size_t d = 0; d < lengths.size(); ++d)
    for (int i = 1; i < lengths[d]; ++i)
      if (i >= masked)
        wanted.emplace(100 * static_cast<int>(d) + i - 1, 100 * static_cast<int>(d) + i);
  RC_ASSERT(pairs_of(batch) == wanted);

  RC_ASSERT(batch.document_starts.size() == batch.inputs.size());
  for (std::int64_t row = 0; row < batch.sequences; ++row)
    for (std::int64_t i = 0; i < length; ++i) {
      const auto at = static_cast<std::size_t>(row * length + i);
      const std::int32_t start = batch.document_starts[at];
      RC_ASSERT(start >= 0 && start <= i);
      const auto first = static_cast<std::size_t>(row * length + start);
      RC_ASSERT(batch.document_starts[first] == start);
      // Consecutive tokens of one document since its start.
      if (batch.targets[at] != kNoTarget)
        RC_ASSERT(batch.inputs[at] == batch.inputs[first] + static_cast<std::int32_t>(i) - start);
    }
  if (windows == Windows::single) {
    for (std::int64_t row = 0; row < batch.sequences; ++row)
      RC_ASSERT(batch.document_starts[static_cast<std::size_t>(row * length)] == 0);
  }
}

RC_GTEST_PROP(DocumentSampler, HowIdsAreDividedAmongWorkersChangesNothing, ()) {
  const TokenData data = data_of({5, 9, 30, 2, 17, 8, 8, 3});
  const DocumentSampler sampler(data, Windows::packed, LongDocuments::cut, 16,
                                *rc::gen::arbitrary<std::uint64_t>());
  const auto first = *rc::gen::inRange<std::int64_t>(0, 100);
  const auto count = *rc::gen::inRange<std::int64_t>(2, 20),
             cut = *rc::gen::inRange<std::int64_t>(1, count);
  TokenBatch whole, left, right;
  sampler.draw(first, count, whole);
  sampler.draw(first, cut, left);
  sampler.draw(first + cut, count - cut, right);
  left.inputs.insert(left.inputs.end(), right.inputs.begin(), right.inputs.end());
  left.targets.insert(left.targets.end(), right.targets.begin(), right.targets.end());
  left.document_starts.insert(left.document_starts.end(), right.document_starts.begin(),
                              right.document_starts.end());
  RC_ASSERT(whole.inputs == left.inputs && whole.targets == left.targets &&
            whole.document_starts == left.document_starts);
}

TEST(DocumentSampler, SamplesAreTheSameForever) {
  std::vector<int> lengths;
  for (int i = 0; i < 100; ++i) lengths.push_back(2 + i * 7 % 23);
  const TokenData data = data_of(lengths);
  const DocumentSampler sampler(data, Windows::packed, LongDocuments::cut, 32, 42);
  std::vector<std::int64_t> windows;
  for (std::int64_t id = 0; id < 6; ++id) windows.push_back(sampler.window(id));
  TokenBatch batch;
  sampler.draw(0, 1, batch);
  EXPECT_EQ(sampler.packing().windows(), 38);
  EXPECT_THAT(windows, ElementsAre(1, 20, 16, 11, 13, 28));
  EXPECT_EQ(batch.inputs[0], 8200);
}

TEST(DocumentSampler, EpochsComeInOrdersOfTheirOwn) {
  const TokenData data = data_of(std::vector<int>(50, 9));
  const DocumentSampler sampler(data, Windows::single, LongDocuments::cut, 8, 7);
  std::vector<std::int64_t> first, second;
  for (std::int64_t id = 0; id < 50; ++id) {
    first.push_back(sampler.window(id));
    second.push_back(sampler.window(50 + id));
  }
  EXPECT_NE(first, second);
  EXPECT_THAT(second, testing::UnorderedElementsAreArray(first));
}

TEST(Packing, FillsWindowsThatWouldStandHalfEmpty) {
  const TokenData data = data_of({7, 5, 7, 5, 11});  // 6 + 4 + 6 + 4 + 10 positions
  const Packing packing(data, Windows::packed, LongDocuments::refuse, 10, 1);
  EXPECT_EQ(packing.windows(), 3);
  EXPECT_EQ(packing.positions_used(), 30);
}

TEST(Packing, ADocumentOfOneTokenMoreThanTFillsAWindow) {
  TokenBatch batch;
  const TokenData data = data_of({9});
  const DocumentSampler sampler(data, Windows::packed, LongDocuments::refuse, 8, 1);
  sampler.draw(0, 1, batch);
  EXPECT_THAT(batch.inputs, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(batch.targets, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
}

TEST(Packing, WhatIsLeftOfAWindowPredictsNothingAndSeesOnlyItself) {
  TokenBatch batch;
  const TokenData data = data_of({4});
  const DocumentSampler sampler(data, Windows::single, LongDocuments::refuse, 6, 1);
  sampler.draw(0, 1, batch);
  EXPECT_THAT(batch.inputs, ElementsAre(0, 1, 2, 0, 0, 0));
  EXPECT_THAT(batch.targets, ElementsAre(1, 2, 3, kNoTarget, kNoTarget, kNoTarget));
  EXPECT_THAT(batch.document_starts, ElementsAre(0, 0, 0, 3, 4, 5));
}

TEST(Packing, ALongDocumentIsCutOrRefused) {
  const TokenData data = data_of({3, 20});
  const Packing packing(data, Windows::packed, LongDocuments::cut, 8, 1);
  EXPECT_EQ(packing.documents_cut(), 1);
  EXPECT_EQ(packing.positions_used(), 21);
  EXPECT_THAT(
      ([&] { Packing(data, Windows::packed, LongDocuments::refuse, 8, 1); }),
      ThrowsMessage<DataError>(AllOf(HasSubstr("rows.jsonl: document 2 has 20 tokens"),
                                     HasSubstr("takes 9"), HasSubstr("data.long_documents"))));
}

TEST(Packing, PiecesWithNothingToTrainOnAreLeftOut) {
  std::vector<std::uint32_t> words = documents_of({6, 20, 6});
  for (std::size_t i = 6; i < 6 + 9; ++i) words[i] |= kNotTrained;  // the second's first piece
  for (std::size_t i = 26; i < 32; ++i) words[i] |= kNotTrained;    // all of the third
  const TokenData data("rows.jsonl", words);
  const Packing packing(data, Windows::single, LongDocuments::cut, 8, 1);
  EXPECT_EQ(packing.windows(), 3);
  EXPECT_EQ(packing.documents_left_out(), 1);
  EXPECT_THROW(
      Packing(TokenData("x", documents_of({5}, 5)), Windows::packed, LongDocuments::cut, 8, 1),
      DataError);
}

TEST(EvaluationWindows, OfDocumentsCoverEveryTargetOnceOrALimitOfThemEvenly) {
  const TokenData data = data_of({5, 9, 30, 2, 17, 8, 8, 3}, 3);
  const DocumentRules rules = rules_of(Windows::packed);
  const EvaluationWindows all(data, rules, 16, 0, "data.validation");
  TokenBatch batch;
  all.fill(0, all.count(), batch);
  EXPECT_EQ(static_cast<std::int64_t>(pairs_of(batch).size()), data.trained());
  const EvaluationWindows some(data, rules, 16, 2, "data.validation");
  EXPECT_EQ(some.count(), 2);
  some.fill(0, 2, batch);
  EXPECT_FALSE(pairs_of(batch).empty());
}

TEST(SampleSource, AStreamRefusesWhatItCannotLeaveOut) {
  const TokenData data = data_of({50, 50}, 10);
  EXPECT_THAT(
      [&] { make_sample_source(data, rules_of(Windows::stream), 8, 1, "data.train"); },
      ThrowsMessage<DataError>(AllOf(HasSubstr("data.train = \"rows.jsonl\""),
                                     HasSubstr("18 of its tokens"), HasSubstr("data.windows"))));
  EXPECT_NE(
      dynamic_cast<const DocumentSampler*>(make_sample_source(data, {}, 8, 1, "data.train").get()),
      nullptr);
}

TEST(TokenData, APartOfManyDocumentsIsWholeDocumentsAndPartsMeet) {
  const TokenData data = data_of({3, 4, 5, 6});
  const TokenData left = data.part(0, 0.5), right = data.part(0.5, 1);
  EXPECT_EQ(left.documents(), 2);
  EXPECT_EQ(left.tokens().size(), 7);
  EXPECT_EQ(right.tokens().size(), 11);
  EXPECT_EQ(right.document_begin(1), 5);
  EXPECT_EQ(right.tokens().token(0), 200);
  EXPECT_EQ(right.trained(), 9);
}

TEST(TokenData, TheDigestIsOfTokensMasksAndDocumentsNotOfTheirForm) {
  const std::vector<std::int32_t> plain = {1, 2, 3};
  const std::vector<std::uint16_t> narrow = {1, 2, 3};
  const TokenData a("a", nullptr, TokenView(plain)),
      b("b", nullptr, TokenView(TokenView::Form::u16, std::as_bytes(std::span(narrow)))),
      c("c", {kBeginsDocument | 1, 2, 3}), d("d", {kBeginsDocument | 1, 2, kNotTrained | 3}),
      e("e", {kBeginsDocument | 1, 2, kBeginsDocument | 3});
  EXPECT_EQ(a.digest(), b.digest());
  EXPECT_EQ(a.digest(), c.digest());
  EXPECT_NE(a.digest(), d.digest());
  EXPECT_NE(a.digest(), e.digest());
}

// Rows.

TokenData read(const std::string& rows, const DocumentRules& rules = {},
               const std::string& row_template = "", const std::string& folder = "") {
  static std::vector<std::unique_ptr<std::string>> kept;
  kept.push_back(std::make_unique<std::string>(rows));
  TokenSource source = source_of("rows.jsonl");
  source.row_template = row_template;
  return parse_token_data(*kept.back(), source, reader_of(rules, folder));
}

// "text" with what is trained on in capitals; specials left out.
std::string shown(const TokenData& data) {
  std::string text;
  for (std::int64_t i = 0; i < data.tokens().size(); ++i) {
    const std::int32_t token = data.tokens().token(i);
    const bool trained = data.tokens().trained(i);
    if (token >= 256)
      text += token == 256 ? (trained ? "[B]" : "[b]") : (trained ? "[E]" : "[e]");
    else
      text += static_cast<char>(trained ? std::toupper(token) : token);
  }
  return text;
}

TEST(Rows, APromptIsNotTrainedOn) {
  EXPECT_EQ(shown(read(R"({"prompt":"ab","completion":"cd"})")), "[b]abCD[E]");
  EXPECT_EQ(shown(read(R"({"prompt":"ab","completion":"cd"})", rules_of(Windows::stream))),
            "[b]abCD[E]");
  EXPECT_EQ(
      shown(read(R"({"prompt":"ab","completion":"cd"})", rules_of(Windows::stream, TrainOn::all))),
      "[B]ABCD[E]");
}

TEST(Rows, AStreamOfPromptsIsRefusedUnlessTheyAreToBeTrainedOn) {
  const DocumentRules rules = rules_of(Windows::stream),
                      all = rules_of(Windows::stream, TrainOn::all);
  const std::string row = R"({"prompt":"ab","completion":"cd"})";
  EXPECT_THAT([&] { make_sample_source(read(row, rules), rules, 4, 1, "data.train"); },
              ThrowsMessage<DataError>(HasSubstr("data.train_on = \"all\"")));
  EXPECT_NO_THROW(make_sample_source(read(row, all), all, 4, 1, "data.train"));
}

TEST(Rows, OfSeveralFormsTextComesFirstAndNullIsNone) {
  EXPECT_EQ(shown(read(R"({"prompt":"ab","completion":"cd","text":"xy"})")), "[B]XY[E]");
  EXPECT_EQ(shown(read(R"({"text":"xy","messages":[1]})")), "[B]XY[E]");
  EXPECT_EQ(shown(read(R"({"prompt":"ab","completion":"cd","question":"q","answer":"a"})")),
            "[b]abCD[E]");
  EXPECT_EQ(shown(read(R"({"prompt":"ab","completion":"cd","text":null,"messages":null})")),
            "[b]abCD[E]");
  EXPECT_THAT([] { read(R"({"text":null})"); },
              ThrowsMessage<DataError>(HasSubstr("rows.jsonl:1: the row has neither")));
}

TEST(Rows, ToolsOfAConversationAreRefusedByName) {
  DocumentRules rules;
  rules.chat_template = "zephyr";
  const std::string said =
      R"("messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}]})";
  for (const std::string key : {"tools", "functions"}) {
    EXPECT_THAT([&] { read("{\"" + key + R"(":[{"name":"f"}],)" + said, rules); },
                ThrowsMessage<DataError>(HasSubstr("rows.jsonl:1: the row has \"" + key + "\"")));
    for (const char* const none : {"[]", "null", "\"\""})
      EXPECT_NO_THROW(read("{\"" + key + "\":" + none + "," + said, rules));
  }
}

TEST(Rows, AQuestionIsNotTrainedOnOnceWindowsArePacked) {
  const std::string row = R"({"question":"q","answer":"a"})";
  EXPECT_EQ(shown(read(row)), "[B]QUESTION: Q\nANSWER: A\n[E]");
  EXPECT_EQ(shown(read(row, rules_of(Windows::stream))), "[B]QUESTION: Q\nANSWER: A\n[E]");
  EXPECT_EQ(shown(read(row, rules_of(Windows::packed))), "[b]Question: q\nAnswer: A\n[E]");
  EXPECT_EQ(shown(read(row, rules_of(Windows::automatic, TrainOn::completion))),
            "[b]Question: q\nAnswer: A\n[E]");
}

TEST(Rows, ATemplateSaysWhereTheCompletionBegins) {
  EXPECT_EQ(shown(read(R"({"x":"ab","y":"cd"})", {}, "{x}!{|}{y}.")), "[b]ab!CD.[E]");
  EXPECT_EQ(shown(read(R"({"x":"ab"})", {}, "{x}")), "[B]AB[E]");
  EXPECT_THAT([] { read("{}", {}, "{|}a{|}"); },
              ThrowsMessage<ConfigError>(HasSubstr("{|} twice")));
}

TEST(Rows, NothingOrEverythingToTrainOnIsAnError) {
  EXPECT_THAT([] { read(R"({"text":"ab"})", rules_of(Windows::packed, TrainOn::completion)); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("rows.jsonl: all of its 3 tokens"),
                                             HasSubstr("data.train_on = \"completion\""))));
  EXPECT_THAT([] { read(R"({"prompt":"","completion":"ab"})"); },
              ThrowsMessage<DataError>(HasSubstr("rows.jsonl: all of its 3 tokens")));
  EXPECT_THAT(
      [] {
        DocumentRules rules;
        rules.chat_template = "zephyr";
        read(R"({"messages":[{"role":"user","content":"hello"}]})", rules);
      },
      ThrowsMessage<DataError>(HasSubstr("rows.jsonl: none of its")));
}

TEST(Rows, MessagesGoThroughTheChatTemplateAndOnlyTheAssistantsAreTrainedOn) {
  DocumentRules rules;
  rules.chat_template = "zephyr";
  EXPECT_EQ(
      shown(read(R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},)"
                 R"({"role":"assistant","content":"ab"}]})",
                 rules)),
      "<|system|>\ns[e]\n<|user|>\nu[e]\n<|assistant|>\nAB[E]\n");
}

TEST(Rows, DamagedRowsAreNamedByTheFirstOfThemWithAnyNumberOfThreads) {
  std::string rows;
  for (int i = 0; i < 500; ++i)
    rows += i >= 100 && i % 50 == 0 ? "{\"text\":1}\n" : "{\"text\":\"a\"}\n";
  const int before = thread_count();
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    EXPECT_THAT([&] { read(rows); }, ThrowsMessage<DataError>(HasSubstr("rows.jsonl:101:")));
  }
  set_thread_count(before);
  EXPECT_THAT(
      [] {
        read(R"({"messages":[{"role":"user"}]})", [] {
          DocumentRules rules;
          rules.chat_template = "zephyr";
          return rules;
        }());
      },
      ThrowsMessage<DataError>(HasSubstr("rows.jsonl:1: message 1: the row has no field")));
  EXPECT_THROW(read(R"({"messages":[]})"), WorldError);
  EXPECT_THAT([] { read(R"({"messages":[{"role":"user","content":"x"}]})"); },
              ThrowsMessage<DataError>(HasSubstr("no model folder")));
}

TEST(FirstSample, ShowsWhatIsTrainedOnByDocument) {
  const TokenData data =
      read("{\"prompt\":\"ab\",\"completion\":\"cd\"}\n{\"prompt\":\"x\",\"completion\":\"yz\"}");
  const auto samples = make_sample_source(data, {}, 16, 1, "data.train");
  TokenBatch batch;
  samples->draw(0, 1, batch);
  const std::string text = show_sample(batch, 0, byte_tokenizer());
  EXPECT_THAT(text, AllOf(HasSubstr("16 positions, 6 trained on, 7 left empty; 2 documents"),
                          HasSubstr("<|begin_of_text|>ab>>cd<|end_of_text|><<"),
                          HasSubstr("<|begin_of_text|>x>>yz<|end_of_text|><<")));
}

TEST(FirstSample, PartsOfCharactersAreReplaced) {
  std::string row = R"({"prompt":"a\u00e9","completion":"x)";
  for (int i = 0; i < 300; ++i) row += "\u00e9";
  const TokenData data = read(row + "\"}");
  const auto samples = make_sample_source(data, {}, 700, 1, "data.train");
  TokenBatch batch;
  samples->draw(0, 1, batch);
  const std::string text = show_sample(batch, 0, byte_tokenizer());
  EXPECT_THAT(text, AllOf(HasSubstr("a\u00e9>>x\u00e9"), HasSubstr("\u00e9\ufffd [")));
  for (std::string_view rest = text; !rest.empty(); rest.remove_prefix(utf8_length(rest)))
    ASSERT_GT(utf8_length(rest), 0U) << text;
}

}  // namespace
}  // namespace ballot

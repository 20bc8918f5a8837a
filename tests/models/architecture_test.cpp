// The seam between models/ and everything else: families are chosen by model_type and reached
// through one interface.
#include "models/architecture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr ModelSize kSmall = {.hidden = 32,
                              .layers = 2,
                              .heads = 2,
                              .vocabulary = 50,
                              .max_positions = 40,
                              .bos_token = 48,
                              .eos_token = 49};

struct NoSink final : GradientSink {
  int count = 0;
  void ready(const Parameter&, Stream&) override { ++count; }
};

class Families : public testing::TestWithParam<std::string> {};

TEST_P(Families, AreBuiltInitialisedAndTrainedByTheInterfaceAlone) {
  const std::unique_ptr<Architecture> made = new_architecture(GetParam(), kSmall);
  const TemporaryFolder folder;
  write_file_synced(folder.file("config.json"), made->to_json());
  const std::unique_ptr<Architecture> read = read_architecture(folder.path());
  EXPECT_EQ(read->model_type(), GetParam());
  EXPECT_EQ(read->vocabulary(), 50);
  EXPECT_EQ(read->max_positions(), 40);
  EXPECT_EQ(read->bos_token(), 48);
  EXPECT_EQ(read->eos_tokens(), std::vector<std::int64_t>{49});
  EXPECT_EQ(read->to_json(), made->to_json());

  const ParameterArena arena(read->parameter_shapes(), DType::f32);
  read->initialize(arena, 1);
  const std::unique_ptr<Model> model = read->make_model(arena);
  TokenBatch batch;
  batch.sequences = 1;
  batch.length = 8;
  batch.inputs = {1, 2, 3, 4, 5, 6, 7, 8};
  batch.targets = {2, 3, 4, 5, 6, 7, 8, 9};
  NoSink sink;
  const Loss loss = model->differentiate({&batch, 1}, sink);
  EXPECT_NEAR(loss.mean(), std::log(50.0), 0.3) << "a fresh model knows nothing";
  EXPECT_EQ(sink.count, static_cast<int>(arena.parameters().size()));
}

TEST_P(Families, RefuseANewModelThatCannotBe) {
  ModelSize size = kSmall;
  size.heads = 5;
  EXPECT_THROW(new_architecture(GetParam(), size), ConfigError);
  size = kSmall;
  size.vocabulary = 0;
  EXPECT_THAT([&] { new_architecture(GetParam(), size); },
              ThrowsMessage<ConfigError>(HasSubstr("vocab_size is 0")));
}

INSTANTIATE_TEST_SUITE_P(All, Families, testing::ValuesIn(model_types()),
                         [](const auto& instance) { return instance.param; });

TEST(Architecture, AnUnknownTypeIsRefusedWithTheKnownOnes) {
  EXPECT_THAT([] { parse_architecture(R"({"model_type":"mamba"})", "x/config.json"); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("x/config.json: model_type \"mamba\""),
                                             HasSubstr("\"llama\" or \"gpt2\""))));
  EXPECT_THAT([] { parse_architecture("{}", "x/config.json"); },
              ThrowsMessage<DataError>(HasSubstr("no model_type")));
  EXPECT_THROW(parse_architecture("[]", "x"), DataError);
  EXPECT_THROW(parse_architecture("{", "x"), CorruptFile);
  EXPECT_THAT([] { new_architecture("mamba", kSmall); },
              ThrowsMessage<ConfigError>(HasSubstr("\"llama\" or \"gpt2\"")));
}

TEST(Architecture, AGpt2HasNoSharedKeys) {
  ModelSize size = kSmall;
  size.key_value_heads = 1;
  EXPECT_THAT([&] { new_architecture("gpt2", size); },
              ThrowsMessage<ConfigError>(HasSubstr("as many key/value heads as heads")));
  EXPECT_NO_THROW(new_architecture("llama", size));
}

TEST(Architecture, ASizeBelowNothingIsRefusedByNameAndValue) {
  for (const std::string& type : model_types()) {
    const auto refused = [&](std::int64_t ModelSize::*member, const char* text) {
      ModelSize size = kSmall;
      size.*member = -2;
      EXPECT_THAT([&] { new_architecture(type, size); },
                  ThrowsMessage<ConfigError>(HasSubstr(text)));
    };
    refused(&ModelSize::key_value_heads, "key_value_heads is -2");
    refused(&ModelSize::intermediate, "intermediate is -2");
    refused(&ModelSize::head_size, "head_size is -2");
  }
}

TEST(Architecture, AutoIsTheCpuForAFamilyThatRunsOnNoGpu) {
  const std::unique_ptr<Architecture> gpt2 = new_architecture("gpt2", kSmall);
  std::string reason;
  EXPECT_EQ(find_device(*gpt2, "auto", 0, &reason), Device{});
  EXPECT_EQ(reason, "chose the CPU; models of type \"gpt2\" run on CPUs only");
  EXPECT_EQ(find_device(*gpt2, "cpu"), Device{});
  for (const char* name : {"cuda", "cuda:1"})
    EXPECT_THAT([&] { find_device(*gpt2, name); },
                ThrowsMessage<Unavailable>(HasSubstr("models of type \"gpt2\" run on CPUs only")));
  EXPECT_THROW(find_device(*gpt2, "tpu"), ConfigError);
  // What is found for a Llama is what the machine has.
  const std::unique_ptr<Architecture> llama = new_architecture("llama", kSmall);
  EXPECT_EQ(find_device(*llama, "auto", 0, &reason), find_device("auto"));
  EXPECT_THAT(reason, testing::Not(HasSubstr("llama")));
}

TEST(Architecture, AModelOfTheSameShapesIsNotTheSameModel) {
  const TemporaryFolder folder;
  const std::unique_ptr<Architecture> saved = new_architecture("gpt2", kSmall);
  std::string text = saved->to_json();
  write_file_synced(folder.file("config.json"), std::string_view(text));
  EXPECT_NO_THROW(require_same_architecture(*saved, "model", folder.path()));
  const std::string key = "\"layer_norm_epsilon\": ";
  const std::size_t value = text.find(key) + key.size();
  ASSERT_LT(value, text.size());
  text.replace(value, text.find(',', value) - value, "0.25");
  const std::unique_ptr<Architecture> changed = parse_architecture(text, "changed");
  EXPECT_THAT([&] { require_same_architecture(*changed, "model", folder.path()); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("model/config.json is not the model"),
                                             HasSubstr(folder.path()),
                                             HasSubstr("layer_norm_epsilon is 0.25, was 1e-05"))));
  const std::unique_ptr<Architecture> llama = new_architecture("llama", kSmall);
  EXPECT_THAT([&] { require_same_architecture(*llama, "model", folder.path()); },
              ThrowsMessage<DataError>(HasSubstr("model_type is \"llama\", was \"gpt2\"")));
}

TEST(Architecture, GenerationConfigSaysWhatEndsAText) {
  const TemporaryFolder folder;
  const std::unique_ptr<Architecture> made = new_architecture("llama", kSmall);
  const auto stops = [&] { return read_stop_tokens(folder.path(), *made); };
  EXPECT_EQ(stops(), std::vector<std::int64_t>{49});
  const auto write = [&](std::string_view text) {
    write_file_synced(folder.file("generation_config.json"), text);
  };
  write(R"({"temperature":0.6})");
  EXPECT_EQ(stops(), std::vector<std::int64_t>{49});
  write(R"({"eos_token_id":[7,8]})");
  EXPECT_EQ(stops(), (std::vector<std::int64_t>{7, 8}));
  write(R"({"eos_token_id":7})");
  EXPECT_EQ(stops(), std::vector<std::int64_t>{7});
  write(R"({"eos_token_id":[7,50]})");
  EXPECT_EQ(stops(), std::vector<std::int64_t>{7}) << "50 is not among the 50 tokens";
  for (const char* none : {"50256", "[50, -1]", "18446744073709551615", "[]"}) {
    write(fmt::format(R"({{"eos_token_id":{}}})", none));
    testing::internal::CaptureStderr();
    EXPECT_EQ(stops(), std::vector<std::int64_t>{49}) << none << " says nothing of this model";
    const std::string log = testing::internal::GetCapturedStderr();
    if (none != std::string("[]")) {
      EXPECT_THAT(log, AllOf(HasSubstr("generation_config.json"), HasSubstr("is ignored")));
    }
  }
  write(R"({"eos_token_id":"a"})");
  EXPECT_THROW(stops(), DataError);
}

}  // namespace
}  // namespace ballot

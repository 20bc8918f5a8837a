#include "models/model_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

const std::string kTiny = BALLOT_SHARED_DATA "/llama-tiny-shakespeare";

// Two parameters, the matrix with row padding in the arena.
std::vector<ParameterShape> two_shapes(bool tied = false) {
  return {{"w", ParameterKind::hidden_matrix, 2, 3},
          {"g", ParameterKind::vector, 1, 2},
          {"model.embed_tokens.weight", ParameterKind::embedding, 2, 2, tied}};
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

const std::vector<float> kMatrix = {1, 2, 3, 4, 5, 6};
const std::vector<float> kGain = {7, 8};
const std::vector<float> kTable = {9, 10, 11, 12};

std::vector<TensorToStore> two_tensors() {
  return {{"w", StoredType::f32, {2, 3}, bytes_of(kMatrix)},
          {"g", StoredType::f32, {2}, bytes_of(kGain)},
          {"model.embed_tokens.weight", StoredType::f32, {2, 2}, bytes_of(kTable)}};
}

std::vector<float> row_of(const Parameter& parameter, std::int64_t row) {
  const float* start = parameter.value.f32() + row * parameter.row_stride;
  return {start, start + parameter.shape.cols};
}

void write_model(const TemporaryFolder& folder, std::span<const TensorToStore> tensors) {
  write_safetensors(folder.file("model.safetensors"), tensors, {{"format", "pt"}});
}

TEST(ModelFolder, LoadsRowsAndLeavesPaddingZero) {
  const TemporaryFolder folder;
  write_model(folder, two_tensors());
  const ParameterArena arena(two_shapes(), DType::bf16);
  load_parameters(folder.path(), arena);
  const Parameter& w = arena.find("w");
  EXPECT_EQ(row_of(w, 0), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(row_of(w, 1), (std::vector<float>{4, 5, 6}));
  EXPECT_EQ(row_of(arena.find("g"), 0), kGain);
  for (std::int64_t row = 0; row < 2; ++row)
    for (std::int64_t col = 3; col < w.row_stride; ++col)
      EXPECT_EQ(w.value.f32()[row * w.row_stride + col], 0);
  EXPECT_EQ(to_float(w.compute.bf16()[w.row_stride]), 4) << "the compute copy is fresh";
}

TEST(ModelFolder, LoadsEveryHalfAsItsExactValue) {
  std::vector<std::uint16_t> halves(65536);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  const TemporaryFolder folder;
  const std::vector<TensorToStore> tensors = {{"w", StoredType::f16, {65536}, bytes_of(halves)}};
  write_model(folder, tensors);
  const std::vector<ParameterShape> shapes = {{"w", ParameterKind::vector, 1, 65536}};
  const ParameterArena arena(shapes, DType::f32);
  load_parameters(folder.path(), arena);
  const float* values = arena.find("w").value.f32();
  for (int i = 0; i < 65536; ++i) {
    const int exponent = (i >> 10) & 31, fraction = i & 1023;
    double expected;
    if (exponent == 31) {
      expected = fraction ? std::numeric_limits<double>::quiet_NaN()
                          : std::numeric_limits<double>::infinity();
    } else if (exponent == 0) {
      expected = std::ldexp(fraction, -24);
    } else {
      expected = std::ldexp(1024 + fraction, exponent - 25);
    }
    if (i >> 15) expected = -expected;
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(values[i])) << i;
    } else {
      ASSERT_EQ(values[i], expected) << i;
      ASSERT_EQ(std::signbit(values[i]), i >= 32768) << i;
    }
  }
}

TEST(ModelFolder, LoadsEveryBfloat16AsItsExactValue) {
  std::vector<std::uint16_t> halves(65536);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  const TemporaryFolder folder;
  const std::vector<TensorToStore> tensors = {
      {"w", StoredType::bf16, {256, 256}, bytes_of(halves)}};
  write_model(folder, tensors);
  const std::vector<ParameterShape> shapes = {{"w", ParameterKind::hidden_matrix, 256, 256}};
  const ParameterArena arena(shapes, DType::f32);
  load_parameters(folder.path(), arena);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, arena.find("w").value.f32() + i, 4);
    ASSERT_EQ(bits, i << 16);
  }
}

TEST(ModelFolder, EveryBadTensorIsToldAtOnce) {
  const TemporaryFolder folder;
  const std::vector<std::int64_t> wrong = {1};
  const std::vector<TensorToStore> tensors = {{"w", StoredType::f32, {3, 2}, bytes_of(kMatrix)},
                                              {"g", StoredType::i32, {2}, bytes_of(kGain)}};
  write_model(folder, tensors);
  const ParameterArena arena(two_shapes(), DType::f32);
  EXPECT_THAT([&] { load_parameters(folder.path(), arena); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("w is (3, 2), expected (2, 3)"),
                                             HasSubstr("g has type I32"),
                                             HasSubstr("model.embed_tokens.weight is missing"))));
  EXPECT_EQ(row_of(arena.find("w"), 0), (std::vector<float>{0, 0, 0})) << "nothing was copied";
}

// What the log says while `action` runs.
template <class Action>
std::string logged(const Action& action) {
  testing::internal::CaptureStderr();
  action();
  return testing::internal::GetCapturedStderr();
}

TEST(ModelFolder, AnUnknownTensorIsAWarningARotaryTableIsNot) {
  const TemporaryFolder folder;
  std::vector<TensorToStore> tensors = two_tensors();
  tensors.push_back(
      {"model.layers.0.self_attn.rotary_emb.inv_freq", StoredType::f32, {2}, bytes_of(kGain)});
  write_model(folder, tensors);
  const ParameterArena arena(two_shapes(), DType::f32);
  EXPECT_EQ(logged([&] { load_parameters(folder.path(), arena); }), "");
  tensors.push_back({"surprise", StoredType::i32, {2}, bytes_of(kGain)});
  write_model(folder, tensors);
  EXPECT_THAT(logged([&] { load_parameters(folder.path(), arena); }), HasSubstr("surprise"));
}

TEST(ModelFolder, ATiedModelsHeadIsIgnoredAnUntiedOnesIsAWarning) {
  const TemporaryFolder folder;
  std::vector<TensorToStore> tensors = two_tensors();
  tensors.push_back({"lm_head.weight", StoredType::f32, {2, 2}, bytes_of(kTable)});
  write_model(folder, tensors);
  const ParameterArena tied(two_shapes(true), DType::f32);
  EXPECT_EQ(logged([&] { load_parameters(folder.path(), tied); }), "");
  const ParameterArena untied(two_shapes(false), DType::f32);
  EXPECT_THAT(logged([&] { load_parameters(folder.path(), untied); }), HasSubstr("lm_head.weight"));
}

TEST(ModelFolder, WeightsInSeveralFilesAreReadThroughTheirIndex) {
  const TemporaryFolder folder;
  const ParameterArena arena(two_shapes(), DType::f32);
  EXPECT_THROW(load_parameters(folder.path(), arena), FileError);
  const std::vector<TensorToStore> tensors = two_tensors();
  write_safetensors(folder.file("a.safetensors"), std::span(tensors).first(1), {});
  write_safetensors(folder.file("b.safetensors"), std::span(tensors).subspan(1), {});
  const std::string index = folder.file("model.safetensors.index.json");
  const auto write_index = [&index](const std::string& map) {
    write_file_synced(index, std::string_view(R"({"metadata": {}, "weight_map": )" + map + "}"));
  };
  write_index(R"({"w": "a.safetensors", "g": "b.safetensors",
                  "model.embed_tokens.weight": "b.safetensors"})");
  load_parameters(folder.path(), arena);
  EXPECT_EQ(row_of(arena.find("w"), 1), (std::vector<float>{4, 5, 6}));
  EXPECT_EQ(row_of(arena.find("g"), 0), kGain);
  EXPECT_EQ(row_of(arena.find("model.embed_tokens.weight"), 0), (std::vector<float>{9, 10}));

  write_index(R"({"w": "a.safetensors", "g": "b.safetensors"})");
  EXPECT_THAT([&] { load_parameters(folder.path(), arena); },
              ThrowsMessage<DataError>(HasSubstr("model.embed_tokens.weight is missing")));
  for (const auto& [map, message] : std::vector<std::pair<std::string, std::string>>{
           {R"({"w": "b.safetensors"})", "tensor \"w\" is not in "},
           {R"({"w": "../b.safetensors"})", "expected the name of a file beside it"},
           {R"({"w": "/b.safetensors"})", "expected the name of a file beside it"},
           {R"({"w": ".."})", "expected the name of a file beside it"},
           {R"({"w": 7})", "expected the name of a file beside it"},
           {R"({"w": ["a.safetensors"]})", "expected the name of a file beside it"},
           {"{}", "has no \"weight_map\""},
           {"[1]", "has no \"weight_map\""}}) {
    write_index(map);
    EXPECT_THAT([&] { load_parameters(folder.path(), arena); },
                ThrowsMessage<CorruptFile>(HasSubstr(message)))
        << map;
  }
  write_index(R"({"w": "gone.safetensors"})");
  EXPECT_THROW(load_parameters(folder.path(), arena), FileError);
  write_file_synced(index, std::string_view("[]"));
  EXPECT_THROW(load_parameters(folder.path(), arena), CorruptFile);
  // One file is read though an index of another time lies beside it.
  write_model(folder, tensors);
  EXPECT_NO_THROW(load_parameters(folder.path(), arena));
}

TEST(ModelFolder, SavesInNameOrderAndRoundsToBfloat16) {
  const TemporaryFolder folder;
  const ParameterArena arena(two_shapes(), DType::f32);
  const Parameter& w = arena.find("w");
  for (int i = 0; i < 6; ++i)
    w.value.f32()[i / 3 * w.row_stride + i % 3] = 1.0f + static_cast<float>(i) / 3;
  save_parameters(folder.path(), arena, StoredType::bf16);
  const SafetensorsReader file(folder.file("model.safetensors"));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "g");
  EXPECT_EQ(file.tensors()[1].name, "model.embed_tokens.weight");
  EXPECT_EQ(file.tensors()[2].name, "w");
  const StoredTensor& stored = file.get("w");
  EXPECT_EQ(stored.type, StoredType::bf16);
  for (int i = 0; i < 6; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, stored.bytes.data() + 2 * i, 2);
    EXPECT_EQ(bits, to_bfloat16(1.0f + static_cast<float>(i) / 3).bits);
  }
  EXPECT_THROW(save_parameters(folder.path(), arena, StoredType::f16), LogicError);
}

TEST(ModelFolder, TheTinyModelLoadedAndSavedIsTheSameFile) {
  if (!fs::exists(kTiny)) GTEST_SKIP() << "needs " << kTiny;
  const LlamaConfig config = read_model_config(kTiny);
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  EXPECT_EQ(logged([&] { load_parameters(kTiny, arena); }), "");
  const TemporaryFolder folder;
  save_parameters(folder.path(), arena);

  const SafetensorsReader before(kTiny + "/model.safetensors"),
      after(folder.file("model.safetensors"));
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const StoredTensor& tensor : before.tensors()) {
    const StoredTensor& saved = after.get(tensor.name);
    EXPECT_EQ(saved.shape, tensor.shape);
    ASSERT_EQ(saved.bytes.size(), tensor.bytes.size());
    EXPECT_EQ(std::memcmp(saved.bytes.data(), tensor.bytes.data(), tensor.bytes.size()), 0)
        << tensor.name;
  }
  EXPECT_TRUE(read_file(folder.file("model.safetensors")) ==
              read_file(kTiny + "/model.safetensors"))
      << "header and padding too";
}

TEST(ModelFolder, SideFilesAreCopiedByteForByte) {
  const TemporaryFolder source, target;
  EXPECT_THAT([&] { copy_side_files(source.path(), target.path()); },
              ThrowsMessage<FileError>(HasSubstr("config.json")));
  const std::string odd("{}\r\n\0\xff", 6);
  write_file_synced(source.file("config.json"), std::string_view(odd));
  write_file_synced(source.file("tokenizer.json"), std::string_view("t"));
  write_file_synced(source.file("generation_config.json"), std::string_view("g"));
  write_file_synced(source.file("model.safetensors"), std::string_view("no"));
  copy_side_files(source.path(), target.path());
  EXPECT_EQ(read_file(target.file("config.json")), odd);
  EXPECT_EQ(read_file(target.file("tokenizer.json")), "t");
  EXPECT_EQ(read_file(target.file("generation_config.json")), "g");
  EXPECT_FALSE(fs::exists(target.file("model.safetensors")));
  copy_side_files(source.path(), source.path());
  EXPECT_EQ(read_file(source.file("config.json")), odd) << "onto itself: nothing happens";
}

}  // namespace
}  // namespace ballot

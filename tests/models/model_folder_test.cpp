#include "models/model_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "core/parallel.h"
#include "models/architecture.h"
#include "models/stored_weights.h"
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
  const ParameterArena arena(read_architecture(kTiny)->parameter_shapes(), DType::f32);
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

void write(const TemporaryFolder& folder, const std::string& name, std::string_view text) {
  write_file_synced(folder.file(name), text);
}

TEST(ModelFolder, SideFilesAreCopiedByteForByte) {
  const TemporaryFolder source, target;
  EXPECT_THAT([&] { copy_side_files(source.path(), target.path()); },
              ThrowsMessage<FileError>(HasSubstr("config.json")));
  const std::string config = "{\"a\":1e-05,\r\n \"torch_dtype\": \"float32\"}\n\n";
  const std::string odd("\r\n\0\xff", 4);
  write(source, "config.json", config);
  write(source, "tokenizer.json", odd);
  write(source, "generation_config.json", "g");
  write(source, "model.safetensors", "no");
  copy_side_files(source.path(), target.path());
  EXPECT_EQ(read_file(target.file("config.json")), config) << "it says float32 already";
  EXPECT_EQ(read_file(target.file("tokenizer.json")), odd);
  EXPECT_EQ(read_file(target.file("generation_config.json")), "g");
  EXPECT_FALSE(fs::exists(target.file("model.safetensors")));
  copy_side_files(source.path(), source.path());
  EXPECT_EQ(read_file(source.file("config.json")), config) << "onto itself: nothing happens";
}

TEST(ModelFolder, EverythingGoesWithTheWeightsButWeightsDataAndWhatIsHidden) {
  const TemporaryFolder source;
  const std::vector<std::string> wanted = {"LICENSE",        "README.md",  "chat_template.jinja",
                                           "config.json",    "merges.txt", "tokenizer.model",
                                           "tool_use.jinja", "vocab.json"};
  for (const std::string& name : wanted) write(source, name, "{}");
  for (const char* name : {"model-00001-of-00002.safetensors", "model.safetensors.index.json",
                           "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5",
                           "Model.GGUF", "train.jsonl", "tokens.idx", ".gitattributes"})
    write(source, name, "no");
  fs::create_directory(source.file("original"));
  fs::create_symlink(source.file("README.md"), source.file("linked.txt"));  // as in a hub's cache
  std::vector<std::string> with_link = wanted;
  with_link.push_back("linked.txt");
  EXPECT_THAT(side_files(source.path()), testing::UnorderedElementsAreArray(with_link));

  write(source, "huge.txt", "");
  fs::resize_file(source.file("huge.txt"), (std::uintmax_t{64} << 20) + 1);
  EXPECT_THAT(logged([&] {
                EXPECT_THAT(side_files(source.path()),
                            testing::UnorderedElementsAreArray(with_link));
              }),
              HasSubstr("huge.txt has 67108865 bytes"));
}

// Every checkpoint of a run carries them, so nothing that lies about in a folder may end one.
TEST(ModelFolder, OddFilesAreLeftAndToldOnce) {
  const TemporaryFolder source, target, elsewhere;
  for (const char* name : {"config.json", "tokenizer.json"}) write(source, name, "{}");
  write(source, "trainer", "a checkpoint's folder");
  write(source,
        "Stra\xdf"
        "e.txt",
        "Latin-1");
  write(elsewhere, "secret.txt", "s");
  fs::create_symlink(elsewhere.file("secret.txt"), source.file("notes.txt"));
  fs::create_symlink("loop.txt", source.file("loop.txt"));
  fs::create_symlink("nothing", source.file("dangling.txt"));
  const auto files = [&] {
    EXPECT_THAT(side_files(source.path()), testing::ElementsAre("config.json", "tokenizer.json"));
  };
  const std::string log = logged(files);
  EXPECT_THAT(log, AllOf(HasSubstr("/trainer has the name"), HasSubstr("Stra\\xdfe.txt has a name"),
                         HasSubstr("notes.txt is a link that leads out"), HasSubstr("loop.txt"),
                         HasSubstr("dangling.txt")));
  EXPECT_EQ(logged(files), "") << "once a process";
  EXPECT_EQ(copy_side_files(source.path(), target.path()), 2u);
  EXPECT_FALSE(fs::exists(target.file("notes.txt")));
  EXPECT_THROW(side_files(source.file("nowhere")), FileError);
}

TEST(ModelFolder, AFileThatVanishesIsLeftButNotConfig) {
  const TemporaryFolder source;
  write(source, "here.txt", "h");
  EXPECT_EQ(try_side_file(source.path(), "here.txt", StoredType::f32), "h");
  EXPECT_THAT(logged([&] {
                EXPECT_EQ(try_side_file(source.path(), "gone.txt", StoredType::f32), std::nullopt);
              }),
              HasSubstr("gone.txt"));
  EXPECT_THROW(try_side_file(source.path(), "config.json", StoredType::f32), FileError);
}

TEST(ModelFolder, AtMost256FilesGoWithTheWeights) {
  const TemporaryFolder source;
  write(source, "config.json", "{}");
  for (int i = 0; i < 300; ++i) write(source, fmt::format("a{:03}.txt", i), "");
  std::vector<std::string> names;
  EXPECT_THAT(
      logged([&] { names = side_files(source.path()); }),
      HasSubstr("holds 301 files beside the weights, more than 256: a255.txt and what sorts"));
  EXPECT_EQ(names.size(), 256u);
  EXPECT_EQ(names[254], "a254.txt");
  EXPECT_EQ(names[255], "config.json");
}

TEST(ModelFolder, AHubsCacheIsItsOwn) {
  const TemporaryFolder hub;
  const fs::path snapshot = fs::path(hub.path()) / "snapshots" / "3a1f";
  fs::create_directories(snapshot);
  fs::create_directory(hub.file("blobs"));
  write(hub, "blobs/77", "{}");
  fs::create_symlink("../../blobs/77", snapshot / "config.json");
  fs::create_symlink("../../blobs/77", snapshot / "tokenizer.json");
  write(hub, "blobs-of-others", "no");
  fs::create_symlink("../../blobs-of-others", snapshot / "out.json");
  EXPECT_THAT(side_files(snapshot.string()), testing::ElementsAre("config.json", "tokenizer.json"));
}

TEST(ModelFolder, ManyFilesAreNotOpenAtOnce) {
  const TemporaryFolder folder;
  std::vector<ParameterShape> shapes;
  std::string map;
  constexpr int kFiles = 100;
  for (int i = 0; i < kFiles; ++i) {
    const std::string name = fmt::format("g{:03}", i), file = name + ".safetensors";
    const std::vector<float> gain(2, static_cast<float>(i));
    const std::vector<TensorToStore> tensors = {{name, StoredType::f32, {2}, bytes_of(gain)}};
    write_safetensors(folder.file(file), tensors, {});
    shapes.push_back({name, ParameterKind::vector, 1, 2});
    map += fmt::format("{}\"{}\":\"{}\"", map.empty() ? "" : ",", name, file);
  }
  write(folder, "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  const ParameterArena arena(shapes, DType::f32);
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto open_now = static_cast<rlim_t>(
      std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()));
  struct rlimit few = before;
  few.rlim_cur = open_now + 50;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  EXPECT_NO_THROW(check_parameters(folder.path(), shapes));
  EXPECT_NO_THROW(load_parameters(folder.path(), arena));
  setrlimit(RLIMIT_NOFILE, &before);
  for (int i = 0; i < kFiles; ++i)
    EXPECT_EQ(row_of(arena.parameters()[static_cast<std::size_t>(i)], 0),
              (std::vector<float>(2, static_cast<float>(i))));
}

TEST(ModelFolder, ALinkIsFollowedOnce) {
  const TemporaryFolder folder;
  for (const float value : {1.0f, 2.0f}) {
    const std::string model = folder.file(value == 1 ? "one" : "two");
    fs::create_directory(model);
    std::string map;
    for (int i = 0; i < 40; ++i) {  // more than are kept open
      const std::string name = fmt::format("g{}", i);
      const std::vector<float> gain(2, value);
      const std::vector<TensorToStore> tensors = {{name, StoredType::f32, {2}, bytes_of(gain)}};
      write_safetensors(model + "/" + name + ".safetensors", tensors, {});
      map += fmt::format("{}\"{}\":\"{}.safetensors\"", map.empty() ? "" : ",", name, name);
    }
    write_file_synced(model + "/model.safetensors.index.json",
                      std::string_view("{\"weight_map\":{" + map + "}}"));
  }
  fs::create_directory_symlink("one", folder.file("latest"));
  const StoredWeights weights(folder.file("latest"));
  fs::remove(folder.file("latest"));
  fs::create_directory_symlink("two", folder.file("latest"));
  for (int i = 0; i < 40; ++i) {
    std::vector<float> values(2);
    weights.read(weights.find(fmt::format("g{}", i)), 0, std::as_writable_bytes(std::span(values)));
    EXPECT_EQ(values, std::vector<float>(2, 1.0f)) << i;
  }
}

TEST(ModelFolder, ConfigSaysWhichTypeIsBesideIt) {
  const TemporaryFolder folder;
  const auto as = [&](std::string_view text, StoredType type) {
    write(folder, "config.json", text);
    return side_file(folder.path(), "config.json", type);
  };
  EXPECT_EQ(as(R"({"b":1,"torch_dtype":"bfloat16","a":[1e-05]})", StoredType::f32),
            "{\n  \"b\": 1,\n  \"torch_dtype\": \"float32\",\n  \"a\": [\n    1e-05\n  ]\n}\n")
      << "keys stay in their order, numbers as they are";
  EXPECT_THAT(as(R"({"dtype":"float16"})", StoredType::bf16), HasSubstr(R"("dtype": "bfloat16")"));
  EXPECT_THAT(as(R"({"dtype":"float32","torch_dtype":"float16"})", StoredType::f32),
              AllOf(HasSubstr(R"("dtype": "float32")"), HasSubstr(R"("torch_dtype": "float32")")));
  EXPECT_THAT(as("{}", StoredType::bf16), HasSubstr(R"("torch_dtype": "bfloat16")"));
  EXPECT_THROW(as("{", StoredType::f32), CorruptFile);
}

TEST(ModelFolder, ABaseModelsNamesLackTheirFirstPart) {
  const TemporaryFolder folder;
  const std::vector<TensorToStore> tensors = {
      {"embed_tokens.weight", StoredType::f32, {2, 2}, bytes_of(kTable)}};
  write_model(folder, tensors);
  const std::vector<ParameterShape> shapes = {
      {"model.embed_tokens.weight", ParameterKind::embedding, 2, 2, true}};
  const ParameterArena arena(shapes, DType::f32);
  EXPECT_EQ(logged([&] { load_parameters(folder.path(), arena); }), "");
  EXPECT_EQ(row_of(arena.find("model.embed_tokens.weight"), 1), (std::vector<float>{11, 12}));
  // But a head does not go by "weight".
  const std::vector<ParameterShape> head = {{"embed_tokens.weight", ParameterKind::head, 2, 2}};
  const std::vector<TensorToStore> nameless = {
      {"weight", StoredType::f32, {2, 2}, bytes_of(kTable)}};
  write_model(folder, nameless);
  EXPECT_THROW(check_parameters(folder.path(), head), DataError);
}

TEST(ModelFolder, CausalMasksThatOldFilesStoreAreNotMissed) {
  const TemporaryFolder folder;
  std::vector<TensorToStore> tensors = two_tensors();
  tensors.push_back({"h.0.attn.bias", StoredType::f32, {2, 2}, bytes_of(kTable)});
  tensors.push_back({"h.0.attn.masked_bias", StoredType::f32, {2, 2}, bytes_of(kTable)});
  write_model(folder, tensors);
  EXPECT_EQ(logged([&] { check_parameters(folder.path(), two_shapes()); }), "");
}

TEST(ModelFolder, ALargeModelIsLoadedInPiecesByAllThreads) {
  // Rows of 1,000: padded to 1,024 in the arena; 8 MB in bf16, 16 in f32, so several pieces.
  const std::vector<ParameterShape> shapes = {{"a", ParameterKind::hidden_matrix, 4001, 1000},
                                              {"b", ParameterKind::hidden_matrix, 2500, 1024},
                                              {"v", ParameterKind::vector, 1, 1000}};
  const TemporaryFolder folder;
  const ParameterArena before(shapes, DType::f32);
  for (const Parameter& p : before.parameters())
    for (std::int64_t row = 0; row < p.shape.rows; ++row)
      for (std::int64_t col = 0; col < p.shape.cols; ++col)
        p.value.f32()[row * p.row_stride + col] =
            static_cast<float>((row * 131 + col * 7 + p.index) % 256);  // bf16 holds it
  const int threads = thread_count();
  for (const StoredType type : {StoredType::f32, StoredType::bf16}) {
    save_parameters(folder.path(), before, type);
    for (const int team : {1, 3}) {
      set_thread_count(team);
      const ParameterArena after(shapes, DType::f32);
      load_parameters(folder.path(), after);
      for (const Parameter& p : before.parameters())
        ASSERT_EQ(std::memcmp(p.value.f32(), after.find(p.shape.name).value.f32(),
                              static_cast<std::size_t>(p.extent()) * 4),
                  0)
            << p.shape.name << " " << team << " threads";
    }
  }
  set_thread_count(threads);
}

TEST(ModelFolder, ChecksWithoutMemoryForTheValues) {
  const TemporaryFolder folder;
  write_model(folder, two_tensors());
  EXPECT_NO_THROW(check_parameters(folder.path(), two_shapes()));
  std::vector<ParameterShape> shapes = two_shapes();
  shapes[0].rows = 5;
  EXPECT_THAT([&] { check_parameters(folder.path(), shapes); },
              ThrowsMessage<DataError>(HasSubstr("w is (2, 3), expected (5, 3)")));
}

}  // namespace
}  // namespace ballot

// Export: from a folder to a folder, streamed, cut, converted, whole or not there.
#include "models/model_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <barrier>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "core/parallel.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/stored_weights.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

class Export : public testing::TestWithParam<std::string> {
 protected:
  Export() {
    fs::create_directory(from);
    architecture->initialize(arena, 1);
    write_file_synced(from + "/config.json", std::string_view(architecture->to_json()));
    write_file_synced(from + "/tokenizer.json", std::string_view("t"));
    save_parameters(from, arena);
  }

  // What is in a folder, by name and bits.
  std::map<std::string, std::vector<float>> values_in(const std::string& model) const {
    const ParameterArena loaded(read_architecture(model)->parameter_shapes(), DType::f32);
    load_parameters(model, loaded);
    std::map<std::string, std::vector<float>> values;
    for (const Parameter& p : loaded.parameters())
      values[p.shape.name] = {p.value.f32(), p.value.f32() + p.extent()};
    return values;
  }

  const TemporaryFolder folder;
  const std::string from = folder.file("from"), to = folder.file("to");
  const std::unique_ptr<Architecture> architecture = new_architecture(
      GetParam(),
      {.hidden = 24, .layers = 2, .heads = 2, .vocabulary = 50, .max_positions = 40, .tied = true});
  const ParameterArena arena{architecture->parameter_shapes(), DType::f32};
};

TEST_P(Export, InF32IsTheSameModel) {
  const ExportedModel done = export_model(from, to + "/", {});
  EXPECT_EQ(done.parameters, arena.count());
  EXPECT_EQ(done.weight_bytes, static_cast<std::uint64_t>(4 * arena.count()));
  EXPECT_EQ(done.weight_files, 1u);
  EXPECT_EQ(done.side_files, 2u);
  EXPECT_EQ(read_file(to + "/model.safetensors"), read_file(from + "/model.safetensors"));
  EXPECT_EQ(read_file(to + "/tokenizer.json"), "t");
  EXPECT_EQ(read_file(to + "/config.json"), read_file(from + "/config.json"));
  EXPECT_FALSE(fs::exists(to + "/model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(to + ".partial"));
}

TEST_P(Export, InBf16RoundsOnceAndSaysSo) {
  export_model(from, to, {StoredType::bf16});
  EXPECT_EQ(json::parse(read_file(to + "/config.json")).at("torch_dtype"), "bfloat16");
  const auto before = values_in(from), after = values_in(to);
  for (const auto& [name, values] : before)
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(after.at(name)[i], to_float(to_bfloat16(values[i]))) << name << " " << i;
  // And a bf16 model in f32 is that bf16 model.
  export_model(to, folder.file("back"), {StoredType::f32});
  EXPECT_EQ(values_in(folder.file("back")), after);
}

TEST_P(Export, IsCutIntoFilesOfASizeWithAnIndex) {
  const std::uint64_t most = 8000;
  const ExportedModel done = export_model(from, to, {StoredType::f32, most});
  ASSERT_GT(done.weight_files, 2u);
  const json index = json::parse(read_file(to + "/model.safetensors.index.json"));
  EXPECT_EQ(index.at("metadata").at("total_size"), done.weight_bytes);
  EXPECT_EQ(index.at("metadata").at("total_parameters"), done.parameters);
  EXPECT_EQ(index.at("weight_map").size(), arena.parameters().size());
  std::uint64_t bytes = 0;
  for (std::size_t i = 1; i <= done.weight_files; ++i) {
    const SafetensorsReader shard(
        fmt::format("{}/model-{:05}-of-{:05}.safetensors", to, i, done.weight_files));
    std::uint64_t size = 0;
    for (const StoredTensor& tensor : shard.tensors()) {
      size += tensor.bytes.size();
      EXPECT_EQ(index.at("weight_map").at(tensor.name), fs::path(shard.path()).filename().string());
    }
    EXPECT_TRUE(size <= most || shard.tensors().size() == 1) << i << ": " << size;
    bytes += size;
  }
  EXPECT_EQ(bytes, done.weight_bytes);
  EXPECT_EQ(values_in(to), values_in(from));
}

TEST_P(Export, WhatIsThereIsNotTouched) {
  fs::create_directory(to);
  write_file_synced(to + "/mine", std::string_view("m"));
  EXPECT_THAT([&] { export_model(from, to, {}); },
              ThrowsMessage<ConfigError>(HasSubstr("to is there already")));
  EXPECT_EQ(read_file(to + "/mine"), "m");
  fs::create_directory(folder.file("next.partial"));
  EXPECT_THAT([&] { export_model(from, folder.file("next"), {}); },
              ThrowsMessage<ConfigError>(HasSubstr("next.partial is there already")));
  fs::create_symlink("nowhere", folder.file("dangling"));
  EXPECT_THROW(export_model(from, folder.file("dangling"), {}), ConfigError);
}

TEST_P(Export, AModelThatIsNotWholeLeavesNothing) {
  const std::string weights = read_file(from + "/model.safetensors");
  write_file_synced(from + "/model.safetensors",
                    std::string_view(weights).substr(0, weights.size() - 1));
  EXPECT_THROW(export_model(from, to, {}), CorruptFile);
  fs::remove(from + "/model.safetensors");
  EXPECT_THROW(export_model(from, to, {}), FileError);
  EXPECT_FALSE(fs::exists(to));
  EXPECT_FALSE(fs::exists(to + ".partial"));
}

// A disk that takes no more, here a limit on the size of files.
TEST_P(Export, ThatFailsHalfWayLeavesNothing) {
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = fs::file_size(from + "/model.safetensors") / 2;
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(export_model(from, to, {}), FileError);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old);
  EXPECT_FALSE(fs::exists(to));
  EXPECT_FALSE(fs::exists(to + ".partial"));
  EXPECT_NO_THROW(export_model(from, to, {}));
}

TEST_P(Export, OfTwoAtOnceOneIsRefused) {
  for (int i = 0; i < 10; ++i) {
    const std::string target = folder.file(fmt::format("above{}/below/to", i));
    std::atomic<int> done = 0, refused = 0;
    std::barrier start(2);
    const auto run = [&] {
      start.arrive_and_wait();
      try {
        export_model(from, target, {});
        ++done;
      } catch (const ConfigError&) {
        ++refused;
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    };
    std::thread other(run);
    run();
    other.join();
    EXPECT_EQ(done, 1);
    EXPECT_EQ(refused, 1);
    EXPECT_EQ(values_in(target), values_in(from));
    EXPECT_FALSE(fs::exists(target + ".partial"));
  }
}

TEST_P(Export, ALinkIsFollowedOnce) {
  const std::string second = folder.file("second"), latest = folder.file("latest");
  fs::create_directory(second);
  architecture->initialize(arena, 2);
  write_file_synced(second + "/config.json", std::string_view(architecture->to_json()));
  write_file_synced(second + "/tokenizer.json", std::string_view("second"));
  save_parameters(second, arena);
  const auto first_values = values_in(from), second_values = values_in(second);
  const auto lead_to = [&](const std::string& model) {
    fs::remove(latest + ".tmp");
    fs::create_directory_symlink(model, latest + ".tmp");
    fs::rename(latest + ".tmp", latest);
  };
  lead_to(from);
  std::atomic<bool> stop = false;
  std::thread turning([&] {
    while (!stop)
      for (const std::string& model : {second, from}) lead_to(model);
  });
  for (int i = 0; i < 30; ++i) {
    const std::string target = folder.file(fmt::format("to{}", i));
    export_model(latest, target, {});
    const bool is_second = read_file(target + "/tokenizer.json") == "second";
    EXPECT_EQ(values_in(target), is_second ? second_values : first_values) << i;
  }
  stop = true;
  turning.join();
}

INSTANTIATE_TEST_SUITE_P(Families, Export, testing::ValuesIn(model_types()),
                         [](const auto& instance) { return instance.param; });

// Larger than what one thread converts at a time, with a remainder.
TEST(ExportOfHalves, IsWhatLoadingMakesOfThem) {
  const TemporaryFolder folder;
  const std::string from = folder.file("from");
  fs::create_directory(from);
  const std::unique_ptr<Architecture> architecture = new_architecture("gpt2", {.hidden = 64,
                                                                               .layers = 1,
                                                                               .heads = 2,
                                                                               .vocabulary = 50001,
                                                                               .max_positions = 8,
                                                                               .tied = true});
  write_file_synced(from + "/config.json", std::string_view(architecture->to_json()));
  std::vector<std::vector<std::uint16_t>> values;
  std::vector<TensorToStore> tensors;
  std::uint16_t half = 1;
  for (const ParameterShape& shape : architecture->parameter_shapes()) {
    auto& halves = values.emplace_back(static_cast<std::size_t>(shape.rows * shape.cols));
    for (std::uint16_t& value : halves)
      value = (half = static_cast<std::uint16_t>(half * 75 + 74)) & 0xbbff;  // finite
    tensors.push_back(
        {shape.name, StoredType::f16, stored_shape(shape), std::as_bytes(std::span(halves))});
  }
  write_safetensors(from + "/model.safetensors", tensors, {});
  const auto load = [&](const std::string& model) {
    auto arena = std::make_unique<ParameterArena>(architecture->parameter_shapes(), DType::f32);
    load_parameters(model, *arena);
    return arena;
  };
  const auto expected = load(from);
  const int threads = thread_count();
  for (const int team : {1, 3}) {
    set_thread_count(team);
    const std::string to = folder.file(fmt::format("to{}", team));
    export_model(from, to, {});
    const auto found = load(to);
    for (const Parameter& p : expected->parameters())
      EXPECT_EQ(std::memcmp(p.value.f32(), found->find(p.shape.name).value.f32(),
                            static_cast<std::size_t>(p.extent()) * 4),
                0)
          << p.shape.name << ", " << team << " threads";
  }
  set_thread_count(threads);
}

}  // namespace
}  // namespace ballot

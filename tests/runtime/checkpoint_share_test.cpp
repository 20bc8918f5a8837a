// Who writes what: every tensor once, evenly, as a function of shapes and shares alone.
#include "runtime/checkpoint_share.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "tests/runtime/checkpoint_support.h"

namespace ballot {
namespace {

RC_GTEST_PROP(CheckpointShare, SpreadLeavesNoBinEmptyNorAnyFarAboveTheOthers, ()) {
  const auto sizes = *rc::gen::nonEmpty(
      rc::gen::container<std::vector<std::uint64_t>>(rc::gen::inRange<std::uint64_t>(1, 1000)));
  const auto bins = *rc::gen::inRange<int>(1, static_cast<int>(sizes.size()) + 1);
  const std::vector<int> bin_of = spread(sizes, bins);
  std::vector<std::uint64_t> filled(static_cast<std::size_t>(bins));
  for (std::size_t i = 0; i < sizes.size(); ++i)
    filled[static_cast<std::size_t>(bin_of[i])] += sizes[i];
  const auto [least, most] = std::ranges::minmax(filled);
  RC_ASSERT(least > 0u);
  RC_ASSERT(most - least <= std::ranges::max(sizes));  // longest first
}

TEST(CheckpointShare, EveryTensorIsInOneShareOnly) {
  for (const std::uint64_t shard_bytes :
       {std::uint64_t{0}, std::uint64_t{4000}, std::uint64_t{1} << 30})
    for (int count = 1; count <= 8; ++count) {
      SmallState state(1);
      std::map<std::string, std::string> place;  // tensor -> file, momentum of voters left out
      std::set<std::string> files;
      for (int index = 0; index < count; ++index)
        for (const CheckpointFile& file :
             files_of({index, count, index}, state.arena(), state.state(), shard_bytes)) {
          EXPECT_TRUE(files.insert(file.path).second) << file.path;
          if (file.path.starts_with("trainer/voter")) continue;
          EXPECT_FALSE(file.tensors.empty()) << file.path;
          for (const CheckpointTensor& tensor : file.tensors)
            EXPECT_TRUE(place.emplace(tensor.layout.name, file.path).second) << tensor.layout.name;
        }
      for (const Parameter& p : state.arena().parameters())
        EXPECT_TRUE(place.contains(p.shape.name));
      for (const char* name : {"momentum.layers.1.norm", "second.layers.1.norm"})
        EXPECT_TRUE(place.contains(name)) << name;
      if (shard_bytes > 4000) {
        EXPECT_TRUE(files.contains("model.safetensors"));
        EXPECT_TRUE(files.contains("trainer/replicated.safetensors"));
      }
      // The index says the same, where there is one.
      const std::string index = shard_index_json(count, state.arena(), shard_bytes);
      EXPECT_EQ(index.empty(), files.contains("model.safetensors"));
      if (index.empty()) continue;
      const nlohmann::json json = nlohmann::json::parse(index);
      EXPECT_EQ(json["metadata"]["total_size"], 4 * state.arena().count());
      EXPECT_EQ(json["weight_map"].size(), state.arena().parameters().size());
      for (const auto& [name, file] : json["weight_map"].items()) EXPECT_EQ(file, place[name]);
    }
}

TEST(CheckpointShare, SharesOfALargeModelAreAboutEqual) {
  std::vector<ParameterShape> shapes;
  for (int layer = 0; layer < 12; ++layer)
    for (int i = 0; i < 7; ++i)
      shapes.push_back(
          {fmt::format("layers.{}.{}", layer, i), ParameterKind::hidden_matrix, 16 + 4 * i, 64});
  shapes.push_back({"embed", ParameterKind::embedding, 512, 64});
  const ParameterArena arena(shapes, DType::f32);
  const auto groups = small_groups();
  const OptimizerState state(arena, groups, OptimizerState::Private::none);
  std::vector<std::uint64_t> bytes;
  for (int index = 0; index < 4; ++index) {
    std::uint64_t& sum = bytes.emplace_back(0);
    for (const CheckpointFile& file : files_of({index, 4, index}, arena, state, 1))
      for (const CheckpointTensor& tensor : file.tensors)
        sum += static_cast<std::uint64_t>(tensor.parameter->count()) * 4;
  }
  const auto [least, most] = std::ranges::minmax(bytes);
  EXPECT_LE(static_cast<double>(most), 1.05 * static_cast<double>(least));
}

}  // namespace
}  // namespace ballot

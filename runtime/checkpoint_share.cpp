#include "runtime/checkpoint_share.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "runtime/part_text.h"

namespace ballot {
namespace {

StoredType stored_type(DType type) {
  return type == DType::f32 ? StoredType::f32 : StoredType::bf16;
}

std::uint64_t stored_bytes(const TensorLayout& layout) {
  std::uint64_t count = 1;
  for (const std::int64_t extent : layout.shape) count *= static_cast<std::uint64_t>(extent);
  return count * size_bytes(layout.type);
}

CheckpointTensor value_of(const Parameter& parameter) {
  const ParameterShape& shape = parameter.shape;
  std::vector<std::int64_t> extents{shape.rows, shape.cols};
  if (shape.kind == ParameterKind::vector) extents = {shape.cols};
  return {{shape.name, StoredType::f32, extents}, &parameter, Changing::value, parameter.value};
}

// What is remembered of a parameter, or of a part of it, under this name.
CheckpointTensor state_of(const char* what, const ParameterState& state, const TensorPart& part,
                          const Tensor& owned) {
  return {{fmt::format("{}.{}", what, state.parameter->shape.name),
           stored_type(owned.type),
           {part.rows, part.cols}},
          state.parameter,
          Changing::state,
          matrix_of(part, owned.data, owned.type, owned.device)};
}
CheckpointTensor momentum_tensor(const ParameterState& state) {
  return state_of("momentum", state, state.part, state.momentum);
}
CheckpointTensor second_tensor(const ParameterState& state) {
  return state_of("second", state, all_of(*state.parameter), state.second);
}

// Which shard each tensor is in, and of how many.
struct Cut {
  int shards = 1;
  std::vector<int> of;
};

Cut cut(std::span<const std::uint64_t> sizes, int shares, std::uint64_t shard_bytes) {
  const std::uint64_t total = std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0});
  const std::uint64_t most = std::min<std::uint64_t>(static_cast<std::uint64_t>(shares),
                                                     std::max<std::uint64_t>(1, sizes.size()));
  const std::uint64_t worth = shard_bytes == 0 ? most : total / shard_bytes;
  Cut result;
  result.shards = static_cast<int>(std::clamp<std::uint64_t>(worth, 1, most));
  result.of = spread(sizes, result.shards);
  return result;
}

Cut cut_parameters(int shares, const ParameterArena& arena, std::uint64_t shard_bytes) {
  std::vector<std::uint64_t> sizes;
  for (const Parameter& parameter : arena.parameters())
    sizes.push_back(stored_bytes(value_of(parameter).layout));
  return cut(sizes, shares, shard_bytes);
}

CheckpointFile voter_tensors(const CheckpointShare& share, const OptimizerState& state) {
  CheckpointFile file;
  file.path = voter_file(share.voter, share.member, share.members);
  file.metadata = {{"format", "ballot"}};
  for (const ParameterState& s : state.states()) {
    if (!s.is_private || s.momentum.view().data == nullptr) continue;
    file.tensors.push_back(momentum_tensor(s));
    if (!s.part.is_all_of(*s.parameter))
      file.metadata[part_key(s.parameter->shape.name)] = part_text(s.part);
  }
  return file;
}

void add_replicated(const CheckpointShare& share, const OptimizerState& state,
                    std::uint64_t shard_bytes, std::vector<CheckpointFile>& files) {
  std::vector<std::uint64_t> sizes;
  std::vector<const ParameterState*> replicated;
  for (const ParameterState& s : state.states()) {
    if (s.is_private) continue;
    replicated.push_back(&s);
    std::uint64_t size = stored_bytes(momentum_tensor(s).layout);
    if (s.second.view().data != nullptr) size += stored_bytes(second_tensor(s).layout);
    sizes.push_back(size);
  }
  const Cut cuts = cut(sizes, share.count, shard_bytes);
  const int mine = share.count - 1 - share.index;
  if (mine >= cuts.shards) return;
  CheckpointFile file;
  file.path = "trainer/" + shard_file("replicated", mine, cuts.shards);
  file.metadata = {{"format", "ballot"}};
  for (std::size_t i = 0; i < replicated.size(); ++i) {
    if (cuts.of[i] != mine) continue;
    const ParameterState& s = *replicated[i];
    file.tensors.push_back(momentum_tensor(s));
    if (s.second.view().data == nullptr) continue;
    file.tensors.push_back(second_tensor(s));
    file.metadata["count." + s.parameter->shape.name] = fmt::format("{}", s.count);
  }
  files.push_back(std::move(file));
}

void add_parameters(const CheckpointShare& share, const ParameterArena& arena,
                    std::uint64_t shard_bytes, std::vector<CheckpointFile>& files) {
  const Cut cuts = cut_parameters(share.count, arena, shard_bytes);
  if (share.index >= cuts.shards) return;
  CheckpointFile file;
  file.path = shard_file("model", share.index, cuts.shards);
  file.metadata = {{"format", "pt"}};
  for (const Parameter& parameter : arena.parameters())
    if (cuts.of[static_cast<std::size_t>(parameter.index)] == share.index)
      file.tensors.push_back(value_of(parameter));
  // As save_parameters() writes them.
  std::ranges::sort(file.tensors, {}, [](const CheckpointTensor& t) { return t.layout.name; });
  files.push_back(std::move(file));
}

}  // namespace

std::vector<int> spread(std::span<const std::uint64_t> sizes, int bins) {
  require(bins > 0, "{} bins", bins);
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater{}, [&](std::size_t i) { return sizes[i]; });
  std::vector<std::uint64_t> filled(static_cast<std::size_t>(bins));
  std::vector<int> bin_of(sizes.size());
  for (const std::size_t i : order) {
    const auto emptiest = std::ranges::min_element(filled);
    *emptiest += sizes[i];
    bin_of[i] = static_cast<int>(emptiest - filled.begin());
  }
  return bin_of;
}

std::string voter_file(std::int64_t voter, std::int64_t member, std::int64_t members) {
  return members == 1 ? fmt::format("trainer/voter-{}.safetensors", voter)
                      : fmt::format("trainer/voter-{}-member-{}.safetensors", voter, member);
}

std::string shard_file(const std::string& name, int shard, int shards) {
  return shards == 1 ? name + ".safetensors"
                     : fmt::format("{}-{:05}-of-{:05}.safetensors", name, shard + 1, shards);
}

std::vector<CheckpointFile> files_of(const CheckpointShare& share, const ParameterArena& arena,
                                     const OptimizerState& state, std::uint64_t shard_bytes) {
  require(share.count > 0 && share.index >= 0 && share.index < share.count && share.voter >= 0 &&
              share.member >= 0 && share.member < share.members,
          "share {} of {}, of member {} of {} of voter {}", share.index, share.count, share.member,
          share.members, share.voter);
  std::vector<CheckpointFile> files;
  files.push_back(voter_tensors(share, state));
  add_replicated(share, state, shard_bytes, files);
  add_parameters(share, arena, shard_bytes, files);
  return files;
}

std::string shard_index_json(int shares, const ParameterArena& arena, std::uint64_t shard_bytes) {
  const Cut cuts = cut_parameters(shares, arena, shard_bytes);
  if (cuts.shards == 1) return "";
  nlohmann::json places = nlohmann::json::object();
  std::uint64_t total = 0;
  for (const Parameter& parameter : arena.parameters()) {
    places[parameter.shape.name] =
        shard_file("model", cuts.of[static_cast<std::size_t>(parameter.index)], cuts.shards);
    total += stored_bytes(value_of(parameter).layout);
  }
  return nlohmann::ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", places}}.dump(
             2) +
         "\n";
}

}  // namespace ballot

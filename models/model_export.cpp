#include "models/model_export.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/parallel.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/stored_values.h"
#include "models/stored_weights.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPieceElements = std::int64_t{1} << 20;

struct OutputTensor {
  TensorLayout layout;
  StoredWeights::Place source;
  std::int64_t count;
  std::uint64_t bytes() const {
    return static_cast<std::uint64_t>(count) * size_bytes(layout.type);
  }
};

using Shard = std::vector<OutputTensor>;

std::uint64_t bytes_of(const Shard& shard) {
  std::uint64_t bytes = 0;
  for (const OutputTensor& tensor : shard) bytes += tensor.bytes();
  return bytes;
}

std::vector<Shard> cut(std::vector<ParameterShape> shapes, const StoredWeights& weights,
                       const ExportOptions& options) {
  std::ranges::sort(shapes, {}, &ParameterShape::name);
  std::vector<Shard> shards(1);
  std::uint64_t filled = 0;
  for (const ParameterShape& shape : shapes) {
    const OutputTensor tensor{{shape.name, options.type, stored_shape(shape)},
                              weights.find(shape.name),
                              shape.rows * shape.cols};
    if (!shards.back().empty() && filled + tensor.bytes() > options.max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += tensor.bytes();
    shards.back().push_back(tensor);
  }
  return shards;
}

std::string shard_name(std::size_t shard, std::size_t count) {
  return count == 1 ? "model.safetensors"
                    : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, count);
}

// Pieces of one tensor at a time: read and converted by all threads, written in order.
class Conversion {
 public:
  explicit Conversion(StoredType target)
      : target_(target), team_(static_cast<std::size_t>(thread_count())), lanes_(team_) {}

  void stream(const StoredWeights& weights, const OutputTensor& tensor, SafetensorsWriter& writer) {
    const std::int64_t step = kPieceElements * static_cast<std::int64_t>(team_);
    const std::size_t width = size_bytes(tensor.source.tensor->type);
    for (std::int64_t begin = 0; begin < tensor.count; begin += step) {
      const std::int64_t end = std::min(tensor.count, begin + step);
      if (end < tensor.count)
        weights.expect(tensor.source, static_cast<std::uint64_t>(end) * width,
                       static_cast<std::uint64_t>(std::min(step, tensor.count - end)) * width);
      const std::int64_t pieces = (end - begin + kPieceElements - 1) / kPieceElements;
      parallel_items(pieces, [&](std::int64_t i) {
        const std::int64_t first = begin + i * kPieceElements;
        convert(weights, tensor, first, std::min(kPieceElements, end - first),
                lanes_[static_cast<std::size_t>(i)]);
      });
      for (std::int64_t i = 0; i < pieces; ++i)
        writer.write(lanes_[static_cast<std::size_t>(i)].written);
    }
  }

 private:
  struct Lane {
    std::vector<std::byte> read;
    std::vector<float> numbers;
    std::vector<std::byte> written;
  };

  void convert(const StoredWeights& weights, const OutputTensor& tensor, std::int64_t first,
               std::int64_t count, Lane& lane) const {
    const StoredType source = tensor.source.tensor->type;
    const auto size = static_cast<std::size_t>(count);
    // What is stored in the type that is asked for already goes through as it is.
    std::vector<std::byte>& bytes = source == target_ ? lane.written : lane.read;
    bytes.resize(size * size_bytes(source));
    weights.read(tensor.source, static_cast<std::uint64_t>(first) * size_bytes(source), bytes);
    if (source == target_) return;
    lane.numbers.resize(size);
    widen(source, bytes.data(), lane.numbers.data(), count);
    lane.written.resize(size * size_bytes(target_));
    narrow(lane.numbers.data(), target_, lane.written.data(), count);
  }

  StoredType target_;
  std::size_t team_;
  std::vector<Lane> lanes_;
};

void write_shard(const std::string& path, const StoredWeights& weights, const Shard& shard,
                 StoredType type) {
  std::vector<TensorLayout> layout;
  for (const OutputTensor& tensor : shard) layout.push_back(tensor.layout);
  SafetensorsWriter writer(path, layout, {{"format", "pt"}});
  Conversion conversion(type);
  for (const OutputTensor& tensor : shard) conversion.stream(weights, tensor, writer);
  writer.finish();
}

// As transformers writes it.
std::string index_json(const std::vector<Shard>& shards, const ExportedModel& exported) {
  nlohmann::json places = nlohmann::json::object();
  for (std::size_t i = 0; i < shards.size(); ++i)
    for (const OutputTensor& tensor : shards[i])
      places[tensor.layout.name] = shard_name(i, shards.size());
  const nlohmann::ordered_json index = {
      {"metadata",
       {{"total_parameters", exported.parameters}, {"total_size", exported.weight_bytes}}},
      {"weight_map", places}};
  return index.dump(2) + "\n";
}

bool is_there(const std::string& path) {
  return fs::exists(fs::symlink_status(path));  // a link that leads nowhere is there too
}

ConfigError is_there_already(const std::string& partial) {
  return ConfigError(
      "{} is there already: another export is writing it, or one was cut off and left it to be "
      "deleted",
      partial);
}

}  // namespace

ExportedModel export_model(const std::string& named_from, const std::string& to,
                           const ExportOptions& options) {
  require(options.type == StoredType::f32 || options.type == StoredType::bf16,
          "a model exported as {}", to_string(options.type));
  fs::path target = fs::path(to).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // a trailing slash
  if (is_there(target.string()))
    throw ConfigError("{} is there already, expected a folder to be made", target.string());
  const std::string partial = target.string() + ".partial";
  if (is_there(partial)) throw is_there_already(partial);
  const std::string from = resolved_folder(named_from);  // once for all that is read
  const std::unique_ptr<Architecture> architecture = read_architecture(from);
  const StoredWeights weights(from);
  const std::vector<ParameterShape> shapes = architecture->parameter_shapes();
  weights.require_tensors(shapes);
  weights.tell_others(shapes);
  const std::vector<Shard> shards = cut(shapes, weights, options);

  ExportedModel exported;
  exported.weight_files = shards.size();
  for (const ParameterShape& shape : shapes) exported.parameters += shape.rows * shape.cols;
  for (const Shard& shard : shards) exported.weight_bytes += bytes_of(shard);

  const std::string parent = target.has_parent_path() ? target.parent_path().string() : ".";
  make_folders(parent);
  if (!fs::create_directory(partial)) throw is_there_already(partial);
  try {
    // Another export may have made it since: whoever has the .partial sees it here.
    if (is_there(target.string()))
      throw ConfigError("{} is there already, expected a folder to be made", target.string());
    exported.side_files = copy_side_files(from, partial, options.type);
    for (std::size_t i = 0; i < shards.size(); ++i)
      write_shard(partial + "/" + shard_name(i, shards.size()), weights, shards[i], options.type);
    if (shards.size() > 1)
      write_file_synced(partial + "/model.safetensors.index.json",
                        std::string_view(index_json(shards, exported)));
    sync_folder(partial);
    fs::rename(partial, target);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(partial, ignored);
    throw;
  }
  sync_folder(parent);
  return exported;
}

}  // namespace ballot

#include "models/stored_weights.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "models/safetensors_index.h"
#include "models/stored_values.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{64} << 20;
constexpr const char* kHead = "lm_head.weight";
constexpr std::size_t kMostOpen = 32;

// Recomputed by every implementation; some old checkpoints store them: the angles of rotary
// embeddings, the causal masks of GPT-2.
bool is_recomputed(const std::string& name) {
  constexpr std::array<std::string_view, 3> kEnds = {"rotary_emb.inv_freq", ".attn.bias",
                                                     ".attn.masked_bias"};
  return std::ranges::any_of(kEnds, [&](std::string_view end) { return name.ends_with(end); });
}

// "transformer.h.0.ln_1.weight" -> "h.0.ln_1.weight"; "" where nothing would name the module.
std::string without_first_part(const std::string& name) {
  const std::size_t dot = name.find('.');
  if (dot == std::string::npos || name.find('.', dot + 1) == std::string::npos) return "";
  return name.substr(dot + 1);
}

}  // namespace

std::vector<std::int64_t> stored_shape(const ParameterShape& shape) {
  if (shape.kind == ParameterKind::vector) return {shape.cols};
  return {shape.rows, shape.cols};
}

std::string resolved_folder(const std::string& folder) {
  std::error_code error;
  const fs::path resolved = fs::canonical(folder, error);
  if (error || resolved == fs::current_path(error) / folder) return folder;
  return resolved.string();
}

StoredWeights::StoredWeights(const std::string& named_folder) {
  const std::string folder = resolved_folder(named_folder);
  const fs::path single = fs::path(folder) / "model.safetensors";
  const fs::path index = fs::path(folder) / "model.safetensors.index.json";
  const bool is_one_file = fs::exists(single) || !fs::exists(index);
  path_ = is_one_file ? single.string() : index.string();
  if (is_one_file)
    add(path_);
  else
    read_index(folder);
}

void StoredWeights::add(const std::string& path) {
  files_.emplace_back(path);
  // Of a model of few files it does not matter that they are deleted while they are read.
  if (files_.size() <= kMostOpen) opened(files_.size() - 1);
}

std::shared_ptr<const InputFile> StoredWeights::opened(std::size_t file) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(opened_, file, &Opened::file);
  if (found != opened_.end()) {
    std::rotate(opened_.begin(), found, found + 1);
  } else {
    opened_.push_front({file, std::make_shared<const InputFile>(files_[file].path())});
    if (opened_.size() > kMostOpen) opened_.pop_back();  // closed when the last reader is done
  }
  return opened_.front().values;
}

void StoredWeights::read_index(const std::string& folder) {
  std::map<std::string, std::size_t> numbers;
  for (const auto& [tensor, file] :
       parse_safetensors_index(read_file(path_, kMaxIndexBytes), path_)) {
    const auto [number, is_new] = numbers.try_emplace(file, numbers.size());
    places_.emplace(tensor, number->second);
  }
  std::vector<std::string> names(numbers.size());
  for (const auto& [name, number] : numbers) names[number] = name;
  for (const std::string& name : names) add((fs::path(folder) / name).string());
  for (const auto& [tensor, number] : places_)
    if (files_[number].find(tensor) == nullptr)
      throw CorruptFile("{}: tensor {} is not in {}", path_, shown(tensor), files_[number].path());
}

StoredWeights::Place StoredWeights::find_stored(const std::string& name) const {
  if (places_.empty()) return {files_.front().find(name), 0};
  const auto place = places_.find(name);
  if (place == places_.end()) return {};
  return {files_[place->second].find(name), place->second};
}

StoredWeights::Place StoredWeights::find(const std::string& name) const {
  const Place place = find_stored(name);
  if (place.tensor != nullptr) return place;
  const std::string shorter = without_first_part(name);
  return shorter.empty() ? Place{} : find_stored(shorter);
}

void StoredWeights::require_tensors(std::span<const ParameterShape> shapes) const {
  std::vector<std::string> problems;
  for (const ParameterShape& shape : shapes) {
    const std::vector<std::int64_t> expected = stored_shape(shape);
    const StoredTensor* stored = find(shape.name).tensor;
    if (stored == nullptr) {
      problems.push_back(
          fmt::format("{} is missing, expected ({})", shape.name, fmt::join(expected, ", ")));
      continue;
    }
    if (stored->shape != expected)
      problems.push_back(fmt::format("{} is ({}), expected ({})", shape.name,
                                     fmt::join(stored->shape, ", "), fmt::join(expected, ", ")));
    if (!is_float(stored->type))
      problems.push_back(fmt::format("{} has type {}, expected F32, F16 or BF16", shape.name,
                                     to_string(stored->type)));
  }
  if (!problems.empty())
    throw DataError("{}: {}", path_, fmt::join(problems, fmt::format("\n{}: ", path_)));
}

void StoredWeights::tell_others(std::span<const ParameterShape> shapes) const {
  std::set<const StoredTensor*> known;
  bool tied = false;
  for (const ParameterShape& shape : shapes) {
    tied = tied || shape.tied;
    known.insert(find(shape.name).tensor);
  }
  std::vector<std::string> extra;
  for (const SafetensorsReader& file : files_)
    for (const StoredTensor& stored : file.tensors())
      if (!known.contains(&stored) && !is_recomputed(stored.name) &&
          !(tied && stored.name == kHead))
        extra.push_back(stored.name);
  if (extra.empty()) return;
  const std::size_t count = extra.size();
  if (count > 5) {
    extra.resize(5);
    extra.push_back("...");
  }
  log_warning("{}: {} tensors that this model does not have are ignored: {}", path_, count,
              fmt::join(extra, ", "));
}

void StoredWeights::read(const Place& place, std::uint64_t offset,
                         std::span<std::byte> bytes) const {
  opened(place.file)->read(place.tensor->offset + offset, bytes);
}

void StoredWeights::expect(const Place& place, std::uint64_t offset, std::uint64_t size) const {
  opened(place.file)->expect(place.tensor->offset + offset, size);
}

}  // namespace ballot

#include "runtime/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/host_bytes.h"
#include "core/log.h"
#include "models/model_folder.h"
#include "models/safetensors.h"
#include "runtime/checkpoint_json.h"  // shown
#include "runtime/checkpoint_share.h"
#include "runtime/part_text.h"

namespace ballot {
namespace {

StoredType stored_type(DType type) {
  return type == DType::f32 ? StoredType::f32 : StoredType::bf16;
}

// The step in "step-00000150"; -1 for any other name (somebody's copy is not ours to read or
// delete).
std::int64_t step_of(const std::string& name) {
  const std::string digits = name.starts_with("step-") ? name.substr(5) : "";
  const bool valid = digits.size() >= 8 && digits.size() <= 18 &&
                     std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; });
  return valid ? std::stoll(digits) : -1;
}

// Files of a checkpoint that belong together, as its manifest names them.
class StateFiles {
 public:
  StateFiles(const std::string& checkpoint, const std::vector<std::string>& paths) {
    for (const std::string& path : paths) files_.emplace_back(checkpoint + "/" + path);
  }
  bool empty() const { return files_.empty(); }
  const std::vector<SafetensorsReader>& all() const { return files_; }
  // The one that has this tensor.
  const SafetensorsReader& holder_of(const std::string& name) const {
    for (const SafetensorsReader& file : files_)
      if (file.find(name) != nullptr) return file;
    throw CorruptFile("{} has no {}{}", files_.front().path(), name,
                      files_.size() > 1 ? ", and no file beside it has it" : "");
  }

 private:
  std::vector<SafetensorsReader> files_;
};

void read_state(const SafetensorsReader& file, const std::string& name, const Parameter& parameter,
                const Tensor& owned) {
  const StoredTensor& stored = file.get(name);
  const std::int64_t rows = parameter.shape.rows, cols = parameter.shape.cols;
  if (stored.type != stored_type(owned.type) ||
      stored.shape != std::vector<std::int64_t>{rows, cols})
    throw DataError("{}: {} is {} of {} elements, expected {} ({}, {})", file.path(), name,
                    to_string(stored.type), stored.count(), to_string(owned.type), rows, cols);
  const auto element = static_cast<std::int64_t>(size_bytes(owned.type));
  const HostBytes host(owned, HostBytes::Holds::zeros);
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(host.data() + r * parameter.row_stride * element,
                stored.bytes.data() + r * cols * element, static_cast<std::size_t>(cols * element));
  host.put_back();
}

// Part of a stored momentum, of the longer side; all of it where the file does not say.
struct StoredPart {
  const SafetensorsReader* file = nullptr;
  const StoredTensor* tensor = nullptr;
  std::int64_t begin = 0, end = 0;
};

StoredPart stored_part(const SafetensorsReader& file, const StoredTensor& stored,
                       const Parameter& parameter, DType type) {
  const ParameterShape& shape = parameter.shape;
  const bool wide = is_wide(shape);
  const std::int64_t longer = std::max(shape.rows, shape.cols);
  StoredPart part{&file, &stored, 0, longer};
  if (const auto found = file.metadata().find(part_key(shape.name));
      found != file.metadata().end()) {
    const std::optional<PartRange> range = parse_part(found->second, wide, longer);
    if (!range)
      throw CorruptFile("{}: {} of {} ({}, {}) is {}, expected \"{} BEGIN END\" of {}", file.path(),
                        found->first, stored.name, shape.rows, shape.cols, shown(found->second),
                        wide ? "columns" : "rows", longer);
    part.begin = range->begin;
    part.end = range->end;
  }
  const std::int64_t count = part.end - part.begin;
  const std::vector<std::int64_t> expected{wide ? shape.rows : count, wide ? count : shape.cols};
  if (stored.type != stored_type(type) || stored.shape != expected)
    throw DataError("{}: {} is {} of {} elements, expected {} ({}, {})", file.path(), stored.name,
                    to_string(stored.type), stored.count(), to_string(type), expected[0],
                    expected[1]);
  return part;
}

// The momentum of a tensor, or this worker's part of it, from wherever a voter's members have put
// parts of it.
void read_momentum(const StateFiles& files, const ParameterState& state) {
  const Parameter& parameter = *state.parameter;
  const ParameterShape& shape = parameter.shape;
  const std::string name = "momentum." + shape.name;
  const DType type = state.momentum.view().type;
  const bool wide = is_wide(shape);
  std::vector<StoredPart> parts;
  for (const SafetensorsReader& file : files.all())
    if (const StoredTensor* stored = file.find(name); stored != nullptr)
      parts.push_back(stored_part(file, *stored, parameter, type));
  if (parts.empty()) files.holder_of(name);  // which says so
  std::ranges::sort(parts, {}, &StoredPart::begin);

  const bool is_all = state.part.is_all_of(parameter);
  const std::int64_t begin = is_all ? 0 : state.part.begin;
  const std::int64_t end = is_all ? std::max(shape.rows, shape.cols) : state.part.end;
  const auto element = static_cast<std::int64_t>(size_bytes(type));
  const HostBytes host(state.momentum, HostBytes::Holds::zeros);
  std::int64_t covered = begin;
  bool once = true;
  for (const StoredPart& part : parts) {
    const std::int64_t from = std::max(begin, part.begin), to = std::min(end, part.end);
    if (from >= to) continue;
    once = from == covered;
    if (!once) break;
    covered = to;
    const std::int64_t rows = wide ? shape.rows : to - from, cols = wide ? to - from : shape.cols;
    const std::int64_t stored_cols = part.tensor->shape[1];
    const std::int64_t source = wide ? from - part.begin : (from - part.begin) * stored_cols;
    const std::int64_t target = wide ? from - begin : (from - begin) * state.part.row_stride;
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(host.data() + (target + r * state.part.row_stride) * element,
                  part.tensor->bytes.data() + (source + r * stored_cols) * element,
                  static_cast<std::size_t>(cols * element));
  }
  if (!once || covered != end)
    throw CorruptFile("{} has {} {} to {} of {}{}, expected {} to {}, each once",
                      files.all().front().path(), wide ? "columns" : "rows", begin, covered, name,
                      files.all().size() > 1 ? " with the files beside it" : "", begin, end);
  host.put_back();
}

void read_count(const SafetensorsReader& file, const std::string& name, std::int64_t step,
                std::int64_t& count) {
  const auto found = file.metadata().find("count." + name);
  if (found == file.metadata().end()) throw CorruptFile("{} has no count of {}", file.path(), name);
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || end != text.data() + text.size() || count < 0 || count > step)
    throw CorruptFile("{}: {} has {} updates after {} steps", file.path(), name, text, step);
}

bool is_replicated(const std::string& path) {
  return path.starts_with("trainer/replicated") && path.ends_with(".safetensors");
}

// The voters whose momentum the checkpoint has, ascending: 0 .. W-1 of a fixed job, the numbers of
// the workers of an elastic one.
std::vector<int> voters_of(const std::vector<FileFact>& manifest) {
  std::vector<int> voters;
  constexpr std::string_view kBefore = "trainer/voter-";
  for (const FileFact& file : manifest) {
    int voter = -1;
    if (!file.path.starts_with(kBefore)) continue;
    const char* number = file.path.data() + kBefore.size();
    if (std::from_chars(number, file.path.data() + file.path.size(), voter).ec == std::errc{})
      voters.push_back(voter);
  }
  std::ranges::sort(voters);
  voters.erase(std::unique(voters.begin(), voters.end()), voters.end());
  return voters;
}

// What the checkpoint has of a voter's momentum, or, of one that it does not know, of another's.
std::vector<std::string> files_of_voter(const std::vector<FileFact>& manifest,
                                        const TrainingState& training, int voter) {
  const std::vector<int> voters = voters_of(manifest);
  if (!voters.empty() && !std::ranges::binary_search(voters, voter))
    voter = voters[static_cast<std::size_t>(voter) % voters.size()];
  std::vector<std::string> paths;
  for (std::int64_t member = 0; member < training.members; ++member) {
    const std::string path = voter_file(voter, member, training.members);
    if (std::ranges::any_of(manifest, [&](const FileFact& file) { return file.path == path; }))
      paths.push_back(path);
  }
  return paths;
}

}  // namespace

std::vector<CheckpointName> checkpoint_names(const std::string& run_folder, Disk& disk) {
  const std::string folder = run_folder + "/checkpoints";
  std::vector<CheckpointName> names;
  for (const std::string& name : disk.list(folder))
    if (const std::int64_t step = step_of(name); step >= 0)
      names.push_back({step, folder + "/" + name});
  std::ranges::sort(names, std::ranges::greater{}, &CheckpointName::step);
  return names;
}

bool has_checkpoints(const std::string& run_folder) {
  return !checkpoint_names(run_folder).empty();
}

std::optional<CheckpointName> find_newest_checkpoint(const std::string& run_folder,
                                                     std::optional<std::int64_t> most_step,
                                                     Disk& disk) {
  for (const CheckpointName& one : checkpoint_names(run_folder, disk)) {
    if (most_step && one.step > *most_step) continue;
    try {
      verify_checkpoint(one.path, disk);
      return one;
    } catch (const WorldError& damage) {
      log_warning("{} is damaged and is passed over: {}", one.path, damage.what());
    }
  }
  return std::nullopt;
}

TrainingState load_checkpoint(const std::string& path, const ParameterArena& arena,
                              OptimizerState& state, int voter) {
  const TrainingState training = read_training_state(path);
  const std::vector<FileFact> manifest = read_manifest(path);
  load_parameters(path, arena);
  const bool keeps_private = std::ranges::any_of(state.states(), [](const ParameterState& s) {
    return s.is_private && s.momentum.view().data != nullptr;
  });
  std::vector<std::string> paths;
  if (keeps_private) {
    paths = files_of_voter(manifest, training, voter);
    if (paths.empty())
      log_warning("{} has no momentum of voter {}: it begins at zero", path, voter);
  }
  const StateFiles mine(path, paths);
  paths.clear();
  for (const FileFact& file : manifest)
    if (is_replicated(file.path)) paths.push_back(file.path);
  const bool keeps_replicated =
      std::ranges::any_of(state.states(), [](const ParameterState& s) { return !s.is_private; });
  if (paths.empty() && keeps_replicated)
    throw CorruptFile("{} has no trainer/replicated.safetensors", path);
  const StateFiles replicated(path, paths);
  for (ParameterState& s : state.states()) {
    if (s.momentum.view().data == nullptr) continue;
    if (s.is_private) {
      if (mine.empty())
        fill_zero(s.momentum);
      else
        read_momentum(mine, s);
      continue;
    }
    const std::string name = "momentum." + s.parameter->shape.name;
    const SafetensorsReader& file = replicated.holder_of(name);
    read_state(file, name, *s.parameter, s.momentum);
    if (s.second.view().data == nullptr) continue;
    read_state(file, "second." + s.parameter->shape.name, *s.parameter, s.second);
    read_count(file, s.parameter->shape.name, training.step, s.count);
  }
  return training;
}

}  // namespace ballot

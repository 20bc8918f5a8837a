#include "runtime/checkpoint.h"

#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "models/model_folder.h"
#include "models/safetensors.h"
#include "runtime/gather_values.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;
const char* const kManifest = "trainer/manifest.json";

StoredType stored_type(DType type) {
  return type == DType::f32 ? StoredType::f32 : StoredType::bf16;
}

std::string file_digest(const std::string& path) {
  const MappedFile file(path);
  return fmt::format("{:016x}", XXH3_64bits(file.bytes().data(), file.bytes().size()));
}

// Collects a matrix without its padding columns, so that a checkpoint does not depend on the
// arena's layout.
class StateWriter {
 public:
  void add(const std::string& name, const Parameter& parameter, const Tensor& owned) {
    const std::int64_t rows = parameter.shape.rows, cols = parameter.shape.cols;
    const std::size_t element = size_bytes(owned.type);
    ConstBytes bytes(owned.data, owned.count() * element);
    if (parameter.row_stride != cols) {
      std::vector<std::byte> packed(rows * cols * element);
      for (std::int64_t r = 0; r < rows; ++r)
        std::memcpy(packed.data() + r * cols * element,
                    owned.data + r * parameter.row_stride * element, cols * element);
      packed_.push_back(std::move(packed));
      bytes = packed_.back();
    }
    tensors_.push_back({name, stored_type(owned.type), {rows, cols}, bytes});
  }
  void write(const std::string& path, const std::map<std::string, std::string>& metadata) const {
    write_safetensors(path, tensors_, metadata);
  }

 private:
  std::vector<std::vector<std::byte>> packed_;
  std::vector<TensorToStore> tensors_;
};

// The one of a voter's files that has this tensor.
const SafetensorsReader& holder_of(const std::vector<SafetensorsReader>& files,
                                   const std::string& name) {
  for (const SafetensorsReader& file : files)
    if (file.find(name) != nullptr) return file;
  throw CorruptFile("{} has no {}, and no other member's file has it", files.front().path(), name);
}

void read_state(const SafetensorsReader& file, const std::string& name, const Parameter& parameter,
                const Tensor& owned) {
  const StoredTensor& stored = file.get(name);
  const std::int64_t rows = parameter.shape.rows, cols = parameter.shape.cols;
  if (stored.type != stored_type(owned.type) ||
      stored.shape != std::vector<std::int64_t>{rows, cols})
    throw DataError("{}: {} is {} of {} elements, expected {} ({}, {})", file.path(), name,
                    to_string(stored.type), stored.count(), to_string(owned.type), rows, cols);
  const std::size_t element = size_bytes(owned.type);
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(owned.data + r * parameter.row_stride * element,
                stored.bytes.data() + r * cols * element, cols * element);
}

// Momentum of a voter, or of one of its members: what that one works on.
std::string voter_file(const std::string& folder, std::int64_t voter, std::int64_t member,
                       std::int64_t members) {
  return members == 1
             ? fmt::format("{}/trainer/voter-{}.safetensors", folder, voter)
             : fmt::format("{}/trainer/voter-{}-member-{}.safetensors", folder, voter, member);
}

void write_voter(const std::string& path, const OptimizerState& state) {
  StateWriter writer;
  for (const ParameterState& s : state.states())
    if (s.is_private && s.momentum.view().data != nullptr)
      writer.add("momentum." + s.parameter->shape.name, *s.parameter, s.momentum);
  writer.write(path, {{"format", "ballot"}});
}

void write_replicated(const std::string& path, const OptimizerState& state) {
  StateWriter writer;
  std::map<std::string, std::string> metadata = {{"format", "ballot"}};
  for (const ParameterState& s : state.states()) {
    if (s.is_private) continue;
    const std::string& name = s.parameter->shape.name;
    writer.add("momentum." + name, *s.parameter, s.momentum);
    if (s.second.view().data == nullptr) continue;
    writer.add("second." + name, *s.parameter, s.second);
    metadata["count." + name] = std::to_string(s.count);
  }
  writer.write(path, metadata);
}

std::string state_json(const TrainingState& training) {
  Json state{{"format", kFormat},
             {"step", training.step},
             {"sample_counter", training.sample_counter},
             {"tokens_total", training.tokens_total},
             {"workers", training.workers},
             {"members", training.members},
             {"threads", training.threads},
             {"processor", training.processor},
             {"compute", training.compute},
             {"digest", fmt::format("{:016x}", training.digest)}};
  if (training.journal) {
    state["journal_run"] = to_string(training.journal->run);
    state["journal_chain"] = to_string(training.journal->chain);
  }
  return state.dump(1) + "\n";
}

Json parse_json(const std::string& path) {
  Json parsed = Json::parse(read_file(path, 1 << 26), nullptr, false);
  if (!parsed.is_object()) throw CorruptFile("{} is not a JSON object", path);
  return parsed;
}

template <class T>
T field(const Json& object, const char* name, const std::string& path) {
  const auto found = object.find(name);
  if (found == object.end()) throw CorruptFile("{} has no \"{}\"", path, name);
  try {
    return found->get<T>();
  } catch (const Json::exception&) {
    throw CorruptFile("{}: \"{}\" is {}, of the wrong type", path, name, found->dump());
  }
}

void write_manifest(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), folder).string());
  std::sort(names.begin(), names.end());
  Json files = Json::array();
  for (const std::string& name : names)
    files.push_back({{"path", name},
                     {"size", static_cast<std::int64_t>(fs::file_size(folder + "/" + name))},
                     {"xxh3", file_digest(folder + "/" + name)}});
  write_file_synced(folder + "/" + kManifest,
                    Json{{"format", kFormat}, {"files", files}}.dump(1) + "\n");
}

// The step in "step-00000150"; -1 for any other name (somebody's copy is not ours to read or
// delete).
std::int64_t step_of(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  const std::string digits = name.starts_with("step-") ? name.substr(5) : "";
  const bool valid = digits.size() >= 8 && digits.size() <= 18 &&
                     std::all_of(digits.begin(), digits.end(),
                                 [](unsigned char c) { return std::isdigit(c) != 0; });
  return valid ? std::stoll(digits) : -1;
}

// Step folders of a run, newest first.
std::vector<std::string> list_checkpoints(const std::string& run_folder) {
  std::vector<std::string> paths;
  const std::string folder = run_folder + "/checkpoints";
  if (!fs::is_directory(folder)) return paths;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && !entry.is_symlink() && step_of(entry.path().string()) >= 0)
      paths.push_back(entry.path().string());
  std::sort(paths.begin(), paths.end(),
            [](const auto& a, const auto& b) { return step_of(a) > step_of(b); });
  return paths;
}

void point_latest_at(const std::string& folder, const std::string& name) {
  const std::string temporary = folder + "/.latest", latest = folder + "/latest";
  unlink(temporary.c_str());
  if (symlink(name.c_str(), temporary.c_str()) != 0) throw_file_error("link", temporary);
  if (rename(temporary.c_str(), latest.c_str()) != 0) throw_file_error("rename", temporary);
  sync_folder(folder);
}

// Runs `work` on every worker that has some, then lets everybody know whether all succeeded.
template <class Work>
void together(const char* what, Transport& transport, Duration patience, const Work& work) {
  std::exception_ptr failure;
  try {
    work();
  } catch (const std::exception& error) {
    failure = std::current_exception();
    log_error("cannot {}: {}", what,
              error.what());  // now: the others may be gone before this can be thrown
  }
  const std::vector<std::int32_t> failed =
      gather_values<std::int32_t>(failure != nullptr, transport, Deadline::in(patience));
  if (failure) std::rethrow_exception(failure);
  for (std::size_t r = 0; r < failed.size(); ++r)
    if (failed[r] != 0) throw FileError("worker {} failed to {}; see its log", r, what);
}

}  // namespace

std::string save_checkpoint(const std::string& run_folder, const std::string& side_files_from,
                            const TrainingState& training, const ParameterArena& arena,
                            const OptimizerState& state, std::int64_t keep, Transport& transport,
                            Duration patience) {
  const std::string folder = run_folder + "/checkpoints";
  const std::string name = fmt::format("step-{:08}", training.step);
  const std::string temporary = folder + "/." + name + ".partial", path = folder + "/" + name;
  const bool first = transport.rank() == 0;
  together("make the checkpoint's folder", transport, patience, [&] {
    if (!first) return;
    fs::remove_all(temporary);  // of a run that was killed while it wrote
    fs::create_directories(temporary + "/trainer");
    sync_folder(run_folder);
  });
  together("write its part of the checkpoint", transport, patience, [&] {
    const int members = static_cast<int>(training.members);
    write_voter(
        voter_file(temporary, transport.rank() / members, transport.rank() % members, members),
        state);
    if (!first) return;
    copy_side_files(side_files_from, temporary);
    save_parameters(temporary, arena);
    write_replicated(temporary + "/trainer/replicated.safetensors", state);
    write_file_synced(temporary + "/trainer/state.json", state_json(training));
  });
  together("publish the checkpoint", transport, patience, [&] {
    if (!first) return;
    write_manifest(temporary);
    sync_folder(temporary + "/trainer");
    sync_folder(temporary);
    fs::remove_all(path);  // the same step, written before a resume from an earlier one
    if (rename(temporary.c_str(), path.c_str()) != 0) throw_file_error("rename", temporary);
    sync_folder(folder);
    point_latest_at(folder, name);
    std::int64_t kept = 0;
    for (const std::string& one : list_checkpoints(run_folder))
      if (step_of(one) > training.step || ++kept > keep) fs::remove_all(one);
  });
  return path;
}

bool has_checkpoints(const std::string& run_folder) {
  return !list_checkpoints(run_folder).empty();
}

void verify_checkpoint(const std::string& path) {
  const std::string manifest_path = path + "/" + kManifest;
  const Json manifest = parse_json(manifest_path);
  const auto format = field<std::int64_t>(manifest, "format", manifest_path);
  if (format != kFormat)
    throw CorruptFile("{} is of format {}, expected {}", manifest_path, format, kFormat);
  for (const Json& file : field<Json>(manifest, "files", manifest_path)) {
    const auto name = field<std::string>(file, "path", manifest_path);
    const auto size = field<std::int64_t>(file, "size", manifest_path);
    const auto digest = field<std::string>(file, "xxh3", manifest_path);
    const fs::path relative(name);
    if (relative.is_absolute() ||
        std::find(relative.begin(), relative.end(), "..") != relative.end())
      throw CorruptFile("{} names a file outside its folder: {}", manifest_path, name);
    const std::string full = path + "/" + name;
    std::error_code error;
    const auto found = fs::file_size(full, error);
    if (error) throw CorruptFile("{} is missing; the checkpoint's manifest names it", full);
    if (static_cast<std::int64_t>(found) != size)
      throw CorruptFile("{} has {} bytes, its manifest says {}", full, found, size);
    const std::string computed = file_digest(full);
    if (computed != digest)
      throw CorruptFile("{} has digest {}, its manifest says {}", full, computed, digest);
  }
}

std::optional<std::string> find_checkpoint(const std::string& run_folder, Transport& transport,
                                           Duration patience) {
  std::int64_t chosen = -1;
  const std::vector<std::string> all = list_checkpoints(run_folder);
  if (transport.rank() == 0)
    for (const std::string& path : all) {
      try {
        verify_checkpoint(path);
        chosen = step_of(path);
        break;
      } catch (const WorldError& damage) {
        log_warning("{} is damaged and is passed over: {}", path, damage.what());
      }
    }
  // The others wait while worker 0 reads every file: an hour more for that.
  chosen = gather_values(chosen, transport, Deadline::in(patience + std::chrono::hours(1)))[0];
  if (chosen < 0) return std::nullopt;
  return fmt::format("{}/checkpoints/step-{:08}", run_folder, chosen);
}

std::vector<CheckpointName> checkpoint_names(const std::string& run_folder) {
  std::vector<CheckpointName> names;
  for (std::string& path : list_checkpoints(run_folder)) {
    const std::int64_t step = step_of(path);
    names.push_back({step, std::move(path)});
  }
  return names;
}

TrainingState read_training_state(const std::string& path) {
  const std::string state_path = path + "/trainer/state.json";
  const Json json = parse_json(state_path);
  TrainingState training;
  training.step = field<std::int64_t>(json, "step", state_path);
  training.sample_counter = field<std::int64_t>(json, "sample_counter", state_path);
  training.tokens_total = field<std::int64_t>(json, "tokens_total", state_path);
  training.workers = field<std::int64_t>(json, "workers", state_path);
  if (json.contains("members")) training.members = field<std::int64_t>(json, "members", state_path);
  training.threads = field<std::int64_t>(json, "threads", state_path);
  training.processor = field<std::string>(json, "processor", state_path);
  training.compute = field<std::string>(json, "compute", state_path);
  training.digest =
      std::strtoull(field<std::string>(json, "digest", state_path).c_str(), nullptr, 16);
  if (training.step < 0 || training.sample_counter < 0 || training.workers < 1 ||
      training.members < 1 || training.workers % training.members != 0)
    throw CorruptFile("{}: step {}, sample_counter {}, workers {}, members {}", state_path,
                      training.step, training.sample_counter, training.workers, training.members);
  if (json.contains("journal_run")) {
    const auto digest = [&](const char* name) {
      const auto text = field<std::string>(json, name, state_path);
      const auto parsed = parse_digest(text);
      if (!parsed) throw CorruptFile("{}: \"{}\" is {}, no digest", state_path, name, text);
      return *parsed;
    };
    training.journal = JournalPlace{digest("journal_run"), digest("journal_chain")};
  }
  return training;
}

TrainingState load_checkpoint(const std::string& path, const ParameterArena& arena,
                              OptimizerState& state, int voter) {
  const TrainingState training = read_training_state(path);
  load_parameters(path, arena);
  std::vector<SafetensorsReader> mine;  // of all members of one voter
  if (std::ranges::any_of(state.states(), [](const ParameterState& s) {
        return s.is_private && s.momentum.view().data != nullptr;
      }))
    for (std::int64_t member = 0; member < training.members; ++member)
      mine.emplace_back(voter_file(path, voter % (training.workers / training.members), member,
                                   training.members));
  const SafetensorsReader replicated(path + "/trainer/replicated.safetensors");
  for (ParameterState& s : state.states()) {
    const std::string& name = s.parameter->shape.name;
    if (s.momentum.view().data != nullptr)
      read_state(s.is_private ? holder_of(mine, "momentum." + name) : replicated,
                 "momentum." + name, *s.parameter, s.momentum);
    if (s.second.view().data == nullptr) continue;
    read_state(replicated, "second." + name, *s.parameter, s.second);
    const auto count = replicated.metadata().find("count." + name);
    if (count == replicated.metadata().end())
      throw CorruptFile("{} has no count of {}", replicated.path(), name);
    s.count = std::strtoll(count->second.c_str(), nullptr, 10);
    if (s.count < 0 || s.count > training.step)
      throw CorruptFile("{}: {} has {} updates after {} steps", replicated.path(), name, s.count,
                        training.step);
  }
  return training;
}

}  // namespace ballot

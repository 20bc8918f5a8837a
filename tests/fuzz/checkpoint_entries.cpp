// What a resumed run and a joining worker read of a checkpoint beside its tensors: state, manifest,
// what a share has written, the index of a model's files, a part's place in its tensor.
#include <algorithm>

#include "core/error.h"
#include "models/safetensors_index.h"
#include "runtime/checkpoint_manifest.h"
#include "runtime/checkpoint_state.h"
#include "runtime/part_text.h"
#include "tests/fuzz/entries.h"
#include "tests/support/memory_disk.h"

namespace ballot::fuzz {
namespace {

template <class Action>
bool accepted(const Action& action) {
  try {
    action();
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void require_inside(const std::vector<FileFact>& files) {
  for (const FileFact& file : files)
    require(!file.path.empty() && file.path.front() != '/' && file.path != ".." &&
                !file.path.starts_with("../") && !file.path.ends_with("/..") &&
                file.path.find("/../") == std::string::npos,
            "file {}", file.path);
}

bool run_manifest(std::span<const std::byte> bytes) {
  return accepted([&] {
    MemoryDisk disk, again;
    disk.open_append(std::string("folder/") + kManifestFile)->append(bytes);
    std::vector<FileFact> files = read_manifest("folder", disk);
    require_inside(files);
    const std::string json = manifest_json(files);
    again.open_append(std::string("folder/") + kManifestFile)
        ->append(std::as_bytes(std::span(json)));
    std::ranges::sort(files);
    require(read_manifest("folder", again) == files, "a manifest changes when rewritten");
  });
}

bool run_part(std::span<const std::byte> bytes) {
  return accepted([&] {
    MemoryDisk disk, again;
    const std::string path = "folder/" + part_file(1, 3);
    disk.open_append(path)->append(bytes);
    const CheckpointPart part = read_part("folder", 1, 3, disk);
    require_inside(part.files);
    const std::string json = to_json(part);
    again.open_append(path)->append(std::as_bytes(std::span(json)));
    require(to_json(read_part("folder", 1, 3, again)) == json, "a part changes when rewritten");
  });
}

bool run_state(std::span<const std::byte> bytes) {
  return accepted([&] {
    const TrainingState state = parse_training_state(text_of(bytes), "input");
    require(state.workers % state.members == 0, "{} workers, {} members", state.workers,
            state.members);
    require(parse_training_state(training_state_json(state), "again") == state,
            "a state changes when rewritten");
  });
}

bool run_index(std::span<const std::byte> bytes) {
  return accepted([&] {
    for (const auto& [tensor, file] : parse_safetensors_index(text_of(bytes), "input"))
      require(!file.empty() && file.find('/') == std::string::npos && file != ".." && file != ".",
              "file {}", file);
  });
}

// The first byte says which side, the rest is the text.
bool run_momentum_part(std::span<const std::byte> bytes) {
  if (bytes.empty()) return false;
  const bool by_columns = bytes.front() == std::byte{'c'};
  const std::string text = text_of(bytes);
  const std::optional<PartRange> range = parse_part(text, by_columns, 4096);
  if (!range) return false;
  require(range->begin >= 0 && range->begin < range->end && range->end <= 4096, "{} to {}",
          range->begin, range->end);
  const TensorPart part{by_columns, range->begin, range->end, 0, 0, 0};
  const std::optional<PartRange> again = parse_part(part_text(part), by_columns, 4096);
  require(again && again->begin == range->begin && again->end == range->end,
          "a part changes when rewritten");
  return true;
}

TrainingState small_state() {
  TrainingState state;
  state.step = 7;
  state.sample_counter = 40;
  state.tokens_total = 640;
  state.workers = 4;
  state.members = 2;
  state.threads = 2;
  state.processor = "avx2";
  state.compute = "f32";
  state.digest = 0x0123456789abcdefull;
  state.journal = JournalPlace{{1, 2}, {3, 4}};
  state.ledger = Ledger{40, {{3, 5}, {9, 12}}};
  state.history_term = 3;
  return state;
}

std::vector<FileFact> small_files() {
  return {{"model.safetensors", 1234, "0123456789abcdef"},
          {"trainer/voter-0-member-1.safetensors", 99, "fedcba9876543210"}};
}

}  // namespace

std::vector<Entry> with_checkpoint_entries(std::vector<Entry> entries) {
  CheckpointPart part{1, 3, 7, 0x123, JournalPlace{{1, 2}, {3, 4}}, small_files()};
  entries.push_back({"checkpoint_manifest", run_manifest, {manifest_json(small_files())}});
  entries.push_back({"checkpoint_part", run_part, {to_json(part)}});
  entries.push_back({"checkpoint_state", run_state, {training_state_json(small_state())}});
  entries.push_back(
      {"checkpoint_index",
       run_index,
       {R"({"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors",)"
        R"("b.c":"model-00002-of-00002.safetensors","d":"model-00001-of-00002.safetensors"}})"}});
  entries.push_back({"checkpoint_momentum", run_momentum_part, {"columns 512 1024", "rows 0 640"}});
  return entries;
}

}  // namespace ballot::fuzz

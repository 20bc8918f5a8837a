// What a checkpoint's files have to be: sizes and digests, of one share (a part) and of all of them
// (the manifest), and the proof that they are.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/disk.h"
#include "runtime/checkpoint_file.h"
#include "runtime/checkpoint_state.h"

namespace ballot {

// trainer/part-<i>-of-<n>.json: written last of a share. Parts of one checkpoint agree in all but
// their index and files.
struct CheckpointPart {
  int index = 0, count = 1;
  std::int64_t step = 0;
  std::uint64_t parameters = 0;  // digest of all of them
  std::optional<JournalPlace> journal;
  std::vector<FileFact> files;
};

std::string part_file(int index, int count);
std::string to_json(const CheckpointPart& part);
// CorruptFile, FileError.
CheckpointPart read_part(const std::string& folder, int index, int count, Disk& disk);

inline constexpr const char* kManifestFile = "trainer/manifest.json";
std::string manifest_json(std::vector<FileFact> files);
// CorruptFile, FileError.
std::vector<FileFact> read_manifest(const std::string& checkpoint, Disk& disk = system_disk());

// Throws CorruptFile naming the first file that is missing or is not what the manifest says. Reads
// everything.
void verify_checkpoint(const std::string& checkpoint, Disk& disk = system_disk());

}  // namespace ballot

#include "runtime/checkpoint_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::uint64_t kReadBytes = std::uint64_t{4} << 20;

void remove_if_there(Disk& disk, const std::string& path) {
  const std::filesystem::path full(path);
  if (has_entry(full.parent_path().string(), full.filename().string(), disk)) disk.remove(path);
}

}  // namespace

struct FileDigest::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

FileDigest::FileDigest() : state_(std::make_unique<State>()) {
  require(state_->xxh != nullptr && XXH3_64bits_reset(state_->xxh) == XXH_OK, "no digest state");
}
FileDigest::FileDigest(FileDigest&&) noexcept = default;
FileDigest::~FileDigest() = default;

void FileDigest::add(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size());
}

std::string FileDigest::hex() const {
  return fmt::format("{:016x}", XXH3_64bits_digest(state_->xxh));
}

CheckpointOutput::CheckpointOutput(Disk& disk, const std::string& folder, const std::string& path) {
  fact_.path = path;
  remove_if_there(disk, folder + "/" + path);
  file_ = disk.open_append(folder + "/" + path);
}

void CheckpointOutput::append(std::span<const std::byte> bytes) {
  file_->append(bytes);
  digest_.add(bytes);
  fact_.size += bytes.size();
}

FileFact CheckpointOutput::finish() {
  file_->sync();
  file_.reset();
  fact_.xxh3 = digest_.hex();
  return fact_;
}

FileFact fact_of(const std::string& folder, const std::string& path, Disk& disk) {
  const std::string full = folder + "/" + path;
  FileFact fact;
  fact.path = path;
  FileDigest digest;
  while (true) {
    const std::vector<std::byte> bytes = disk.read(full, fact.size, kReadBytes);
    digest.add(bytes);
    fact.size += bytes.size();
    if (bytes.size() < kReadBytes) break;
  }
  fact.xxh3 = digest.hex();
  return fact;
}

bool has_entry(const std::string& folder, const std::string& name, Disk& disk) {
  const std::vector<std::string> names = disk.list(folder);
  return std::ranges::binary_search(names, name);
}

}  // namespace ballot

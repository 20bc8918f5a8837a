// Names to files, twice: as they are, and as a crash would leave them.
#include "tests/simulation/simulated_disk.h"

#include <algorithm>

#include "core/error.h"

namespace ballot::sim {
namespace {

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

bool is_below(const std::string& path, const std::string& folder) {
  return path.size() > folder.size() && path.starts_with(folder) && path[folder.size()] == '/';
}

}  // namespace

class SimulatedDisk::Appender final : public AppendFile {
 public:
  Appender(SimulatedDisk& disk, std::shared_ptr<File> file, std::string path)
      : disk_(disk), file_(std::move(file)), path_(std::move(path)) {}
  void append(std::span<const std::byte> bytes) override {
    std::size_t size = bytes.size();
    if (disk_.space_ >= 0)
      size = std::min<std::size_t>(size, static_cast<std::size_t>(disk_.space_));
    file_->bytes.insert(file_->bytes.end(), bytes.begin(), bytes.begin() + static_cast<long>(size));
    if (disk_.space_ >= 0) disk_.space_ -= static_cast<std::int64_t>(size);
    if (size < bytes.size()) throw FileError("cannot write {}: no space left", path_);
  }
  void sync() override {
    if (disk_.failing_syncs_ > 0) {
      --disk_.failing_syncs_;
      throw FileError("cannot sync {}: simulated error", path_);
    }
    file_->synced = file_->bytes.size();
  }
  std::uint64_t size_bytes() const override { return file_->bytes.size(); }

 private:
  SimulatedDisk& disk_;
  std::shared_ptr<File> file_;
  std::string path_;
};

SimulatedDisk::File& SimulatedDisk::file(const std::string& path) {
  const auto found = live_.find(path);
  if (found == live_.end()) throw FileError("cannot open {}: no such file", path);
  return *found->second;
}

std::vector<std::string> SimulatedDisk::list(const std::string& folder) {
  std::set<std::string> names;
  const auto add = [&](const std::string& path) {
    if (!is_below(path, folder)) return;
    const std::string rest = path.substr(folder.size() + 1);
    names.insert(rest.substr(0, rest.find('/')));
  };
  for (const auto& [path, file] : live_) add(path);
  for (const std::string& path : folders_) add(path);
  return {names.begin(), names.end()};
}

std::uint64_t SimulatedDisk::size_bytes(const std::string& path) {
  return file(path).bytes.size();
}

std::vector<std::byte> SimulatedDisk::read(const std::string& path, std::uint64_t offset,
                                           std::uint64_t size) {
  const auto& bytes = file(path).bytes;
  const auto begin = std::min<std::uint64_t>(offset, bytes.size());
  const auto end = std::min<std::uint64_t>(begin + size, bytes.size());
  return {bytes.begin() + static_cast<long>(begin), bytes.begin() + static_cast<long>(end)};
}

std::unique_ptr<AppendFile> SimulatedDisk::open_append(const std::string& path) {
  auto& entry = live_[path];
  if (!entry) entry = std::make_shared<File>();
  return std::make_unique<Appender>(*this, entry, path);
}

void SimulatedDisk::truncate(const std::string& path, std::uint64_t size) {
  File& f = file(path);
  f.bytes.resize(std::min<std::size_t>(f.bytes.size(), size));
  f.synced = f.bytes.size();
}

void SimulatedDisk::make_folder(const std::string& path) {
  for (std::string p = path; p != "." && !p.empty(); p = folder_of(p)) folders_.insert(p);
}

void SimulatedDisk::rename(const std::string& from, const std::string& to) {
  Names moved;
  for (auto it = live_.begin(); it != live_.end();) {
    if (it->first == from || is_below(it->first, from)) {
      moved[to + it->first.substr(from.size())] = it->second;
      it = live_.erase(it);
    } else {
      ++it;
    }
  }
  if (moved.empty()) throw FileError("cannot rename {}: no such file", from);
  for (auto& [path, f] : moved) live_[path] = f;
  if (folders_.erase(from) > 0) folders_.insert(to);
}

void SimulatedDisk::remove(const std::string& path) {
  std::erase_if(live_, [&](const auto& e) { return e.first == path || is_below(e.first, path); });
  std::erase_if(folders_, [&](const std::string& p) { return p == path || is_below(p, path); });
}

void SimulatedDisk::sync_folder(const std::string& path) {
  std::erase_if(durable_, [&](const auto& e) { return folder_of(e.first) == path; });
  for (const auto& [name, f] : live_)
    if (folder_of(name) == path) durable_[name] = f;
}

void SimulatedDisk::crash(Random& random) {
  std::set<std::string> folders;
  for (const auto* names : {&live_, &durable_})
    for (const auto& [path, f] : *names) folders.insert(folder_of(path));
  Names left;
  for (const std::string& folder : folders) {
    const Names& taken = random.chance(0.5) ? live_ : durable_;
    for (const auto& [path, f] : taken)
      if (folder_of(path) == folder) left[path] = f;
  }
  live_ = left;
  for (auto& [path, f] : live_) {
    const auto extra = static_cast<std::int64_t>(f->bytes.size() - f->synced);
    if (extra <= 0) continue;
    f->bytes.resize(f->synced + static_cast<std::size_t>(random.below(extra + 1)));
    f->synced = f->bytes.size();
  }
  durable_ = live_;
  failing_syncs_ = 0;
  space_ = -1;
}

void SimulatedDisk::lose_everything() {
  live_.clear();
  durable_.clear();
  folders_.clear();
}

}  // namespace ballot::sim

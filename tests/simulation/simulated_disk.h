// A disk that a crash takes its un-synced writes from: files in memory, with what is durable kept
// apart from what is only written.
//
// After crash(): a file has its synced bytes and a random part of those appended since, so that a
// record may be torn at any byte; names made or removed since the last sync_folder() of their
// folder are, folder by folder, as then or as now.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/disk.h"
#include "tests/simulation/random.h"

namespace ballot::sim {

class SimulatedDisk final : public Disk {
 public:
  std::vector<std::string> list(const std::string& folder) override;
  std::uint64_t size_bytes(const std::string& path) override;
  std::vector<std::byte> read(const std::string& path, std::uint64_t offset,
                              std::uint64_t size) override;
  std::unique_ptr<AppendFile> open_append(const std::string& path) override;
  void truncate(const std::string& path, std::uint64_t size) override;
  void make_folder(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  void remove(const std::string& path) override;
  void sync_folder(const std::string& path) override;

  // The machine stops and starts again. No file may be used that was opened before.
  void crash(Random& random);
  void lose_everything();
  // The next so many sync() calls fail.
  void fail_syncs(int count) { failing_syncs_ = count; }
  // From now on appends fail after so many bytes, until it is called with a negative number.
  void fill_up_after(std::int64_t bytes) { space_ = bytes; }

 private:
  struct File {
    std::vector<std::byte> bytes;
    std::size_t synced = 0;
  };
  class Appender;
  using Names = std::map<std::string, std::shared_ptr<File>>;
  File& file(const std::string& path);

  Names live_, durable_;
  std::set<std::string> folders_;
  int failing_syncs_ = 0;
  std::int64_t space_ = -1;
};

}  // namespace ballot::sim

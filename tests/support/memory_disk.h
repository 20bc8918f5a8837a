// A disk in memory that forgets at a crash what was not made durable, and that can be told to fail.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/disk.h"
#include "core/error.h"

namespace ballot {

class MemoryDisk : public Disk {
 public:
  std::vector<std::string> list(const std::string& folder) override {
    std::set<std::string> names;
    const std::string prefix = folder + "/";
    for (const auto& [path, file] : files_)
      if (path.starts_with(prefix))
        names.insert(path.substr(prefix.size(), path.find('/', prefix.size()) - prefix.size()));
    return {names.begin(), names.end()};
  }
  std::uint64_t size_bytes(const std::string& path) override { return find(path).bytes.size(); }
  std::vector<std::byte> read(const std::string& path, std::uint64_t offset,
                              std::uint64_t size) override {
    const std::vector<std::byte>& bytes = find(path).bytes;
    const std::size_t begin = std::min<std::uint64_t>(offset, bytes.size());
    const std::size_t end = begin + std::min<std::uint64_t>(size, bytes.size() - begin);
    most_read = std::max<std::uint64_t>(most_read, end - begin);
    return {bytes.begin() + static_cast<std::ptrdiff_t>(begin),
            bytes.begin() + static_cast<std::ptrdiff_t>(end)};
  }
  std::unique_ptr<AppendFile> open_append(const std::string& path) override {
    std::shared_ptr<File>& file = files_[path];
    if (!file) file = std::make_shared<File>();
    return std::make_unique<Appender>(*this, path, file);
  }
  void truncate(const std::string& path, std::uint64_t size) override {
    File& file = find(path);
    step("truncate", path);
    file.bytes.resize(size);
    file.synced = size;
  }
  void make_folder(const std::string&) override {}
  void rename(const std::string& from, const std::string& to) override {
    step("rename", from);
    std::map<std::string, std::shared_ptr<File>> renamed;
    for (const auto& [path, file] : files_)
      renamed[path == from || path.starts_with(from + "/") ? to + path.substr(from.size()) : path] =
          file;
    if (!files_.contains(from)) renamed_folders_.emplace_back(from, to);
    files_ = std::move(renamed);
  }
  void remove(const std::string& path) override {
    step("remove", path);
    std::erase_if(files_, [&](const auto& entry) {
      return entry.first == path || entry.first.starts_with(path + "/");
    });
  }
  void sync_folder(const std::string& path) override {
    step("sync_folder", path);
    const auto directly_in = [&](const std::string& name) {
      return name.starts_with(path + "/") && name.find('/', path.size() + 1) == std::string::npos;
    };
    std::erase_if(durable_, [&](const auto& entry) { return directly_in(entry.first); });
    for (const auto& entry : files_)
      if (directly_in(entry.first)) durable_.insert(entry);
    // A folder's new name is durable with all that was durable in it.
    std::erase_if(renamed_folders_, [&](const auto& renamed) {
      const auto& [from, to] = renamed;
      if (!directly_in(to)) return false;
      std::map<std::string, std::shared_ptr<File>> moved;
      for (const auto& [name, file] : durable_)
        if (name.starts_with(from + "/"))
          moved[to + name.substr(from.size())] = file;
        else if (!name.starts_with(to + "/"))
          moved.insert({name, file});
      durable_ = std::move(moved);
      return true;
    });
  }

  // The machine goes down: names and bytes that were not made durable are gone, but of a file's
  // unsynced bytes the first `keep`.
  void crash(std::uint64_t keep = 0) {
    files_ = durable_;
    renamed_folders_.clear();
    for (auto& [path, file] : files_) {
      file->bytes.resize(std::min<std::uint64_t>(file->bytes.size(), file->synced + keep));
      file->synced = file->bytes.size();
    }
  }
  std::vector<std::byte>& bytes(const std::string& path) { return find(path).bytes; }
  std::vector<std::string> paths() const {
    std::vector<std::string> paths;
    for (const auto& [path, file] : files_) paths.push_back(path);
    return paths;
  }
  // Copies what is there now, as if all of it were durable.
  MemoryDisk snapshot() const {
    MemoryDisk copy = clone();
    copy.durable_ = copy.files_;
    for (auto& [path, file] : copy.files_) file->synced = file->bytes.size();
    return copy;
  }
  // Copies it as it is, with what is not durable; without on_change.
  MemoryDisk clone() const {
    MemoryDisk copy;
    std::map<const File*, std::shared_ptr<File>> copies;
    const auto copied = [&copies](const std::shared_ptr<File>& file) {
      std::shared_ptr<File>& one = copies[file.get()];
      if (!one) one = std::make_shared<File>(*file);
      return one;
    };
    for (const auto& [path, file] : files_) copy.files_[path] = copied(file);
    for (const auto& [path, file] : durable_) copy.durable_[path] = copied(file);
    copy.renamed_folders_ = renamed_folders_;
    return copy;
  }

  // Called before each change with what it is ("append", "sync", ...); throws to make it fail.
  std::function<void(const std::string& what, const std::string& path)> on_change;
  std::uint64_t most_read = 0;  // bytes of one read()

 private:
  struct File {
    std::vector<std::byte> bytes;
    std::size_t synced = 0;
  };
  class Appender final : public AppendFile {
   public:
    Appender(MemoryDisk& disk, std::string path, std::shared_ptr<File> file)
        : disk_(disk), path_(std::move(path)), file_(std::move(file)) {}
    void append(std::span<const std::byte> bytes) override {
      disk_.step("append", path_);
      file_->bytes.insert(file_->bytes.end(), bytes.begin(), bytes.end());
    }
    void sync() override {
      disk_.step("sync", path_);
      file_->synced = file_->bytes.size();
    }
    std::uint64_t size_bytes() const override { return file_->bytes.size(); }

   private:
    MemoryDisk& disk_;
    std::string path_;
    std::shared_ptr<File> file_;
  };
  void step(const std::string& what, const std::string& path) {
    if (on_change) on_change(what, path);
  }
  File& find(const std::string& path) {
    const auto found = files_.find(path);
    if (found == files_.end()) throw FileError("cannot open {}: there is no such file", path);
    return *found->second;
  }
  std::map<std::string, std::shared_ptr<File>> files_, durable_;
  std::vector<std::pair<std::string, std::string>> renamed_folders_;  // not durable yet
};

}  // namespace ballot

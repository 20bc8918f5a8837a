#include "runtime/elastic/grpc_peers_checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "runtime/elastic/grpc_peers_reader.h"
#include "runtime/elastic/peer_frames_requests.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
const char* const kManifest = "trainer/manifest.json";  // as runtime/checkpoint.h says

bool stays_inside(const std::string& path) {
  if (path.empty() || path.size() > kMostNameBytes) return false;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = std::string_view(path).substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.find('\0') != std::string_view::npos)
      return false;
    begin = end + 1;
  }
  return true;
}

class ReadOnlyFile {
 public:
  ReadOnlyFile(const std::string& path, std::uint64_t size)
      : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) {
    if (file_ < 0) throw_file_error("open", path_);
    struct stat found {};
    if (::fstat(file_, &found) != 0) {
      ::close(file_);
      throw_file_error("stat", path_);
    }
    if (!S_ISREG(found.st_mode) || static_cast<std::uint64_t>(found.st_size) != size) {
      ::close(file_);
      throw CorruptFile("{} has {} bytes, its manifest says {}", path_, found.st_size, size);
    }
  }
  ReadOnlyFile(const ReadOnlyFile&) = delete;
  ReadOnlyFile& operator=(const ReadOnlyFile&) = delete;
  ~ReadOnlyFile() { ::close(file_); }

  std::vector<std::byte> read(std::uint64_t offset, std::size_t bytes) const {
    std::vector<std::byte> result(bytes);
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t count =
          ::pread(file_, result.data() + done, bytes - done, static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw_file_error("read", path_);
      if (count == 0) throw CorruptFile("{} ends at byte {}", path_, offset + done);
      done += static_cast<std::size_t>(count);
    }
    return result;
  }

 private:
  std::string path_;
  int file_;
};

// Of one file's bytes as they come, as manifests write it.
class FileDigest {
 public:
  FileDigest() { XXH3_64bits_reset(&state_); }
  void add(ConstBytes bytes) { XXH3_64bits_update(&state_, bytes.data(), bytes.size()); }
  std::string text() const { return fmt::format("{:016x}", XXH3_64bits_digest(&state_)); }

 private:
  XXH3_state_t state_;
};

// A folder that is written beside its place and goes there whole, or not at all.
class FolderInTheMaking {
 public:
  explicit FolderInTheMaking(const std::string& folder)
      : folder_(folder), temporary_(folder + ".partial") {
    std::error_code error;
    if (fs::exists(folder_, error)) throw FileError("{} is there already", folder_);
    fs::remove_all(temporary_, error);  // of a process that was killed
    fs::create_directories(temporary_, error);
    if (error) throw FileError("cannot make {}: {}", temporary_, error.message());
  }
  FolderInTheMaking(const FolderInTheMaking&) = delete;
  FolderInTheMaking& operator=(const FolderInTheMaking&) = delete;
  ~FolderInTheMaking() {
    std::error_code ignored;
    if (!published_) fs::remove_all(temporary_, ignored);
  }
  OutputFile create(const std::string& name) {
    const fs::path full = fs::path(temporary_) / name;
    fs::create_directories(full.parent_path());
    return OutputFile(full.string());
  }
  void publish() {
    for (const auto& entry : fs::recursive_directory_iterator(temporary_))
      if (entry.is_directory()) sync_folder(entry.path().string());
    sync_folder(temporary_);
    if (::rename(temporary_.c_str(), folder_.c_str()) != 0) throw_file_error("rename", temporary_);
    published_ = true;
    const std::string parent = fs::path(folder_).parent_path().string();
    sync_folder(parent.empty() ? "." : parent);
  }

 private:
  const std::string folder_, temporary_;
  bool published_ = false;
};

}  // namespace

std::vector<ManifestFile> parse_manifest(const std::string& text) {
  const auto manifest = nlohmann::json::parse(text, nullptr, false);
  if (!manifest.is_object() || !manifest.contains("files") || !manifest["files"].is_array())
    throw CorruptFile("a checkpoint's manifest without a list of files");
  if (manifest["files"].size() > kMostCheckpointFiles)
    throw CorruptFile("a checkpoint of {} files, expected at most {}", manifest["files"].size(),
                      kMostCheckpointFiles);
  std::vector<ManifestFile> files;
  std::set<std::string> seen{kManifest};
  for (const auto& entry : manifest["files"]) {
    const auto path = entry.is_object() ? entry.find("path") : entry.end();
    const auto size = entry.is_object() ? entry.find("size") : entry.end();
    const auto xxh3 = entry.is_object() ? entry.find("xxh3") : entry.end();
    if (path == entry.end() || size == entry.end() || xxh3 == entry.end() || !path->is_string() ||
        !size->is_number_unsigned() || !xxh3->is_string())
      throw CorruptFile("file {} of a checkpoint's manifest without path, size and digest",
                        files.size());
    files.push_back(
        {path->get<std::string>(), size->get<std::uint64_t>(), xxh3->get<std::string>()});
    if (!stays_inside(files.back().path) || !seen.insert(files.back().path).second)
      throw CorruptFile(
          "file {} of a checkpoint's manifest has a path of {} bytes that leads out of its folder "
          "or comes twice",
          files.size() - 1, files.back().path.size());
  }
  return files;
}

void send_checkpoint(const std::string& folder, const std::function<bool(OutgoingFrame)>& write) {
  const std::string text = read_file(folder + "/" + kManifest, kMostManifestBytes);
  const std::vector<ManifestFile> files = parse_manifest(text);
  std::vector<std::unique_ptr<ReadOnlyFile>> open;
  for (const ManifestFile& file : files)
    open.push_back(std::make_unique<ReadOnlyFile>(folder + "/" + file.path, file.size));
  const std::string name = fs::path(folder).filename().string();
  if (!write(make_frame(ManifestFrame{name, text}))) return;
  for (std::size_t i = 0; i < files.size(); ++i)
    for (std::uint64_t offset = 0; offset < files[i].size;) {
      const auto bytes = static_cast<std::size_t>(
          std::min<std::uint64_t>(files[i].size - offset, kMostFilePartBytes));
      FilePartFrame part{static_cast<std::uint32_t>(i), offset, open[i]->read(offset, bytes)};
      if (!write(make_frame(std::move(part)))) return;
      offset += bytes;
    }
}

std::string copy_checkpoint(const std::shared_ptr<PeersHub>& hub, const Source& source,
                            const std::string& folder, Deadline deadline) {
  const std::string who = fmt::format("worker {} at {}", source.identity.worker, source.address);
  FolderInTheMaking copy(folder);
  FrameReader reader(hub, source,
                     {kCheckpointMethod, encode_checkpoint_request(hub->options.run),
                      kCheckpointKinds, kMostManifestBytes},
                     deadline);
  std::optional<PeerFrame> frame = reader.next();
  if (!frame || !std::holds_alternative<ManifestFrame>(*frame))
    throw TransportError("{}: a checkpoint that does not begin with its manifest", who);
  const ManifestFrame manifest = std::get<ManifestFrame>(std::move(*frame));
  try {
    const std::vector<ManifestFile> files = parse_manifest(manifest.text);
    for (std::size_t i = 0; i < files.size(); ++i) {
      OutputFile file = copy.create(files[i].path);
      FileDigest digest;
      while (file.written_bytes() < files[i].size) {
        frame = reader.next();
        const auto* part = frame ? std::get_if<FilePartFrame>(&*frame) : nullptr;
        if (part == nullptr || part->file != i || part->offset != file.written_bytes() ||
            part->bytes.size() > files[i].size - part->offset)
          throw TransportError("{}: expected byte {} of file {} of its checkpoint, {}", who,
                               file.written_bytes(), i, frame ? "got another" : "it ends");
        file.write(part->bytes);
        digest.add(part->bytes);
        hub->downloaded += part->bytes.size();
      }
      if (digest.text() != files[i].xxh3)
        throw CorruptFile("{} has digest {}, its manifest says {}", file.path(), digest.text(),
                          files[i].xxh3);
      file.finish();
    }
    if (reader.next()) throw TransportError("{}: more than the files of its checkpoint", who);
    OutputFile file = copy.create(kManifest);
    file.write(manifest.text);
    file.finish();
    copy.publish();
  } catch (const CorruptFile& error) {
    throw TransportError("{}: its checkpoint {} is damaged: {}", who, manifest.name, error.what());
  } catch (const fs::filesystem_error& error) {
    throw FileError("{}", error.what());
  }
  return manifest.name;
}

}  // namespace ballot

#include "runtime/checkpoint_manifest.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "runtime/checkpoint_json.h"

namespace ballot {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{64} << 20;

OrderedJson to_json(const std::vector<FileFact>& files) {
  OrderedJson json = OrderedJson::array();
  for (const FileFact& file : files)
    json.push_back({{"path", file.path}, {"size", file.size}, {"xxh3", file.xxh3}});
  return json;
}

void require_format(const Json& object, const std::string& path) {
  const auto format = json_field<std::int64_t>(object, "format", path);
  if (format != kFormat)
    throw CorruptFile("{} is of format {}, expected {}", path, format, kFormat);
}

std::vector<FileFact> parse_files(const Json& object, const std::string& path) {
  const Json files = json_field<Json>(object, "files", path);
  if (!files.is_array()) throw CorruptFile("{}: \"files\" is no array", path);
  std::vector<FileFact> facts;
  for (const Json& file : files) {
    if (!file.is_object()) throw CorruptFile("{}: \"files\" holds {}", path, shown(file));
    FileFact fact;
    fact.path = json_field<std::string>(file, "path", path);
    const auto size = json_field<std::int64_t>(file, "size", path);
    fact.xxh3 = json_field<std::string>(file, "xxh3", path);
    const std::filesystem::path relative(fact.path);
    if (fact.path.empty() || relative.is_absolute() ||
        std::find(relative.begin(), relative.end(), "..") != relative.end())
      throw CorruptFile("{} names a file outside its folder: {}", path, shown(fact.path));
    if (size < 0) throw CorruptFile("{}: {} has {} bytes", path, shown(fact.path), size);
    fact.size = static_cast<std::uint64_t>(size);
    facts.push_back(std::move(fact));
  }
  return facts;
}

Digest parse_digest_field(const Json& object, const char* name, const std::string& path) {
  const auto text = json_field<std::string>(object, name, path);
  const auto digest = parse_digest(text);
  if (!digest) throw CorruptFile("{}: \"{}\" is {}, no digest", path, name, shown(text));
  return *digest;
}

std::string read_text(const std::string& path, Disk& disk) {
  const std::vector<std::byte> bytes = disk.read(path, 0, kMaxManifestBytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

std::string part_file(int index, int count) {
  return fmt::format("trainer/part-{}-of-{}.json", index + 1, count);
}

std::string to_json(const CheckpointPart& part) {
  OrderedJson json{{"format", kFormat},
                   {"share", part.index},
                   {"shares", part.count},
                   {"step", part.step},
                   {"parameters", fmt::format("{:016x}", part.parameters)}};
  if (part.journal) {
    json["journal_run"] = to_string(part.journal->run);
    json["journal_chain"] = to_string(part.journal->chain);
  }
  json["files"] = to_json(part.files);
  return json.dump(1) + "\n";
}

CheckpointPart read_part(const std::string& folder, int index, int count, Disk& disk) {
  const std::string path = folder + "/" + part_file(index, count);
  const Json json = parse_json_object(read_text(path, disk), path);
  require_format(json, path);
  CheckpointPart part;
  part.index = static_cast<int>(json_field<std::int64_t>(json, "share", path));
  part.count = static_cast<int>(json_field<std::int64_t>(json, "shares", path));
  if (part.index != index || part.count != count)
    throw CorruptFile("{} says that it is share {} of {}", path, part.index, part.count);
  part.step = json_field<std::int64_t>(json, "step", path);
  const auto digest = json_field<std::string>(json, "parameters", path);
  const auto [end, error] =
      std::from_chars(digest.data(), digest.data() + digest.size(), part.parameters, 16);
  if (error != std::errc{} || end != digest.data() + digest.size())
    throw CorruptFile("{}: \"parameters\" is {}, no digest", path, shown(digest));
  if (json.contains("journal_run"))
    part.journal = JournalPlace{parse_digest_field(json, "journal_run", path),
                                parse_digest_field(json, "journal_chain", path)};
  part.files = parse_files(json, path);
  return part;
}

std::string manifest_json(std::vector<FileFact> files) {
  std::ranges::sort(files);
  return OrderedJson{{"format", kFormat}, {"files", to_json(files)}}.dump(1) + "\n";
}

std::vector<FileFact> read_manifest(const std::string& checkpoint, Disk& disk) {
  const std::string path = checkpoint + "/" + kManifestFile;
  const Json json = parse_json_object(read_text(path, disk), path);
  require_format(json, path);
  return parse_files(json, path);
}

void verify_checkpoint(const std::string& checkpoint, Disk& disk) {
  for (const FileFact& expected : read_manifest(checkpoint, disk)) {
    const std::filesystem::path full(checkpoint + "/" + expected.path);
    if (!has_entry(full.parent_path().string(), full.filename().string(), disk))
      throw CorruptFile("{} is missing; the checkpoint's manifest names it", full.string());
    const std::uint64_t size = disk.size_bytes(full.string());
    if (size != expected.size)
      throw CorruptFile("{} has {} bytes, its manifest says {}", full.string(), size,
                        expected.size);
    const FileFact found = fact_of(checkpoint, expected.path, disk);
    if (found != expected)
      throw CorruptFile("{} has digest {}, its manifest says {}", full.string(), found.xxh3,
                        expected.xxh3);
  }
}

}  // namespace ballot

#include "models/side_files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "models/strict_json.h"
#include "models/tokenizer/utf8.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";
constexpr const char* kTrainer = "trainer";  // a checkpoint's folder of what is no model
constexpr std::uintmax_t kMaxSideBytes = std::uintmax_t{64} << 20;
// A checkpoint is written with all of its files open, and its manifest may list 1,024.
constexpr std::size_t kMostSideFiles = 256;
// What a model is used with: linked from wherever a user keeps it.
constexpr std::array<std::string_view, 10> kTokenizerFiles = {
    "tokenizer.json",     "tokenizer_config.json",
    "tokenizer.model",    "special_tokens_map.json",
    "added_tokens.json",  "vocab.json",
    "merges.txt",         "generation_config.json",
    "chat_template.json", "chat_template.jinja"};
// Weights of other programs (torch, TensorFlow, Flax, ONNX, llama.cpp) and data sets.
constexpr std::array<std::string_view, 18> kNoSideFiles = {
    ".safetensors", ".safetensors.index.json",
    ".bin",         ".bin.index.json",
    ".idx",         ".pt",
    ".pth",         ".ckpt",
    ".h5",          ".msgpack",
    ".onnx",        ".gguf",
    ".ggml",        ".npz",
    ".parquet",     ".jsonl",
    ".arrow",       ".partial"};

// Checkpoints are many, and the folder beside them is the same each time.
void warn_once(const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string> told;
  const std::lock_guard lock(mutex);
  if (told.insert(text).second) log_warning("{}", text);
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

// As ls shows a name: what is no printable ASCII and no UTF-8 as \xNN.
std::string printable(const std::string& name) {
  if (is_utf8(name)) return name;
  std::string text;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    text += byte >= 0x20 && byte < 0x7f ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
  }
  return text;
}

bool is_weights_data_or_hidden(std::string name) {
  if (name.starts_with('.')) return true;
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::ranges::any_of(kNoSideFiles,
                             [&](std::string_view end) { return name.ends_with(end); });
}

bool lies_in(const fs::path& path, const fs::path& folder) {
  return std::ranges::mismatch(folder, path).in1 == folder.end();
}

// In a hub's cache snapshots/REVISION/NAME leads to ../../blobs/DIGEST.
bool leads_out(const fs::path& link, const fs::path& folder) {
  std::error_code error;
  const fs::path target = fs::canonical(link, error);
  return !error && !lies_in(target, folder) &&
         !lies_in(target, folder.parent_path().parent_path() / "blobs");
}

// Why this file is left; empty: it goes with the weights.
std::string why_left(const fs::directory_entry& entry, const fs::path& folder) {
  const std::string name = entry.path().filename().string();
  std::error_code error;
  if (!entry.is_regular_file(error))
    return error ? fmt::format("cannot be read: {}", error.message()) : "is no regular file";
  if (!is_utf8(name)) return "has a name that is not UTF-8";
  if (name == kTrainer) return "has the name of a folder that every checkpoint has";
  if (entry.is_symlink(error) &&
      std::ranges::find(kTokenizerFiles, name) == kTokenizerFiles.end() &&
      leads_out(entry.path(), folder))
    return "is a link that leads out of the folder";
  if (const std::uintmax_t size = entry.file_size(error); !error && size > kMaxSideBytes)
    return fmt::format("has {} bytes, more than {}", size, kMaxSideBytes);
  try {
    const InputFile opened(entry.path().string());
  } catch (const FileError& failure) {
    return fmt::format("cannot be read: {}", failure.what());
  }
  return "";
}

// torch_dtype, and the newer dtype, of a config.json.
std::string with_type(const std::string& text, const std::string& path, StoredType type) {
  const char* const name = type == StoredType::bf16 ? "bfloat16" : "float32";
  parse_strict_json(text, path);
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(text);
  if (!config.is_object()) throw DataError("{} is {}, expected a JSON object", path, shown(text));
  bool is_said = false, is_right = true;
  for (const char* key : {"torch_dtype", "dtype"}) {
    const auto found = config.find(key);
    if (found == config.end()) continue;
    is_said = true;
    is_right = is_right && *found == name;
    *found = name;
  }
  if (is_said && is_right) return text;
  if (!is_said) config["torch_dtype"] = name;  // what every version of transformers reads
  return config.dump(2) + "\n";
}

}  // namespace

std::vector<std::string> side_files(const std::string& source) {
  std::error_code error;
  const fs::path folder = fs::canonical(source, error);
  std::vector<std::string> names;
  fs::directory_iterator entries;
  if (!error) entries = fs::directory_iterator(folder, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    std::error_code none;
    if (name == kConfig || is_weights_data_or_hidden(name) || entries->is_directory(none)) continue;
    if (const std::string reason = why_left(*entries, folder); !reason.empty())
      warn_once(fmt::format("{}/{} {}: it does not go with the weights", source, printable(name),
                            reason));
    else
      names.push_back(name);
  }
  if (error) throw FileError("cannot list the folder {}: {}", source, error.message());
  std::ranges::sort(names);
  if (names.size() >= kMostSideFiles) {
    warn_once(fmt::format(
        "{} holds {} files beside the weights, more than {}: {} and what sorts after it "
        "does not go with the weights",
        source, names.size() + 1, kMostSideFiles, names[kMostSideFiles - 1]));
    names.resize(kMostSideFiles - 1);
  }
  names.insert(std::ranges::upper_bound(names, kConfig), kConfig);
  return names;
}

std::string side_file(const std::string& source, const std::string& name, StoredType type) {
  const std::string path = (fs::path(source) / name).string();
  std::string contents = read_file(path, kMaxSideBytes);
  return name == kConfig ? with_type(contents, path, type) : contents;
}

std::optional<std::string> try_side_file(const std::string& source, const std::string& name,
                                         StoredType type) {
  if (name == kConfig) return side_file(source, name, type);
  try {
    return side_file(source, name, type);
  } catch (const WorldError& failure) {
    warn_once(fmt::format("{}: it does not go with the weights", failure.what()));
    return std::nullopt;
  }
}

std::size_t copy_side_files(const std::string& source, const std::string& target, StoredType type) {
  std::error_code ignored;
  if (fs::equivalent(source, target, ignored))
    return 0;  // writing would empty the file before it is read
  std::size_t copied = 0;
  for (const std::string& name : side_files(source)) {
    const std::optional<std::string> contents = try_side_file(source, name, type);
    if (!contents) continue;
    write_file_synced((fs::path(target) / name).string(), std::string_view(*contents));
    ++copied;
  }
  return copied;
}

}  // namespace ballot

#include "models/tokenizer.h"

#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "models/tokenizer/byte_alphabet.h"
#include "models/tokenizer/json_tokenizer.h"

namespace ballot {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;
constexpr const char* kBosText = "<|begin_of_text|>";
constexpr const char* kEosText = "<|end_of_text|>";

// tokenizer_config.json's "bos_token": a text, or an added token's object.
std::optional<std::string> token_text(const json& value) {
  const json& text = value.is_object() ? member(value, "content") : value;
  if (!text.is_string()) return std::nullopt;
  return text.get<std::string>();
}

std::optional<json> read_optional_json(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  json root = parse_strict_json(read_file(path.string(), kMaxFileBytes), path.string());
  if (!root.is_object())
    throw DataError("{} is {}, expected a JSON object", path.string(), shown(root));
  return root;
}

std::int32_t find_special(const JsonTokenizer& tokenizer, const char* key,
                          const std::optional<json>& tokenizer_config,
                          const std::optional<json>& config, const std::filesystem::path& folder) {
  if (tokenizer_config) {
    const json& value = member(*tokenizer_config, key);
    if (const std::optional<std::string> text = token_text(value)) {
      if (const AddedToken* const token = tokenizer.find_added(*text)) return token->id;
      throw DataError("{}: {} is {}, which tokenizer.json does not have as an added token",
                      (folder / "tokenizer_config.json").string(), key, shown(*text));
    }
    if (!value.is_null())
      throw DataError("{}: {} is {}, expected a text", (folder / "tokenizer_config.json").string(),
                      key, shown(value));
  }
  if (!config) return -1;
  const std::string id_key = std::string(key) + "_id";
  const json& given = member(*config, id_key.c_str());
  const json& value =
      given.is_array() && !given.empty() ? given.front() : given;  // the first, as in LlamaConfig
  if (value.is_null()) return -1;
  const std::optional<std::int32_t> id = as_token(value);
  if (!id || !tokenizer.has(*id))
    throw DataError("{}: {} is {}, expected a token of tokenizer.json",
                    (folder / "config.json").string(), id_key, shown(value));
  return *id;
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer(const std::string& json_text, const std::string& path) {
  return std::make_unique<JsonTokenizer>(parse_strict_json(json_text, path), path);
}

std::unique_ptr<Tokenizer> read_tokenizer(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::string path = (base / "tokenizer.json").string();
  auto tokenizer = std::make_unique<JsonTokenizer>(
      parse_strict_json(read_file(path, kMaxFileBytes), path), path);
  const std::optional<json> tokenizer_config = read_optional_json(base / "tokenizer_config.json");
  const std::optional<json> config = read_optional_json(base / "config.json");
  tokenizer->set_bos_and_eos(find_special(*tokenizer, "bos_token", tokenizer_config, config, base),
                             find_special(*tokenizer, "eos_token", tokenizer_config, config, base));
  return tokenizer;
}

std::string byte_tokenizer_json() {
  using ordered = nlohmann::ordered_json;
  const auto special = [](int id, const char* text) {
    return ordered{{"id", id},        {"content", text}, {"single_word", false},
                   {"lstrip", false}, {"rstrip", false}, {"normalized", false},
                   {"special", true}};
  };
  ordered vocabulary = ordered::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_alphabet()[byte]] = byte;
  vocabulary[kBosText] = 256;
  vocabulary[kEosText] = 257;

  ordered root;
  root["version"] = "1.0";
  root["truncation"] = nullptr;
  root["padding"] = nullptr;
  root["added_tokens"] = ordered::array({special(256, kBosText), special(257, kEosText)});
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  root["post_processor"] = nullptr;
  root["decoder"] = {{"type", "ByteLevel"},
                     {"add_prefix_space", true},
                     {"trim_offsets", true},
                     {"use_regex", true}};
  root["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", false},
                   {"vocab", vocabulary},
                   {"merges", ordered::array()}};
  return root.dump(1) + "\n";
}

std::string byte_tokenizer_config_json() {
  nlohmann::ordered_json root;
  root["tokenizer_class"] = "PreTrainedTokenizerFast";
  root["bos_token"] = kBosText;
  root["eos_token"] = kEosText;
  root["clean_up_tokenization_spaces"] = false;
  return root.dump(2) + "\n";
}

}  // namespace ballot

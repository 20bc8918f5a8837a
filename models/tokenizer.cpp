#include "models/tokenizer.h"

#include <filesystem>
#include <functional>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "models/tokenizer/byte_alphabet.h"
#include "models/tokenizer/json_tokenizer.h"
#include "models/tokenizer/sentence_piece.h"

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

// What a folder says of the tokenizer in its other files.
struct Beside {
  std::filesystem::path folder;
  const char* file;  // the tokenizer's own
  std::optional<json> tokenizer_config, config;

  Beside(std::filesystem::path where, const char* name)
      : folder(std::move(where)),
        file(name),
        tokenizer_config(read_optional_json(folder / "tokenizer_config.json")),
        config(read_optional_json(folder / "config.json")) {}
};

// The id of "bos_token" or "eos_token". `find`: the id of an added token's text, -1: there is none.
std::int32_t find_special(const Beside& beside, const char* key,
                          const std::function<std::int32_t(const std::string&)>& find,
                          const std::function<bool(std::int32_t)>& has) {
  const auto& [folder, file, tokenizer_config, config] = beside;
  if (tokenizer_config) {
    const json& value = member(*tokenizer_config, key);
    if (const std::optional<std::string> text = token_text(value)) {
      if (const std::int32_t id = find(*text); id >= 0) return id;
      throw DataError("{}: {} is {}, which {} does not have as an added token",
                      (folder / "tokenizer_config.json").string(), key, shown(*text), file);
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
  if (!id || !has(*id))
    throw DataError("{}: {} is {}, expected a token of {}", (folder / "config.json").string(),
                    id_key, shown(value), file);
  return *id;
}

std::unique_ptr<Tokenizer> read_json_tokenizer(const std::filesystem::path& folder) {
  const std::string path = (folder / "tokenizer.json").string();
  auto tokenizer = std::make_unique<JsonTokenizer>(
      parse_strict_json(read_file(path, kMaxFileBytes), path), path);
  const Beside beside(folder, "tokenizer.json");
  const auto find = [&](const std::string& text) {
    const AddedToken* const token = tokenizer->find_added(text);
    return token == nullptr ? -1 : token->id;
  };
  const auto has = [&](std::int32_t id) { return tokenizer->has(id); };
  tokenizer->set_bos_and_eos(find_special(beside, "bos_token", find, has),
                             find_special(beside, "eos_token", find, has));
  return tokenizer;
}

// "added_tokens_decoder" of tokenizer_config.json: {"0": {"content": "<unk>", ...}, ...}.
std::vector<AddedToken> tokens_beside(const Beside& beside) {
  const std::string path = (beside.folder / "tokenizer_config.json").string();
  Refusals refusals(path);
  json list = json::array();
  if (beside.tokenizer_config) {
    const json& decoder = member(*beside.tokenizer_config, "added_tokens_decoder");
    if (!decoder.is_null() && !decoder.is_object())
      throw DataError("{}: added_tokens_decoder is {}, expected an object", path, shown(decoder));
    for (const auto& [key, entry] : decoder.items()) {
      const bool digits = !key.empty() && key.size() <= 8 &&
                          key.find_first_not_of("0123456789") == std::string::npos;
      if (!digits || !entry.is_object())
        throw DataError("{}: added_tokens_decoder has {} as {}, expected an id and an object", path,
                        shown(key), shown(entry));
      list.push_back(entry);
      list.back()["id"] = static_cast<std::uint64_t>(std::stoul(key));
    }
  }
  std::vector<AddedToken> tokens = read_added_tokens(list, refusals);
  refusals.throw_if_any();
  return tokens;
}

std::unique_ptr<Tokenizer> read_sentence_piece(const std::filesystem::path& folder) {
  const std::string path = (folder / "tokenizer.model").string();
  const Beside beside(folder, "tokenizer.model");
  auto tokenizer =
      std::make_unique<SentencePiece>(read_file(path, kMaxFileBytes), path, tokens_beside(beside));
  const auto find = [&](const std::string& text) { return tokenizer->find_special(text); };
  const auto has = [&](std::int32_t id) { return id < tokenizer->vocabulary(); };
  // The model's own where the folder says nothing.
  const std::int32_t bos = find_special(beside, "bos_token", find, has),
                     eos = find_special(beside, "eos_token", find, has);
  tokenizer->set_bos_and_eos(bos >= 0 ? bos : tokenizer->bos(), eos >= 0 ? eos : tokenizer->eos());
  if (beside.tokenizer_config) {
    Refusals refusals((folder / "tokenizer_config.json").string());
    const json& root = *beside.tokenizer_config;
    tokenizer->set_legacy(read_flag(root, "legacy", true, "the file", refusals));
    tokenizer->set_template(read_flag(root, "add_bos_token", true, "the file", refusals),
                            read_flag(root, "add_eos_token", false, "the file", refusals));
    refusals.throw_if_any();
  }
  return tokenizer;
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer(const std::string& json_text, const std::string& path) {
  return std::make_unique<JsonTokenizer>(parse_strict_json(json_text, path), path);
}

std::unique_ptr<Tokenizer> parse_sentence_piece(std::string_view model, const std::string& path) {
  return std::make_unique<SentencePiece>(model, path);
}

std::unique_ptr<Tokenizer> read_tokenizer(const std::string& folder) {
  const std::filesystem::path base(folder);
  if (!std::filesystem::exists(base / "tokenizer.json") &&
      std::filesystem::exists(base / "tokenizer.model"))
    return read_sentence_piece(base);
  return read_json_tokenizer(base);
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

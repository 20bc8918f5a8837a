#include "models/tokenizer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
constexpr const char* kBosText = "<|begin_of_text|>";
constexpr const char* kEosText = "<|end_of_text|>";

// GPT-2's alphabet: each byte as one printable code point. Printable Latin-1 stands for itself; the
// other 68 bytes are, in order, U+0100, U+0101, ...
bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const int code = stands_for_itself(byte) ? byte : next++;
    if (code < 0x80) {
      alphabet[byte] = std::string(1, static_cast<char>(code));
    } else {  // below U+0800: two bytes
      alphabet[byte] = {static_cast<char>(0xc0 | code >> 6),
                        static_cast<char>(0x80 | (code & 0x3f))};
    }
  }
  return alphabet;
}

struct AddedToken {
  std::string text;
  std::int32_t id;
  bool special;  // special ones are left out by decode; others are text
};

class ByteTokenizer final : public Tokenizer {
 public:
  std::array<std::int32_t, 256> id_of_byte{};
  std::map<std::int32_t, std::string> text_of_id;  // special tokens: empty
  std::vector<AddedToken> added;                   // longest first
  std::int32_t bos_id = -1, eos_id = -1;
  std::int64_t size = 0;

  std::vector<std::int32_t> encode(std::string_view text, bool specials) const override {
    std::vector<std::int32_t> tokens;
    tokens.reserve(text.size());
    for (std::size_t i = 0; i < text.size();) {
      const AddedToken* match = specials ? find_added(text.substr(i)) : nullptr;
      if (match != nullptr) {
        tokens.push_back(match->id);
        i += match->text.size();
      } else {
        tokens.push_back(id_of_byte[static_cast<unsigned char>(text[i])]);
        ++i;
      }
    }
    return tokens;
  }

  std::string decode(const std::vector<std::int32_t>& tokens) const override {
    std::string text;
    for (const std::int32_t token : tokens) {
      const auto found = text_of_id.find(token);
      if (found == text_of_id.end())
        throw DataError("token {} is not in the vocabulary of {}", token, size);
      text += found->second;
    }
    return text;
  }

  std::int32_t bos() const override { return bos_id; }
  std::int32_t eos() const override { return eos_id; }
  std::int64_t vocabulary() const override { return size; }

 private:
  const AddedToken* find_added(std::string_view text) const {
    for (const AddedToken& token : added)
      if (text.starts_with(token.text)) return &token;
    return nullptr;
  }
};

// Collects what a tokenizer.json asks for and this reader does not do.
class Refusals {
 public:
  explicit Refusals(std::string path) : path_(std::move(path)) {}
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  void throw_if_any() const {
    if (!problems_.empty())
      throw DataError("{}: {}", path_, fmt::join(problems_, fmt::format("\n{}: ", path_)));
  }

 private:
  std::string path_;
  std::vector<std::string> problems_;
};

const json& member(const json& object, const char* key) {
  static const json null;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() ? *found : null;
}

bool is_false_or_absent(const json& value) {
  return value.is_null() || value == false;
}
bool is_empty_or_absent(const json& value) {
  return value.is_null() || (value.is_string() && value == "");
}

std::optional<std::int32_t> as_token(const json& value) {
  if (!value.is_number_unsigned() ||
      value.get<std::uint64_t>() >= static_cast<std::uint64_t>(kMaxVocabulary))
    return std::nullopt;
  return static_cast<std::int32_t>(value.get<std::uint64_t>());
}

void check_kind(const json& root, Refusals& refusals) {
  const json& model = member(root, "model");
  if (member(model, "type") != "BPE")
    refusals.add("model.type {} is not supported, expected \"BPE\"", shown(member(model, "type")));
  if (const json& merges = member(model, "merges"); !merges.is_null() && !merges.empty())
    refusals.add("model.merges has {} entries: byte-pair merges are not supported, expected none",
                 merges.size());
  for (const char* key : {"dropout", "unk_token"})
    if (!member(model, key).is_null())
      refusals.add("model.{} is {}: not supported, expected null", key, shown(member(model, key)));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!is_empty_or_absent(member(model, key)))
      refusals.add("model.{} is {}: not supported, expected null", key, shown(member(model, key)));
  if (!is_false_or_absent(member(model, "byte_fallback")))
    refusals.add("model.byte_fallback is {}: not supported, expected false",
                 shown(member(model, "byte_fallback")));

  const json& normalizer = member(root, "normalizer");
  if (!normalizer.is_null())
    refusals.add("normalizer {} is not supported, expected null",
                 shown(member(normalizer, "type")));
  const json& pre = member(root, "pre_tokenizer");
  if (member(pre, "type") != "ByteLevel") {
    refusals.add("pre_tokenizer {} is not supported, expected \"ByteLevel\"",
                 shown(member(pre, "type")));
  } else if (!is_false_or_absent(member(pre, "add_prefix_space"))) {
    refusals.add("pre_tokenizer.add_prefix_space is {}: not supported, expected false",
                 shown(member(pre, "add_prefix_space")));
  }
  // Splitting words (use_regex) changes nothing where no merge could cross a word.
  if (const json& decoder = member(root, "decoder");
      !decoder.is_null() && member(decoder, "type") != "ByteLevel")
    refusals.add("decoder {} is not supported, expected \"ByteLevel\"",
                 shown(member(decoder, "type")));
}

// model.vocab: all 256 bytes; other entries only if they are added tokens too, because without
// merges no text reaches them.
void read_vocabulary(const json& root, ByteTokenizer& tokenizer, Refusals& refusals) {
  const std::array<std::string, 256> alphabet = byte_alphabet();
  std::map<std::string, int> byte_of_symbol;
  for (int byte = 0; byte < 256; ++byte) byte_of_symbol.emplace(alphabet[byte], byte);

  const json& vocabulary = member(member(root, "model"), "vocab");
  if (!vocabulary.is_object())
    return refusals.add("model.vocab is {}, expected an object", shown(vocabulary));
  const auto take = [&](std::int32_t id, std::string text, const std::string& symbol) {
    if (!tokenizer.text_of_id.emplace(id, std::move(text)).second)
      refusals.add("id {} is given twice, the second time to {}", id, shown(symbol));
  };

  std::map<std::string, std::int32_t> others;
  int bytes = 0;
  for (const auto& [symbol, value] : vocabulary.items()) {
    const std::optional<std::int32_t> id = as_token(value);
    if (!id) {
      refusals.add("model.vocab {} is {}, expected an id in [0, {})", shown(symbol), shown(value),
                   kMaxVocabulary);
    } else if (const auto byte = byte_of_symbol.find(symbol); byte != byte_of_symbol.end()) {
      tokenizer.id_of_byte[byte->second] = *id;
      take(*id, std::string(1, static_cast<char>(byte->second)), symbol);
      ++bytes;
    } else {
      others.emplace(symbol, *id);
    }
  }
  if (bytes != 256) refusals.add("model.vocab has {} of the 256 bytes, expected all", bytes);

  const json& added = member(root, "added_tokens");
  if (!added.is_null() && !added.is_array())
    return refusals.add("added_tokens is {}, expected an array", shown(added));
  for (const json& entry : added) {
    const json& content = member(entry, "content");
    const std::optional<std::int32_t> id = as_token(member(entry, "id"));
    if (!content.is_string() || content == "" || !id) {
      refusals.add("added_tokens has {} with id {}, expected a text and an id in [0, {})",
                   shown(content), shown(member(entry, "id")), kMaxVocabulary);
      continue;
    }
    const std::string& text = content.get_ref<const std::string&>();
    for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"})
      if (!is_false_or_absent(member(entry, key)) && std::string_view(key) != "normalized")
        refusals.add("added token {} has {} = {}: not supported, expected false", shown(text), key,
                     shown(member(entry, key)));
    if (const auto other = others.find(text); other != others.end()) {
      if (other->second != *id)
        refusals.add("{} is {} in model.vocab and {} in added_tokens", shown(text), other->second,
                     *id);
      others.erase(other);
    } else if (byte_of_symbol.contains(text)) {
      refusals.add("added token {} is also a byte's symbol: not supported", shown(text));
      continue;
    }
    const bool special = member(entry, "special") == true;
    take(*id, special ? std::string() : text, text);
    tokenizer.added.push_back({text, *id, special});
  }
  if (!others.empty())
    refusals.add(
        "model.vocab has {} entries that are neither bytes nor added tokens, {} first: not "
        "supported",
        others.size(), shown(others.begin()->first));
  std::stable_sort(
      tokenizer.added.begin(), tokenizer.added.end(),
      [](const AddedToken& a, const AddedToken& b) { return a.text.size() > b.text.size(); });
  for (std::size_t i = 0; i < tokenizer.added.size(); ++i)
    for (std::size_t j = i + 1; j < tokenizer.added.size() &&
                                tokenizer.added[j].text.size() == tokenizer.added[i].text.size();
         ++j)
      if (tokenizer.added[i].text == tokenizer.added[j].text)
        refusals.add("added token {} stands twice", shown(tokenizer.added[i].text));
  if (!tokenizer.text_of_id.empty())
    tokenizer.size = std::int64_t{tokenizer.text_of_id.rbegin()->first} + 1;
}

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

std::int32_t find_special(const ByteTokenizer& tokenizer, const char* key,
                          const std::optional<json>& tokenizer_config,
                          const std::optional<json>& config, const std::filesystem::path& folder) {
  if (tokenizer_config) {
    const json& value = member(*tokenizer_config, key);
    if (const std::optional<std::string> text = token_text(value)) {
      for (const AddedToken& token : tokenizer.added)
        if (token.text == *text) return token.id;
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
  if (!id || !tokenizer.text_of_id.contains(*id))
    throw DataError("{}: {} is {}, expected a token of tokenizer.json",
                    (folder / "config.json").string(), id_key, shown(value));
  return *id;
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer(const std::string& json_text, const std::string& path) {
  const json root = parse_strict_json(json_text, path);
  if (!root.is_object()) throw DataError("{} is {}, expected a JSON object", path, shown(root));
  Refusals refusals(path);
  check_kind(root, refusals);
  refusals.throw_if_any();  // of another kind, the vocabulary's problems would only be noise
  auto tokenizer = std::make_unique<ByteTokenizer>();
  read_vocabulary(root, *tokenizer, refusals);
  refusals.throw_if_any();
  return tokenizer;
}

std::unique_ptr<Tokenizer> read_tokenizer(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::string path = (base / "tokenizer.json").string();
  std::unique_ptr<Tokenizer> tokenizer = parse_tokenizer(read_file(path, kMaxFileBytes), path);
  auto& bytes = static_cast<ByteTokenizer&>(*tokenizer);
  const std::optional<json> tokenizer_config = read_optional_json(base / "tokenizer_config.json");
  const std::optional<json> config = read_optional_json(base / "config.json");
  bytes.bos_id = find_special(bytes, "bos_token", tokenizer_config, config, base);
  bytes.eos_id = find_special(bytes, "eos_token", tokenizer_config, config, base);
  return tokenizer;
}

std::string byte_tokenizer_json() {
  using ordered = nlohmann::ordered_json;
  const auto special = [](int id, const char* text) {
    return ordered{{"id", id},        {"content", text}, {"single_word", false},
                   {"lstrip", false}, {"rstrip", false}, {"normalized", false},
                   {"special", true}};
  };
  const std::array<std::string, 256> alphabet = byte_alphabet();
  ordered vocabulary = ordered::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[alphabet[byte]] = byte;
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

// What users bring to train on: token files, rows of conversations, SentencePiece models.
#include <cstring>

#include "core/digest.h"
#include "core/error.h"
#include "models/chat_template.h"
#include "models/strict_json.h"
#include "models/tokenizer.h"
#include "runtime/data/packing.h"
#include "runtime/data/row_encoder.h"
#include "runtime/data/token_file.h"
#include "tests/fuzz/entries.h"
#include "tests/models/sentence_piece_support.h"

namespace ballot::fuzz {
namespace {

template <class Action>
bool accepted(const Action& action) {
  try {
    action();
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Every token of a file is touched, and packed.
void look_through(const TokenFile& file, const char* name) {
  const TokenData data(name, nullptr, file.tokens, file.starts);
  data.digest();
  for (std::int64_t d = 0; d < data.documents(); ++d)
    require(data.document_begin(d) >= 0 && data.document_begin(d) <= data.document_end(d) &&
                data.document_end(d) <= data.tokens().size(),
            "document {} is [{}, {})", d, data.document_begin(d), data.document_end(d));
  const Packing packing(data, Windows::packed, LongDocuments::cut, 4, 1);
  require(packing.windows() > 0 && packing.positions_used() <= 4 * packing.windows(),
          "{} positions in {} windows", packing.positions_used(), packing.windows());
}

// Digests are made right again, so that mutations come past them.
bool run_tokens(std::span<const std::byte> bytes) {
  std::vector<std::byte> file(bytes.begin(), bytes.end());
  if (file.size() >= 128) {
    const Digest words = digest_of(std::span(file).subspan(128));
    std::memcpy(file.data() + 48, &words, sizeof words);
    const Digest header = digest_of(std::span(file).first(112));
    std::memcpy(file.data() + 112, &header, sizeof header);
  }
  return accepted([&] { look_through(parse_token_file(file, "input"), "input"); });
}

// Four bytes say how many of the rest are the index.
bool run_megatron(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) return false;
  std::uint32_t length;
  std::memcpy(&length, bytes.data(), 4);
  bytes = bytes.subspan(4);
  const auto index = bytes.first(std::min<std::size_t>(length, bytes.size()));
  return accepted([&] {
    look_through(parse_megatron(index, bytes.subspan(index.size()), "idx", "bin"), "bin");
  });
}

bool run_sentence_piece(std::span<const std::byte> bytes) {
  return accepted([&] {
    const std::unique_ptr<Tokenizer> tokenizer = parse_sentence_piece(text_of(bytes), "input");
    for (const bool specials : {false, true}) {
      const std::vector<std::int32_t> tokens =
          tokenizer->encode(text_of(bytes).substr(0, 200), specials);
      for (const std::int32_t token : tokens)
        require(token >= 0 && token < tokenizer->vocabulary(), "token {} outside", token);
      tokenizer->decode(tokens);
    }
  });
}

const Tokenizer& chat_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    nlohmann::json root = nlohmann::json::parse(byte_tokenizer_json());
    int id = 258;
    for (const char* const text :
         {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"})
      root["added_tokens"].push_back({{"id", id++}, {"content", text}, {"special", true}});
    return parse_tokenizer(root.dump(), "tokenizer");
  }();
  return *tokenizer;
}

// The first byte chooses a template, the rest is a row.
bool run_chat(std::span<const std::byte> bytes) {
  if (bytes.empty()) return false;
  DocumentRules rules;
  rules.chat_template = std::to_integer<int>(bytes[0]) % 2 == 0 ? "chatml" : "smollm2";
  return accepted([&] {
    const RowEncoder encoder(chat_tokenizer(), rules, "", "", "input");
    std::vector<std::uint32_t> words;
    encoder.encode(text_of(bytes).substr(1), "input:1", words);
    for (std::size_t i = 0; i < words.size(); ++i)
      require(
          ((words[i] & kBeginsDocument) != 0) == (i == 0) &&
              (words[i] & kTokenBits) < static_cast<std::uint64_t>(chat_tokenizer().vocabulary()),
          "word {} is {:x}", i, words[i]);
  });
}

std::string small_tokens() {
  std::string file(128, '\0');
  const auto put = [&](std::size_t at, std::uint64_t value, std::size_t size) {
    std::memcpy(file.data() + at, &value, size);
  };
  const std::uint32_t words[] = {
      kBeginsDocument | kNotTrained | 1, 2, 3, kBeginsDocument | 4, 5, 6};
  std::memcpy(file.data(), "BALLOTTK", 8);
  put(8, 1, 4);
  put(12, 128, 4);
  put(16, std::size(words), 8);
  put(24, 2, 8);
  put(32, 1, 8);
  put(40, 256, 8);
  return file.append(reinterpret_cast<const char*>(words), sizeof words);
}

std::string small_megatron() {
  std::string index("MMIDIDX\0\0", 9), bin;
  const auto put = [](std::string& bytes, auto value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  put(index, std::uint64_t{1});
  put(index, std::uint8_t{8});
  put(index, std::uint64_t{3});
  put(index, std::uint64_t{3});
  for (const std::int32_t length : {2, 3, 4}) put(index, length);
  for (const std::int64_t begin : {0, 4, 10}) put(index, begin);
  for (const std::int64_t first : {0, 2, 3}) put(index, first);
  for (std::uint16_t token = 1; token <= 9; ++token) put(bin, token);
  std::string file;
  put(file, static_cast<std::uint32_t>(index.size()));
  return file + index + bin;
}

}  // namespace

std::vector<Entry> with_data_entries(std::vector<Entry> entries) {
  entries.push_back({"tokens", run_tokens, {small_tokens()}});
  entries.push_back({"megatron", run_megatron, {small_megatron()}});
  entries.push_back({"sentence_piece", run_sentence_piece, {sentence_piece_model()}});
  entries.push_back(
      {"chat",
       run_chat,
       {R"(0{"messages":[{"role":"system","content":"a"},{"role":"user","content":"b<|im_end|>"},)"
        R"({"role":"assistant","content":"\u00e9\n"}]})",
        R"(1{"prompt":"ab","completion":"cd"})"}});
  return entries;
}

}  // namespace ballot::fuzz

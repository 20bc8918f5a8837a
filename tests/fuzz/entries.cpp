#include "tests/fuzz/entries.h"

#include <cstring>
#include <memory>

#include "core/error.h"
#include "models/llama/llama_config.h"
#include "models/safetensors.h"
#include "models/tokenizer.h"
#include "runtime/token_source.h"

namespace ballot::fuzz {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class Action>
bool accepted(const Action& action) {
  try {
    action();
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

bool run_safetensors(std::span<const std::byte> bytes) {
  return accepted([&] {
    const SafetensorsReader reader(bytes, "input");
    std::uint64_t covered = 0;
    unsigned sum = 0;
    for (const StoredTensor& tensor : reader.tensors()) {
      require(static_cast<std::uint64_t>(tensor.count()) * size_bytes(tensor.type) ==
                  tensor.bytes.size(),
              "tensor {} has {} bytes", tensor.name, tensor.bytes.size());
      for (const std::byte byte : tensor.bytes)
        sum += std::to_integer<unsigned>(byte);  // touch each
      covered += tensor.bytes.size();
    }
    require(covered < bytes.size() && sum <= 255 * covered, "tensors of {} bytes in {}", covered,
            bytes.size());
  });
}

bool run_config(std::span<const std::byte> bytes) {
  return accepted([&] {
    const LlamaConfig config = parse_llama_config(std::string(text_of(bytes)), "input");
    require(to_json(parse_llama_config(to_json(config), "again")) == to_json(config),
            "a config changes when rewritten");
    require(!llama_parameter_shapes(config).empty(), "no shapes");
  });
}

bool run_tokenizer(std::span<const std::byte> bytes) {
  return accepted([&] {
    const std::unique_ptr<Tokenizer> tokenizer =
        parse_tokenizer(std::string(text_of(bytes)), "input");
    const std::string_view text = text_of(bytes).substr(0, 200);
    require(tokenizer->decode(tokenizer->encode(text)) == text, "bytes do not come back");
    for (const std::int32_t token : tokenizer->encode(text, true))
      require(token >= 0 && token < tokenizer->vocabulary(), "token {} outside", token);
  });
}

bool run_source(std::span<const std::byte> bytes, const char* format) {
  static const std::unique_ptr<Tokenizer> tokenizer =
      parse_tokenizer(byte_tokenizer_json(), "tokenizer");
  return accepted([&] {
    TokenSource source;
    source.path = "input";
    source.format = format;
    for (const std::int32_t token : parse_tokens(text_of(bytes), source, *tokenizer))
      require(token >= 0 && token < tokenizer->vocabulary(), "token {} outside", token);
  });
}
bool run_jsonl(std::span<const std::byte> bytes) {
  return run_source(bytes, "jsonl");
}
bool run_bin(std::span<const std::byte> bytes) {
  return run_source(bytes, "bin");
}

std::string small_safetensors() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"c":{"dtype":"U8","shape":[0],"data_offsets":[22,22]}})";
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(22, 'x');
}

std::string small_config() {
  LlamaConfig config;
  config.hidden_size = 64;
  config.intermediate_size = 128;
  config.layers = config.heads = config.key_value_heads = 2;
  config.head_size = 32;
  config.vocabulary = 258;
  config.max_positions = 64;
  return to_json(config);
}

std::string small_bin() {
  const std::int32_t header[256] = {20240520, 1, 3};
  const std::uint16_t tokens[3] = {1, 2, 257};
  return std::string(reinterpret_cast<const char*>(header), sizeof header) +
         std::string(reinterpret_cast<const char*>(tokens), sizeof tokens);
}

}  // namespace

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
      {"safetensors", run_safetensors, {small_safetensors()}},
      {"config",
       run_config,
       {small_config(),
        R"({"model_type":"llama","hidden_size":64,"intermediate_size":8,"num_hidden_layers":1,)"
        R"("num_attention_heads":2,"vocab_size":9,"eos_token_id":[1,2],)"
        R"("rope_parameters":{"rope_type":"default","rope_theta":5e5}})"}},
      {"tokenizer", run_tokenizer, {byte_tokenizer_json()}},
      {"jsonl",
       run_jsonl,
       {"{\"text\":\"ab\\u00e9\"}\n\n{\"text\":\"\"}\n",
        "{\"question\":\"q\",\"answer\":\"a\\n\",\"n\":[1,{}]}"}},
      {"bin", run_bin, {small_bin()}},
  };
  return all;
}

}  // namespace ballot::fuzz

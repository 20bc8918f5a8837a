#include "runtime/token_source.h"

#include <filesystem>

#include "core/error.h"
#include "models/strict_json.h"
#include "runtime/data/encode_source.h"
#include "runtime/data/token_file.h"

namespace ballot {
namespace {

// NAME.idx of NAME.idx, NAME.bin or NAME; and the bin.
std::pair<std::string, std::string> megatron_paths(const std::string& path) {
  std::filesystem::path index(path), bin(path);
  const std::string extension = index.extension().string();
  if (extension == ".idx" || extension == ".bin") {
    index.replace_extension(".idx");
    bin.replace_extension(".bin");
  } else {
    index += ".idx";
    bin += ".bin";
  }
  return {index.string(), bin.string()};
}

void check_vocabulary(const TokenData& data, const Tokenizer& tokenizer) {
  if (data.least() < 0 || data.most() >= tokenizer.vocabulary())
    for (std::int64_t i = 0; i < data.tokens().size(); ++i)
      if (const std::int32_t token = data.tokens().token(i);
          token < 0 || token >= tokenizer.vocabulary())
        throw DataError("{}: token {} of the file is {}, the vocabulary has {}", data.name(), i,
                        token, tokenizer.vocabulary());
}

// What is trained on has to be told apart where that was asked for.
TokenData check_masks(TokenData data, bool told_apart, const DataReader& reader) {
  const DocumentRules& rules = reader.rules;
  if (rules.train_on == TrainOn::all) data.train_on_all();
  if (data.predictable() == 0) return data;
  const bool asked = told_apart || rules.train_on == TrainOn::completion;
  if ((asked || data.masked()) && (data.trained() == 0 || data.trained() == data.predictable()))
    throw DataError(
        "{}: {} of its {} tokens would be trained on (data.train_on = \"{}\", data.windows = "
        "\"{}\", data.chat_template = \"{}\"); expected rows with prompts and completions, or "
        "data.train_on = \"all\"",
        data.name(), data.trained() == 0 ? "none" : "all", data.predictable(),
        to_string(rules.train_on), to_string(rules.windows), rules.chat_template);
  return data;
}

TokenData finish(TokenData data, const TokenSource& source, const DataReader& reader,
                 bool told_apart = false) {
  check_vocabulary(data, reader.tokenizer);
  return check_masks(data.part(source.first_part, source.last_part), told_apart, reader);
}

TokenData read_texts(std::string_view bytes, const TokenSource& source, const DataReader& reader) {
  std::vector<std::uint32_t> words;
  const RowsSeen seen =
      encode_source(bytes, source, reader, [&](std::span<const std::uint32_t> block) {
        words.insert(words.end(), block.begin(), block.end());
      });
  return finish(TokenData(source.path, std::move(words)), source, reader, seen.told_apart);
}

}  // namespace

std::string settled_format(const TokenSource& source) {
  std::string format = source.format;
  if (format == "auto") {
    const std::string extension = std::filesystem::path(source.path).extension().string();
    format = extension == ".jsonl" ? "jsonl"
             : extension == ".bin" ? "bin"
             : extension == ".idx" ? "megatron"
                                   : "text";
  }
  if (format != "text" && format != "jsonl" && format != "bin" && format != "megatron")
    throw ConfigError("{}: format is {}, expected auto, text, jsonl, bin or megatron", source.path,
                      shown(format));
  const bool rows = !source.row_template.empty() || source.first_row != 0 || source.last_row != -1;
  if (rows && format != "jsonl")
    throw ConfigError("{}: rows and row templates are for jsonl, the format is {}", source.path,
                      format);
  const bool parts = source.first_part != 0 || source.last_part != 1;
  if (parts && format == "jsonl")
    throw ConfigError("{}: parts are for text and bins; of jsonl take a range of rows",
                      source.path);
  if (source.first_row < 0 || source.last_row < -1 ||
      (source.last_row != -1 && source.last_row <= source.first_row))
    throw ConfigError("{}: rows [{}, {}) are empty or negative", source.path, source.first_row,
                      source.last_row);
  if (!(source.first_part >= 0 && source.first_part < source.last_part && source.last_part <= 1))
    throw ConfigError("{}: part [{}, {}) is not inside [0, 1] or is empty", source.path,
                      source.first_part, source.last_part);
  return format;
}

TokenData parse_token_data(std::string_view bytes, const TokenSource& source,
                           const DataReader& reader) {
  const std::string format = settled_format(source);
  if (format == "megatron")
    throw ConfigError("{}: Megatron's tokens are two files, not one", source.path);
  if (format != "bin") return read_texts(bytes, source, reader);
  TokenFile file = parse_token_file(std::as_bytes(std::span(bytes)), source.path);
  return finish(TokenData(source.path, nullptr, file.tokens, std::move(file.starts)), source,
                reader);
}

TokenData read_token_data(const TokenSource& source, const DataReader& reader) {
  const std::string format = settled_format(source);  // before a long read
  if (format == "megatron") {
    const auto [index_path, bin_path] = megatron_paths(source.path);
    const MappedFile index(index_path);
    const auto bin = std::make_shared<const MappedFile>(bin_path);
    TokenFile file = parse_megatron(index.bytes(), bin->bytes(), index_path, bin_path);
    return finish(TokenData(source.path, bin, file.tokens, std::move(file.starts)), source, reader);
  }
  if (format != "bin") return read_texts(SourceText(source.path).text(), source, reader);
  const auto mapped = std::make_shared<const MappedFile>(source.path);
  TokenFile file = parse_token_file(mapped->bytes(), source.path);
  return finish(TokenData(source.path, mapped, file.tokens, std::move(file.starts)), source,
                reader);
}

}  // namespace ballot

#include "runtime/token_source.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

constexpr std::size_t kBinHeaderBytes = 256 * sizeof(std::int32_t);
constexpr std::int32_t kBinMagic = 20240520;
constexpr std::int32_t kBinVersion = 1;

std::string format_of(const TokenSource& source) {
  if (source.format != "auto") return source.format;
  const std::string extension = std::filesystem::path(source.path).extension().string();
  return extension == ".jsonl" ? "jsonl" : extension == ".bin" ? "bin" : "text";
}

void check_options(const TokenSource& source, const std::string& format) {
  if (format != "text" && format != "jsonl" && format != "bin")
    throw ConfigError("{}: format is {}, expected auto, text, jsonl or bin", source.path,
                      shown(format));
  const bool rows = !source.row_template.empty() || source.first_row != 0 || source.last_row != -1;
  if (rows && format != "jsonl")
    throw ConfigError("{}: rows and row templates are for jsonl, the format is {}", source.path,
                      format);
  const bool parts = source.first_part != 0 || source.last_part != 1;
  if (parts && format == "jsonl")
    throw ConfigError("{}: parts are for text and bin; of jsonl take a range of rows", source.path);
  if (source.first_row < 0 || source.last_row < -1 ||
      (source.last_row != -1 && source.last_row <= source.first_row))
    throw ConfigError("{}: rows [{}, {}) are empty or negative", source.path, source.first_row,
                      source.last_row);
  if (!(source.first_part >= 0 && source.first_part < source.last_part && source.last_part <= 1))
    throw ConfigError("{}: part [{}, {}) is not inside [0, 1] or is empty", source.path,
                      source.first_part, source.last_part);
}

// "Question: {question}\n" as pieces: text, then perhaps a field.
struct TemplatePiece {
  std::string text;
  std::string field;  // empty: none
};

std::vector<TemplatePiece> parse_template(const std::string& text, const std::string& path) {
  std::vector<TemplatePiece> pieces(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c == '{' || c == '}') && i + 1 < text.size() && text[i + 1] == c) {
      pieces.back().text += c;
      ++i;
    } else if (c == '{') {
      const std::size_t end = text.find_first_of("{}", i + 1);
      if (end == std::string::npos || text[end] != '}' || end == i + 1)
        throw ConfigError(
            "{}: row template {} opens a field at byte {} that does not end, expected {{name}}",
            path, shown(text), i);
      pieces.back().field = text.substr(i + 1, end - i - 1);
      pieces.emplace_back();
      i = end;
    } else if (c == '}') {
      throw ConfigError("{}: row template {} has a lone }} at byte {}, expected }}}}", path,
                        shown(text), i);
    } else {
      pieces.back().text += c;
    }
  }
  return pieces;
}

std::string fill_template(const std::vector<TemplatePiece>& pieces, const nlohmann::json& row,
                          const std::string& where) {
  std::string text;
  for (const TemplatePiece& piece : pieces) {
    text += piece.text;
    if (piece.field.empty()) continue;
    const auto value = row.find(piece.field);
    if (value == row.end())
      throw DataError("{}: the row has no field {}", where, shown(piece.field));
    if (!value->is_string())
      throw DataError("{}: field {} is {}, expected a string", where, shown(piece.field),
                      shown(*value));
    text += value->get_ref<const std::string&>();
  }
  return text;
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

std::vector<std::int32_t> parse_jsonl(std::string_view bytes, const TokenSource& source,
                                      const Tokenizer& tokenizer) {
  const std::vector<TemplatePiece> given = parse_template(source.row_template, source.path);
  static const std::vector<TemplatePiece> text_field = parse_template("{text}", "");
  static const std::vector<TemplatePiece> question_answer =
      parse_template("Question: {question}\nAnswer: {answer}\n", "");

  std::vector<std::int32_t> tokens;
  std::int64_t row_count = 0, line_number = 0;
  while (!bytes.empty()) {
    const std::size_t end = std::min(bytes.find('\n'), bytes.size());
    const std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    ++line_number;
    if (is_blank(line)) continue;
    const std::int64_t row_index = row_count++;
    if (row_index < source.first_row) continue;
    if (source.last_row != -1 && row_index >= source.last_row) break;

    const std::string where = fmt::format("{}:{}", source.path, line_number);
    const nlohmann::json row = parse_strict_json(line, where);
    if (!row.is_object())
      throw DataError("{}: the row is {}, expected an object", where, shown(row));
    if (source.row_template.empty() && !row.contains("text") && !row.contains("question"))
      throw DataError(
          "{}: the row has neither \"text\" nor \"question\" and \"answer\", and there is no "
          "template",
          where);
    const std::vector<TemplatePiece>& pieces = !source.row_template.empty() ? given
                                               : row.contains("text")       ? text_field
                                                                            : question_answer;
    const std::vector<std::int32_t> text = tokenizer.encode(fill_template(pieces, row, where));
    if (tokenizer.bos() >= 0) tokens.push_back(tokenizer.bos());
    tokens.insert(tokens.end(), text.begin(), text.end());
    if (tokenizer.eos() >= 0) tokens.push_back(tokenizer.eos());
  }
  if (row_count <= source.first_row || (source.last_row != -1 && row_count < source.last_row))
    throw DataError("{} has {} rows, asked for [{}, {})", source.path, row_count, source.first_row,
                    source.last_row == -1 ? std::string("end") : std::to_string(source.last_row));
  return tokens;
}

std::vector<std::int32_t> parse_bin(std::string_view bytes, const std::string& path,
                                    const Tokenizer& tokenizer) {
  if (bytes.size() < kBinHeaderBytes)
    throw CorruptFile("{} has {} bytes, a token bin's header has {}", path, bytes.size(),
                      kBinHeaderBytes);
  std::int32_t header[3];
  std::memcpy(header, bytes.data(), sizeof header);
  if (header[0] != kBinMagic || header[1] != kBinVersion)
    throw CorruptFile("{} starts with {} {}, expected {} {} (llm.c tokens in uint16)", path,
                      header[0], header[1], kBinMagic, kBinVersion);
  const std::int64_t count = header[2];
  const std::string_view data = bytes.substr(kBinHeaderBytes);
  if (count < 0 || static_cast<std::uint64_t>(count) * 2 != data.size())
    throw CorruptFile("{} has {} bytes, its header of {} tokens needs {}", path, bytes.size(),
                      count, static_cast<std::int64_t>(kBinHeaderBytes) + 2 * count);

  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::uint16_t token;
    std::memcpy(&token, data.data() + 2 * i, 2);
    if (token >= tokenizer.vocabulary())
      throw DataError("{}: token {} of the file is {}, the vocabulary has {}", path, i, token,
                      tokenizer.vocabulary());
    tokens[i] = token;
  }
  return tokens;
}

// The part [first, last) of the stream. Neighbouring parts meet: both ends round down.
std::vector<std::int32_t> take_part(std::vector<std::int32_t> tokens, double first, double last) {
  const auto count = static_cast<double>(tokens.size());
  const auto end = static_cast<std::ptrdiff_t>(std::floor(last * count));
  const auto begin = static_cast<std::ptrdiff_t>(std::floor(first * count));
  tokens.erase(tokens.begin() + end, tokens.end());
  tokens.erase(tokens.begin(), tokens.begin() + begin);
  return tokens;
}

}  // namespace

std::vector<std::int32_t> parse_tokens(std::string_view bytes, const TokenSource& source,
                                       const Tokenizer& tokenizer) {
  const std::string format = format_of(source);
  check_options(source, format);
  if (format == "jsonl") return parse_jsonl(bytes, source, tokenizer);
  std::vector<std::int32_t> tokens =
      format == "bin" ? parse_bin(bytes, source.path, tokenizer) : tokenizer.encode(bytes);
  return take_part(std::move(tokens), source.first_part, source.last_part);
}

std::vector<std::int32_t> read_tokens(const TokenSource& source, const Tokenizer& tokenizer) {
  check_options(source, format_of(source));  // before a long read
  return parse_tokens(read_file(source.path), source, tokenizer);
}

}  // namespace ballot

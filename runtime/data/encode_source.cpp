#include "runtime/data/encode_source.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "runtime/data/row_encoder.h"

namespace ballot {
namespace {

constexpr std::size_t kRowsPerItem = 16;
constexpr std::size_t kBlockBytes = std::size_t{16} << 20;  // of text, encoded between two takes

struct Line {
  std::string_view text;
  std::int64_t number = 0;
};

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

void encode_block(const std::vector<Line>& lines, const std::string& path,
                  const RowEncoder& encoder, const TakeWords& take) {
  const std::size_t items = (lines.size() + kRowsPerItem - 1) / kRowsPerItem;
  std::vector<std::vector<std::uint32_t>> words(items);
  std::vector<std::exception_ptr> failures(items);
  parallel_items(static_cast<std::int64_t>(items), [&](std::int64_t item) {
    const auto i = static_cast<std::size_t>(item);
    try {
      const std::size_t end = std::min(lines.size(), (i + 1) * kRowsPerItem);
      for (std::size_t l = i * kRowsPerItem; l < end; ++l)
        encoder.encode(lines[l].text, fmt::format("{}:{}", path, lines[l].number), words[i]);
    } catch (...) {
      failures[i] = std::current_exception();
    }
  });
  for (std::size_t i = 0; i < items; ++i) {
    if (failures[i]) std::rethrow_exception(failures[i]);
    if (!words[i].empty()) take(words[i]);
  }
}

RowsSeen encode_jsonl(std::string_view bytes, const TokenSource& source, const DataReader& reader,
                      const TakeWords& take) {
  const RowEncoder encoder(reader.tokenizer, reader.rules, reader.model_folder, source.row_template,
                           source.path);
  std::vector<Line> block;
  std::size_t block_bytes = 0;
  std::int64_t row_count = 0, line_number = 0;
  const auto flush = [&] {
    encode_block(block, source.path, encoder, take);
    block.clear();
    block_bytes = 0;
  };
  while (!bytes.empty()) {
    const std::size_t end = std::min(bytes.find('\n'), bytes.size());
    const std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    ++line_number;
    if (is_blank(line)) continue;
    const std::int64_t row_index = row_count++;
    if (row_index < source.first_row) continue;
    if (source.last_row != -1 && row_index >= source.last_row) break;
    block.push_back({line, line_number});
    block_bytes += line.size();
    if (block_bytes >= kBlockBytes) flush();
  }
  flush();
  if (row_count <= source.first_row || (source.last_row != -1 && row_count < source.last_row))
    throw DataError("{} has {} rows, asked for [{}, {})", source.path, row_count, source.first_row,
                    source.last_row == -1 ? std::string("end") : std::to_string(source.last_row));
  return {encoder.told_apart(), encoder.whole_questions()};
}

}  // namespace

SourceText::SourceText(const std::string& path) {
  std::error_code failed;
  const std::filesystem::file_type type = std::filesystem::status(path, failed).type();
  if (failed || type == std::filesystem::file_type::regular)
    file_.emplace(path);
  else
    read_ = read_file(path);
}

std::string_view SourceText::text() const {
  if (!file_) return read_;
  return {reinterpret_cast<const char*>(file_->bytes().data()), file_->bytes().size()};
}

RowsSeen encode_source(std::string_view bytes, const TokenSource& source, const DataReader& reader,
                       const TakeWords& take) {
  if (settled_format(source) == "jsonl") return encode_jsonl(bytes, source, reader, take);
  const std::vector<std::int32_t> tokens = reader.tokenizer.encode(bytes);
  std::vector<std::uint32_t> words(tokens.begin(), tokens.end());
  if (words.empty()) return {};
  words.front() |= kBeginsDocument;
  take(words);
  return {};
}

}  // namespace ballot

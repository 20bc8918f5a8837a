// Texts of a source as words, in order, a block at a time: for who keeps them and for who writes
// them to a file.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/file.h"
#include "runtime/token_source.h"

namespace ballot {

// A source's text: a file's is mapped, what comes through a pipe is read to its end.
class SourceText {
 public:
  explicit SourceText(const std::string& path);  // FileError
  std::string_view text() const;

 private:
  std::optional<MappedFile> file_;
  std::string read_;
};

// What was seen among rows.
struct RowsSeen {
  bool told_apart = false;       // some tell apart what is not to be trained on
  bool whole_questions = false;  // some are questions that are trained on with their answers
};

using TakeWords = std::function<void(std::span<const std::uint32_t>)>;

// Text and JSONL. Rows are encoded by all threads; `take` is called by this one, with whole
// documents (a text's only one) in the file's order. The error thrown is that of the first bad row.
RowsSeen encode_source(std::string_view bytes, const TokenSource& source, const DataReader& reader,
                       const TakeWords& take);

}  // namespace ballot

#include "runtime/data/first_sample.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "models/tokenizer/utf8.h"

namespace ballot {
namespace {

constexpr std::size_t kMostBytes = 400;  // of a stretch
constexpr int kMostDocuments = 4;

// Tokens and cuts may hold a part of a character: U+FFFD for what is no UTF-8, as terminals do.
std::string well_formed(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0)
      result += "\ufffd";
    else
      result += text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(1, length));
  }
  return result;
}

std::string decode(const std::vector<std::int32_t>& tokens, const Tokenizer& tokenizer) {
  std::string text;
  std::vector<std::int32_t> plain;
  const auto flush = [&] {
    if (!plain.empty()) text += tokenizer.decode(plain);
    plain.clear();
  };
  for (const std::int32_t token : tokens) {
    const std::string special = tokenizer.special_text(token);
    if (special.empty()) {
      plain.push_back(token);
    } else {
      flush();
      text += special;
    }
  }
  flush();
  if (text.size() <= kMostBytes) return well_formed(text);
  const std::string_view all = text;
  return fmt::format("{} [{} bytes] {}", well_formed(all.substr(0, kMostBytes / 2)),
                     all.size() - kMostBytes, well_formed(all.substr(all.size() - kMostBytes / 2)));
}

}  // namespace

std::string show_sample(const TokenBatch& batch, std::int64_t row, const Tokenizer& tokenizer) {
  require(row >= 0 && row < batch.sequences && batch.length > 0, "row {} of {}", row,
          batch.sequences);
  const std::int64_t begin = row * batch.length;
  const auto at = [&](const std::vector<std::int32_t>& values, std::int64_t i) {
    return values[static_cast<std::size_t>(begin + i)];
  };
  const bool documents = !batch.document_starts.empty();
  std::string text;
  int shown = 0, all = 0;
  std::int64_t trained = 0, padding = 0;
  for (std::int64_t i = 0; i < batch.length;) {
    std::int64_t end = documents ? i + 1 : batch.length;
    while (end < batch.length && at(batch.document_starts, end) == i) ++end;
    bool any = false;
    for (std::int64_t t = i; t < end; ++t) any = any || at(batch.targets, t) != kNoTarget;
    if (!any) {  // what is left of the window
      padding += end - i;
      i = end;
      continue;
    }
    // Token i + 1 is the target of position i, and the input of position i + 1 within a document.
    std::vector<std::int32_t> stretch = {at(batch.inputs, i)};
    bool in_trained = false;
    std::string line;
    const auto flush = [&] {
      line += decode(stretch, tokenizer);
      stretch.clear();
    };
    for (std::int64_t t = i; t < end; ++t) {
      const bool counts = at(batch.targets, t) != kNoTarget;
      if (!counts && t + 1 == end) break;  // the last token, known as a target only
      if (counts != in_trained) {
        flush();
        line += counts ? ">>" : "<<";
        in_trained = counts;
      }
      stretch.push_back(counts ? at(batch.targets, t) : at(batch.inputs, t + 1));
      trained += counts;
    }
    flush();
    if (in_trained) line += "<<";
    if (shown < kMostDocuments) {
      ++shown;
      text += fmt::format("\n  {}", line);
    }
    ++all;
    i = end;
  }
  return fmt::format(
      "the first sample: {} positions, {} trained on, {} left empty; {} document{}; trained on is "
      "what stands between >> and <<{}{}",
      batch.length, trained, padding, all, all == 1 ? "" : "s", text,
      all > shown ? fmt::format("\n  and {} more", all - shown) : "");
}

}  // namespace ballot

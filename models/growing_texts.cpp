#include "models/growing_texts.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {

GrowingTexts::GrowingTexts(std::int64_t sequences, std::int64_t max_length, std::int64_t vocabulary,
                           std::int64_t rows_at_once)
    : max_length_(max_length), vocabulary_(vocabulary), rows_at_once_(rows_at_once) {
  require(sequences > 0 && max_length > 0 && rows_at_once > 0,
          "{} texts of up to {} tokens, {} rows at once", sequences, max_length, rows_at_once);
  lengths_.resize(static_cast<std::size_t>(sequences));
}

void GrowingTexts::check(std::span<const std::vector<std::int32_t>> tokens) const {
  require(tokens.size() == lengths_.size(), "tokens for {} texts of {}", tokens.size(),
          lengths_.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int64_t length = lengths_[i] + static_cast<std::int64_t>(tokens[i].size());
    require(length <= max_length_, "text {} would have {} tokens, there is room for {}", i, length,
            max_length_);
    for (const std::int32_t token : tokens[i])
      if (token < 0 || token >= vocabulary_)
        throw DataError("token {} in text {}, expected 0 to {}", token, i, vocabulary_ - 1);
  }
}

GrowingTexts::Pass GrowingTexts::next(std::span<const std::vector<std::int32_t>> tokens,
                                      std::vector<std::int64_t>& taken) {
  Pass pass;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto first_row = static_cast<std::int64_t>(pass.inputs.size());
    const std::int64_t rows =
        std::min(static_cast<std::int64_t>(tokens[i].size()) - taken[i], rows_at_once_ - first_row);
    if (rows == 0) continue;
    pass.where.push_back({static_cast<std::int64_t>(i), first_row, rows, lengths_[i]});
    const auto begin = tokens[i].begin() + taken[i];
    pass.inputs.insert(pass.inputs.end(), begin, begin + rows);
    taken[i] += rows;
    lengths_[i] += rows;
  }
  return pass;
}

}  // namespace ballot

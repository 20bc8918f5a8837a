// Texts that grow: how long each is, and which of its new tokens the next pass of a model takes.
// What every family's Generation begins with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/ops/attention_cache.h"  // NewPositions

namespace ballot {

class GrowingTexts {
 public:
  static constexpr std::int64_t kRowsAtOnce = 1024;

  // LogicError for no texts, or texts of no length.
  GrowingTexts(std::int64_t sequences, std::int64_t max_length, std::int64_t vocabulary,
               std::int64_t rows_at_once = kRowsAtOnce);

  std::int64_t length(std::int64_t sequence) const {
    return lengths_[static_cast<std::size_t>(sequence)];
  }

  struct Pass {
    std::vector<std::int32_t> inputs;
    std::vector<NewPositions> where;  // rows of `inputs`, in order
  };
  // Hands out tokens[i] for text i in passes of at most `rows_at_once` rows, so that what a long
  // prompt needs does not grow with it, and lets the texts grow by them. run(pass). DataError for
  // tokens outside the vocabulary, LogicError for a text beyond max_length; then nothing has grown.
  template <class Run>
  void extend(std::span<const std::vector<std::int32_t>> tokens, const Run& run) {
    check(tokens);
    std::vector<std::int64_t> taken(tokens.size());
    for (Pass pass = next(tokens, taken); !pass.inputs.empty(); pass = next(tokens, taken))
      run(pass);
  }

 private:
  void check(std::span<const std::vector<std::int32_t>> tokens) const;
  Pass next(std::span<const std::vector<std::int32_t>> tokens, std::vector<std::int64_t>& taken);

  std::int64_t max_length_, vocabulary_, rows_at_once_;
  std::vector<std::int64_t> lengths_;
};

}  // namespace ballot

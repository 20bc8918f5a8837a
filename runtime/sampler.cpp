#include "runtime/sampler.h"

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"

namespace ballot {
namespace {

void shape_batch(TokenBatch& batch, std::int64_t sequences, std::int64_t length) {
  batch.sequences = sequences;
  batch.length = length;
  batch.inputs.resize(static_cast<std::size_t>(sequences * length));
  batch.targets.resize(static_cast<std::size_t>(sequences * length));
}

// Row `row` of the batch: tokens start .. start+T-1, each to predict its successor.
void copy_window(std::span<const std::int32_t> tokens, std::int64_t start, std::int64_t row,
                 TokenBatch& batch) {
  const auto source = tokens.begin() + start;
  std::copy_n(source, batch.length, batch.inputs.begin() + row * batch.length);
  std::copy_n(source + 1, batch.length, batch.targets.begin() + row * batch.length);
}

void require_enough(std::span<const std::int32_t> tokens, std::int64_t length,
                    const std::string& name) {
  require(length > 0, "windows of {} tokens of {}", length, name);
  if (static_cast<std::int64_t>(tokens.size()) < length + 1)
    throw DataError("{} has {} tokens, a window of {} needs {}", name, tokens.size(), length,
                    length + 1);
}

}  // namespace

Sampler::Sampler(std::span<const std::int32_t> tokens, std::int64_t length, std::uint64_t seed,
                 const std::string& name)
    : tokens_(tokens), length_(length), seed_(seed) {
  require_enough(tokens, length, name);
}

std::int64_t Sampler::start(std::int64_t id) const {
  // The high half of hash x starts: uniform on [0, starts) up to a bias of starts / 2^64.
  const std::uint64_t starts = tokens_.size() - static_cast<std::uint64_t>(length_);
  const std::uint64_t hash = hash64(seed_, kSampleStream, static_cast<std::uint64_t>(id));
  return static_cast<std::int64_t>(
      static_cast<std::uint64_t>(static_cast<unsigned __int128>(hash) * starts >> 64));
}

void Sampler::draw(std::int64_t first_id, std::int64_t sequences, TokenBatch& batch) const {
  require(first_id >= 0 && sequences >= 0, "{} samples from id {}", sequences, first_id);
  shape_batch(batch, sequences, length_);
  for (std::int64_t row = 0; row < sequences; ++row)
    copy_window(tokens_, start(first_id + row), row, batch);
}

EvaluationWindows::EvaluationWindows(std::span<const std::int32_t> tokens, std::int64_t length,
                                     std::int64_t limit, const std::string& name)
    : tokens_(tokens), length_(length) {
  require_enough(tokens, length, name);
  all_ = (static_cast<std::int64_t>(tokens.size()) - 1) / length;
  count_ = limit > 0 ? std::min(limit, all_) : all_;
}

void EvaluationWindows::fill(std::int64_t first, std::int64_t sequences, TokenBatch& batch) const {
  require(first >= 0 && sequences >= 0 && first + sequences <= count_,
          "evaluation windows [{}, {}) of {}", first, first + sequences, count_);
  shape_batch(batch, sequences, length_);
  for (std::int64_t row = 0; row < sequences; ++row) {
    // Window i of count stands at i / count of the way; with all of them this is i itself. 128
    // bits: i * all may not fit in 64.
    const auto window =
        static_cast<std::int64_t>(static_cast<__int128>(first + row) * all_ / count_);
    copy_window(tokens_, window * length_, row, batch);
  }
}

}  // namespace ballot

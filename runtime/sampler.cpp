#include "runtime/sampler.h"

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"

namespace ballot {
namespace {

constexpr std::uint64_t kEpochStream = 0x65706f6368;  // "epoch"

void shape_batch(TokenBatch& batch, std::int64_t sequences, std::int64_t length, bool documents) {
  const auto count = static_cast<std::size_t>(sequences * length);
  batch.sequences = sequences;
  batch.length = length;
  batch.inputs.resize(count);
  batch.targets.resize(count);
  batch.document_starts.resize(documents ? count : 0);
}

// Row `row` of the batch: tokens start .. start+T-1, each to predict its successor.
void copy_window(const TokenView& tokens, std::int64_t start, std::int64_t row, TokenBatch& batch) {
  tokens.copy_inputs(start, batch.length, batch.inputs.data() + row * batch.length);
  tokens.copy_targets(start + 1, batch.length, batch.targets.data() + row * batch.length);
}

void require_enough(const TokenView& tokens, std::int64_t length, const std::string& name) {
  require(length > 0, "windows of {} tokens of {}", length, name);
  if (tokens.size() < length + 1)
    throw DataError("{} has {} tokens, a window of {} needs {}", name, tokens.size(), length,
                    length + 1);
}

// A stream's window might hold nothing to train on.
void require_unmasked(const TokenData& data, const std::string& key) {
  if (data.masked())
    throw DataError(
        "{} = \"{}\": {} of its tokens are not trained on, and data.windows = \"stream\" cannot "
        "leave them out; expected \"packed\" or \"single\", or data.train_on = \"all\"",
        key, data.name(), data.predictable() - data.trained());
}

}  // namespace

Sampler::Sampler(TokenView tokens, std::int64_t length, std::uint64_t seed, const std::string& name)
    : tokens_(tokens), length_(length), seed_(seed) {
  require_enough(tokens, length, name);
}

std::int64_t Sampler::start(std::int64_t id) const {
  // The high half of hash x starts: uniform on [0, starts) up to a bias of starts / 2^64.
  const std::uint64_t starts = static_cast<std::uint64_t>(tokens_.size() - length_);
  const std::uint64_t hash = hash64(seed_, kSampleStream, static_cast<std::uint64_t>(id));
  return static_cast<std::int64_t>(
      static_cast<std::uint64_t>(static_cast<unsigned __int128>(hash) * starts >> 64));
}

void Sampler::draw(std::int64_t first_id, std::int64_t sequences, TokenBatch& batch) const {
  require(first_id >= 0 && sequences >= 0, "{} samples from id {}", sequences, first_id);
  shape_batch(batch, sequences, length_, false);
  for (std::int64_t row = 0; row < sequences; ++row)
    copy_window(tokens_, start(first_id + row), row, batch);
}

DocumentSampler::DocumentSampler(const TokenData& data, Windows windows, LongDocuments policy,
                                 std::int64_t length, std::uint64_t seed)
    : packing_(data, windows, policy, length, seed), length_(length), seed_(seed) {}

std::int64_t DocumentSampler::window(std::int64_t id) const {
  const std::int64_t windows = packing_.windows(), epoch = id / windows;
  return shuffled(id % windows, windows,
                  hash64(seed_, kEpochStream, static_cast<std::uint64_t>(epoch)));
}

void DocumentSampler::draw(std::int64_t first_id, std::int64_t sequences, TokenBatch& batch) const {
  require(first_id >= 0 && sequences >= 0, "{} samples from id {}", sequences, first_id);
  shape_batch(batch, sequences, length_, true);
  for (std::int64_t row = 0; row < sequences; ++row)
    packing_.fill(window(first_id + row), row, batch);
}

std::unique_ptr<SampleSource> make_sample_source(const TokenData& data, const DocumentRules& rules,
                                                 std::int64_t length, std::uint64_t seed,
                                                 const std::string& key) {
  const Windows windows = resolve_windows(rules, data);
  if (windows != Windows::stream)
    return std::make_unique<DocumentSampler>(data, windows, rules.long_documents, length, seed);
  require_unmasked(data, key);
  return std::make_unique<Sampler>(data.tokens(), length, seed, key);
}

std::string describe(const TokenData& data, const SampleSource& samples) {
  const std::int64_t tokens = data.tokens().size();
  const auto* const documents = dynamic_cast<const DocumentSampler*>(&samples);
  if (documents == nullptr)
    return fmt::format("{} tokens as one stream, windows start anywhere", tokens);
  const Packing& packing = documents->packing();
  TokenBatch one;
  documents->draw(0, 1, one);
  std::string text = fmt::format(
      "{} documents, {} tokens, {:.1f} % trained on; {} windows of {} an epoch, {:.1f} % filled",
      data.documents(), tokens,
      100.0 * static_cast<double>(data.trained()) /
          static_cast<double>(std::max<std::int64_t>(1, data.predictable())),
      packing.windows(), one.length,
      100.0 * static_cast<double>(packing.positions_used()) /
          static_cast<double>(packing.windows() * one.length));
  if (packing.documents_cut() > 0)
    text += fmt::format("; {} documents are longer and cut", packing.documents_cut());
  if (packing.documents_left_out() > 0)
    text +=
        fmt::format("; {} have nothing to train on and are left out", packing.documents_left_out());
  return text;
}

EvaluationWindows::EvaluationWindows(TokenView tokens, std::int64_t length, std::int64_t limit,
                                     const std::string& name)
    : tokens_(tokens), length_(length) {
  require_enough(tokens, length, name);
  all_ = (tokens.size() - 1) / length;
  count_ = limit > 0 ? std::min(limit, all_) : all_;
}

EvaluationWindows::EvaluationWindows(const TokenData& data, const DocumentRules& rules,
                                     std::int64_t length, std::int64_t limit,
                                     const std::string& key)
    : tokens_(data.tokens()), length_(length) {
  const Windows windows = resolve_windows(rules, data);
  if (windows == Windows::stream) {
    require_unmasked(data, key);
    require_enough(tokens_, length, key);
    all_ = (tokens_.size() - 1) / length;
  } else {
    packing_ = std::make_unique<Packing>(data, windows, rules.long_documents, length, 0);
    all_ = packing_->windows();
  }
  count_ = limit > 0 ? std::min(limit, all_) : all_;
}

void EvaluationWindows::fill(std::int64_t first, std::int64_t sequences, TokenBatch& batch) const {
  require(first >= 0 && sequences >= 0 && first + sequences <= count_,
          "evaluation windows [{}, {}) of {}", first, first + sequences, count_);
  shape_batch(batch, sequences, length_, packing_ != nullptr);
  for (std::int64_t row = 0; row < sequences; ++row) {
    // Window i of count stands at i / count of the way; with all of them this is i itself. 128
    // bits: i * all may not fit in 64.
    const auto window =
        static_cast<std::int64_t>(static_cast<__int128>(first + row) * all_ / count_);
    if (packing_)
      packing_->fill(window, row, batch);
    else
      copy_window(tokens_, window * length_, row, batch);
  }
}

}  // namespace ballot

// Which tokens a sample holds: a pure function of (seed, sample id), so that no schedule of workers
// changes it.
//
// Sample ids count up from 0 over the whole run; voter v of W takes ids counter + v * B ... in a
// step, and the counter then rises by W * B.
// Of a stream a sample is a window of length + 1 tokens that starts anywhere: at the high 64 bits
// of hash64(seed, kSampleStream, id) * (N - length), for N tokens.
// Of documents it is a window of a Packing of N windows: ids [eN, eN + N) are epoch e, which takes
// each window once, in an order of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "models/model.h"  // TokenBatch
#include "runtime/data/packing.h"
#include "runtime/data/token_data.h"

namespace ballot {

inline constexpr std::uint64_t kSampleStream =
    0x73616d706c65;  // "sample": apart from what else the seed is used for

class SampleSource {
 public:
  virtual ~SampleSource() = default;
  // Samples first_id .. first_id + sequences - 1. Reuses the batch's memory. Any thread.
  virtual void draw(std::int64_t first_id, std::int64_t sequences, TokenBatch& batch) const = 0;
};

// Of a stream.
class Sampler final : public SampleSource {
 public:
  // `tokens` must outlive it. Throws DataError if there are fewer than length + 1 tokens ("name"
  // says which data).
  Sampler(TokenView tokens, std::int64_t length, std::uint64_t seed, const std::string& name);
  void draw(std::int64_t first_id, std::int64_t sequences, TokenBatch& batch) const override;
  // Where sample `id` starts, in [0, N - length).
  std::int64_t start(std::int64_t id) const;

 private:
  TokenView tokens_;
  std::int64_t length_;
  std::uint64_t seed_;
};

// Of documents.
class DocumentSampler final : public SampleSource {
 public:
  DocumentSampler(const TokenData& data, Windows windows, LongDocuments policy, std::int64_t length,
                  std::uint64_t seed);
  void draw(std::int64_t first_id, std::int64_t sequences, TokenBatch& batch) const override;
  const Packing& packing() const { return packing_; }
  std::int64_t window(std::int64_t id) const;

 private:
  Packing packing_;
  std::int64_t length_;
  std::uint64_t seed_;
};

// What [data] asks for. `data` must outlive it; `key` names it in messages ("data.train").
std::unique_ptr<SampleSource> make_sample_source(const TokenData& data, const DocumentRules& rules,
                                                 std::int64_t length, std::uint64_t seed,
                                                 const std::string& key);
// One line: documents, tokens, what is trained on, windows.
std::string describe(const TokenData& data, const SampleSource& samples);

// Held-out data as consecutive windows: window k reads tokens kT .. kT+T-1 and predicts kT+1 ..
// kT+T; the remainder is dropped. Of documents: the windows of a Packing. With 0 < limit < all,
// that many windows spread evenly over them.
class EvaluationWindows {
 public:
  EvaluationWindows(TokenView tokens, std::int64_t length, std::int64_t limit,
                    const std::string& name);
  EvaluationWindows(const TokenData& data, const DocumentRules& rules, std::int64_t length,
                    std::int64_t limit, const std::string& key);
  std::int64_t count() const { return count_; }
  // Windows [first, first + sequences) of the chosen ones.
  void fill(std::int64_t first, std::int64_t sequences, TokenBatch& batch) const;

 private:
  TokenView tokens_;
  std::unique_ptr<const Packing> packing_;  // null: of a stream
  std::int64_t length_, count_, all_;
};

}  // namespace ballot

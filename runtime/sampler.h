// Which tokens a sample holds: a pure function of (seed, sample id), so that no schedule of workers
// changes it.
//
// Sample ids count up from 0 over the whole run; voter v of W takes ids counter + v * B ... in a
// step, and the counter then rises by W * B. A training sample is a window of length + 1 tokens
// that starts anywhere in the stream: at the high 64 bits of hash64(seed, kSampleStream, id) * (N -
// length), for a stream of N tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/model.h"  // TokenBatch

namespace ballot {

inline constexpr std::uint64_t kSampleStream =
    0x73616d706c65;  // "sample": apart from what else the seed is used for

class Sampler {
 public:
  // `tokens` must outlive it. Throws DataError if there are fewer than length + 1 tokens ("name"
  // says which data).
  Sampler(std::span<const std::int32_t> tokens, std::int64_t length, std::uint64_t seed,
          const std::string& name);
  // Samples first_id .. first_id + sequences - 1. Reuses the batch's memory.
  void draw(std::int64_t first_id, std::int64_t sequences, TokenBatch& batch) const;
  // Where sample `id` starts, in [0, N - length).
  std::int64_t start(std::int64_t id) const;

 private:
  std::span<const std::int32_t> tokens_;
  std::int64_t length_;
  std::uint64_t seed_;
};

// Held-out data as consecutive windows: window k reads tokens kT .. kT+T-1 and predicts kT+1 ..
// kT+T; the remainder is dropped. With 0 < limit < all, that many windows spread evenly over the
// stream.
class EvaluationWindows {
 public:
  EvaluationWindows(std::span<const std::int32_t> tokens, std::int64_t length, std::int64_t limit,
                    const std::string& name);
  std::int64_t count() const { return count_; }
  // Windows [first, first + sequences) of the chosen ones.
  void fill(std::int64_t first, std::int64_t sequences, TokenBatch& batch) const;

 private:
  std::span<const std::int32_t> tokens_;
  std::int64_t length_, count_, all_;
};

}  // namespace ballot

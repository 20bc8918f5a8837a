// Ballots are hashes of what they depend on; updates are real arithmetic on real bits.
#include "tests/simulation/toy_model.h"

#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/hash.h"

namespace ballot::sim {
namespace {

constexpr float kRate = 1e-3f, kBeta1 = 0.9f, kBeta2 = 0.99f;

TensorFactors factors_of(std::int64_t step) {
  TensorFactors f;
  f.step = kRate / (1.0f + 0.01f * static_cast<float>(step));
  f.decay = 0.1f * f.step;
  return f;
}

}  // namespace

ToyModel::ToyModel(std::uint64_t seed) {
  for (std::size_t i = 0; i < voted.size(); ++i)
    voted[i] = static_cast<float>(hash64(seed, 1, i) >> 40) * 0x1p-24f;
  for (std::size_t i = 0; i < kUnvoted; ++i)
    unvoted[i] = static_cast<float>(hash64(seed, 2, i) >> 40) * 0x1p-24f;
  position = genesis(seed);
}

Position genesis(std::uint64_t seed) {
  return {0, {hash64(seed, 3, 0), hash64(seed, 3, 1)}};
}

void ToyModel::apply(const Record& record, const Position& after, bool as_update) {
  require(record.previous == position.digest && record.step == position.step + 1,
          "step {} applied to step {}", record.step, position.step);
  const TensorFactors f = record.factors.empty() ? TensorFactors{} : record.factors.front();
  for (const ChunkVerdictRecord& chunk : record.chunks)
    for (std::size_t w = 0; w < chunk.bits.size(); ++w) {
      float& p = voted[static_cast<std::size_t>(chunk.begin / 64) + w];
      const int sum = 64 - 2 * std::popcount(chunk.bits[w]);
      const float weighted =
          static_cast<float>(sum) + static_cast<float>(chunk.bits[w] >> 40) * 0x1p-24f;
      p = (p - f.decay * p) - f.step * weighted;
    }
  const bool has_mean = !record.means.empty() && record.means.front().contributors.at(0) > 0;
  if (has_mean) {
    ++count;
    const MeanRecord& mean = record.means.front();
    for (std::size_t i = 0; i < kUnvoted; ++i) {
      if (as_update && !mean.present) {  // all that such a record has
        unvoted[i] -= record.means.at(1).values[i];
        continue;
      }
      m[i] = kBeta1 * m[i] + (1 - kBeta1) * mean.values[i];
      v[i] = kBeta2 * v[i] + (1 - kBeta2) * mean.values[i] * mean.values[i];
      unvoted[i] -= f.step * m[i] / (std::sqrt(v[i]) + 1e-8f);
    }
  }
  position = after;
}

void ToyModel::flip(int bit) {
  float& p = voted[static_cast<std::size_t>(bit / 23) % voted.size()];
  p = std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) ^ (1u << bit % 23));
}

Digest ToyModel::digest() const {
  DigestStream stream;
  stream.add(std::as_bytes(std::span(voted)));
  stream.add(std::as_bytes(std::span(unvoted)));
  stream.add(std::as_bytes(std::span(m)));
  stream.add(std::as_bytes(std::span(v)));
  stream.add(static_cast<std::uint64_t>(count));
  return stream.digest();
}

std::shared_ptr<const ToyBallot> compute_ballot(const ToyModel& model, std::int32_t worker,
                                                const SampleRange& samples) {
  auto ballot = std::make_shared<ToyBallot>();
  ballot->worker = worker;
  ballot->base = model.position;
  ballot->samples = samples;
  const auto bits = std::bit_cast<std::uint32_t>(model.voted[3]);
  const std::uint64_t mixed =
      hash64(model.position.digest.low, bits, static_cast<std::uint64_t>(samples.begin),
             static_cast<std::uint64_t>(worker));
  for (std::int64_t w = 0; w < kWords; ++w)
    ballot->all_bits.push_back(mix64(mixed ^ static_cast<std::uint64_t>(w)));
  ballot->gradients.emplace_back();
  for (std::size_t i = 0; i < kUnvoted; ++i)
    ballot->gradients.back().push_back(
        static_cast<float>(static_cast<std::int64_t>(hash64(mixed, 7, i) >> 40) - (1 << 23)) *
        0x1p-23f);
  return ballot;
}

SampleRange chunk_elements(std::int32_t chunk, std::int32_t chunks) {
  return {512 * (kUnits * chunk / chunks), 512 * (kUnits * (chunk + 1) / chunks)};
}

ChunkVerdict tally_chunk(const DecideChunk& decision,
                         const std::vector<std::shared_ptr<const ToyBallot>>& ballots,
                         const ToyModel& model, bool as_update) {
  ChunkVerdict out;
  const SampleRange elements = chunk_elements(decision.chunk, decision.chunks);
  out.verdict.begin = elements.begin;
  out.verdict.end = elements.end;
  for (std::int64_t w = elements.begin / 64; w < elements.end / 64; ++w) {
    std::uint64_t word = 0;
    const std::uint64_t coin =
        hash64(42, static_cast<std::uint64_t>(decision.step), static_cast<std::uint64_t>(w));
    for (int bit = 0; bit < 64; ++bit) {
      int negative = 0;
      for (const auto& b : ballots)
        negative += static_cast<int>(b->all_bits[static_cast<std::size_t>(w)] >> bit & 1);
      const int positive = static_cast<int>(ballots.size()) - negative;
      const bool one = negative != positive ? negative > positive : (coin >> bit & 1) != 0;
      word |= static_cast<std::uint64_t>(one) << bit;
    }
    out.verdict.bits.push_back(word);
  }
  out.verdict.digest = out.verdict.body_digest();
  if (decision.chunk != 0) return out;
  out.factors = {factors_of(decision.step)};
  MeanRecord mean;
  mean.contributors = {static_cast<std::int32_t>(ballots.size())};
  for (std::size_t i = 0; i < kUnvoted; ++i) {
    float sum = 0;
    for (const auto& b : ballots) sum += b->gradients[0][i];
    sum /= static_cast<float>(ballots.size());
    mean.values.push_back(sum);
  }
  mean.digest = mean.body_digest();
  out.means.push_back(mean);
  if (!as_update) return out;
  for (std::size_t i = 0; i < kUnvoted; ++i) {
    const float g = mean.values[i];
    const float m = kBeta1 * model.m[i] + (1 - kBeta1) * g;
    const float v = kBeta2 * model.v[i] + (1 - kBeta2) * g * g;
    mean.values[i] = out.factors[0].step * m / (std::sqrt(v) + 1e-8f);
  }
  mean.digest = mean.body_digest();
  out.means.push_back(std::move(mean));
  return out;
}

Record without_means(Record record) {
  record.means.at(0).present = false;
  record.means.at(0).values.clear();
  return record;
}

}  // namespace ballot::sim

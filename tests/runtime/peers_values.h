// Ballots and verdicts for tests: of any size, their content a function of the seed.
#pragma once

#include <algorithm>
#include <bit>
#include <memory>
#include <random>

#include "runtime/protocol/worker_messages.h"
#include "tests/runtime/journal_support.h"

namespace ballot::test {

inline std::shared_ptr<const BallotData> make_ballot(std::size_t words, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  auto data = std::make_shared<BallotData>();
  for (std::size_t i = 0; i < words; ++i) data->bits.push_back(random());
  for (std::size_t i = 0; i < (words + 7) / 8; ++i) data->abstentions.push_back(random());
  data->loss_sum = static_cast<double>(random() % 1000) / 8;
  data->tokens = static_cast<std::int64_t>(random() % 1000);
  return data;
}

inline BallotFrame ballot_frame(std::int64_t step, std::int32_t chunk = 0, std::int32_t voter = 0) {
  BallotFrame frame;
  frame.step = step;
  frame.chunk = chunk;
  frame.voter = voter;
  frame.base = {step - 1, {7, static_cast<std::uint64_t>(step)}};
  frame.samples = {10 * step, 10 * step + 5};
  return frame;
}

// The verdict of the only chunk of a record.
inline std::shared_ptr<const VerdictFrame> make_verdict(std::int64_t step, std::int64_t units,
                                                        std::uint64_t seed = 1) {
  RecordShape shape;
  shape.chunks = 1;
  shape.means = 2;
  shape.holds_elements = true;
  Record record = make_record({step - 1, {7, static_cast<std::uint64_t>(step)}}, seed, shape);
  ChunkVerdictRecord& chunk = record.chunks[0];
  std::mt19937_64 random(seed);
  chunk.begin = 512;
  chunk.end = 512 + 512 * units;
  chunk.bits.assign(static_cast<std::size_t>(8 * units), 0);
  for (std::uint64_t& word : chunk.bits) word = random();
  chunk.held_blocks.assign(static_cast<std::size_t>(units / 8), random());
  chunk.held_elements.clear();
  record.seal();
  auto frame = std::make_shared<VerdictFrame>();
  frame->step = step;
  frame->chunk = 0;
  frame->base = {step - 1, {7, static_cast<std::uint64_t>(step)}};
  ChunkFigures figures;
  figures.votes.elements = 500 * units;
  figures.votes.ties = std::min<std::int64_t>(3, figures.votes.elements);
  figures.votes.unanimous = 400 * units;
  figures.votes.blocks = units;
  for (const std::uint64_t word : chunk.counted)
    for (int voter = 0; voter < std::popcount(word); ++voter) {
      const std::int64_t compared = std::min<std::int64_t>(voter + 7, 512 * units);
      figures.votes.agreed.push_back(std::min<std::int64_t>(voter, compared));
      figures.votes.compared.push_back(compared);
    }
  // Of two tensors, where the chunk has room for them.
  figures.first_tensor = 1;
  const std::size_t voters = figures.votes.agreed.size();
  if (units > 0) {
    figures.tensor_agreed = figures.votes.agreed;
    figures.tensor_compared = figures.votes.compared;
  }
  if (units > 1) {
    figures.tensor_agreed.resize(2 * voters, 0);
    figures.tensor_compared.resize(2 * voters, 0);
    for (std::size_t v = 0; v < voters; ++v)
      --figures.tensor_compared[v], ++figures.tensor_compared[voters + v];
  }
  figures.loss_sum = 12.5;
  figures.tokens = 64;
  frame->data = {chunk, record.factors, record.means, figures};
  return frame;
}

inline bool equal(const BallotData& one, const BallotData& other) {
  return one.bits == other.bits && one.abstentions == other.abstentions &&
         one.gradients == other.gradients && one.contributes == other.contributes &&
         one.loss_sum == other.loss_sum && one.tokens == other.tokens;
}
inline bool equal(const BallotFrame& one, const BallotFrame& other) {
  return one.step == other.step && one.chunk == other.chunk && one.voter == other.voter &&
         one.base == other.base && one.samples == other.samples;
}
inline bool equal(const VerdictFrame& one, const VerdictFrame& other) {
  return one.step == other.step && one.chunk == other.chunk && one.base == other.base &&
         one.data == other.data;
}

}  // namespace ballot::test

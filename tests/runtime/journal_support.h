// Records for tests: small, of any shape, following each other.
#pragma once

#include <random>
#include <vector>

#include "runtime/journal/journal.h"
#include "runtime/journal/record.h"

namespace ballot {

inline const Digest kTestRun{0x1111, 0x2222};
inline const Position kTestStart{0, kTestRun};

struct RecordShape {
  int chunks = 3, means = 1, voters = 3, tensors = 4;
  std::int64_t units = 2;  // of 512 elements, about as many a chunk
  bool holds_elements = false;
  std::int64_t term = 1;
};

// The record after `position`, its content a function of the seed.
inline Record make_record(const Position& position, std::uint64_t seed,
                          const RecordShape& shape = {}) {
  std::mt19937_64 random(seed);
  Record record;
  record.step = position.step + 1;
  record.term = shape.term;
  record.previous = position.digest;
  for (int i = 0; i < shape.tensors; ++i) {
    const auto number = [&] { return static_cast<float>(random() % 1000) / 1000.0f; };
    record.factors.push_back({number(), number(), number(), number()});
  }
  for (int v = 0; v < shape.voters; ++v) {
    const auto begin = static_cast<std::int64_t>(random() % 1000);
    record.ranges.push_back({v, {begin, begin + static_cast<std::int64_t>(random() % 10)}});
  }
  std::int64_t end = 0;
  for (int i = 0; i < shape.chunks; ++i) {
    ChunkVerdictRecord chunk;
    chunk.begin = end;
    chunk.end = end += 512 * static_cast<std::int64_t>(random() % (2 * shape.units + 1));
    const auto words = static_cast<std::size_t>((chunk.end - chunk.begin) / 64);
    chunk.counted = {random()};
    for (std::size_t w = 0; w < words; ++w) chunk.bits.push_back(random());
    for (std::size_t w = 0; w < (words + 7) / 8; ++w) chunk.held_blocks.push_back(random());
    if (shape.holds_elements)
      for (std::size_t w = 0; w < words; ++w) chunk.held_elements.push_back(random());
    record.chunks.push_back(std::move(chunk));
  }
  for (int i = 0; i < shape.means; ++i) {
    MeanRecord mean;
    mean.wire = i % 2 == 0 ? DType::f32 : DType::bf16;
    for (std::uint64_t t = 0; t < 1 + random() % 3; ++t)
      mean.contributors.push_back(static_cast<std::int32_t>(random() % 4));
    for (std::uint64_t t = 0; t < random() % 9; ++t)
      mean.values.push_back(static_cast<float>(random() % 100) - 50.0f);
    record.means.push_back(std::move(mean));
  }
  record.seal();
  return record;
}

// `count` records after each other, the first after `position`.
inline std::vector<Record> make_records(int count, Position position = kTestStart,
                                        std::uint64_t seed = 1, const RecordShape& shape = {}) {
  std::vector<Record> records;
  for (int i = 0; i < count; ++i) {
    records.push_back(make_record(position, seed * 1000 + static_cast<std::uint64_t>(i), shape));
    position = records.back().position();
  }
  return records;
}

}  // namespace ballot

// The ring all-reduce against plain sums, in the ring's own order.
#include "collectives/ring_all_reduce.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"

namespace ballot {
namespace {

Deadline soon() {
  return Deadline::in(std::chrono::seconds(30));
}

// Rank r's values, the same on every rank that asks.
std::vector<float> values_of(int rank, std::size_t count) {
  std::mt19937 random(static_cast<unsigned>(rank) + 100);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Slice j begins at rank j and is added to by j+1, j+2, ..
std::vector<float> ring_sum(int ranks, std::size_t count) {
  std::vector<std::vector<float>> all;
  for (int r = 0; r < ranks; ++r) all.push_back(values_of(r, count));
  std::vector<float> sum(count);
  const std::size_t size = static_cast<std::size_t>(ranks);
  for (std::size_t slice = 0; slice < size; ++slice)
    for (std::size_t i = count * slice / size; i < count * (slice + 1) / size; ++i) {
      sum[i] = all[slice][i];
      for (std::size_t k = 1; k < size; ++k) sum[i] += all[(slice + k) % size][i];
    }
  return sum;
}

TEST(RingAllReduce, IsTheSumInRingOrderForEverySizeAndPiece) {
  for (const int ranks : {1, 2, 3, 4, 7})
    for (const std::size_t count : {1u, 2u, 6u, 64u, 1000u, 4099u})
      for (const std::size_t piece_bytes : {4u, 256u, 0u}) {
        if (count > 1000 && piece_bytes == 4) continue;  // thousands of messages show nothing new
        const std::vector<float> truth = ring_sum(ranks, count);
        run_loopback(ranks, [&](Transport& transport) {
          std::vector<float> values = values_of(transport.rank(), count);
          RingAllReduce ring(values, transport, piece_bytes);
          ring.reduce(soon());
          EXPECT_EQ(values, truth) << ranks << " ranks, " << count << " values";
        });
      }
}

TEST(RingAllReduce, MayBeUsedAgain) {
  run_loopback(3, [](Transport& transport) {
    std::vector<float> values(100, static_cast<float>(transport.rank() + 1));
    RingAllReduce ring(values, transport, 32);
    float expected = 6;  // 1 + 2 + 3, then three times as much each time
    for (int repeat = 0; repeat < 5; ++repeat) {
      ring.reduce(soon());
      EXPECT_THAT(values, testing::Each(expected));
      expected *= 3;
    }
  });
}

TEST(RingAllReduce, OfWholeNumbersIsExactInBf16) {
  run_loopback(4, [](Transport& transport) {
    std::vector<bfloat16> values;
    for (int i = 0; i < 777; ++i)
      values.push_back(to_bfloat16(static_cast<float>(i % 11 - 5 + transport.rank())));
    RingAllReduce ring(values, transport, 128);
    ring.reduce(soon());
    for (int i = 0; i < 777; ++i)
      ASSERT_EQ(to_float(values[static_cast<std::size_t>(i)]),
                static_cast<float>(4 * (i % 11 - 5) + 6))
          << i;
  });
}

TEST(RingAllReduce, SendsTwiceItsShareToItsNeighbourOnly) {
  run_loopback(4, [](Transport& transport) {
    std::vector<float> values(4000, 1.0f);
    RingAllReduce ring(values, transport);
    const Traffic before = transport.traffic();
    ring.reduce(soon());
    const Traffic sent = transport.traffic() - before;
    EXPECT_EQ(sent.sent(Purpose::mean), 2u * 3 * 1000 * sizeof(float));
    EXPECT_EQ(sent.messages_sent[static_cast<std::size_t>(Purpose::mean)], 6u);
  });
}

TEST(RingAllReduce, NamesTheNeighbourThatIsLate) {
  run_loopback(2, [](Transport& transport) {
    std::vector<float> values(10, 1.0f);
    RingAllReduce ring(values, transport);
    if (transport.rank() == 1) {
      transport.barrier(soon());  // never begins
      return;
    }
    std::string message;
    try {
      ring.reduce(Deadline::in(std::chrono::milliseconds(50)));
    } catch (const Timeout& timeout) {
      message = timeout.what();
    }
    EXPECT_THAT(message, testing::HasSubstr("rank 1"));
    transport.barrier(soon());
  });
}

}  // namespace
}  // namespace ballot

// One chunk's ballots, on the host and on the device, and what must come of them: for tests of
// kernels that decide a verdict from counts.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "collectives/device_chunk.h"
#include "random_ballots.h"
#include "tests/cuda/device_tensor.h"

namespace ballot::test {

class DeviceTruth {
 public:
  DeviceTruth(const BallotLayout& layout, const BallotChunk& chunk, int voters, Mood mood,
              Ties ties, std::mt19937_64& random)
      : layout_(layout),
        chunk_(chunk),
        voters_(static_cast<std::size_t>(voters)),
        options_{.seed = 11, .step = 3, .ties = ties},
        ballots_(random_ballots(layout, voters, mood, random)),
        host_(ballots_, chunk),
        expected_(chunk, ties),
        by_segment_(layout.segments().size(), voters_),
        memory_(all_words(host_, chunk)),
        places_(voters_, cuda_device()) {
    tally_reference(layout, chunk, host_.parts, options_, expected_.part(), expected_.statistics,
                    &by_segment_);
    const std::size_t each = memory_.count() / voters_;
    for (std::size_t v = 0; v < voters_; ++v) {
      const std::uint64_t* const bits = memory_.data() + v * each;
      parts_.push_back({bits, bits + chunk.word_count()});
    }
    Stream stream(cuda_device());
    places_.take(parts_, stream);
    stream.synchronize();
  }

  const BallotLayout& layout() const { return layout_; }
  const BallotChunk& chunk() const { return chunk_; }
  const std::vector<BallotPart>& host_parts() const { return host_.parts; }
  const BallotPart* device_places() const { return places_.places(); }

  // `decide` gives the stream what decides; twice, since nothing may be left of the step before.
  void expect_decided(const std::function<void(const Deciding&, Stream&)>& decide) const {
    Stream stream(cuda_device());
    const DeviceChunk chunk(layout_, chunk_, cuda_device());
    DeviceDecision decision(chunk, static_cast<int>(voters_));
    DeviceComparison comparison(chunk, voters_);
    const bool hold = options_.ties == Ties::hold;
    const ChunkVerdict empty(chunk_, options_.ties);
    const DeviceArray<std::uint64_t> bits(empty.bits), blocks(empty.held_blocks),
        elements(empty.held_elements);
    const DeviceArray<std::uint64_t> sample(
        std::vector<std::uint64_t>(static_cast<std::size_t>(device_sample_words(chunk_)), 7));
    for (int times = 0; times < 2; ++times) {
      decide(
          decision.begin(options_, {bits.data(), blocks.data(), hold ? elements.data() : nullptr},
                         sample.data(), stream),
          stream);
      comparison.compare(places_.places(), bits.data(), sample.data(), stream);
    }
    decision.fetch(stream);
    comparison.fetch(stream);
    stream.synchronize();
    VoteStatistics found;
    EXPECT_TRUE(decision.read(found));
    found.agreed.assign(voters_, 0);
    found.compared.assign(voters_, 0);
    SegmentAgreement by_segment(layout_.segments().size(), voters_);
    comparison.read(found.agreed, found.compared, &by_segment, 0);
    EXPECT_EQ(bits.read(stream), expected_.bits);
    EXPECT_EQ(blocks.read(stream), expected_.held_blocks);
    EXPECT_EQ(elements.read(stream), expected_.held_elements);
    EXPECT_TRUE(found == expected_.statistics);
    EXPECT_EQ(by_segment, by_segment_);
  }

 private:
  // A ballot's bits, its abstentions, the next one's.
  static std::vector<std::uint64_t> all_words(const ChunkBallots& ballots,
                                              const BallotChunk& chunk) {
    std::vector<std::uint64_t> all;
    for (std::size_t v = 0; v < ballots.parts.size(); ++v) {
      const std::uint64_t* const bits = ballots.parts[v].bits;
      all.insert(all.end(), bits, bits + chunk.word_count());
      all.insert(all.end(), ballots.abstentions[v].begin(), ballots.abstentions[v].end());
    }
    return all;
  }

  const BallotLayout& layout_;
  const BallotChunk chunk_;
  const std::size_t voters_;
  const TallyOptions options_;
  const std::vector<std::unique_ptr<Ballot>> ballots_;
  const ChunkBallots host_;
  ChunkVerdict expected_;
  SegmentAgreement by_segment_;
  DeviceArray<std::uint64_t> memory_;
  std::vector<BallotPart> parts_;
  DeviceBallots places_;
};

// body(truth): layouts, chunks, moods and ties for so many voters.
inline void for_each_truth(int voters, const std::function<void(DeviceTruth&)>& body) {
  std::mt19937_64 random(static_cast<std::uint64_t>(voters));
  const BallotLayout layout = voters < 100
                                  ? make_layout({{3, 65}, {9, 512}, {5, 1000}, {2, 70, 256}})
                                  : make_layout({{1, 65}, {1, 200}});
  const Mood moods[] = {Mood::random, Mood::unanimous, Mood::silent};
  for (const Mood mood : moods) {
    const Ties ties = random() % 2 == 0 ? Ties::coin : Ties::hold;
    SCOPED_TRACE(testing::Message() << voters << " voters, mood " << static_cast<int>(mood));
    for (int owner = 0; owner < 2; ++owner) {
      const BallotChunk chunk = owner == 0 ? layout.chunk(0, 1) : layout.chunk(1, 2);
      DeviceTruth truth(layout, chunk, voters, mood, ties, random);
      body(truth);
    }
  }
}

}  // namespace ballot::test

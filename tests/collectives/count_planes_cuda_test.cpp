// Counts on a GPU: a node's ballots added up, and the verdict of several nodes' counts, against the
// CPU's counts and plain loops over all ballots.
#include "collectives/count_planes.h"

#include <gtest/gtest.h>

#include <numeric>

#include "device_truth.h"

namespace ballot {
namespace {

using test::DeviceArray;
using test::DeviceTruth;

DeviceCounts counts_at(std::uint64_t* words, const BallotChunk& chunk, int voters) {
  const CountPart part = count_part(words, chunk, voters);
  return {part.planes, part.voting};
}

// Words that hold elements of some tensor.
bool is_padding(const BallotLayout& layout, std::int64_t word) {
  for (const BallotSegment& s : layout.segments())
    if (word >= s.offset / 64 && word < (s.offset + s.extent()) / 64) return false;
  return true;
}

TEST(CountsOnGpu, EqualTheCpus) {
  Stream stream(test::cuda_device());
  for (const int voters : {1, 2, 3, 4, 7, 8, 15, 16, 33, 300, 1024})
    test::for_each_truth(voters, [&](DeviceTruth& truth) {
      const BallotChunk& chunk = truth.chunk();
      const auto words = static_cast<std::size_t>(count_words(chunk, voters));
      std::vector<std::uint64_t> expected(words);
      count_ballots(truth.layout(), chunk, truth.host_parts(),
                    count_part(expected.data(), chunk, voters));
      const DeviceArray<std::uint64_t> counts(std::vector<std::uint64_t>(words, 0));
      const DeviceChunk there(truth.layout(), chunk, test::cuda_device());
      cuda_vote().count_ballots(there.places(), truth.device_places(), voters,
                                counts_at(counts.data(), chunk, voters), stream);
      const auto found = counts.read(stream);
      const std::int64_t planes = count_digits(voters) * chunk.word_count();
      for (std::int64_t i = 0; i < static_cast<std::int64_t>(words); ++i) {
        if (i < planes && is_padding(truth.layout(), chunk.begin / 64 + i % chunk.word_count()))
          continue;
        ASSERT_EQ(found[static_cast<std::size_t>(i)], expected[static_cast<std::size_t>(i)])
            << voters << " voters, word " << i;
      }
    });
}

TEST(CountsOnGpu, OfSeveralNodesAreDecidedAsTheReferenceDecidesAllBallots) {
  struct Grouping {
    int nodes, workers;
  };
  for (const auto& [nodes, workers] : std::vector<Grouping>{
           {1, 1}, {1, 3}, {2, 1}, {2, 2}, {3, 1}, {3, 5}, {4, 4}, {5, 3}, {2, 33}, {64, 16}})
    test::for_each_truth(nodes * workers, [&](DeviceTruth& truth) {
      const BallotChunk& chunk = truth.chunk();
      const auto each = static_cast<std::size_t>(count_words(chunk, workers));
      const auto parts = static_cast<std::size_t>(nodes);
      const DeviceArray<std::uint64_t> memory(each * parts);
      std::vector<DeviceCounts> counts;
      for (std::size_t n = 0; n < parts; ++n)
        counts.push_back(counts_at(memory.data() + n * each, chunk, workers));
      const DeviceArray<DeviceCounts> places(counts);
      const DeviceChunk there(truth.layout(), chunk, test::cuda_device());
      truth.expect_decided([&](const Deciding& deciding, Stream& stream) {
        for (int n = 0; n < nodes; ++n)
          cuda_vote().count_ballots(there.places(), truth.device_places() + n * workers, workers,
                                    counts[static_cast<std::size_t>(n)], stream);
        cuda_vote().tally_counts(deciding, places.data(), nodes, workers, stream);
      });
    });
}

}  // namespace
}  // namespace ballot

// The slow truth of a tally: loops over elements and voters, one bit at a time. What tally() must
// give, bit for bit.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "collectives/ballot.h"
#include "collectives/tally.h"

namespace ballot {

inline void tally_reference(const BallotLayout& layout, const BallotChunk& chunk,
                            std::span<const BallotPart> ballots, const TallyOptions& options,
                            const VerdictPart& verdict, VoteStatistics& statistics,
                            SegmentAgreement* by_segment = nullptr) {
  const auto get = [](const std::uint64_t* words, std::int64_t i) {
    return ((words[i / 64] >> (i % 64)) & 1u) != 0;
  };
  const auto put = [](std::uint64_t* words, std::int64_t i, bool bit) {
    const std::uint64_t mask = std::uint64_t{1} << (i % 64);
    words[i / 64] = bit ? words[i / 64] | mask : words[i / 64] & ~mask;
  };
  statistics = {};
  statistics.blocks = chunk.last_block - chunk.first_block;
  statistics.agreed.assign(ballots.size(), 0);
  statistics.compared.assign(ballots.size(), 0);
  for (std::int64_t block = 0; block < (statistics.blocks + 63) / 64 * 64; ++block)
    put(verdict.held_blocks, block, false);
  for (std::int64_t i = 0; i < chunk.end - chunk.begin; ++i) {
    put(verdict.bits, i, false);
    if (verdict.held_elements != nullptr) put(verdict.held_elements, i, false);
  }

  for (const BallotSegment& s : layout.segments()) {
    for (std::int64_t block = 0; block < s.blocks(); ++block) {
      const std::int64_t local = s.first_block + block - chunk.first_block;
      if (local < 0 || local >= statistics.blocks) continue;
      std::vector<std::size_t> voters;
      for (std::size_t v = 0; v < ballots.size(); ++v)
        if (!get(ballots[v].abstentions, local)) voters.push_back(v);
      if (voters.empty()) {
        put(verdict.held_blocks, local, true);
        ++statistics.held_blocks;
        continue;
      }
      for (std::int64_t inside = block * s.block; inside < (block + 1) * s.block; ++inside) {
        if (inside % s.row_stride >= s.cols) continue;  // padding
        const std::int64_t i = s.offset + inside - chunk.begin;
        std::int64_t negatives = 0;
        for (const std::size_t v : voters) negatives += get(ballots[v].bits, i);
        const std::int64_t positives = static_cast<std::int64_t>(voters.size()) - negatives;
        ++statistics.elements;
        statistics.ties += negatives == positives;
        statistics.unanimous += negatives == 0 || positives == 0;
        bool elected = negatives > positives;
        if (negatives == positives && options.ties == Ties::coin) {
          const std::int64_t arena = s.arena_offset + inside;
          elected = (tie_coins(options.seed, options.step, arena / 64) >> (arena % 64)) & 1u;
        }
        put(verdict.bits, i, elected);
        if (options.ties == Ties::hold) put(verdict.held_elements, i, negatives == positives);
        if (!is_sampled((s.offset + inside) / 64)) continue;
        for (const std::size_t v : voters) {
          const bool negative = get(ballots[v].bits, i);
          const std::int64_t other_negatives = negatives - negative,
                             other_positives = positives - !negative;
          if (other_negatives == other_positives) continue;
          ++statistics.compared[v];
          statistics.agreed[v] += negative == (other_negatives > other_positives);
          if (by_segment != nullptr)
            by_segment->add(static_cast<std::size_t>(&s - layout.segments().data()), v,
                            negative == (other_negatives > other_positives), 1);
        }
      }
    }
  }
}

}  // namespace ballot

#include "collectives/device_tally.h"

namespace ballot {

DeviceTally::DeviceTally(const BallotLayout& layout, const BallotChunk& chunk, int voters,
                         Device device)
    : chunk_(layout, chunk, device),
      voters_(static_cast<std::size_t>(voters)),
      ballots_(voters_, device),
      decision_(chunk_, voters),
      comparison_(chunk_, voters_),
      sample_(static_cast<std::size_t>(device_sample_words(chunk)) * 8, device) {}

void DeviceTally::count(std::span<const BallotPart> ballots, const TallyOptions& options,
                        const VerdictPart& verdict, Stream& stream) {
  take(ballots, stream);
  auto* const sample = sample_.as<std::uint64_t>();
  cuda_vote().tally(decision_.begin(options, verdict, sample, stream), ballots_.places(), stream);
  comparison_.compare(ballots_.places(), verdict.bits, sample, stream);
}

void DeviceTally::statistics(VoteStatistics& statistics, Stream& stream) const {
  fetch_statistics(stream);
  stream.synchronize();
  read_statistics(statistics);
}

void DeviceTally::fetch_statistics(Stream& stream) const {
  decision_.fetch(stream);
  comparison_.fetch(stream);
}

void DeviceTally::read_statistics(VoteStatistics& statistics, SegmentAgreement* by_segment) const {
  decision_.read(statistics);
  statistics.agreed.assign(voters_, 0);
  statistics.compared.assign(voters_, 0);
  comparison_.read(statistics.agreed, statistics.compared, by_segment, 0);
}

}  // namespace ballot

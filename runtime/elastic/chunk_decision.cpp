#include "runtime/elastic/chunk_decision.h"

#include <algorithm>
#include <cmath>

#include "core/bfloat16.h"
#include "core/error.h"

namespace ballot {
namespace {

std::size_t words_of_blocks(const BallotChunk& chunk) {
  return static_cast<std::size_t>((chunk.last_block - chunk.first_block + 63) / 64);
}

BallotChunk chunk_of(const StepLayout& layout, int chunk, int chunks) {
  return layout.voted().segments().empty() ? BallotChunk{} : layout.voted().chunk(chunk, chunks);
}

// Of the tensors that the chunk reaches into.
void tell_tensors(const BallotLayout& layout, const BallotChunk& chunk,
                  const SegmentAgreement& agreement, ChunkFigures& figures) {
  const std::size_t first = layout.segment_of(chunk.begin);
  const std::size_t last = layout.segment_of(chunk.end - kBallotAlignment);
  figures.first_tensor = static_cast<std::int64_t>(first);
  for (std::size_t tensor = first; tensor <= last; ++tensor)
    for (std::size_t v = 0; v < agreement.voters(); ++v) {
      figures.tensor_agreed.push_back(agreement.agreed(tensor, v));
      figures.tensor_compared.push_back(agreement.compared(tensor, v));
    }
}

// One tensor of one mean. Returns how many contributed.
std::int32_t average(std::span<const CountedBallot> ballots, std::size_t mean, std::size_t tensor,
                     std::int64_t offset, std::int64_t length, DType wire, float* sum) {
  std::int32_t contributors = 0;
  for (const CountedBallot& ballot : ballots) {
    if (ballot.data->contributes[mean][tensor] == 0) continue;
    const float* values = ballot.data->gradients[mean].data() + offset;
    if (contributors++ == 0)
      std::copy_n(values, length, sum);
    else
      for (std::int64_t i = 0; i < length; ++i) sum[i] += values[i];
  }
  if (contributors == 0) std::fill_n(sum, length, 0.0f);
  if (contributors > 1)
    for (std::int64_t i = 0; i < length; ++i) sum[i] /= static_cast<float>(contributors);
  if (wire == DType::bf16)
    for (std::int64_t i = 0; i < length; ++i) sum[i] = to_float(to_bfloat16(sum[i]));
  return contributors;
}

}  // namespace

ChunkVerdict decide_chunk(const StepLayout& layout, int chunk, int chunks,
                          std::span<const CountedBallot> ballots, const TallyOptions& options) {
  require(!ballots.empty(), "chunk {} is decided without a ballot", chunk);
  ChunkVerdict decided;
  const BallotChunk c = chunk_of(layout, chunk, chunks);
  ChunkVerdictRecord& verdict = decided.verdict;
  verdict.begin = c.begin;
  verdict.end = c.end;
  VoteStatistics& statistics = decided.figures.votes;
  statistics.agreed.assign(ballots.size(), 0);
  statistics.compared.assign(ballots.size(), 0);
  verdict.bits.assign(static_cast<std::size_t>(c.word_count()), 0);
  verdict.held_blocks.assign(words_of_blocks(c), 0);
  if (options.ties == Ties::hold) verdict.held_elements.assign(verdict.bits.size(), 0);
  if (!verdict.bits.empty()) {
    std::vector<BallotPart> parts;
    for (const CountedBallot& ballot : ballots)
      parts.push_back({ballot.data->bits.data(), ballot.data->abstentions.data()});
    SegmentAgreement agreement(layout.voted().segments().size(), ballots.size());
    tally(layout.voted(), c, parts, options,
          {verdict.bits.data(), verdict.held_blocks.data(),
           verdict.held_elements.empty() ? nullptr : verdict.held_elements.data()},
          statistics, &agreement);
    tell_tensors(layout.voted(), c, agreement, decided.figures);
  }
  verdict.digest = verdict.body_digest();
  if (chunk != 0) return decided;

  for (const CountedBallot& ballot : ballots)
    if (std::isfinite(ballot.data->loss_sum)) {
      decided.figures.loss_sum += ballot.data->loss_sum;
      decided.figures.tokens += ballot.data->tokens;
    } else {
      ++decided.figures.loss_faults;
    }
  for (const std::size_t wire : {std::size_t{0}, std::size_t{1}}) {
    const std::vector<std::int64_t>& lengths = layout.mean_lengths(wire);
    if (lengths.empty()) continue;
    const std::size_t index = decided.means.size();
    MeanRecord& mean = decided.means.emplace_back();
    mean.wire = wire == 0 ? DType::f32 : DType::bf16;
    mean.values.resize(static_cast<std::size_t>(layout.mean_extent(wire)));
    std::int64_t offset = 0;
    for (std::size_t tensor = 0; tensor < lengths.size(); ++tensor) {
      mean.contributors.push_back(average(ballots, index, tensor, offset, lengths[tensor],
                                          mean.wire, mean.values.data() + offset));
      offset += lengths[tensor];
    }
    mean.digest = mean.body_digest();
  }
  return decided;
}

namespace {

// Or told of none, as of an empty chunk.
bool has_tensors_of(const ChunkFigures& figures, const BallotLayout& layout, const BallotChunk& c) {
  std::size_t count = 0;
  if (c.word_count() > 0) {
    const std::size_t first = layout.segment_of(c.begin);
    if (figures.first_tensor != static_cast<std::int64_t>(first)) return false;
    count = layout.segment_of(c.end - kBallotAlignment) - first + 1;
  }
  count *= figures.votes.agreed.size();
  return figures.tensor_agreed.size() == count && figures.tensor_compared.size() == count;
}

}  // namespace

bool has_sizes_of(const ChunkVerdict& verdict, const StepLayout& layout, Ties ties, int chunk,
                  int chunks, std::size_t tensors) {
  const BallotChunk c = chunk_of(layout, chunk, chunks);
  const ChunkVerdictRecord& v = verdict.verdict;
  const auto words = static_cast<std::size_t>(c.word_count());
  if (v.begin != c.begin || v.end != c.end || !v.present || v.bits.size() != words ||
      v.held_blocks.size() != words_of_blocks(c) ||
      v.held_elements.size() != (ties == Ties::hold ? words : 0) ||
      !has_tensors_of(verdict.figures, layout.voted(), c))
    return false;
  if (chunk != 0) return verdict.means.empty() && verdict.factors.empty();
  if (verdict.factors.size() != tensors) return false;
  std::size_t means = 0;
  for (const std::size_t wire : {std::size_t{0}, std::size_t{1}}) {
    if (layout.mean_lengths(wire).empty()) continue;
    if (means >= verdict.means.size()) return false;
    const MeanRecord& mean = verdict.means[means++];
    if (wire_index(mean.wire) != wire || !mean.present ||
        static_cast<std::int64_t>(mean.values.size()) != layout.mean_extent(wire) ||
        mean.contributors.size() != layout.mean_lengths(wire).size())
      return false;
  }
  return verdict.means.size() == means;
}

}  // namespace ballot

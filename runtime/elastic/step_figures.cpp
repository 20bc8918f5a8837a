#include "runtime/elastic/step_figures.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {
namespace {

std::size_t tensors_in(const ChunkFigures& chunk) {
  const std::size_t voters = chunk.votes.agreed.size();
  return voters == 0 ? 0 : chunk.tensor_agreed.size() / voters;
}

}  // namespace

StepFigures figures_of(const Record& record, std::span<const ChunkFigures> chunks) {
  require(chunks.size() == record.chunks.size() && !chunks.empty(),
          "figures of {} chunks, the record of step {} has {}", chunks.size(), record.step,
          record.chunks.size());
  StepFigures figures;
  figures.step = record.step;
  figures.term = record.term;
  figures.workers = static_cast<std::int32_t>(chunks.size());
  VoteStatistics& all = figures.votes;
  all.agreed.assign(chunks.size(), 0);
  all.compared.assign(chunks.size(), 0);
  std::size_t tensors = 0;
  for (const ChunkFigures& chunk : chunks)
    tensors = std::max(tensors, static_cast<std::size_t>(chunk.first_tensor) + tensors_in(chunk));
  figures.tensors = SegmentAgreement(tensors, chunks.size());
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    const VoteStatistics& one = chunks[c].votes;
    all.elements += one.elements;
    all.ties += one.ties;
    all.unanimous += one.unanimous;
    all.held_blocks += one.held_blocks;
    all.blocks += one.blocks;
    const std::vector<std::uint64_t>& counted = record.chunks[c].counted;
    std::size_t place = 0;
    for (std::size_t v = 0; v < chunks.size() && place < one.agreed.size(); ++v) {
      if (v / 64 >= counted.size() || (counted[v / 64] >> (v % 64) & 1) == 0) continue;
      all.agreed[v] += one.agreed[place];
      all.compared[v] += one.compared[place];
      for (std::size_t t = 0; t < tensors_in(chunks[c]); ++t) {
        const std::size_t i = t * one.agreed.size() + place;
        figures.tensors.add(static_cast<std::size_t>(chunks[c].first_tensor) + t, v,
                            chunks[c].tensor_agreed[i], chunks[c].tensor_compared[i]);
      }
      ++place;
    }
  }
  figures.loss.sum = chunks[0].loss_sum;
  figures.loss.tokens = chunks[0].tokens;
  figures.loss_faults = chunks[0].loss_faults;
  return figures;
}

}  // namespace ballot

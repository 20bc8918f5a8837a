#include "runtime/elastic/step_figures.h"

#include "core/error.h"

namespace ballot {

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
      ++place;
    }
  }
  figures.loss.sum = chunks[0].loss_sum;
  figures.loss.tokens = chunks[0].tokens;
  figures.loss_faults = chunks[0].loss_faults;
  return figures;
}

}  // namespace ballot

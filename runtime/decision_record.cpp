#include "runtime/decision_record.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {
namespace {

void copy_words(const BitVector& source, const BallotChunk& chunk,
                std::vector<std::uint64_t>& target) {
  const std::uint64_t* first = source.words() + chunk.begin / 64;
  target.assign(first, first + chunk.word_count());
}

void write_chunk(const Verdict& verdict, const BallotChunk& chunk, ChunkVerdictRecord& record) {
  record.begin = chunk.begin;
  record.end = chunk.end;
  record.present = true;
  copy_words(verdict.bits, chunk, record.bits);
  const std::int64_t blocks = chunk.last_block - chunk.first_block;
  record.held_blocks.assign(static_cast<std::size_t>((blocks + 63) / 64), 0);
  copy_bits(verdict.held_blocks.words(), chunk.first_block, record.held_blocks.data(), 0, blocks);
  if (verdict.held_elements.bit_count() > 0)
    copy_words(verdict.held_elements, chunk, record.held_elements);
  else
    record.held_elements.clear();
}

std::vector<std::uint64_t> everybody(int voters) {
  std::vector<std::uint64_t> counted(static_cast<std::size_t>((voters + 63) / 64));
  for (std::size_t i = 0; i < counted.size(); ++i)
    counted[i] = low_bits(std::min<std::int64_t>(64, voters - static_cast<std::int64_t>(i) * 64));
  return counted;
}

}  // namespace

ChunkVerdictRecord to_record(const Verdict& verdict, const BallotLayout& layout,
                             const BallotChunk& chunk, std::vector<std::uint64_t> counted) {
  require(chunk.begin >= 0 && chunk.begin <= chunk.end && chunk.end <= layout.extent() &&
              verdict.bits.bit_count() == layout.extent(),
          "elements [{}, {}) of a verdict of {}", chunk.begin, chunk.end, verdict.bits.bit_count());
  ChunkVerdictRecord record;
  write_chunk(verdict, chunk, record);
  record.counted = std::move(counted);
  record.digest = record.body_digest();
  return record;
}

void write_decision(const StepLayout& layout, const StepDecision& decision,
                    std::span<const TensorFactors> factors, int chunks, int voters,
                    Record& record) {
  record.factors.assign(factors.begin(), factors.end());
  record.chunks.resize(decision.verdict == nullptr ? 0 : static_cast<std::size_t>(chunks));
  for (int i = 0; i < static_cast<int>(record.chunks.size()); ++i) {
    ChunkVerdictRecord& chunk = record.chunks[static_cast<std::size_t>(i)];
    write_chunk(*decision.verdict, layout.voted().chunk(i, chunks), chunk);
    chunk.counted = everybody(voters);
  }
  std::size_t means = 0;
  for (std::size_t wire = 0; wire < decision.means.size(); ++wire) {
    if (layout.mean_lengths(wire).empty()) continue;
    record.means.resize(means + 1);
    MeanRecord& mean = record.means[means++];
    mean.wire = wire == 0 ? DType::f32 : DType::bf16;
    mean.present = true;
    mean.contributors.assign(decision.contributors[wire].begin(),
                             decision.contributors[wire].end());
    mean.values.assign(decision.means[wire].begin(), decision.means[wire].end());
  }
  record.means.resize(means);
  record.seal();
}

RecordedDecision::RecordedDecision(const StepLayout& layout, Ties ties)
    : layout_(layout), ties_(ties) {
  if (layout.voted().segments().empty()) return;
  verdict_.bits = BitVector(layout.voted().extent());
  verdict_.held_blocks = BitVector(layout.voted().blocks());
  if (ties == Ties::hold) verdict_.held_elements = BitVector(layout.voted().extent());
}

const StepDecision& RecordedDecision::read(const Record& record) {
  require(record.whole(), "the record of step {} is not whole", record.step);
  const auto wrong = [&record](auto format, auto&&... args) {
    return DataError("the record of step {} is of another model: {}", record.step,
                     fmt::format(fmt::runtime(format), args...));
  };
  decision_ = {};
  const BallotLayout& layout = layout_.voted();
  std::int64_t end = 0;
  for (const ChunkVerdictRecord& chunk : record.chunks) {
    if (chunk.begin != end || chunk.end > layout.extent())
      throw wrong("a chunk of elements [{}, {}) after {} of {}", chunk.begin, chunk.end, end,
                  layout.extent());
    end = chunk.end;
    const std::int64_t first_block = layout.block_of(chunk.begin),
                       blocks = layout.block_of(chunk.end) - first_block;
    const bool holds = ties_ == Ties::hold && chunk.end > chunk.begin;
    if (static_cast<std::int64_t>(chunk.held_blocks.size()) != (blocks + 63) / 64 ||
        chunk.held_elements.empty() == holds)
      throw wrong("{} words of held blocks for {} blocks, {} of held elements",
                  chunk.held_blocks.size(), blocks, chunk.held_elements.size());
    std::ranges::copy(chunk.bits, verdict_.bits.words() + chunk.begin / 64);
    copy_bits(chunk.held_blocks.data(), 0, verdict_.held_blocks.words(), first_block, blocks);
    if (holds)
      std::ranges::copy(chunk.held_elements, verdict_.held_elements.words() + chunk.begin / 64);
  }
  if (end != layout.extent()) throw wrong("{} elements, expected {}", end, layout.extent());
  if (!layout.segments().empty()) decision_.verdict = &verdict_;
  for (const MeanRecord& mean : record.means) {
    const std::size_t wire = wire_index(mean.wire);
    means_[wire] = mean.values;
    decision_.means[wire] = means_[wire];
    decision_.contributors[wire] = mean.contributors;
  }
  for (std::size_t wire = 0; wire < decision_.means.size(); ++wire)
    if (decision_.contributors[wire].size() != layout_.mean_lengths(wire).size() ||
        static_cast<std::int64_t>(decision_.means[wire].size()) != layout_.mean_extent(wire))
      throw wrong("a mean of {} values of {} tensors, expected {} of {}",
                  decision_.means[wire].size(), decision_.contributors[wire].size(),
                  layout_.mean_extent(wire), layout_.mean_lengths(wire).size());
  return decision_;
}

}  // namespace ballot

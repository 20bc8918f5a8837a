#include "runtime/elastic/voter_ballot.h"

#include <cmath>
#include <limits>

#include "core/bfloat16.h"
#include "core/error.h"

namespace ballot {
namespace {

std::int64_t blocks_of(const BallotChunk& chunk) {
  return chunk.last_block - chunk.first_block;
}

}  // namespace

VoterBallot::VoterBallot(const StepLayout& layout) {
  if (!layout.voted().segments().empty()) bits.emplace(layout.voted());
  for (std::size_t wire = 0; wire < means.size(); ++wire) {
    means[wire].resize(static_cast<std::size_t>(layout.mean_extent(wire)));
    contributes[wire].resize(layout.mean_lengths(wire).size());
  }
}

BallotData part_of(const VoterBallot& ballot, const StepLayout& layout, int chunk, int chunks) {
  BallotData part;
  if (ballot.bits) {
    const BallotChunk c = layout.voted().chunk(chunk, chunks);
    const std::uint64_t* first = ballot.bits->bits().words() + c.begin / 64;
    part.bits.assign(first, first + c.word_count());
    part.abstentions.assign(static_cast<std::size_t>((blocks_of(c) + 63) / 64), 0);
    copy_bits(ballot.bits->abstentions().words(), c.first_block, part.abstentions.data(), 0,
              blocks_of(c));
  }
  if (chunk != 0) return part;
  for (std::size_t wire = 0; wire < ballot.means.size(); ++wire) {
    if (layout.mean_lengths(wire).empty()) continue;
    part.gradients.push_back(ballot.means[wire]);
    part.contributes.push_back(ballot.contributes[wire]);
  }
  part.loss_sum = ballot.loss_fault ? std::numeric_limits<double>::quiet_NaN() : ballot.loss.sum;
  part.tokens = ballot.loss.tokens;
  return part;
}

bool has_sizes_of(const BallotData& part, const StepLayout& layout, int chunk, int chunks) {
  const BallotChunk c =
      layout.voted().segments().empty() ? BallotChunk{} : layout.voted().chunk(chunk, chunks);
  if (static_cast<std::int64_t>(part.bits.size()) != c.word_count() ||
      static_cast<std::int64_t>(part.abstentions.size()) != (blocks_of(c) + 63) / 64)
    return false;
  std::size_t means = 0;
  for (std::size_t wire = 0; chunk == 0 && wire < 2; ++wire) {
    if (layout.mean_lengths(wire).empty()) continue;
    if (means >= part.gradients.size() || means >= part.contributes.size() ||
        static_cast<std::int64_t>(part.gradients[means].size()) != layout.mean_extent(wire) ||
        part.contributes[means].size() != layout.mean_lengths(wire).size())
      return false;
    ++means;
  }
  return part.gradients.size() == means && part.contributes.size() == means;
}

BallotMaker::BallotMaker(OptimizerState& state, const StepLayout& layout, std::uint64_t seed)
    : state_(state), layout_(layout), caster_(state, layout, seed) {}

void BallotMaker::begin(std::int64_t step, int voter, VoterBallot& ballot, bool counts) {
  step_ = step;
  ballot_ = &ballot;
  counts_ = counts;
  ballot.loss_fault = false;
  ballot.gradient_faults = 0;
  ready_count_ = 0;
  caster_.begin(step, voter);
}

void BallotMaker::loss_known(double mean_loss) {
  ballot_->loss_fault = !std::isfinite(mean_loss);
}

void BallotMaker::ready(const Parameter& parameter) {
  ++ready_count_;
  ParameterState& state = state_.of(parameter);
  const bool finite = state.group->reduce == Reduce::vote
                          ? caster_.cast(state, usable(), *ballot_->bits)
                          : contribute(state, usable());
  ballot_->gradient_faults += !finite;
}

bool BallotMaker::contribute(const ParameterState& state, bool usable) {
  const StepLayout::Place& place = layout_.place(state);
  std::vector<float>& values = ballot_->means[place.wire];
  const BallotCaster::Contribution made = caster_.contribute(state, usable, values);
  ballot_->contributes[place.wire][static_cast<std::size_t>(place.mean_segment)] = made.counts;
  if (!made.counts || place.wire != 1) return made.finite;
  // As it would travel: rounded before anything is added.
  const std::int64_t end = place.mean_offset + state.parameter->extent();
  for (std::int64_t i = place.mean_offset; i < end; ++i) {
    float& value = values[static_cast<std::size_t>(i)];
    value = to_float(to_bfloat16(value));
  }
  return made.finite;
}

void BallotMaker::finish(const Loss& loss) {
  require(ready_count_ == state_.states().size(), "step {}: {} of {} gradients were reported",
          step_, ready_count_, state_.states().size());
  ballot_->loss = loss;
  ballot_ = nullptr;
}

}  // namespace ballot

#include "runtime/elastic/voter_ballot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/bfloat16.h"
#include "core/error.h"

namespace ballot {
namespace {

std::int64_t blocks_of(const BallotChunk& chunk) {
  return chunk.last_block - chunk.first_block;
}

Device device_of(const OptimizerState& state) {
  return state.states().empty() ? Device{} : state.states().front().parameter->value.device;
}

void take_over(const BallotSegment& segment, const Ballot& from, Ballot& to) {
  copy_bits(from.bits().words(), segment.offset, to.bits().words(), segment.offset,
            segment.extent());
  copy_bits(from.abstentions().words(), segment.first_block, to.abstentions().words(),
            segment.first_block, segment.blocks());
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
    : state_(state), layout_(layout), caster_(state, layout, seed) {
  const Device device = device_of(state);
  if (device.kind == Device::Kind::cuda && !layout.voted().segments().empty())
    cast_from_gpu_ = std::make_unique<Ballot>(layout.voted(), device);
}

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

void BallotMaker::ready(const Parameter& parameter, Stream& stream) {
  ++ready_count_;
  ParameterState& state = state_.of(parameter);
  if (state.group->reduce == Reduce::vote)
    caster_.cast(state, stream, usable(), target());
  else
    caster_.contribute(state, stream, usable(), ballot_->means[layout_.place(state).wire]);
  take_made(false);
}

void BallotMaker::take_made(bool wait) {
  while (const auto made = caster_.next(wait)) {
    ballot_->gradient_faults += !made->finite;
    const StepLayout::Place& place = layout_.place(*made->state);
    if (made->state->group->reduce == Reduce::vote) {
      if (cast_from_gpu_) take_over(layout_.segment(*made->state), *cast_from_gpu_, *ballot_->bits);
      continue;
    }
    ballot_->contributes[place.wire][static_cast<std::size_t>(place.mean_segment)] = made->counts;
    const std::span<float> values =
        std::span(ballot_->means[place.wire])
            .subspan(static_cast<std::size_t>(place.mean_offset),
                     static_cast<std::size_t>(made->state->parameter->extent()));
    if (!made->counts)
      std::ranges::fill(values, 0.0f);  // a GPU's have come before anybody knew
    else if (place.wire == 1)           // as they would travel: rounded before anything is added
      for (float& value : values) value = to_float(to_bfloat16(value));
  }
}

void BallotMaker::finish(const Loss& loss) {
  require(ready_count_ == state_.states().size(), "step {}: {} of {} gradients were reported",
          step_, ready_count_, state_.states().size());
  take_made(true);
  ballot_->loss = loss;
  ballot_ = nullptr;
}

}  // namespace ballot

#include "runtime/elastic/member_ballot.h"

#include <algorithm>

#include "core/error.h"
#include "optim/direction.h"  // scan_gradient

namespace ballot {
namespace {

Device device_of(const OptimizerState& state) {
  return state.states().empty() ? Device{} : state.states().front().parameter->value.device;
}

}  // namespace

MemberBallotMaker::MemberBallotMaker(OptimizerState& state, const StepLayout& layout,
                                     std::uint64_t seed, const MemberPlan& plan, Transport& members,
                                     Duration patience)
    : BallotMaker(state, layout, seed),
      patience_(patience),
      members_(members),
      stream_(device_of(state)) {
  require(device_of(state) == Device{}, "members of a voter work on CPUs only");
  if (!layout.voted().segments().empty()) {
    bits_ = std::make_unique<Ballot>(layout.voted());
    voted_ = std::make_unique<VoterMembers>(
        plan, state, layout, *bits_, members,
        [this](ParameterState& s, bool usable) { caster_.cast_now(s, usable, *bits_); },
        [](std::size_t) {}, Deadline::in(patience),
        [this](ParameterState& s, const Tensor& gradient, bool usable, GramSum& parts) {
          caster_.cast_part(s, gradient, usable, parts, *bits_);
        },
        patience);
  }
  std::vector<std::int64_t> lengths;
  std::int64_t offset = 0;
  for (ParameterState& s : state.states()) {
    if (s.group->reduce == Reduce::vote) continue;
    averaged_.push_back({&s, offset, lengths.size()});
    lengths.push_back(s.parameter->extent());
    offset += s.parameter->extent();
  }
  if (!lengths.empty()) mean_ = std::make_unique<Mean>(std::move(lengths), DType::f32, members);
}

MemberBallotMaker::~MemberBallotMaker() = default;

MemberBallotMaker::Averaged& MemberBallotMaker::averaged(const ParameterState& state) {
  const auto found = std::ranges::find(averaged_, &state, &Averaged::state);
  require(found != averaged_.end(), "{} is not averaged", state.parameter->shape.name);
  return *found;
}

void MemberBallotMaker::begin(std::int64_t step, int voter, VoterBallot& ballot, bool counts) {
  BallotMaker::begin(step, voter, ballot, counts);
  if (voted_) voted_->begin();
  if (mean_) mean_->begin(step);
}

void MemberBallotMaker::ready(const Parameter& parameter, Stream&) {
  ++ready_count_;
  ParameterState& state = state_.of(parameter);
  const bool finite = usable() && scan_gradient(parameter.gradient, {}, stream_).finite;
  if (counts_) ballot_->gradient_faults += !finite;
  if (state.group->reduce == Reduce::vote) {
    voted_->offer(state, finite);
    voted_->advance();
    return;
  }
  const Averaged& a = averaged(state);
  mean_->contributes()[a.segment] = finite;
  const std::span<const float> gradient(parameter.gradient.f32(),
                                        static_cast<std::size_t>(parameter.extent()));
  if (finite) std::ranges::copy(gradient, mean_->values().begin() + a.offset);
}

void MemberBallotMaker::finish(const Loss& loss) {
  const Deadline deadline = Deadline::in(patience_);
  if (voted_) {
    voted_->finish(deadline);
    if (members_.rank() == 0) {
      std::ranges::copy(bits_->bits().span(), ballot_->bits->bits().span().begin());
      std::ranges::copy(bits_->abstentions().span(), ballot_->bits->abstentions().span().begin());
    }
  }
  if (mean_) mean_->reduce(deadline);
  // The first member speaks for the voter. Whose gradients were no numbers is counted already.
  const std::int64_t faults = ballot_->gradient_faults;
  const std::size_t told = members_.rank() == 0 ? averaged_.size() : 0;
  for (const Averaged& a : std::span(averaged_).first(told)) {
    const bool counts = mean_->contributors()[a.segment] > 0;
    const std::span<float> gradient(a.state->parameter->gradient.f32(),
                                    static_cast<std::size_t>(a.state->parameter->extent()));
    if (counts)
      std::ranges::copy(
          mean_->values().subspan(static_cast<std::size_t>(a.offset), gradient.size()),
          gradient.begin());
    caster_.contribute(*a.state, stream_, counts, ballot_->means[layout_.place(*a.state).wire]);
  }
  take_made(true);
  ballot_->gradient_faults = faults;
  BallotMaker::finish(loss);
}

std::uint64_t MemberBallotMaker::bytes_sent() const {
  return members_.traffic().total_sent() + (voted_ ? voted_->traffic().total_sent() : 0);
}

}  // namespace ballot

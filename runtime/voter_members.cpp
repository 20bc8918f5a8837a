#include "runtime/voter_members.h"

#include <algorithm>
#include <chrono>

#include "collectives/bit_vector.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

BALLOT_VECTORIZED void average_elements(const float* const* sources, std::int64_t count, float by,
                                        float* target, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kStretch = 1024;
  float sum[kStretch];
  for (; begin < end; begin += kStretch) {
    const std::int64_t length = end - begin < kStretch ? end - begin : kStretch;
    for (std::int64_t i = 0; i < length; ++i) sum[i] = sources[0][begin + i];
    for (std::int64_t s = 1; s < count; ++s) {
      const float* __restrict x = sources[s] + begin;
      for (std::int64_t i = 0; i < length; ++i) sum[i] += x[i];
    }
    for (std::int64_t i = 0; i < length; ++i) target[begin + i] = sum[i] / by;
  }
}

std::span<std::uint64_t> bits_of(Ballot& ballot, const BallotSegment& segment) {
  return ballot.bits().span().subspan(at(segment.offset / 64), at(segment.extent() / 64));
}

}  // namespace

VoterMembers::VoterMembers(const MemberPlan& plan, OptimizerState& state, const StepLayout& layout,
                           Ballot& ballot, Transport& workers, Cast cast, Complete complete,
                           Deadline deadline)
    : layout_(layout), ballot_(ballot), cast_(std::move(cast)), complete_(std::move(complete)) {
  members_ = workers.split(workers.rank() / plan.members, deadline);
  require(members_->size() == plan.members, "a voter of {} members, planned for {}",
          members_->size(), plan.members);
  all_.resize(layout.voted().segments().size());
  for (ParameterState& s : state.states()) {
    if (s.group->reduce != Reduce::vote) continue;
    const std::size_t segment = at(layout.place(s).segment);
    Work& work = all_[segment];
    work.state = &s;
    work.worker = plan.worker[at(s.parameter->index)];
    work.counts.resize(at(plan.members));
    work.silent.resize(at((layout.segment(s).blocks() + 63) / 64));
    if (work.worker != member()) continue;
    slot_elements_ = std::max(slot_elements_, s.parameter->extent());
  }
  for (std::size_t segment = 0; segment < all_.size(); ++segment) {
    if (all_[segment].worker != member()) continue;
    all_[segment].slot = mine_.size() % kSlots;
    mine_.push_back(segment);
  }
  slots_ = Buffer(kSlots * at(plan.members - 1) * at(slot_elements_) * sizeof(float));
  for (std::size_t segment = 0; segment < all_.size(); ++segment) open(segment);
  sources_.reserve(at(plan.members));
}

VoterMembers::~VoterMembers() = default;

// Of another member, where it arrives; of this one, where backward made it.
const float* VoterMembers::gradient_of(const Work& work, int m) const {
  if (m == member()) return work.state->parameter->gradient.f32();
  const std::size_t place = work.slot * at(members_->size() - 1) + at(m < member() ? m : m - 1);
  return slots_.as<float>() + place * at(slot_elements_);
}

void VoterMembers::open(std::size_t segment) {
  Work& work = all_[segment];
  const Parameter& p = *work.state->parameter;
  const std::size_t count = at(p.extent());
  std::vector<SendParts> gradients(at(members_->size())), ballots(at(members_->size()));
  std::vector<ReceiveParts> gradients_in(at(members_->size())), ballots_in(at(members_->size()));
  const auto count_of = [&work](int m) {
    return std::as_writable_bytes(std::span(&work.counts[at(m)], 1));
  };
  const Bytes silent = std::as_writable_bytes(std::span(work.silent));
  const Bytes bits = std::as_writable_bytes(bits_of(ballot_, layout_.segment(*work.state)));
  if (work.worker != member()) {
    gradients[at(work.worker)] = {count_of(member()),
                                  std::as_bytes(std::span(p.gradient.f32(), count))};
    ballots_in[at(work.worker)] = {silent, bits};
  } else {
    for (int m = 0; m < members_->size(); ++m) {
      if (m == member()) continue;
      gradients_in[at(m)] = {count_of(m), std::as_writable_bytes(std::span(
                                              const_cast<float*>(gradient_of(work, m)), count))};
      ballots[at(m)] = {silent, bits};
    }
  }
  work.gradients = members_->open_exchange(Purpose::mean, gradients, gradients_in);
  work.ballots = members_->open_exchange(Purpose::vote, ballots, ballots_in);
}

void VoterMembers::begin() {
  for (Work& work : all_) work.offered = work.under_way = work.complete = false;
  started_ = done_ = completed_ = 0;
  while (started_ < std::min(kSlots, mine_.size())) start_gradients(started_++);
}

void VoterMembers::start_gradients(std::size_t mine) {
  all_[mine_[mine]].gradients->start();
}

void VoterMembers::offer(ParameterState& state, bool counts) {
  Work& work = all_[at(layout_.place(state).segment)];
  require(!work.offered, "the gradient of {} is offered twice in a step",
          state.parameter->shape.name);
  work.offered = true;
  work.counts[at(member())] = counts;
  if (work.worker == member()) return;
  work.gradients->start();
  work.ballots->start();
  work.under_way = true;
}

bool VoterMembers::advance() {
  bool moved = false;
  // In order: the next one's gradients arrive while this one is worked on.
  while (done_ < started_) {
    const std::size_t segment = mine_[done_];
    Work& work = all_[segment];
    if (!work.offered || !work.gradients->done()) break;
    average(work);
    const BallotSegment& s = layout_.segment(*work.state);
    copy_bits(ballot_.abstentions().words(), s.first_block, work.silent.data(), 0, s.blocks());
    work.ballots->start();
    work.under_way = true;
    work.complete = true;
    ++completed_;
    complete_(segment);
    ++done_;
    if (started_ < mine_.size()) start_gradients(started_++);
    moved = true;
  }
  for (std::size_t segment = 0; segment < all_.size(); ++segment) {
    Work& work = all_[segment];
    if (!work.under_way || !work.ballots->done() || !work.gradients->done()) continue;
    work.under_way = false;
    moved = true;
    if (work.complete) continue;
    const BallotSegment& s = layout_.segment(*work.state);
    copy_bits(work.silent.data(), 0, ballot_.abstentions().words(), s.first_block, s.blocks());
    work.complete = true;
    ++completed_;
    complete_(segment);
  }
  return moved;
}

void VoterMembers::average(Work& work) {
  sources_.clear();
  for (int m = 0; m < members_->size(); ++m)
    if (work.counts[at(m)] != 0) sources_.push_back(gradient_of(work, m));
  const Parameter& p = *work.state->parameter;
  const std::int64_t count = static_cast<std::int64_t>(sources_.size());
  if (count > 0)
    parallel_for(p.extent(), 4096, [&](std::int64_t begin, std::int64_t end) {
      average_elements(sources_.data(), count, static_cast<float>(count), p.gradient.f32(), begin,
                       end);
    });
  cast_(*work.state, count > 0);
}

bool VoterMembers::left() const {
  return std::ranges::none_of(all_, &Work::under_way);
}

void VoterMembers::finish(Deadline deadline) {
  while (completed_ < all_.size() || !left()) {
    if (advance()) continue;
    if (deadline.passed()) {
      for (Work& work : all_) {
        if (!work.complete && !work.gradients->done()) work.gradients->wait(deadline);
        if (!work.complete || work.under_way) work.ballots->wait(deadline);
      }
      throw Timeout("member {} of a voter passed its deadline when all had come", member());
    }
    members_->idle(std::chrono::microseconds(200));
  }
}

}  // namespace ballot

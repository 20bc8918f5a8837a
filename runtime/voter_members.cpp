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

// The bits of a part that lies in one stretch.
std::span<std::uint64_t> bits_of(Ballot& ballot, const BallotSegment& stretch) {
  return ballot.bits().span().subspan(at(stretch.offset / 64), at(stretch.extent() / 64));
}

}  // namespace

VoterMembers::VoterMembers(const MemberPlan& plan, OptimizerState& state, const StepLayout& layout,
                           Ballot& ballot, Transport& workers, Cast cast, Complete complete,
                           Deadline deadline, CastPart cast_part, Duration patience)
    : layout_(layout),
      ballot_(ballot),
      cast_(std::move(cast)),
      cast_part_(std::move(cast_part)),
      complete_(std::move(complete)) {
  members_ = workers.split(workers.rank() / plan.members, deadline);
  require(members_->size() == plan.members, "a voter of {} members, planned for {}",
          members_->size(), plan.members);
  // Segments follow one another in the order of parameters.
  for (ParameterState& s : state.states())
    if (s.group->reduce == Reduce::vote) plan_work(plan, s);
  first_.push_back(all_.size());
  left_of_.resize(layout.voted().segments().size());
  plan_sums(plan, patience, deadline);
  for (std::size_t i = 0; i < all_.size(); ++i) {
    if (all_[i].worker != member()) continue;
    all_[i].slot = mine_.size() % kSlots;
    mine_.push_back(i);
    slot_elements_ = std::max(slot_elements_, all_[i].part.extent());
  }
  slots_ = Buffer(kSlots * at(plan.members - 1) * at(slot_elements_) * sizeof(float));
  for (Work& work : all_) open(work);
  sources_.reserve(at(plan.members));
}

VoterMembers::~VoterMembers() = default;

void VoterMembers::plan_work(const MemberPlan& plan, ParameterState& state) {
  const Parameter& p = *state.parameter;
  const std::size_t segment = at(layout_.place(state).segment);
  require(segment == first_.size(), "{} is segment {}, expected {}", p.shape.name, segment,
          first_.size());
  first_.push_back(all_.size());
  for (const MatrixPart& part : plan.parts[at(p.index)]) {
    Work& work = all_.emplace_back();
    work.state = &state;
    work.segment = segment;
    work.part = ballot::part_of(p, part);
    work.worker = part.member;
    work.counts.resize(at(plan.members));
    std::int64_t blocks = 0;
    for (std::int64_t k = 0; k < stretches(work.part); ++k)
      blocks += stretch(layout_.segment(state), work.part, k).blocks();
    work.silent.resize(at((blocks + 63) / 64));
    if (!work.part.by_columns) continue;
    work.gradient = Buffer(at(work.part.extent()) * sizeof(float));
    work.bits.resize(
        at(work.part.rows * stretch(layout_.segment(state), work.part, 0).row_stride / 64));
  }
}

// One for each set of members that hold parts, made in the same order everywhere.
void VoterMembers::plan_sums(const MemberPlan& plan, Duration patience, Deadline deadline) {
  std::map<std::vector<int>, std::vector<std::int64_t>> sides;
  const auto holders_of = [&](const Parameter& p) {
    std::vector<int> holders;
    for (const MatrixPart& part : plan.parts[at(p.index)]) holders.push_back(part.member);
    std::ranges::sort(holders);
    return holders;
  };
  for (const Work& work : all_) {
    const Parameter& p = *work.state->parameter;
    if (!plan.is_cut(p)) continue;
    require(static_cast<bool>(cast_part_), "{} is cut, and nobody casts parts", p.shape.name);
    sides[holders_of(p)].push_back(std::min(p.shape.rows, p.shape.cols));
  }
  for (const auto& [holders, all] : sides)
    sums_[holders] = std::make_unique<PartSums>(*members_, holders, all, patience, deadline);
  for (Work& work : all_)
    if (plan.is_cut(*work.state->parameter))
      work.sums = sums_.at(holders_of(*work.state->parameter)).get();
}

// This member's: where backward made it, or packed.
float* VoterMembers::own_gradient(const Work& work) const {
  if (work.part.by_columns) return work.gradient.as<float>();
  return work.state->parameter->gradient.f32() + work.part.begin * work.part.row_stride;
}

// Of another member, where it arrives.
const float* VoterMembers::gradient_of(const Work& work, int m) const {
  if (m == member()) return own_gradient(work);
  const std::size_t place = work.slot * at(members_->size() - 1) + at(m < member() ? m : m - 1);
  return slots_.as<float>() + place * at(slot_elements_);
}

void VoterMembers::open(Work& work) {
  const std::size_t count = at(work.part.extent());
  std::vector<SendParts> gradients(at(members_->size())), ballots(at(members_->size()));
  std::vector<ReceiveParts> gradients_in(at(members_->size())), ballots_in(at(members_->size()));
  const auto count_of = [&work](int m) {
    return std::as_writable_bytes(std::span(&work.counts[at(m)], 1));
  };
  const Bytes silent = std::as_writable_bytes(std::span(work.silent));
  const Bytes bits = std::as_writable_bytes(
      work.part.by_columns ? std::span(work.bits)
                           : bits_of(ballot_, stretch(layout_.segment(*work.state), work.part, 0)));
  if (work.worker != member()) {
    gradients[at(work.worker)] = {count_of(member()),
                                  std::as_bytes(std::span(own_gradient(work), count))};
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

Traffic VoterMembers::traffic() const {
  Traffic all = members_->traffic();
  for (const auto& [holders, sums] : sums_) all = all + sums->traffic();
  return all;
}

double VoterMembers::sum_seconds() const {
  double all = -sum_seconds_before_;
  for (const auto& [holders, sums] : sums_) all += sums->seconds();
  return all;
}

void VoterMembers::begin() {
  for (Work& work : all_) work.offered = work.under_way = work.complete = false;
  for (std::size_t s = 0; s < left_of_.size(); ++s) left_of_[s] = first_[s + 1] - first_[s];
  started_ = done_ = completed_ = 0;
  sum_seconds_before_ += sum_seconds();
  while (started_ < std::min(kSlots, mine_.size())) start_gradients(started_++);
}

void VoterMembers::start_gradients(std::size_t mine) {
  all_[mine_[mine]].gradients->start();
}

void VoterMembers::offer(ParameterState& state, bool counts) {
  const std::size_t segment = at(layout_.place(state).segment);
  for (std::size_t i = first_[segment]; i < first_[segment + 1]; ++i) {
    Work& work = all_[i];
    require(!work.offered, "the gradient of {} is offered twice in a step",
            state.parameter->shape.name);
    work.offered = true;
    work.counts[at(member())] = counts;
    if (work.part.by_columns) pack_gradient(work);
    if (work.worker == member()) continue;
    work.gradients->start();
    work.ballots->start();
    work.under_way = true;
  }
}

void VoterMembers::pack_gradient(Work& work) const {
  const Tensor& whole = work.state->parameter->gradient;
  const float* const from = whole.f32() + work.part.begin;
  float* const to = work.gradient.as<float>();
  const TensorPart& part = work.part;
  parallel_for(part.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      std::copy_n(from + row * whole.stride[0], part.cols, to + row * part.row_stride);
  });
}

void VoterMembers::take_from_ballot(Work& work) const {
  const BallotSegment& segment = layout_.segment(*work.state);
  std::int64_t blocks = 0, words = 0;
  for (std::int64_t k = 0; k < stretches(work.part); ++k) {
    const BallotSegment s = stretch(segment, work.part, k);
    copy_bits(ballot_.abstentions().words(), s.first_block, work.silent.data(), blocks, s.blocks());
    blocks += s.blocks();
    if (!work.part.by_columns) continue;
    std::ranges::copy(bits_of(ballot_, s), work.bits.begin() + words);
    words += s.extent() / 64;
  }
}

void VoterMembers::put_into_ballot(Work& work) const {
  const BallotSegment& segment = layout_.segment(*work.state);
  std::int64_t blocks = 0, words = 0;
  for (std::int64_t k = 0; k < stretches(work.part); ++k) {
    const BallotSegment s = stretch(segment, work.part, k);
    copy_bits(work.silent.data(), blocks, ballot_.abstentions().words(), s.first_block, s.blocks());
    blocks += s.blocks();
    if (!work.part.by_columns) continue;
    std::copy_n(work.bits.begin() + words, s.extent() / 64, bits_of(ballot_, s).begin());
    words += s.extent() / 64;
  }
}

void VoterMembers::finish(Work& work) {
  work.complete = true;
  ++completed_;
  if (--left_of_[work.segment] == 0) complete_(work.segment);
}

bool VoterMembers::advance() {
  bool moved = false;
  // In order: the next one's gradients arrive while this one is worked on.
  while (done_ < started_) {
    Work& work = all_[mine_[done_]];
    if (!work.offered || !work.gradients->done()) break;
    average(work);
    take_from_ballot(work);
    work.ballots->start();
    work.under_way = true;
    finish(work);
    ++done_;
    if (started_ < mine_.size()) start_gradients(started_++);
    moved = true;
  }
  for (Work& work : all_) {
    if (!work.under_way || !work.ballots->done() || !work.gradients->done()) continue;
    work.under_way = false;
    moved = true;
    if (work.complete) continue;
    put_into_ballot(work);
    finish(work);
  }
  return moved;
}

void VoterMembers::average(Work& work) {
  sources_.clear();
  for (int m = 0; m < members_->size(); ++m)
    if (work.counts[at(m)] != 0) sources_.push_back(gradient_of(work, m));
  const std::int64_t count = static_cast<std::int64_t>(sources_.size());
  float* const mean = own_gradient(work);
  if (count > 0)
    parallel_for(work.part.extent(), 4096, [&](std::int64_t begin, std::int64_t end) {
      average_elements(sources_.data(), count, static_cast<float>(count), mean, begin, end);
    });
  if (work.sums == nullptr) return cast_(*work.state, count > 0);
  work.sums->work_on(work.state->parameter->shape.name);
  cast_part_(*work.state, matrix_of(work.part, mean, DType::f32, Device{}), count > 0, *work.sums);
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

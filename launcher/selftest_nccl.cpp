// The self-test's votes and means between the GPUs of this machine.
#include <algorithm>
#include <atomic>

#include "collectives/cuda_nccl.h"
#include "collectives/device_mean.h"
#include "collectives/mean.h"
#include "collectives/transport/loopback_transport.h"
#include "collectives/transport/nccl_transport.h"
#include "collectives/vote.h"
#include "core/copy.h"
#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "launcher/selftest.h"

namespace ballot {
namespace {

constexpr int kMostGpus = 16;
constexpr std::int64_t kSteps = 3;
constexpr Schedule kSchedules[] = {Schedule::sharded, Schedule::lanes, Schedule::hierarchical};

BallotLayout ragged_layout() {
  std::vector<BallotSegment> segments(3);
  segments[0] = {.name = "wide", .rows = 300, .cols = 1000, .row_stride = 1024};
  segments[1] = {.name = "tall", .rows = 5000, .cols = 65, .row_stride = 128};
  segments[2] = {.name = "one", .rows = 1, .cols = 1, .row_stride = 64};
  std::int64_t place = 0;
  for (BallotSegment& s : segments) {
    s.arena_offset = place;
    place += (s.extent() + 511) / 512 * 512;
  }
  return BallotLayout(segments);
}

// Signs of pseudo-random numbers; a row in ten says nothing.
void cast(const BallotLayout& layout, int rank, std::int64_t step, Ballot& ballot) {
  Stream stream;
  for (const BallotSegment& s : layout.segments()) {
    std::vector<float> direction(static_cast<std::size_t>(s.extent()));
    for (std::int64_t i = 0; i < s.extent(); ++i)
      direction[static_cast<std::size_t>(i)] =
          hash64(static_cast<std::uint64_t>(rank), static_cast<std::uint64_t>(step),
                 static_cast<std::uint64_t>(s.offset + i)) %
                      2 ==
                  0
              ? 1.0f
              : -1.0f;
    std::vector<std::uint8_t> silent(static_cast<std::size_t>(s.rows));
    for (std::size_t r = 0; r < silent.size(); ++r)
      silent[r] = hash64(static_cast<std::uint64_t>(rank), r, 7) % 10 == 0;
    cast_ballot(make_matrix(direction.data(), DType::f32, s.rows, s.cols, s.row_stride), s, {},
                silent, ballot, stream);
  }
}

bool are_equal(const Verdict& a, const Verdict& b) {
  return std::ranges::equal(a.bits.span(), b.bits.span()) &&
         std::ranges::equal(a.held_blocks.span(), b.held_blocks.span()) &&
         std::ranges::equal(a.held_elements.span(), b.held_elements.span()) &&
         a.statistics == b.statistics;
}

// Every schedule that goes from GPU to GPU, against the CPU's sharded one; how many verdicts
// differ.
int count_other_verdicts(Transport& nccl, Transport& control, Deadline deadline) {
  const BallotLayout layout = ragged_layout();
  Ballot ballot(layout);
  VoteOptions options{.ties = Ties::hold, .piece_elements = 1 << 16};
  const auto here = make_vote(ballot, control, options, deadline);
  int others = 0;
  for (const Schedule schedule : kSchedules) {
    options.schedule = schedule;
    // Nodes of two where that goes up, else one node.
    if (schedule == Schedule::hierarchical)
      options.node_size = control.size() % 2 == 0 ? 2 : control.size();
    const auto there = make_vote(ballot, nccl, options, deadline);
    for (std::int64_t step = 0; step < kSteps; ++step) {
      cast(layout, control.rank(), step, ballot);
      others += !are_equal(there->elect(step, deadline), here->elect(step, deadline));
    }
    control.barrier(deadline);  // pinned memory is given back when all GPUs are idle
  }
  return others;
}

// Of pseudo-random numbers; each rank leaves one tensor out.
bool means_are_equal(DType wire, Transport& nccl, Transport& control, Deadline deadline) {
  const std::vector<std::int64_t> lengths = {300'000, 1, 5000, 777};
  const Device device = nccl.device_link()->device();
  DeviceMean there(lengths, wire, nccl, *nccl.device_link(), {}, 1 << 16);
  Mean here(lengths, wire, control, 1 << 16);
  there.begin(0);
  here.begin(0);
  const auto rank = static_cast<std::size_t>(control.rank());
  there.contributes()[rank % lengths.size()] = here.contributes()[rank % lengths.size()] = 0;
  for (std::size_t i = 0; i < here.values().size(); ++i)
    here.values()[i] = static_cast<float>(hash64(rank, i, 3) >> 40) * 0x1p-20f - 7;
  Stream stream(device);
  copy_bytes(there.values(), device, here.values().data(), Device{}, here.values().size_bytes(),
             stream);
  stream.synchronize();
  there.release_all();
  there.finish(deadline);
  here.reduce(deadline);
  std::vector<float> came(here.values().size());
  copy_bytes(came.data(), Device{}, there.values(), device, here.values().size_bytes(), stream);
  stream.synchronize();
  return std::ranges::equal(came, here.values()) &&
         std::ranges::equal(there.contributors(), here.contributors());
}

}  // namespace

SelftestCheck selftest_nccl() {
  SelftestCheck check{"votes and means over NCCL", false, ""};
  try {
    const std::string version = cuda_nccl().version();
    const int gpus = std::min(cuda_core().device_count(), kMostGpus);
    std::atomic<int> wrong = 0, other_means = 0;
    run_loopback(gpus, [&](Transport& control) {
      const Deadline deadline = Deadline::in(std::chrono::minutes(1));
      const Device device{Device::Kind::cuda, control.rank()};
      const auto nccl = make_nccl_transport(control, device, deadline);
      wrong += count_other_verdicts(*nccl, control, deadline);
      for (const DType wire : {DType::f32, DType::bf16}) {
        other_means += !means_are_equal(wire, *nccl, control, deadline);
        control.barrier(deadline);  // pinned memory is given back when all GPUs are idle
      }
    });
    check.passed = wrong == 0 && other_means == 0;
    check.detail = fmt::format(
        "{} between {} GPU{}: {} of {} verdicts (sharded, lanes, hierarchical) and {} of {} means "
        "differ from the CPU's",
        version, gpus, gpus == 1 ? "" : "s", wrong.load(), gpus * kSteps * std::size(kSchedules),
        other_means.load(), 2 * gpus);
  } catch (const Unavailable& missing) {
    check.passed = true;  // a run that asks for it will be refused, and others need it not
    check.detail = fmt::format("not tried: {}", missing.what());
  } catch (const std::exception& failure) {
    check.detail = failure.what();
  }
  return check;
}

}  // namespace ballot

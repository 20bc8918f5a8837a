// The vote between GPUs over NCCL: what it elects, what it sends, and what becomes of it when a
// rank is lost. Ranks are threads, each with a GPU; where there are fewer, tests are skipped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "collectives/cuda_nccl.h"
#include "collectives/transport/device_link.h"
#include "collectives/transport/loopback_transport.h"
#include "collectives/transport/nccl_transport.h"
#include "collectives/vote.h"
#include "core/copy.h"
#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "schedule_suite.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

Device gpu(int rank) {
  return {Device::Kind::cuda, rank};
}

bool has_gpus(int ranks) {
  return cuda_core().device_count() >= ranks;
}
#define NEEDS_GPUS(ranks) \
  if (!has_gpus(ranks)) GTEST_SKIP() << "needs " << (ranks) << " GPUs"

void run_nccl(int ranks, const std::function<void(Transport&, Transport& control)>& body) {
  run_loopback(ranks, [&](Transport& control) {
    const auto transport = make_nccl_transport(control, gpu(control.rank()), test::soon());
    body(*transport, control);
  });
}

// Ballots of random layouts and moods, released by each rank at its own pace and in its own order.
void expect_one_verdict(int ranks, const VoteOptions& options, std::uint64_t seed,
                        const BallotLayout* layout = nullptr) {
  const test::VoteCase c = test::make_case(ranks, options, seed, layout);
  run_nccl(ranks, [&](Transport& transport, Transport&) {
    EXPECT_EQ(transport.name(), "nccl");
    EXPECT_EQ(test::run_case(transport, c), "");
  });
}

TEST(NcclVote, ElectsWhatTheReferenceElects) {
  std::uint64_t seed = 0;
  for (const int ranks : {1, 2, 3, 5})
    for (int trial = 0; trial < 6 && has_gpus(ranks); ++trial)
      expect_one_verdict(ranks, {}, ++seed);
}

TEST(NcclLaneVote, ElectsWhatTheReferenceElects) {
  std::uint64_t seed = 200;
  for (const int ranks : {1, 2, 3, 4, 5})
    for (int trial = 0; trial < 5 && has_gpus(ranks); ++trial)
      expect_one_verdict(ranks, {.schedule = Schedule::lanes}, ++seed);
}

TEST(NcclHierarchicalVote, ElectsWhatTheReferenceElects) {
  std::uint64_t seed = 300;
  for (const int ranks : {1, 2, 3, 4, 5})
    for (const VoteOptions& options : test::schedules_that_fit(ranks, true))
      for (int trial = 0; trial < 3 && has_gpus(ranks); ++trial)
        if (options.schedule == Schedule::hierarchical) expect_one_verdict(ranks, options, ++seed);
}

TEST(NcclVote, ElectsAlikeWhereSomeOwnNothing) {
  NEEDS_GPUS(3);
  const BallotLayout layout = test::make_layout({{1, 65}, {1, 512}});
  for (std::uint64_t seed = 50; seed < 53; ++seed)
    for (const Schedule schedule : {Schedule::sharded, Schedule::lanes, Schedule::hierarchical})
      expect_one_verdict(3, {.schedule = schedule}, seed, &layout);
}

TEST(NcclTransport, CarriesEverythingElseOverTheTransportItStandsOn) {
  NEEDS_GPUS(2);
  run_nccl(2, [](Transport& transport, Transport& control) {
    const int mine = transport.rank() + 7;
    int other = 0;
    const std::vector<Bytes> from(2, std::as_writable_bytes(std::span(&other, 1)));
    transport.start_gather(Purpose::control, std::as_bytes(std::span(&mine, 1)), from)
        ->wait(test::soon());
    EXPECT_EQ(other, 8 - transport.rank());
    EXPECT_EQ(transport.traffic().sent(Purpose::control), control.traffic().sent(Purpose::control));
    EXPECT_EQ(transport.traffic().sent(Purpose::vote), 0u);
  });
}

TEST(NcclTransport, RefusesWhatItDoesNotCarry) {
  NEEDS_GPUS(2);
  run_nccl(2, [](Transport& transport, Transport&) {
    const BallotLayout layout = test::make_layout({{2, 512}});
    const Ballot ballot(layout);
    for (const VoteOptions& options :
         {VoteOptions{.schedule = Schedule::gathered}, VoteOptions{.members = 2}})
      EXPECT_THAT([&] { make_vote(ballot, transport, options, test::soon()); },
                  testing::ThrowsMessage<ConfigError>(HasSubstr("transport nccl")));
  });
  run_loopback(1, [](Transport& control) {
    EXPECT_THAT([&] { make_nccl_transport(control, Device{}, test::soon()); },
                testing::ThrowsMessage<ConfigError>(HasSubstr("expected a GPU")));
  });
}

// One rank leaves in the middle: the others learn of it, or pass their deadline; none hangs, and
// their streams come to an end.
class NcclSchedule : public testing::TestWithParam<Schedule> {};
INSTANTIATE_TEST_SUITE_P(OfVotes, NcclSchedule,
                         testing::Values(Schedule::sharded, Schedule::lanes,
                                         Schedule::hierarchical),
                         [](const auto& of) { return std::string(to_string(of.param)); });

TEST_P(NcclSchedule, ALostRankEndsTheVoteOfTheOthers) {
  NEEDS_GPUS(3);
  const BallotLayout layout = test::make_layout({{4, 600}, {3, 512}});
  const Ballot ballot(layout);
  VoteOptions options{.schedule = GetParam(), .piece_elements = 512};
  if (GetParam() == Schedule::hierarchical) options.node_size = 3;
  run_nccl(3, [&](Transport& transport, Transport&) {
    const auto vote = make_vote(ballot, transport, options, test::soon());
    vote->elect(0, test::soon());
    vote->begin(1);
    vote->release(0);  // the first pieces are under way
    if (transport.rank() == 1) {
      vote->advance();
      return;  // and gone
    }
    vote->release(1);
    try {
      vote->finish(Deadline::in(3s));
      ADD_FAILURE() << "elected without rank 1";
    } catch (const WorldError& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::retry) << error.what();
    }
  });
}

// Between GPUs like the other, but that the first word of what the `nth` operation brings becomes
// ones.
class Damaging final : public Transport, private DeviceLink {
 public:
  Damaging(Transport& base, int nth)
      : base_(base), link_(*base.device_link()), nth_(nth), ones_(8, link_.device()) {
    std::ranges::fill(ones_.bytes(), std::byte{0xff});
  }
  std::string name() const override { return base_.name(); }
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  void idle(Duration at_most) override { base_.idle(at_most); }
  Traffic traffic() const override { return base_.traffic(); }
  DeviceLink* device_link() override { return this; }
  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    return base_.split(color, deadline);
  }

 private:
  std::uint64_t take_number(bool once) override { return take_number_of(base_, once); }
  std::unique_ptr<Transfer> make_transfer(std::uint64_t number, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    return make_transfer_of(base_, number, purpose, to, from);
  }
  Device device() const override { return link_.device(); }
  void exchange(Purpose purpose, std::span<const DeviceMessage> to,
                std::span<const DeviceMessage> from, Stream& stream) override {
    link_.exchange(purpose, to, from, stream);
    damage(from.empty() ? nullptr : from.front().memory, stream);
  }
  void sum(Purpose purpose, std::uint32_t* values, std::int64_t count, Stream& stream) override {
    link_.sum(purpose, values, count, stream);
    damage(values, stream);
  }
  void check() override { link_.check(); }
  void abort() noexcept override { link_.abort(); }

  void damage(void* memory, Stream& stream) {
    if (++done_ == nth_)
      copy_bytes(memory, device(), ones_.data(), Device{}, ones_.size_bytes(), stream);
  }

  Transport& base_;
  DeviceLink& link_;
  const int nth_;
  int done_ = 0;
  PinnedBuffer ones_;
};

// All vote for plus, so ones are damage.
TEST_P(NcclSchedule, AVerdictDamagedOnItsWayNamesWhoHoldsIt) {
  NEEDS_GPUS(3);
  const BallotLayout layout = test::make_layout({{6, 512}});
  const Ballot ballot(layout);
  VoteOptions options{.schedule = GetParam(), .piece_elements = layout.extent()};
  if (GetParam() == Schedule::hierarchical) options.node_size = 3;
  // The last of a piece's operations brings the verdict, or what it is decided from.
  const int last = GetParam() == Schedule::lanes ? 1 : GetParam() == Schedule::sharded ? 2 : 4;
  run_nccl(3, [&](Transport& transport, Transport&) {
    Damaging damaging(transport, last);
    const auto vote =
        make_vote(ballot, transport.rank() == 1 ? damaging : transport, options, test::soon());
    EXPECT_THAT([&] { vote->elect(0, test::soon()); },
                testing::ThrowsMessage<TransportError>(HasSubstr(
                    "of the verdict of step 0 rank 1 holds something else than the rest")));
  });
}

TEST(NcclLaneVote, ASumAboveTheNumberOfVotersEndsTheStep) {
  NEEDS_GPUS(4);
  const BallotLayout layout = test::make_layout({{6, 512}});
  const Ballot ballot(layout);
  run_nccl(4, [&](Transport& transport, Transport&) {
    Damaging damaging(transport, 1);
    const bool mine = transport.rank() == 1;
    const auto vote =
        make_vote(ballot, mine ? damaging : transport, {.schedule = Schedule::lanes}, test::soon());
    try {
      vote->elect(0, Deadline::in(3s));
      ADD_FAILURE() << "elected with a sum that is none";
    } catch (const WorldError& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::retry) << error.what();
      if (mine) {
        EXPECT_THAT(error.what(), HasSubstr("piece 0 of step 0: a count is above the 4 voters"));
      }
    }
  });
}

TEST(NcclVote, ARankThatNeverVotesIsWaitedForUntilTheDeadline) {
  NEEDS_GPUS(2);
  const BallotLayout layout = test::make_layout({{4, 600}});
  const Ballot ballot(layout);
  run_nccl(2, [&](Transport& transport, Transport&) {
    const auto vote = make_vote(ballot, transport, {}, test::soon());
    if (transport.rank() == 0) {
      EXPECT_THAT([&] { vote->elect(0, Deadline::in(500ms)); },
                  testing::ThrowsMessage<Timeout>(HasSubstr("has not come back over nccl")));
    }
    transport.barrier(test::soon());
  });
}

// NCCL's own waiting has no deadline: ours must not be inside of it.
TEST(NcclTransport, JoiningOneThatDoesNotJoinIsATimeout) {
  const NcclId id = cuda_nccl().make_id();
  EXPECT_THROW(cuda_nccl().join(id, 0, 2, gpu(0), Deadline::in(200ms), {}), Timeout);
}

TEST(NcclTransport, ARankThatDoesNotComeIsATimeout) {
  NEEDS_GPUS(2);
  run_loopback(2, [](Transport& control) {
    if (control.rank() == 0) {
      EXPECT_THROW(make_nccl_transport(control, gpu(0), Deadline::in(500ms)), Timeout);
    } else {
      std::this_thread::sleep_for(700ms);
    }
  });
}

}  // namespace
}  // namespace ballot

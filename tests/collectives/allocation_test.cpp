// A step takes no memory: everything a vote or a mean needs is there when it has been made.
//
// Counts every operator new of the threads that vote, over loopback, but for those inside the
// transport: what a network takes for itself is its own affair.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "collectives/mean.h"
#include "collectives/transport/loopback_transport.h"
#include "schedule_suite.h"

namespace {
thread_local std::int64_t allocations = 0;
thread_local int in_transport = 0;
}  // namespace

void* operator new(std::size_t size) {
  if (in_transport == 0) ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace ballot {
namespace {

class InTransport {
 public:
  InTransport() { ++in_transport; }
  ~InTransport() { --in_transport; }
};

class QuietTransfer final : public Transfer {
 public:
  explicit QuietTransfer(std::unique_ptr<Transfer> base) : base_(std::move(base)) {}
  void start() override {
    const InTransport inside;
    base_->start();
  }
  bool done() override {
    const InTransport inside;
    return base_->done();
  }
  void wait(Deadline deadline) override {
    const InTransport inside;
    base_->wait(deadline);
  }
  const std::vector<bool>& arrived() override {
    const InTransport inside;
    return base_->arrived();
  }

 private:
  std::unique_ptr<Transfer> base_;
};

class QuietReducer final : public Reducer {
 public:
  explicit QuietReducer(Reducer& base) : base_(base) {}
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<std::uint32_t> values) override {
    return std::make_unique<QuietTransfer>(base_.open_sum(purpose, values));
  }
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<float> values) override {
    return std::make_unique<QuietTransfer>(base_.open_sum(purpose, values));
  }
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<bfloat16> values) override {
    return std::make_unique<QuietTransfer>(base_.open_sum(purpose, values));
  }

 private:
  Reducer& base_;
};

// Another transport, whose own allocations are not counted.
class QuietTransport final : public Transport {
 public:
  explicit QuietTransport(Transport& base) : base_(base), reducer_(*base.reducer()) {}
  explicit QuietTransport(std::unique_ptr<Transport> base)
      : owned_(std::move(base)), base_(*owned_), reducer_(*base_.reducer()) {}
  std::string name() const override { return base_.name(); }
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  void idle(Duration at_most) override { base_.idle(at_most); }
  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    return std::make_unique<QuietTransport>(base_.split(color, deadline));
  }
  Traffic traffic() const override { return base_.traffic(); }
  Reducer* reducer() override { return &reducer_; }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    return std::make_unique<QuietTransfer>(base_.open_exchange(purpose, to, from));
  }

 private:
  std::unique_ptr<Transport> owned_;
  Transport& base_;
  QuietReducer reducer_;
};

TEST(Allocation, IsCountedHere) {
  const std::int64_t before = allocations;
  const auto one = std::make_unique<int>(1);
  EXPECT_EQ(allocations, before + 1);
}

TEST(Allocation, AVoteTakesNoMemoryPerStep) {
  for (VoteOptions options : test::schedules_that_fit(4, true))
    for (const Ties ties : {Ties::coin, Ties::hold}) {
      options.ties = ties;
      options.piece_elements = 4 * kBallotAlignment;
      const BallotLayout layout = test::make_layout({{40, 576}, {7, 100}, {1, 130}});
      std::mt19937_64 random(3);
      const test::Ballots ballots =
          test::random_ballots(layout, 4 / options.members, test::Mood::random, random);
      run_loopback(4, [&](Transport& loopback) {
        QuietTransport transport(loopback);
        set_thread_count(1);
        Ballot mine(layout);
        test::copy_ballot(*ballots[static_cast<std::size_t>(transport.rank() / options.members)],
                          mine);
        const auto vote = make_vote(mine, transport, options, test::soon());
        vote->elect(0, test::soon());
        for (std::int64_t step = 1; step < 5; ++step) {
          const std::int64_t before = allocations;
          vote->begin(step);
          vote->release_all();
          while (!vote->advance()) std::this_thread::yield();
          EXPECT_EQ(allocations - before, 0)
              << to_string(options.schedule) << ", members " << options.members << ", node size "
              << options.node_size << ", step " << step;
        }
      });
    }
}

TEST(Allocation, AMeanTakesNoMemoryPerStep) {
  for (const DType wire : {DType::f32, DType::bf16})
    run_loopback(3, [&](Transport& loopback) {
      QuietTransport transport(loopback);
      set_thread_count(1);
      Mean mean({5000, 17, 400}, wire, transport, 512);
      mean.begin(0);
      mean.reduce(test::soon());
      for (std::int64_t step = 1; step < 5; ++step) {
        const std::int64_t before = allocations;
        mean.begin(step);
        mean.release_all();
        while (!mean.advance()) std::this_thread::yield();
        EXPECT_EQ(allocations - before, 0) << to_string(wire) << ", step " << step;
      }
    });
}

}  // namespace
}  // namespace ballot

// The mean between GPUs: the bits of the mean on the host, beside votes on the same link, and what
// becomes of it when a rank is lost. Ranks are threads, each with a GPU.
#include "collectives/device_mean.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "collectives/cuda_mean.h"
#include "collectives/mean.h"
#include "collectives/transport/loopback_transport.h"
#include "collectives/transport/nccl_transport.h"
#include "collectives/vote.h"
#include "core/copy.h"
#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "rank_suite.h"
#include "tests/cuda/device_tensor.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

#define NEEDS_GPUS(ranks) \
  if (cuda_core().device_count() < (ranks)) GTEST_SKIP() << "needs " << (ranks) << " GPUs"

void run_nccl(int ranks, const std::function<void(Transport&, Transport& control)>& body) {
  run_loopback(ranks, [&](Transport& control) {
    const auto transport =
        make_nccl_transport(control, {Device::Kind::cuda, control.rank()}, test::soon());
    body(*transport, control);
  });
}

void write(float* there, const std::vector<float>& values, Device device) {
  Stream stream(device);
  copy_bytes(there, device, values.data(), Device{}, values.size() * sizeof(float), stream);
  stream.synchronize();
}
std::vector<std::uint32_t> read(const float* there, std::size_t count, Device device) {
  std::vector<std::uint32_t> bits(count);
  Stream stream(device);
  copy_bytes(bits.data(), Device{}, there, device, count * sizeof(float), stream);
  stream.synchronize();
  return bits;
}

std::vector<float> contribution(std::int64_t count, std::mt19937_64& random) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i)
    values.push_back(random() % 9 == 0 ? -0.0f
                                       : std::normal_distribution<float>()(random) *
                                             std::exp2(static_cast<float>(random() % 20)));
  return values;
}

// Both means with the same contributions, released in an order of each rank's own.
void expect_the_bits_of_the_host(Transport& transport, Transport& control, DType wire,
                                 const std::vector<std::int64_t>& segments, std::int64_t piece,
                                 std::uint64_t seed) {
  const Device device = transport.device_link()->device();
  Mean here(segments, wire, control, piece);
  DeviceMean there(segments, wire, transport, *transport.device_link(), {}, piece);
  const auto count = static_cast<std::size_t>(there.count());
  ASSERT_EQ(here.values().size(), count);
  std::mt19937_64 random(seed * 100 + static_cast<std::uint64_t>(transport.rank()));
  for (std::int64_t step = 0; step < 4; ++step) {
    here.begin(step);
    there.begin(step);
    std::vector<float> mine = contribution(there.count(), random);
    std::size_t first = 0;
    for (std::size_t s = 0; s < segments.size(); ++s) {
      // Step 0: all count; step 2: nobody counts in the first segment.
      const bool counts = step == 0 || (random() % 3 != 0 && !(step == 2 && s == 0));
      here.contributes()[s] = there.contributes()[s] = counts;
      if (!counts) mine[first] = std::numeric_limits<float>::quiet_NaN();
      first += static_cast<std::size_t>(segments[s]);
    }
    std::ranges::copy(mine, here.values().begin());
    write(there.values(), mine, device);
    std::vector<std::size_t> order(segments.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::shuffle(order, random);
    for (const std::size_t s : order) {
      there.release(s);
      there.advance();
    }
    there.finish(test::soon());
    here.reduce(test::soon());
    EXPECT_TRUE(std::ranges::equal(there.contributors(), here.contributors()));
    std::vector<std::uint32_t> expected;
    for (const float value : here.values()) expected.push_back(std::bit_cast<std::uint32_t>(value));
    EXPECT_EQ(read(there.values(), count, device), expected) << "step " << step;
  }
}

TEST(DeviceMean, HasTheBitsOfTheMeanOnTheHost) {
  std::uint64_t seed = 0;
  for (const int ranks : {1, 2, 3, 5})
    for (const DType wire : {DType::f32, DType::bf16}) {
      if (cuda_core().device_count() < ranks) continue;
      run_nccl(ranks, [&](Transport& transport, Transport& control) {
        for (const auto& [segments, piece] :
             std::vector<std::pair<std::vector<std::int64_t>, std::int64_t>>{
                 {{1}, 0}, {{7, 5}, 0}, {{64, 1, 300, 17}, 48}, {{2000, 192, 192, 3}, 700}}) {
          expect_the_bits_of_the_host(transport, control, wire, segments, piece, seed);
          // Giving pinned memory back waits for all GPUs of the process, so for those that wait for
          // this rank in the next mean.
          control.barrier(test::soon());
        }
      });
      ++seed;
    }
}

TEST(DeviceMean, ClipsAsTheHostDoes) {
  Stream stream(test::cuda_device());
  std::mt19937_64 random(3);
  const std::vector<float> x = contribution(1000, random);
  const test::DeviceArray<float> source(x);
  for (const double square_sum : {0.0, 1.0, 3.7, 1e30, 0.25}) {
    for (const double most : {0.0, 1.0, 0.3}) {
      const test::DeviceArray<float> target(x.size());
      const test::DeviceArray<double> sum(std::vector<double>{square_sum});
      cuda_mean().clip(source.data(), static_cast<std::int64_t>(x.size()), sum.data(), most,
                       target.data(), stream);
      const double norm = std::sqrt(square_sum);
      const float factor = most > 0 && norm > most ? static_cast<float>(most / norm) : 1.0f;
      std::vector<float> expected;
      for (const float value : x) expected.push_back(factor * value);
      EXPECT_EQ(target.read(stream), expected) << square_sum << ", at most " << most;
    }
  }
  const test::DeviceArray<float> target(x.size());
  const test::DeviceArray<double> sum(std::vector<double>{std::nan("")});
  cuda_mean().clip(source.data(), static_cast<std::int64_t>(x.size()), sum.data(), 1.0,
                   target.data(), stream);
  EXPECT_EQ(target.read(stream), std::vector<float>(x.size(), 0.0f));
}

// The link is one for both, and their segments are released in any order.
TEST(DeviceMean, GoesBesideAVoteInOneOrderOnAllRanks) {
  NEEDS_GPUS(3);
  const BallotLayout layout = test::make_layout({{4, 600}, {3, 512}, {9, 64}});
  run_nccl(3, [&](Transport& transport, Transport& control) {
    const Ballot ballot(layout);
    const auto vote = make_vote(ballot, transport, {.piece_elements = 512}, test::soon());
    DeviceMean mean(
        {100, 50, 20}, DType::f32, transport, *transport.device_link(),
        [&] { return vote->all_started(); }, 32);
    std::mt19937_64 random(static_cast<std::uint64_t>(control.rank()));
    for (std::int64_t step = 0; step < 10; ++step) {
      vote->begin(step);
      mean.begin(step);
      std::vector<int> order = {0, 1, 2, 3, 4, 5};
      std::ranges::shuffle(order, random);
      for (const int s : order) {
        const auto segment = static_cast<std::size_t>(s % 3);
        s < 3 ? vote->release(segment) : mean.release(segment);
        if (random() % 2 == 0) mean.advance();
        if (random() % 2 == 0) vote->advance();
      }
      const Deadline deadline = test::soon();
      for (bool done = false; !done && !deadline.passed();) {
        const bool voted = vote->advance(), averaged = mean.advance();
        done = voted && averaged;
      }
      ASSERT_FALSE(deadline.passed()) << "step " << step;
    }
  });
}

TEST(DeviceMean, ALostRankEndsTheMeanOfTheOthers) {
  NEEDS_GPUS(3);
  run_nccl(3, [&](Transport& transport, Transport&) {
    DeviceMean mean({100, 50}, DType::f32, transport, *transport.device_link(), {}, 32);
    mean.begin(0);
    mean.release(0);
    if (transport.rank() == 1) {
      mean.advance();
      return;  // and gone
    }
    mean.release(1);
    try {
      mean.finish(Deadline::in(3s));
      ADD_FAILURE() << "a mean without rank 1";
    } catch (const WorldError& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::retry) << error.what();
    }
  });
}

TEST(DeviceMean, ARankThatGivesNothingIsWaitedForUntilTheDeadline) {
  NEEDS_GPUS(2);
  run_nccl(2, [&](Transport& transport, Transport&) {
    DeviceMean mean({100}, DType::bf16, transport, *transport.device_link());
    if (transport.rank() == 0) {
      mean.begin(0);
      mean.release_all();
      EXPECT_THAT(
          [&] { mean.finish(Deadline::in(500ms)); },
          testing::ThrowsMessage<Timeout>(HasSubstr("the mean of step 0 has not come back")));
    }
    transport.barrier(test::soon());
  });
}

}  // namespace
}  // namespace ballot

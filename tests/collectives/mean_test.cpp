// The mean over threads: the sum in the order of ranks, the same bits everywhere.
#include "collectives/mean.h"

#include <gtest/gtest.h>

#include "collectives/transport/loopback_transport.h"
#include "rank_suite.h"

namespace ballot {
namespace {

class MeanOfRanks : public testing::TestWithParam<int> {};

TEST_P(MeanOfRanks, InF32EqualsTheSumInRankOrder) {
  run_loopback(GetParam(),
               [](Transport& transport) { test::mean_equals_reference(transport, DType::f32); });
}
TEST_P(MeanOfRanks, InBf16EqualsTheRoundedSumOfRoundedContributions) {
  run_loopback(GetParam(),
               [](Transport& transport) { test::mean_equals_reference(transport, DType::bf16); });
}

INSTANTIATE_TEST_SUITE_P(Mean, MeanOfRanks, testing::Values(1, 2, 3, 4, 8));

TEST(Mean, RefusesAnEmptySegment) {
  run_loopback(1, [](Transport& transport) {
    EXPECT_THROW(Mean({4, 0}, DType::f32, transport), LogicError);
  });
}

TEST(Mean, RanksWithOtherSegmentsAreTold) {
  run_loopback(2, [](Transport& transport) {
    // Same sizes on the wire, another division into tensors.
    Mean mean(
        transport.rank() == 0 ? std::vector<std::int64_t>{30, 2} : std::vector<std::int64_t>{2, 30},
        DType::f32, transport);
    const std::string message = test::message_of<TransportError>([&] {
      mean.begin(0);
      mean.reduce(test::soon());
    });
    EXPECT_THAT(message, testing::HasSubstr("contribution from rank " +
                                            std::to_string(1 - transport.rank())));
    EXPECT_THAT(message, testing::HasSubstr("layout or options"));
    transport.barrier(test::soon());  // so that nobody sees the other leave first
  });
}

}  // namespace
}  // namespace ballot

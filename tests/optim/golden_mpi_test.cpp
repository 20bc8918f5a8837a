// The stored trajectory of three voters with MPI ranks; run under mpirun -n 3.

#include <gtest/gtest.h>

#include "collectives/transport/mpi_transport.h"
#include "tests/optim/golden.h"

namespace ballot {
namespace {

Transport* world = nullptr;

TEST(GoldenOverMpi, ThreeVotersElectTheVerdictsAndReachTheWeights) {
  if (!golden::present())
    GTEST_SKIP() << golden::kPath << " is absent (it comes with the project's test data)";
  ASSERT_EQ(world->size(), 3) << "run with mpirun -n 3";
  const SafetensorsReader file(golden::kPath);
  std::int64_t elements = 0, excepted = 0;
  for (const golden::Shape& shape : golden::kShapes) {
    const golden::Outcome outcome = golden::run_voter(file, golden::of_three_voters(shape), *world);
    EXPECT_EQ(outcome.other_sign, 0) << shape.name();
    EXPECT_LE(outcome.worst, 1e-6) << shape.name();
    elements += outcome.elements;
    excepted += outcome.excepted;
  }
  EXPECT_LE(1000 * excepted, elements);
}

}  // namespace
}  // namespace ballot

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  ballot::MpiSession session;
  const std::unique_ptr<ballot::Transport> transport = session.world();
  ballot::world = transport.get();
  const int failed = RUN_ALL_TESTS();
  if (failed != 0) session.abort(failed);
  return 0;
}

// Tensors reach the disk as they were, however little memory there is and whatever changes
// meanwhile.
#include "runtime/checkpoint_staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/runtime/checkpoint_support.h"

namespace ballot {
namespace {

constexpr Duration kLong = std::chrono::seconds(60);
const bool kTwoThreads = (set_thread_count(2), true);

using Collected = std::vector<std::vector<std::byte>>;  // by file

Collected collect(CheckpointStaging& staging, std::size_t files) {
  Collected all(files);
  while (const auto piece = staging.next()) {
    all[piece->file].insert(all[piece->file].end(), piece->bytes.begin(), piece->bytes.end());
    std::this_thread::yield();
  }
  return all;
}

struct Change {
  std::size_t parameter;
  Changing what;
};

// Every tensor once, in some order, as a step changes them: a few more than once.
std::vector<Change> changes_in_some_order(std::size_t parameters, std::mt19937_64& random) {
  std::vector<Change> changes;
  for (std::size_t p = 0; p < parameters; ++p)
    for (const Changing what : {Changing::value, Changing::state}) {
      changes.push_back({p, what});
      if (random() % 4 == 0) changes.push_back({p, what});
    }
  std::ranges::shuffle(changes, random);
  return changes;
}

TEST(CheckpointStaging, GivesWhatTheTensorsHeldWhenItStarted) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const int count = static_cast<int>(1 + random() % 3);
    const CheckpointShare share{static_cast<int>(random() % 3) % count, count};
    SmallState before(seed);
    const std::vector<CheckpointFile> expected_of =
        files_of(share, before.arena(), before.state(), 0);
    CheckpointStaging staging(std::array{0, 1000, 5000, 20000, 1 << 20}[random() % 5]);
    staging.start(expected_of);
    const Collected expected = collect(staging, expected_of.size());

    SmallState state(seed);
    const std::vector<CheckpointFile> files = files_of(share, state.arena(), state.state(), 0);
    staging.start(files);
    Collected found;
    std::thread disk([&] { found = collect(staging, files.size()); });
    const auto parameters = state.arena().parameters();
    for (const Change& change : changes_in_some_order(parameters.size(), random)) {
      staging.before_change(parameters[change.parameter], change.what, kLong);
      state.change(parameters[change.parameter], change.what, random());
    }
    disk.join();
    EXPECT_TRUE(found == expected);
    EXPECT_EQ(staging.reason(), "");
  }
}

TEST(CheckpointStaging, TakesNoMoreMemoryThanItIsGiven) {
  SmallState state(1);
  const std::vector<CheckpointFile> files = files_of({}, state.arena(), state.state(), 0);
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{300}, std::uint64_t{9000}}) {
    CheckpointStaging staging(bytes);
    staging.start(files);
    EXPECT_LE(staging.size_bytes(), std::max<std::uint64_t>(bytes, 128));
    staging.give_up("the test ends");
    EXPECT_FALSE(staging.next());
  }
  CheckpointStaging ample(std::uint64_t{1} << 40);  // as much as there is to copy
  ample.start(files);
  EXPECT_LE(ample.size_bytes(), 4 * CheckpointStaging::kMostPiece);
  ample.give_up("the test ends");
  EXPECT_FALSE(ample.next());
}

TEST(CheckpointStaging, ADiskThatTakesNothingIsGivenUpAndTheStepGoesOn) {
  SmallState state(1);
  const std::vector<CheckpointFile> files = files_of({}, state.arena(), state.state(), 0);
  CheckpointStaging staging(256);
  staging.start(files);
  for (const Parameter& parameter : state.arena().parameters()) {
    staging.before_change(parameter, Changing::state, std::chrono::milliseconds(5));
    staging.before_change(parameter, Changing::value, std::chrono::milliseconds(5));
  }
  EXPECT_THAT(staging.reason(), testing::HasSubstr("the disk took no byte of trainer/voter-0"));
  EXPECT_FALSE(staging.next());
  staging.start(files);  // and the next one is as good as any
  EXPECT_TRUE(staging.reason().empty());
  EXPECT_EQ(collect(staging, files.size()).size(), files.size());
}

TEST(CheckpointStaging, NothingIsWaitedForWhenNothingIsUnderWay) {
  SmallState state(1);
  CheckpointStaging staging(1000);
  EXPECT_EQ(staging.before_change(state.arena().parameters()[0], Changing::value, Duration::zero()),
            0);
}

}  // namespace
}  // namespace ballot

// What a worker's memory is foretold to be, by hand and against what a run takes.
#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include "core/parallel.h"
#include "runtime/optimizer_state.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

TEST(MemoryPlan, CountsWhatEachRuleKeeps) {
  const std::vector<ParameterShape> shapes = {
      {"head", ParameterKind::head, 10, 64},
      {"matrix", ParameterKind::hidden_matrix, 16, 100},  // rows padded to 128: 2,048 elements
      {"gain", ParameterKind::vector, 1, 512},
      {"frozen", ParameterKind::hidden_matrix, 64, 64, false, true}};
  MemoryFacts facts;
  facts.shapes = shapes;
  facts.groups = preset_groups("olion", 0.01);
  const std::int64_t head = 1024, matrix = 2048, gain = 512, frozen = 4096;  // multiples of 512
  const std::int64_t all = head + matrix + gain + frozen, trained = all - frozen;
  const MemoryPlan plan = plan_memory(facts);
  EXPECT_EQ(plan.bytes_of("weights"), all * 4);
  EXPECT_EQ(plan.bytes_of("compute copies"), 0);
  EXPECT_EQ(plan.bytes_of("gradients"), trained * 4);
  EXPECT_EQ(plan.bytes_of("momentum"), trained * 4);  // AdamW's first moment for the gain
  EXPECT_EQ(plan.bytes_of("second moments"), gain * 4);
  EXPECT_EQ(plan.bytes_of("directions"), matrix * 4);
  EXPECT_EQ(plan.bytes_of("Newton-Schulz"), 2 * 1600 * 4 + 16 * 16 * 8);
  EXPECT_EQ(plan.bytes_of("means"), gain * 4);
  EXPECT_EQ(plan.bytes_of("votes on the way"), 0);

  facts.compute = DType::bf16;
  facts.voters = 4;
  facts.activations = ActivationMemory{100, 20, 3};
  for (ParameterGroup& group : facts.groups)
    if (group.rule != Rule::adamw) group.momentum_type = DType::bf16;
  const MemoryPlan more = plan_memory(facts);
  EXPECT_EQ(more.bytes_of("compute copies"), all * 2);
  EXPECT_EQ(more.bytes_of("momentum"), (head + matrix) * 2 + gain * 4);
  EXPECT_EQ(more.bytes_of("activations"), 100);
  EXPECT_EQ(more.bytes_of("one layer's"), 20);
  EXPECT_EQ(more.bytes_of("scratch"), 3);
  EXPECT_GT(more.bytes_of("votes on the way"), 0);
  std::int64_t sum = 0;
  for (const MemoryPlan::Line& line : more.lines) sum += line.bytes;
  EXPECT_EQ(more.total(), sum);
  EXPECT_NE(more.describe().find("compute copies"), std::string::npos);

  facts.members = 2;
  EXPECT_EQ(plan_memory(facts).bytes_of("momentum"), (head + matrix) / 2 * 2 + gain * 4);
}

// Against what the pieces of a real plan hold, whole tensors and cut ones.
TEST(MemoryPlan, OfAMemberIsOfWhatItWorksOn) {
  const std::vector<ParameterShape> shapes = {
      {"head", ParameterKind::head, 256, 512},
      {"large", ParameterKind::hidden_matrix, 1024, 2048},  // wide: cut by columns
      {"small", ParameterKind::hidden_matrix, 256, 512}};
  const ParameterArena arena(shapes, DType::f32);
  const auto groups = preset_groups("olion", 0.01);
  for (const bool may_cut : {false, true}) {
    const MemberPlan members = plan_members(arena, groups, 2, may_cut);
    ASSERT_EQ(members.is_cut(arena.find("large")), may_cut);
    for (const int member : {0, 1}) {
      MemoryFacts facts;
      facts.shapes = shapes;
      facts.groups = groups;
      facts.members = 2;
      facts.plan = &members;
      facts.member = member;
      const MemoryPlan plan = plan_memory(facts);
      const OptimizerState state(arena, groups, members, member);
      std::int64_t momentum = 0, largest = 0, packed = 0;
      for (const ParameterState& s : state.states()) {
        if (s.momentum.view().data == nullptr) continue;
        momentum += s.part.extent();
        largest = std::max(largest, s.part.extent());
      }
      if (may_cut) packed = 1024 * 2048;
      EXPECT_EQ(plan.bytes_of("momentum"), momentum * 4) << member;
      EXPECT_EQ(plan.bytes_of("directions"), largest * 4) << member;
      EXPECT_EQ(plan.bytes_of("members' gradients"), (2 * largest + packed) * 4) << member;
      EXPECT_EQ(plan.bytes_of("sums of parts"), may_cut ? 3 * 1024 * 1024 * 4 : 0) << member;
    }
  }
}

TEST(ProcessMemory, IsUnknownWhereTheSystemDoesNotTell) {
  EXPECT_EQ(memory_taken({100, 120}, {150, 170}), 70);
  EXPECT_EQ(memory_taken({100, 200}, {150, 200}), -1) << "before the run it had as much";
  EXPECT_EQ(memory_taken({100, 0}, {150, 0}), -1);
  EXPECT_EQ(memory_taken({0, 0}, {150, 170}), -1);
}

// Within a tenth and 24 MiB: libraries, threads and the data are not in the plan.
class Used : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(Used, MemoryIsWhatWasPlanned) {
  TinyShape shape;
  shape.hidden = 512;
  shape.layers = 4;
  shape.heads = 8;
  shape.key_value_heads = 4;
  shape.intermediate = 1408;
  const TinyRun tiny(shape);
  std::vector<std::string> settings = {"train.steps=1", "data.sequence_length=256", "train.batch=2",
                                       "data.validation=", "group.hidden.newton_schulz=false"};
  settings.insert(settings.end(), GetParam().begin(), GetParam().end());
  train_on(1, tiny.run("run", "", settings));
  const auto lines = metrics_of(tiny.path("run"), "memory");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_TRUE(lines[0]["used_bytes"].is_null());
  EXPECT_EQ(lines[0]["parts"], lines[1]["parts"]);
  if (lines[1]["used_bytes"].is_null()) GTEST_SKIP() << "an earlier run of this process took more";
  const double planned = lines[1]["planned_bytes"], used = lines[1]["used_bytes"];
  EXPECT_NEAR(used, planned, 0.1 * planned + 24.0 * (1 << 20)) << lines[1].dump();
}

// Ascending, so that each sets a new mark for the process.
INSTANTIATE_TEST_SUITE_P(
    Runs, Used,
    testing::Values(std::vector<std::string>{"train.compute=\"f32\"", "train.freeze=\"*layers*\""},
                    std::vector<std::string>{"train.compute=\"f32\"", "train.recompute=\"layer\""},
                    std::vector<std::string>{"train.compute=\"f32\"",
                                             "optimizer.preset=\"adamw\""}));

}  // namespace
}  // namespace ballot

// `ballot plan`: units, rates, predictions against hand-computed steps, and what must hold for any
// cluster.
#include "launcher/plan.h"

#include <gmock/gmock.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launcher/plan_output.h"
#include "launcher/units.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

template <class Exception, class Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Exception& e) {
    return e.what();
  }
  return "no exception";
}

// One matrix, two workers on a gigabit, everything but products and the wire free.
PlanInput simple_input() {
  PlanInput input;
  input.shapes.name = "simple";
  input.shapes.voted = {{"w", ParameterKind::hidden_matrix, 1000, 1024}};
  input.shapes.voted_elements = input.shapes.all_elements = 1'024'000;
  input.cluster = {2, 1, {125e6, 0, 0}, {1e12, 0, 0}};
  input.tokens = 1000;
  input.rule = Rule::lion;
  input.rates = {{1e18, 1e18, 1e18, 1e18}, 1e12, 1e12, 1e18, 1e18};
  return input;
}

PlanInput model_input(const std::string& name) {
  PlanInput input;
  input.shapes = model_shapes(name);
  input.cluster = {8, 1, {125e7, 1e-4, 1e-5}, {25e9, 1e-5, 1e-5}};
  input.tokens = 16384;
  input.length = 2048;
  input.rates = rates_by_data_sheet(400e12, 3e12);
  return input;
}

const PlanRow& row(const Plan& plan, const std::string& name) {
  for (const PlanRow& r : plan.rows)
    if (r.name == name) return r;
  throw LogicError("no row " + name);
}

TEST(Units, OfRatesAreBitsOrBytes) {
  EXPECT_DOUBLE_EQ(parse_bandwidth("--bandwidth", "100mbit"), 12.5e6);
  EXPECT_DOUBLE_EQ(parse_bandwidth("--bandwidth", "1gbit"), 125e6);
  EXPECT_DOUBLE_EQ(parse_bandwidth("--bandwidth", "10Gbit/s"), 1.25e9);
  EXPECT_DOUBLE_EQ(parse_bandwidth("--bandwidth", "2.5 gbit"), 312.5e6);
  EXPECT_DOUBLE_EQ(parse_bandwidth("--bandwidth", "12.5GB/s"), 12.5e9);
  EXPECT_DOUBLE_EQ(parse_bandwidth("--bandwidth", "800MB/s"), 800e6);
  for (const char* wrong : {"", "1", "gbit", "0gbit", "-1gbit", "1gb", "1GBps", "1e400gbit",
                            "nan gbit", "infgbit", "1gbit/s/s", "12.5gB/s", "1 g bit"})
    EXPECT_EQ(message_of<ConfigError>([&] { parse_bandwidth("--bandwidth", wrong); }),
              std::string("--bandwidth ") + wrong +
                  ": expected a rate such as 100mbit, 1gbit or 12.5GB/s");
}

TEST(Units, OfTimes) {
  EXPECT_DOUBLE_EQ(parse_duration("--latency", "0.1ms"), 1e-4);
  EXPECT_DOUBLE_EQ(parse_duration("--latency", "50us"), 50e-6);
  EXPECT_DOUBLE_EQ(parse_duration("--latency", "0"), 0);
  EXPECT_DOUBLE_EQ(parse_duration("--latency", "2 s"), 2);
  for (const char* wrong : {"", "1", "ms", "-1ms", "1m", "1 minute"})
    EXPECT_THAT(message_of<ConfigError>([&] { parse_duration("--latency", wrong); }),
                testing::StartsWith(std::string("--latency ") + wrong + ": expected"));
}

TEST(Units, AreShownWithThreeDigits) {
  EXPECT_EQ(bandwidth_text(125e6), "1 Gbit/s");
  EXPECT_EQ(bandwidth_text(12.5e6), "100 Mbit/s");
  EXPECT_EQ(duration_text(0.00031), "310 us");
  EXPECT_EQ(duration_text(1.2345), "1.23 s");
  EXPECT_EQ(duration_text(0), "0 us");
  EXPECT_EQ(bytes_text(25.4e6), "25.4 MB");
}

TEST(Rates, AreReadAsTheyAreWritten) {
  const TemporaryFolder folder;
  const std::string path = folder.file("rates.json");
  const auto write = [&](const std::string& text) { std::ofstream(path) << text; };
  const Rates rates = {{1e9, 2e9, 3e9, 4e9}, 5e9, 6e9, 7e9, 8e9};
  write(to_json(rates));
  const Rates read = read_rates(path);
  EXPECT_EQ(to_json(read), to_json(rates));
  EXPECT_EQ(read.compute, 5e9);
  EXPECT_EQ(scaled(read, 0.5).vote.memory, 2e9);

  auto json = nlohmann::json::parse(to_json(rates));
  json.erase("compute_gflops");
  json["apply_gelements_per_second"] = -1;
  json["speed"] = 3;
  write(json.dump());
  EXPECT_THAT(message_of<DataError>([&] { read_rates(path); }),
              testing::AllOf(testing::HasSubstr("compute_gflops is missing"),
                             testing::HasSubstr("apply_gelements_per_second is -1"),
                             testing::HasSubstr("speed is no rate")));
  write("[1");
  EXPECT_THROW(read_rates(path), DataError);
}

TEST(Rates, NewtonSchulzIsFiveTimesThreeProducts) {
  EXPECT_DOUBLE_EQ(newton_schulz_flops(2, 3), 5 * (2 * 2 * 2 * 3 + 2 * 2 * 2 * 2 + 2 * 2 * 2 * 3));
  EXPECT_DOUBLE_EQ(newton_schulz_flops(3, 2), newton_schulz_flops(2, 3));
}

TEST(Plan, OfAStepComputedByHand) {
  PlanInput input = simple_input();
  input.timeline.overlap = false;
  const Plan plan = Planner(input).plan();
  // 6 x 1,024,000 x 1,000 operations at 10^12/s, then bytes at 125 MB/s: 1 bit, 32 bits.
  const PlanRow& vote = row(plan, "sharded vote");
  EXPECT_NEAR(vote.compute, 6.144e-3, 1e-8);
  EXPECT_NEAR(vote.exposed, 1'024'000 / 8 / 125e6, 3e-5);
  EXPECT_NEAR(vote.step, vote.compute + vote.exposed, 1e-7);
  EXPECT_NEAR(vote.tokens_per_second, 2000 / vote.step, 1e-6);
  const PlanRow& mean = row(plan, "fp32 mean, adamw");
  EXPECT_NEAR(mean.exposed, 4.0 * 1'024'000 / 125e6, 1e-4);
  EXPECT_NEAR(row(plan, "bf16 mean, lion").exposed, 2.0 * 1'024'000 / 125e6, 1e-4);
  EXPECT_NEAR(row(plan, "ideal fp32 ring, adamw").exposed, 4.0 * 1'024'000 / 125e6, 1e-9);
  EXPECT_TRUE(plan.pays);
  EXPECT_THAT(plan.why, testing::StartsWith("voting pays"));
}

TEST(Plan, NewtonSchulzIsPaidByTheVoteAndByTheSameRuleOnAMean) {
  PlanInput input = simple_input();
  const Plan without = Planner(input).plan();
  input.rule = Rule::olion;
  const Plan with = Planner(input).plan();
  const double cost = newton_schulz_flops(1000, 1024) / 1e12;
  EXPECT_NEAR(row(with, "sharded vote").compute - row(without, "sharded vote").compute, cost, 1e-9);
  EXPECT_NEAR(row(with, "fp32 mean, olion").update - row(without, "fp32 mean, lion").update, cost,
              1e-9);
  EXPECT_NEAR(row(with, "fp32 mean, adamw").step, row(without, "fp32 mean, adamw").step, 1e-12);
  // Members share it.
  input.cluster.workers = 4;
  input.members = 2;
  input.cluster.node_size = 2;
  EXPECT_NEAR(row(Planner(input).plan(), "sharded vote, voters of 2").compute,
              6.144e-3 + cost / 2 + (8.125 / 2 * 1'024'000) / 1e12, 1e-6);
}

TEST(Plan, SaysWhereVotingDoesNotPay) {
  PlanInput input = simple_input();
  input.rule = Rule::olion;
  input.cluster.link.bandwidth = 1e12;
  const Plan plan = Planner(input).plan();
  EXPECT_FALSE(plan.pays);
  EXPECT_LT(plan.speedup(), 1);
  EXPECT_THAT(plan.why, testing::StartsWith("voting does not pay here"));
  const std::optional<double> even = Planner(input).break_even();
  ASSERT_TRUE(even.has_value());
  Link link = input.cluster.link;
  link.bandwidth = *even * 0.9;
  EXPECT_TRUE(Planner(input).plan(link, input.tokens).pays);
  link.bandwidth = *even * 1.1;
  EXPECT_FALSE(Planner(input).plan(link, input.tokens).pays);
}

TEST(Plan, OverlapHidesWhatLeavesEarly) {
  PlanInput input = model_input("llama-3.2-1b");
  const Plan with = Planner(input).plan();
  input.timeline.overlap = false;
  const Plan without = Planner(input).plan();
  for (std::size_t i = 0; i < with.rows.size(); ++i)
    EXPECT_LE(with.rows[i].step, without.rows[i].step + 1e-9) << with.rows[i].name;
  EXPECT_LT(row(with, "sharded vote").exposed, 0.8 * row(without, "sharded vote").exposed);
}

TEST(Plan, AgreesWithTheEconomicsThatUsersKnow) {
  // 1.2 G parameters, 16 k tokens, an H100 at 400 TFLOP/s, 10 Gbit/s: forward and backward 0.3 s;
  // fp32 all-reduce 7.9 s for W -> infinity, bf16 half; one bit with embeddings voted too 0.25 s,
  // and here 32 pieces x 2 x 63 messages of 10 us each.
  PlanInput input = model_input("llama-3.2-1b");
  input.timeline.overlap = false;
  input.cluster.workers = 64;
  const Plan plan = Planner(input).plan();
  EXPECT_NEAR(row(plan, "ideal fp32 ring, adamw").communication, 7.8, 0.2);
  EXPECT_NEAR(row(plan, "ideal bf16 ring, adamw").communication, 3.9, 0.1);
  EXPECT_NEAR(row(plan, "sharded vote").communication, 0.245 + 0.04, 0.03);
  EXPECT_NEAR(row(plan, "fp32 mean, adamw").compute, 0.33, 0.05);
}

RC_GTEST_PROP(Plan, ChosenIsTheShortestAndMoreBandwidthIsNeverSlower, ()) {
  PlanInput input = model_input("gpt2");
  input.cluster.node_size = *rc::gen::element(1, 2, 4);
  input.cluster.workers = input.cluster.node_size * *rc::gen::inRange(2, 9);
  input.tokens = *rc::gen::inRange(1, 100'000);
  input.micro_batches = *rc::gen::inRange(1, 4);
  input.has_reducer = *rc::gen::arbitrary<bool>();
  input.timeline.overlap = *rc::gen::arbitrary<bool>();
  input.timeline.shared_core = *rc::gen::arbitrary<bool>();
  input.rates =
      rates_by_data_sheet(1e9 * *rc::gen::inRange(1, 400'000), 1e9 * *rc::gen::inRange(5, 3000));
  const Planner planner(input);
  Link link = {1e6 * *rc::gen::inRange(1, 50'000), 1e-6 * *rc::gen::inRange(0, 2000), 1e-5};
  const Plan plan = planner.plan(link, input.tokens);
  for (const PlanRow& r : plan.rows) {
    RC_ASSERT(std::isfinite(r.step) && r.step > 0 && r.exposed >= 0);
    if (r.kind == RowKind::vote) RC_ASSERT(plan.rows[plan.chosen].step <= r.step);
    if (r.kind == RowKind::mean) RC_ASSERT(plan.rows[plan.mean].step <= r.step);
    if (r.kind == RowKind::ideal) RC_ASSERT(plan.rows[plan.rival].step <= r.step);
  }
  RC_ASSERT(plan.rows[plan.chosen].kind == RowKind::vote);
  RC_ASSERT(plan.rows[plan.rival].step <= plan.rows[plan.mean].step);
  RC_ASSERT(plan.pays == (plan.rows[plan.chosen].step < kPays * plan.rows[plan.rival].step));
  link.bandwidth *= 2;
  const Plan faster = planner.plan(link, input.tokens);
  for (std::size_t i = 0; i < plan.rows.size(); ++i)
    RC_ASSERT(faster.rows[i].step <= plan.rows[i].step * 1.02 + 1e-5);
}

TEST(Plan, ReachesAThousandWorkers) {
  PlanInput input = model_input("llama-3.1-8b");
  input.cluster.node_size = 8;
  input.cluster.workers = 16;
  input.has_reducer = true;
  const std::vector<ScaledPlan> plans = extrapolate(input, 1024);
  ASSERT_EQ(plans.size(), 7u);
  EXPECT_EQ(plans.back().workers, 1024);
  for (const ScaledPlan& p : plans) {
    EXPECT_TRUE(std::isfinite(p.vote.step) && p.vote.step > 0);
    EXPECT_GT(p.vote.bytes_per_node, 0);
    EXPECT_LT(p.vote.bytes_per_node, 1e12);
  }
  const Plan flat = [&] {
    PlanInput all = input;
    all.cluster = {1024, 1, input.cluster.link, input.cluster.local};
    return Planner(all).plan();
  }();
  for (const PlanRow& r : flat.rows) {
    EXPECT_GT(r.bytes_per_node, 0) << r.name;
    EXPECT_TRUE(std::isfinite(r.step)) << r.name;
  }
  // 2 x 1023/1024 bits an element, and what 1,024 messages of a piece carry besides.
  EXPECT_NEAR(row(flat, "sharded vote").bytes_per_node, 2 * 8.03e9 / 8, 0.25e9);
  EXPECT_NEAR(row(flat, "gathered vote").bytes_per_node, 1023 * 8.03e9 / 8, 0.01 * 1e12);
  input.cluster.workers = 2048 * 8;
  EXPECT_THROW(Planner{input}, ConfigError);
}

TEST(Plan, RefusesNumbersThatDoNotFit) {
  const auto refused = [](const auto& change) {
    PlanInput input = simple_input();
    change(input);
    return message_of<ConfigError>([&] { Planner planner(input); });
  };
  EXPECT_THAT(refused([](PlanInput& i) { i.cluster.workers = 1; }),
              testing::HasSubstr("workers = 1"));
  EXPECT_THAT(refused([](PlanInput& i) { i.members = 3; }), testing::HasSubstr("members = 3"));
  EXPECT_THAT(refused([](PlanInput& i) { i.cluster.node_size = 3; }),
              testing::HasSubstr("nodes of 3"));
  EXPECT_THAT(refused([](PlanInput& i) { i.tokens = 0; }), testing::HasSubstr("tokens is 0"));
  EXPECT_THAT(refused([](PlanInput& i) { i.rule = Rule::adamw; }), testing::HasSubstr("adamw"));
}

TEST(Plan, IsPrintedAsOneJsonObject) {
  PlanInput input = model_input("gpt2");
  const Planner planner(input);
  const PlanReport report = {planner.plan(), planner.break_even(), extrapolate(input, 16),
                             cross_over(planner)};
  const auto json = nlohmann::json::parse(plan_json(input, report));
  EXPECT_EQ(json["rows"].size(), report.plan.rows.size());
  EXPECT_EQ(json["vote"], report.plan.rows[report.plan.chosen].name);
  EXPECT_EQ(json["scaled"].size(), 2u);
  EXPECT_EQ(json["crossover"].size(), 5u * 8);
  EXPECT_EQ(json["voted"], 124'318'464);
  EXPECT_EQ(json["rates"]["compute_gflops"], 400e3);
}

}  // namespace
}  // namespace ballot

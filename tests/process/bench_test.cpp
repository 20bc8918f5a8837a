// `ballot bench vote` and `ballot bench link`: what they say of bytes is what the formula says, on
// threads, under mpirun, and over gRPC; and what they refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/process/command.h"
#include "tests/support/free_port.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

// A program and what it says, with a limit.
Ended run_shell(const std::string& command) {
  Ended ended{kTimedOut, ""};
  FILE* pipe = ::popen(("exec timeout 120 " + command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return ended;
  char buffer[4096];
  for (std::size_t count; (count = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    ended.output.append(buffer, count);
  const int status = ::pclose(pipe);
  ended.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ended;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += " " + word;
  return text;
}

class Bench : public testing::Test {
 protected:
  Ended ballot(const std::vector<std::string>& words, const Environment& variables = {}) const {
    return run_command(words, folder_.path(), variables);
  }
  std::string path() const { return folder_.path(); }

  static std::vector<Json> lines_of(const std::string& output) {
    std::vector<Json> lines;
    std::istringstream text(output);
    for (std::string line; std::getline(text, line);) {
      if (!line.starts_with("{")) continue;  // mpirun's own
      lines.push_back(Json::parse(line, nullptr, false));
      EXPECT_TRUE(lines.back().is_object()) << line;
    }
    return lines;
  }
  static Json find(const std::vector<Json>& lines, const std::string& what,
                   const std::string& name) {
    for (const Json& line : lines)
      if (line.value("what", "") == what && line.value("name", "") == name) return line;
    ADD_FAILURE() << "no line of " << what << " " << name;
    return Json::object();
  }

  // Every line has its fields, and the counters agree with the formulas.
  static void expect_whole(const std::vector<Json>& lines, int workers, std::int64_t elements,
                           const std::vector<std::string>& schedules) {
    const double w = workers, p = static_cast<double>(elements);
    for (const std::string& schedule : schedules) {
      const Json vote = find(lines, "vote", schedule);
      EXPECT_EQ(vote.value("verified_elements", std::int64_t{0}), elements) << schedule;
      EXPECT_EQ(vote["sent_bytes_by_rank"], vote["formula_bytes_by_rank"]) << schedule;
      EXPECT_EQ(vote["sent_bytes_by_rank"].size(), static_cast<std::size_t>(workers));
      EXPECT_EQ(vote.value("workers", 0), workers);
      for (const char* field :
           {"min_seconds", "median_seconds", "p99_seconds", "tally_seconds", "pack_seconds",
            "apply_seconds", "wire_algorithm_bytes_per_second", "wire_bus_bytes_per_second",
            "effective_algorithm_bytes_per_second", "effective_bus_bytes_per_second",
            "bound_seconds", "share_of_bound", "link_bytes_per_second", "times_as_fast_as_fp32"})
        EXPECT_GT(vote.value(field, 0.0), 0) << schedule << ": " << field;
    }
    if (!schedules.empty() && schedules[0] == "sharded") {
      const Json vote = find(lines, "vote", "sharded");
      // 2 (W-1)/W x P/8, and what abstentions and framing add to it.
      const double textbook = 2 * (w - 1) / w * p / 8;
      EXPECT_DOUBLE_EQ(vote.value("textbook_bytes", 0.0), textbook);
      // Chunks are whole multiples of 512 elements, so the busiest rank sends a little more.
      EXPECT_NEAR(vote.value("formula_ballots_bytes", 0.0), textbook, 0.02 * textbook);
      EXPECT_GT(vote.value("formula_abstentions_bytes", 0), 0);
      EXPECT_GT(vote.value("formula_framing_bytes", 0), 0);
    }
    for (const char* name : {"fp32 ours", "fp32 ring", "bf16 ours", "bf16 ring"}) {
      const Json reduce = find(lines, "all-reduce", name);
      EXPECT_EQ(reduce.value("verified_elements", std::int64_t{0}), elements) << name;
      EXPECT_NEAR(reduce.value("sent_bytes", 0.0), reduce.value("formula_bytes", 0.0),
                  0.001 * reduce.value("formula_bytes", 0.0))
          << name;
      const double size = std::string(name).starts_with("fp32") ? 4 : 2;
      EXPECT_NEAR(reduce.value("sent_bytes", 0.0), 2 * (w - 1) / w * p * size, 0.01 * p * size)
          << name;
    }
  }

  const std::vector<std::string> words_ = {"bench",  "vote",      "--elements", "300001",
                                           "--json", "--repeats", "3",          "--compare-repeats",
                                           "1"};
  std::vector<std::string> with(const std::vector<std::string>& more) const {
    std::vector<std::string> words = words_;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(Bench, VoteOverThreadsSendsWhatTheFormulaSays) {
  const Ended ended =
      ballot(with({"--workers", "4", "--schedule", "all", "--node-size", "2", "--ties", "hold"}));
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const auto lines = lines_of(ended.output);
  for (const char* schedule : {"sharded", "gathered", "lanes", "hierarchical"})
    EXPECT_EQ(find(lines, "vote", schedule).value("ties", ""), "hold");
  const Ended coin = ballot(with({"--workers", "4", "--schedule", "all", "--node-size", "2"}));
  ASSERT_EQ(coin.exit_code, 0) << coin.output;
  expect_whole(lines_of(coin.output), 4, 300001, {"sharded", "gathered", "lanes", "hierarchical"});
}

TEST_F(Bench, VoteUnderMpirunSendsWhatTheFormulaSays) {
  const Ended ended = run_shell(
      "mpirun --allow-run-as-root --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n 3 "
      "-x OMP_NUM_THREADS=1 " BALLOT_BINARY +
      join(with({"--schedule", "sharded"})));
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const auto lines = lines_of(ended.output);
  expect_whole(lines, 3, 300001, {"sharded"});
  EXPECT_EQ(find(lines, "vote", "sharded").value("transport", ""), "mpi");
  EXPECT_FALSE(find(lines, "all-reduce", "fp32 library").value("bytes_counted", true));
}

TEST_F(Bench, VoteOverGrpcSendsWhatTheFormulaSays) {
  const std::string port = std::to_string(test::free_port());
  const auto place = [&](int rank) {
    return Environment{{"RANK", std::to_string(rank)},
                       {"WORLD_SIZE", "2"},
                       {"MASTER_ADDR", "127.0.0.1"},
                       {"MASTER_PORT", port},
                       {"OMP_NUM_THREADS", "1"}};
  };
  const auto words = with({"--schedule", "all"});
  Command other(words, path(), place(1));
  const Ended ended = Command(words, path(), place(0)).wait(std::chrono::seconds(60));
  ASSERT_EQ(ended.exit_code, 0) << ended.output << other.output();
  EXPECT_EQ(other.wait(std::chrono::seconds(20)).exit_code, 0) << other.output();
  const auto lines = lines_of(ended.output);
  expect_whole(lines, 2, 300001, {"sharded", "gathered"});
  EXPECT_EQ(find(lines, "vote", "sharded").value("transport", ""), "grpc");
}

TEST_F(Bench, LinkMeasuresAllPairsBothWays) {
  const Ended ended = ballot({"bench", "link", "--workers", "3", "--runs", "1", "--run-seconds",
                              "0.3", "--ramp-seconds", "0.1", "--pings", "20", "--json"});
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const auto lines = lines_of(ended.output);
  ASSERT_EQ(lines.size(), 7u) << ended.output;
  std::set<std::pair<int, int>> pairs;
  for (std::size_t i = 0; i < 6; ++i) {
    pairs.emplace(lines[i].value("from", -1), lines[i].value("to", -1));
    for (const char* field : {"one_way_bytes_per_second", "both_ways_bytes_per_second",
                              "round_trip_median_seconds", "round_trip_p99_seconds"})
      EXPECT_GT(lines[i].value(field, 0.0), 0) << field;
  }
  EXPECT_EQ(pairs.size(), 6u);
  const Json& all = lines[6];
  EXPECT_EQ(all["egress_bytes_per_second"].size(), 3u);
  EXPECT_EQ(all["interfaces"], Json({"lo", "lo", "lo"}));
  double slowest = all["egress_bytes_per_second"][0];
  for (const Json& rate : all["egress_bytes_per_second"]) slowest = std::min<double>(slowest, rate);
  EXPECT_EQ(all.value("rate_bytes_per_second", 0.0), slowest);
}

TEST_F(Bench, RefusesWhatCannotBeMeasured) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--elements", "64Q"}, "64Q"},
      {{"--elements", "0"}, "--elements 0"},
      {{}, "either --elements or --model"},
      {{"--elements", "1M", "--model", "gpt2"}, "either --elements or --model"},
      {{"--model", "llama-9"}, "llama-3.1-8b"},
      {{"--elements", "1M", "--schedule", "ring"}, "--schedule"},
      {{"--elements", "1M", "--workers", "4", "--members", "3"}, "--members 3"},
      {{"--elements", "1M", "--workers", "4", "--schedule", "hierarchical"}, "--node-size 1"},
      {{"--elements", "1M", "--workers", "4", "--members", "2", "--schedule", "gathered"},
       "sharded"},
      {{"--elements", "1M", "--transport", "mpi"}, "mpirun"},
      {{"--elements", "1M", "--transport", "grpc"}, "MASTER_ADDR"},
      {{"--elements", "1M", "--insecure"}, "--insecure"},
      {{"--elements", "1M", "--repeats", "0"}, "--repeats"}};
  for (const auto& [flags, expected] : cases) {
    std::vector<std::string> words = {"bench", "vote"};
    words.insert(words.end(), flags.begin(), flags.end());
    const Ended ended = ballot(words);
    EXPECT_EQ(ended.exit_code, 2) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(expected));
  }
  const Ended other = ballot({"bench", "vote", "--elements", "1M", "--transport", "loopback"},
                             {{"RANK", "0"}, {"WORLD_SIZE", "2"}});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.output, HasSubstr("worker 0 of 2"));
}

}  // namespace
}  // namespace ballot

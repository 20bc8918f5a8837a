// What Ballot is for, in one test: `ballot launch` starts a coordinator and workers over gRPC on
// slow nodes, a node is killed and another takes its place; beside it the same fine-tune by fp32
// means; and the report of both.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/process/small_run.h"
#include "tests/process/ssh_nodes.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

const std::string kNodes[] = {"10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"};

// Four network namespaces, linked at a rate.
class SlowNodes {
 public:
  explicit SlowNodes(const std::string& rate) {
    const int code = run("check");
    supported_ = code == 0;
    if (supported_ && run("up 4 " + rate) != 0)
      throw std::runtime_error("slownet cannot bring up four nodes");
  }
  ~SlowNodes() {
    if (supported_) run("down");
  }
  bool supported() const { return supported_; }
  std::string name(int node) const { return fmt::format("{}-node{}", prefix_, node + 1); }
  std::vector<std::string> within(int node) const { return {"ip", "netns", "exec", name(node)}; }
  // Everything that runs on the node.
  void kill(int node) const {
    const std::string command = fmt::format("kill -KILL $(ip netns pids {})", name(node));
    if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
  }

 private:
  int run(const std::string& words) const {
    const std::string command =
        fmt::format("SLOWNET_PREFIX={} '{}' {} > /dev/null", prefix_, BALLOT_SLOWNET, words);
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  const std::string prefix_ = fmt::format("mission-{}", ::getpid());
  bool supported_ = false;
};

class MissionTest : public SmallRun {
 protected:
  void SetUp() override {
    nodes_ = std::make_unique<SlowNodes>("200mbit");
    if (!nodes_->supported()) GTEST_SKIP() << "network namespaces are not permitted here";
    std::vector<std::vector<std::string>> within;
    for (int node = 0; node < 4; ++node) within.push_back(nodes_->within(node));
    ssh_ = std::make_unique<SshNodes>(std::vector<std::string>(kNodes, kNodes + 4), 2222, within);
    const std::string data = BALLOT_SHARED_DATA;
    if (!std::filesystem::exists(data)) GTEST_SKIP() << data << " is not here";
    std::ifstream source(data + "/gsm8k-train.jsonl");
    std::string train, held_out, line;
    for (int number = 0; number < 2100 && std::getline(source, line); ++number)
      (number < 2000 ? train : held_out) += line + "\n";
    write("train.jsonl", train);
    write("held-out.jsonl", held_out);
    write("run.toml",
          fmt::format(
              "[model]\nfolder = \"{0}/llama-tiny-shakespeare\"\n"
              "[data]\ntrain = \"{1}\"\nvalidation = \"{2}\"\nsequence_length = 128\n"
              "[train]\nsteps = {3}\nbatch = 2\nvalidation_windows = 16\ncheckpoint_every "
              "= 20\n[optimizer]\npreset = \"olion\"\nrate = 0.003\n[output]\nfolder = \"vote\"\n",
              data, file("train.jsonl"), file("held-out.jsonl"), kSteps));
  }
  // `ballot launch` on node 0, as a person there would call it.
  std::unique_ptr<test::ServerProcess> launch_there(const std::string& hosts,
                                                    const std::vector<std::string>& more,
                                                    const std::string& log) const {
    std::vector<std::string> words = nodes_->within(0);
    words.insert(words.end(), {BALLOT_BINARY, "launch", file("run.toml"), "--on", "ssh", "--hosts",
                               hosts, "--workers", "3", "--ssh", ssh_->client()});
    words.insert(words.end(), more.begin(), more.end());
    return std::make_unique<test::ServerProcess>(
        words, file(log), std::vector<std::string>{"BALLOT_JOBS=" + file("jobs")});
  }
  std::vector<nlohmann::json> lines(const std::string& output, const std::string& type) const {
    std::vector<nlohmann::json> found;
    std::ifstream source(file(output + "/metrics.jsonl"));
    for (std::string line; std::getline(source, line);) {
      auto json = nlohmann::json::parse(line, nullptr, false);
      if (json.is_object() && json.value("type", "") == type) found.push_back(std::move(json));
    }
    return found;
  }
  int exit_code(const std::string& output) const {
    std::ifstream source(file(output + "/job.json"));
    const auto json = nlohmann::json::parse(source, nullptr, false);
    return json.is_object() ? json.value("exit_code", -1) : -1;
  }

  // Of votes more: where a host is lost its worker is started elsewhere after 4 s, in which the
  // others must not end the run.
  static constexpr int kSteps = 40, kVoteSteps = 120;
  static constexpr std::size_t kBeforeKill = 8;
  std::unique_ptr<SlowNodes> nodes_;
  std::unique_ptr<SshNodes> ssh_;
};

TEST_F(MissionTest, AVoteOnSlowNodesOutlivesOneOfThemAndSavesWhatTheReportSays) {
  const auto vote = launch_there(
      "10.77.0.1,10.77.0.2,10.77.0.3,10.77.0.4",
      {"--elastic", "--max-restarts", "3", "--set", fmt::format("train.steps={}", kVoteSteps),
       "--set", "output.folder=" + file("vote")},
      "vote.log");
  ASSERT_TRUE(within(90s, [&] { return lines("vote", "step").size() > kBeforeKill; }))
      << vote->log();
  nodes_->kill(1);
  ASSERT_TRUE(within(150s, [&] { return exit_code("vote") >= 0; })) << vote->log();
  EXPECT_EQ(exit_code("vote"), 0) << vote->log();
  EXPECT_THAT(vote->log(), HasSubstr("worker 1 moves from 10.77.0.2 to 10.77.0.4"));

  const auto mean = launch_there("10.77.0.1,10.77.0.3,10.77.0.4",
                                 {"--set", "output.folder=" + file("fp32"), "--set",
                                  "optimizer.reduce=mean-fp32", "--insecure"},
                                 "fp32.log");
  ASSERT_TRUE(within(240s, [&] { return exit_code("fp32") >= 0; })) << mean->log();
  EXPECT_EQ(exit_code("fp32"), 0) << mean->log();

  const auto voted = lines("vote", "step"), averaged = lines("fp32", "step");
  ASSERT_EQ(voted.size(), static_cast<std::size_t>(kVoteSteps));  // none lost, none twice
  ASSERT_EQ(averaged.size(), static_cast<std::size_t>(kSteps));
  EXPECT_TRUE(lines("vote", "end").back()["replicas_identical"]);
  const auto last_loss = [&](const char* run) {
    return lines(run, "evaluation").back()["loss"].get<double>();
  };
  const double before = lines("vote", "evaluation").front()["loss"];
  EXPECT_LT(last_loss("vote"), before);
  EXPECT_LT(last_loss("fp32"), before);
  // Of an undisturbed step, as those before the kill are: bytes, and time.
  const auto median = [](const std::vector<nlohmann::json>& steps, const char* key) {
    std::vector<double> values;
    for (std::size_t i = 0; i < kBeforeKill; ++i) values.push_back(steps[i][key].get<double>());
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  };
  EXPECT_GT(median(averaged, "comm/wire_bytes_tx"), 20 * median(voted, "comm/wire_bytes_tx"));
  EXPECT_GT(median(averaged, "time_metrics/end_to_end(s)"),
            1.2 * median(voted, "time_metrics/end_to_end(s)"));

  const Ended report = ballot({"report", "vote", "fp32", "--output", "page.html"});
  ASSERT_EQ(report.exit_code, 0) << report.output;
  const std::string page = read("page.html");
  for (const char* text :
       {"vote", "fp32", "Sent per step and worker", "Held-out loss", "Loss by time", "worker 1"})
    EXPECT_THAT(page, HasSubstr(text));
}

}  // namespace
}  // namespace ballot

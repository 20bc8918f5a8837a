// The page of real runs in a real browser: nothing overlaps, nothing leaves its place, all can be
// read, narrow and wide, light and dark. And the check itself finds what is planted.
#include <csignal>
#include <fstream>

#include "tests/process/page_layout.h"
#include "tests/process/small_run.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::vector<int> kWidths{360, 420, 800, 1400};

class ReportPage : public SmallRun {
 protected:
  PageLayout layout(const std::string& html, bool dark = false) const {
    const PageLayout found = lay_out(html, kWidths, dark, file(""));
    EXPECT_THAT(found.trouble, IsEmpty());
    EXPECT_EQ(found.dark, dark);
    return found;
  }
  std::string with(const std::string& planted) const {
    std::string page = read("page.html");
    const std::size_t end = page.rfind("</main>");
    EXPECT_NE(end, std::string::npos);
    return page.insert(end, planted);
  }
  void expect_found(const std::string& planted, const std::string& what) const {
    EXPECT_THAT(layout(with(planted)).faults, testing::Contains(HasSubstr(what))) << planted;
  }
  void report(const std::vector<std::string>& runs) const {
    std::vector<std::string> words{"report", "--output", "page.html"};
    words.insert(words.end(), runs.begin(), runs.end());
    const Ended ended = ballot(words);
    ASSERT_EQ(ended.exit_code, 0) << ended.output;
  }
  // Three workers of which one is killed and started again by the launcher.
  void train_elastic(const std::string& output) const {
    Command job({"launch", "run.toml", "--workers", "3", "--elastic", "--max-restarts", "2",
                 "--set", "output.folder=" + output, "--set", "train.steps=200", "--set",
                 "train.checkpoint_every=50", "--set", "train.evaluate_every=50", "--set",
                 "vote.deadline_seconds=60"},
                file(""), {{"OMP_NUM_THREADS", "1"}});
    ASSERT_TRUE(within(60s, [&] {
      std::ifstream record(file(output + "/metrics.jsonl"));
      std::string line, last;
      while (std::getline(record, line)) last = line;
      return last.find("\"step\":") != std::string::npos &&
             last.find("\"step\":0,") == std::string::npos;
    })) << job.output();
    const pid_t victim = job.child("--worker", "2");
    ASSERT_GT(victim, 0) << job.output();
    ::kill(victim, SIGKILL);
    const Ended ended = job.wait(150s);
    ASSERT_EQ(ended.exit_code, 0) << ended.output;
  }
};

TEST_F(ReportPage, OfRealRunsHasNoOverlapAndNothingLeavesItsPlace) {
  train(3, "vote", {"train.evaluate_every=2"});
  train(3, "mean-of-a-run-whose-name-is-so-long-that-it-has-to-wrap-wherever-it-is-shown",
        {"optimizer.preset=muon"});
  train(2, "resumed", {"train.steps=4"});
  train(2, "resumed", {"--resume", "train.steps=12"});
  train_elastic("elastic");
  const std::vector<std::string> runs{
      "vote", "mean-of-a-run-whose-name-is-so-long-that-it-has-to-wrap-wherever-it-is-shown",
      "resumed", "elastic"};

  // What is in the record is on the page.
  const auto terms = metrics("elastic", "term");
  ASSERT_GE(terms.size(), 2u);
  EXPECT_EQ(terms[0]["workers"], nlohmann::json({0, 1, 2}));
  EXPECT_FALSE(terms[0]["reason"].get<std::string>().empty());
  bool left = false;
  for (const auto& term : terms)
    left = left || (term["workers"] == nlohmann::json({0, 1}) &&
                    !term["reason"].get<std::string>().empty());
  EXPECT_TRUE(left) << nlohmann::json(terms).dump(1);
  EXPECT_FALSE(metrics("elastic", "checkpoint").empty());
  for (const std::string& run : runs) {
    double before = 0;
    for (const auto& line : metrics(run)) {
      ASSERT_TRUE(line.contains("time")) << line;
      if (line["type"] != "step") continue;
      EXPECT_GE(line["time"].get<double>(), before);
      before = line["time"].get<double>();
    }
    EXPECT_GT(before, 1.6e9);
  }

  report(runs);
  const std::string page = read("page.html");
  for (const char* part : {"worker 2 left", "goes on after step 4", "2 starts", "Loss by time",
                           "Time to reach a loss", "wall clock", " checkpoints"})
    EXPECT_THAT(page, HasSubstr(part));
  for (const bool dark : {false, true}) {
    const PageLayout found = layout(page, dark);
    EXPECT_THAT(found.faults, IsEmpty()) << (dark ? "dark" : "light");
    EXPECT_GT(found.texts, 1000);
  }
  const Ended compared = ballot({"compare", runs[0], runs[1], runs[2], runs[3]});
  EXPECT_EQ(compared.exit_code, 0) << compared.output;
  for (const char* part : {"tokens/s", "sent in all", "wall clock", "resumed", "elastic"})
    EXPECT_THAT(compared.output, HasSubstr(part));
}

TEST_F(ReportPage, TheCheckFindsWhatIsPlanted) {
  train(2, "vote");
  report({"vote"});
  EXPECT_THAT(layout(read("page.html")).faults, IsEmpty());
  expect_found("<p style=\"position:absolute;top:26px;left:30px\">planted upon the title</p>",
               "\"planted upon the title\" overlap");
  expect_found("<div style=\"width:3000px;height:1px\"></div>", "the page is 30");
  expect_found("<div style=\"width:60px;white-space:nowrap\">wider than its block is</div>",
               "\"wider than its block is\" leaves its div");
  expect_found("<svg viewBox=\"0 0 100 20\"><text x=\"90\" y=\"10\">cut off</text></svg>",
               "\"cut off\" leaves its svg");
  expect_found("<p style=\"color:#888;background:#999\">hard to read</p>",
               "\"hard to read\" has a contrast of");
}

}  // namespace
}  // namespace ballot

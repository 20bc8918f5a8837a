// Several runs beside each other: what is counted as their time, what happened in them, how long
// each took to a loss.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "runtime/metrics_names.h"
#include "runtime/report.h"
#include "runtime/report_figures.h"
#include "runtime/report_text.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class ReportRuns : public testing::Test {
 protected:
  // The lines of one run, with a clock that the test sets.
  class Lines {
   public:
    explicit Lines(double time = 1e9) : time_(time) {}
    Lines& wait(double seconds) {
      time_ += seconds;
      return *this;
    }
    Lines& start(std::int64_t first_step, const char* backend = "mpi",
                 const char* reduce = "vote") {
      return add({{"type", "run"},
                  {"workers", 3},
                  {"rule", "olion"},
                  {"reduce", reduce},
                  {"model", "tiny"},
                  {"steps", 20},
                  {"first_step", first_step},
                  {metric::kBackend, backend}});
    }
    Lines& steps(std::int64_t from, std::int64_t to, double seconds, double loss = 3) {
      for (std::int64_t step = from; step <= to; ++step) {
        wait(seconds);
        add({{"type", "step"},
             {metric::kStep, step},
             {metric::kLoss, loss},
             {metric::kTokensTotal, 100 * step},
             {metric::kStepSeconds, seconds / 2},
             {metric::kBytesSent, 1000},
             {metric::kFp32Bytes, 30000}});
      }
      return *this;
    }
    Lines& term(std::int64_t step, int number, json workers, const char* reason) {
      start(step, "elastic");
      return add({{"type", "term"},
                  {"step", step},
                  {"term", number},
                  {"workers", std::move(workers)},
                  {"reason", reason}});
    }
    Lines& add(json line) {
      if (timed_) line[metric::kTime] = time_;
      text_ << line.dump() << "\n";
      return *this;
    }
    Lines& without_times() {
      timed_ = false;
      return *this;
    }
    std::string text() const { return text_.str(); }

   private:
    double time_;
    bool timed_ = true;
    std::ostringstream text_;
  };

  std::string write(const std::string& name, const Lines& lines) {
    const std::string run = folder_.file(name);
    std::filesystem::create_directories(run);
    std::ofstream(run + "/metrics.jsonl", std::ios::binary) << lines.text();
    return run;
  }
  RunRecord record(const Lines& lines) { return read_run_record(write("run", lines)); }
  std::string page(const std::vector<std::string>& runs) {
    std::ifstream file(write_report(runs, folder_.file("page.html")));
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  static std::vector<double> times(const RunRecord& run) {
    std::vector<double> all;
    for (const StepRecord& step : run.steps) all.push_back(step.elapsed);
    return all;
  }
  TemporaryFolder folder_;
};

TEST_F(ReportRuns, TimeIsTheWallClockWithoutThePausesBetweenStarts) {
  // Evaluations and whatever else is between steps counts; an hour until the next start does not.
  const RunRecord run = record(Lines()
                                   .start(0)
                                   .wait(4)
                                   .steps(1, 2, 1)
                                   .wait(3)
                                   .steps(3, 3, 1)
                                   .wait(3600)
                                   .start(3)
                                   .wait(2)
                                   .steps(4, 5, 1));
  EXPECT_THAT(times(run), ElementsAre(5, 6, 10, 13, 14));
  EXPECT_STREQ(clock_of(run), "wall clock");
}

TEST_F(ReportRuns, StepsThatAStartRepeatsCountOnce) {
  const RunRecord run =
      record(Lines().start(0).steps(1, 4, 1).wait(100).start(2).wait(1).steps(3, 4, 10));
  EXPECT_THAT(times(run), ElementsAre(1, 2, 13, 23));
}

TEST_F(ReportRuns, AnElasticRunsWaitingBetweenTwoTermsIsPartOfItsTime) {
  const RunRecord run = record(Lines()
                                   .term(0, 1, {0, 1, 2}, "3 have joined")
                                   .steps(1, 2, 1)
                                   .wait(7)
                                   .term(2, 2, {0, 1}, "worker 2 is silent")
                                   .steps(3, 3, 1));
  EXPECT_THAT(times(run), ElementsAre(1, 2, 10));
  // But not until it is started again after all have left.
  const RunRecord again = record(Lines()
                                     .term(0, 1, {0, 1, 2}, "")
                                     .steps(1, 2, 1)
                                     .add({{"type", "end"}, {"step", 2}})
                                     .wait(700)
                                     .term(2, 2, {0, 1}, "")
                                     .steps(3, 3, 1));
  EXPECT_THAT(times(again), ElementsAre(1, 2, 3));
}

TEST_F(ReportRuns, ARecordWithoutTimesOfDayCountsItsSteps) {
  const RunRecord run = record(Lines().without_times().start(0).steps(1, 3, 4));
  EXPECT_THAT(times(run), ElementsAre(2, 4, 6));
  EXPECT_STREQ(clock_of(run), "sum of the steps' times");
}

TEST_F(ReportRuns, AClockThatGoesBackTakesNoTimeAway) {
  const RunRecord run = record(Lines().start(0).steps(1, 2, 1).wait(-100).steps(3, 4, 1));
  EXPECT_THAT(times(run), ElementsAre(1, 2, 2, 2));
}

TEST_F(ReportRuns, SaysWhoLeftAndJoinedAndWhy) {
  const RunRecord run = record(Lines()
                                   .term(0, 1, {0, 1, 2}, "3 have joined")
                                   .steps(1, 5, 1)
                                   .term(5, 2, {0, 1}, "worker 2 is silent")
                                   .steps(6, 9, 1)
                                   .term(9, 3, {0, 1, 4, 7}, ""));
  ASSERT_EQ(run.events.size(), 3u);
  EXPECT_EQ(run.events[0].kind, MarkKind::start);
  EXPECT_EQ(run.events[0].text, "term 1: workers 0, 1, 2 (3 have joined)");
  EXPECT_EQ(run.events[1].kind, MarkKind::term);
  EXPECT_EQ(run.events[1].step, 5);
  EXPECT_EQ(run.events[1].elapsed, 5);
  EXPECT_EQ(run.events[1].text, "term 2: workers 0, 1; worker 2 left (worker 2 is silent)");
  EXPECT_EQ(run.events[2].text, "term 3: workers 0, 1, 4, 7; workers 4, 7 joined");
  const std::string shown = page({folder_.file("run")});
  EXPECT_THAT(shown, HasSubstr("worker 2 left (worker 2 is silent)"));
  EXPECT_THAT(shown, HasSubstr("1 start, 2 changes of term"));
}

TEST_F(ReportRuns, MarksAndListsWhatHappened) {
  Lines lines;
  lines.start(0).steps(1, 4, 1);
  lines.add({{"type", "checkpoint"}, {"step", 2}, {"path", "out/checkpoints/step-2"}});
  lines.add({{"type", "checkpoint"}, {"step", 4}, {"path", "out/checkpoints/step-4"}});
  lines.add({{"type", "repair"}, {"step", 4}, {"worker", 1}, {"text", "worker 1 <differed>"}});
  lines.add({{"type", "alarm"}, {"step", 4}, {"worker", 2}, {"text", "worker 2 is at chance"}});
  lines.add({{"type", "checkpoint_failed"}, {"step", 4}, {"worker", 0}, {"text", "no space"}});
  lines.wait(50).start(4).steps(5, 8, 1);
  const std::string shown = page({write("run", lines)});
  for (const char* part :
       {"2 checkpoints</td>", "the last: step-4", "worker 1 &lt;differed&gt;",
        "worker 2 is at chance", "worker 0: no space", "goes on after step 4",
        "2 starts, 2 checkpoints, 1 repair, 1 alarm, 1 checkpoint failed", "class=\"mark tick m0\"",
        "class=\"mark trouble m0\"", "class=\"mark m0\""})
    EXPECT_THAT(shown, HasSubstr(part));
  // On three curves each: the second start, a repair; an alarm, a failure; two checkpoints.
  const auto count = [&](const std::string& part) {
    int found = 0;
    for (std::size_t at = 0; (at = shown.find(part, at)) != std::string::npos; at += part.size())
      ++found;
    return found;
  };
  EXPECT_EQ(count("class=\"mark m0\""), 6);
  EXPECT_EQ(count("class=\"mark trouble m0\""), 6);
  EXPECT_EQ(count("class=\"mark tick m0\""), 6);
}

// The last checkpoint is published when all steps are done.
TEST_F(ReportRuns, WhatComesAfterTheLastStepIsInThePicture) {
  Lines lines;
  lines.start(0).steps(1, 4, 1).wait(40);
  lines.add({{"type", "checkpoint"}, {"step", 4}, {"path", "out/checkpoints/step-4"}});
  const std::string shown = page({write("run", lines)});
  int found = 0;
  const std::string begin = "class=\"mark tick m0\" d=\"M";
  for (std::size_t at = 0; (at = shown.find(begin, at)) != std::string::npos; ++found) {
    at += begin.size();
    const double x = std::stod(shown.substr(at));
    EXPECT_GE(x, 0);
    EXPECT_LE(x, 640);
  }
  EXPECT_EQ(found, 3);
}

TEST_F(ReportRuns, DamagedEventsAreNamedByTheirLine) {
  for (const json& line :
       {json{{"type", "term"}, {"step", 1}, {"workers", 3}},
        json{{"type", "term"}, {"step", 1}, {"workers", {0, "1"}}},
        json{{"type", "term"}, {"workers", {0}}}, json{{"type", "alarm"}, {"step", 1}, {"text", 3}},
        json{{"type", "checkpoint"}, {"step", 1}, {"path", json::array()}},
        json{{"type", "term"}, {"step", 1}, {"workers", {0}}, {"reason", 1}}}) {
    Lines lines;
    lines.start(0).add(line).steps(2, 2, 1);
    try {
      record(lines);
      ADD_FAILURE() << line;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("metrics.jsonl:2: ")) << line;
    }
  }
}

// Twice the time for every step, the same losses: half as fast, whatever the loss.
TEST_F(ReportRuns, SpeedIsOfEqualLoss) {
  Lines fast, slow(5e8);
  fast.start(0);
  slow.start(0, "mpi", "mean-fp32");
  for (int step = 1; step <= 20; ++step) {
    fast.steps(step, step, 1, 5 - 0.1 * step);
    slow.steps(step, step, 2, 5 - 0.1 * step);
  }
  const std::vector<RunRecord> runs{read_run_record(write("fast", fast)),
                                    read_run_record(write("slow", slow))};
  EXPECT_EQ(reference_run(runs), 1u);
  EXPECT_EQ(smoothing_window(runs), 2u);
  const std::vector<double> losses = common_losses(runs, 2);
  ASSERT_EQ(losses.size(), 4u);
  EXPECT_NEAR(losses.back(), 3.05, 0.05);
  EXPECT_GE(losses.back(), 3.05 - 1e-9);  // the mean of the last two
  for (const double loss : losses) {
    const Reached one = reach(runs[0], loss, 2), other = reach(runs[1], loss, 2);
    EXPECT_EQ(one.step, other.step);
    EXPECT_DOUBLE_EQ(2 * one.seconds, other.seconds);
  }
  EXPECT_THAT(page({folder_.file("fast"), folder_.file("slow")}),
              HasSubstr("2 times as fast as slow"));
  EXPECT_TRUE(std::isnan(reach(runs[0], 2.9, 2).seconds));
}

TEST_F(ReportRuns, RunsWithoutACommonLossSaySo) {
  const std::string high = write("high", Lines().start(0).steps(1, 5, 1, 6).steps(6, 9, 1, 5)),
                    low = write("low", Lines().start(0).steps(1, 5, 1, 2).steps(6, 9, 1, 1));
  EXPECT_THAT(page({high, low}), HasSubstr("There is no loss that all of these runs"));
  EXPECT_THAT(page({high, write("none", Lines().start(0))}),
              HasSubstr("There is no loss that all of these runs"));
}

TEST_F(ReportRuns, OneToEightOfThem) {
  std::vector<std::string> runs;
  for (int i = 0; i < 8; ++i)
    runs.push_back(write("run" + std::to_string(i), Lines().start(0).steps(1, 1 + i, 1)));
  EXPECT_THAT(page(runs), HasSubstr("run7, training"));
  runs.push_back(runs[0]);
  EXPECT_THROW(page(runs), ConfigError);
  EXPECT_THROW(page({}), ConfigError);
}

TEST_F(ReportRuns, OneThatGoesOnSaysHowFarItIs) {
  EXPECT_THAT(page({write("run", Lines().start(0).steps(1, 7, 1))}),
              HasSubstr("<td>7 of 20, has not ended</td>"));
}

TEST_F(ReportRuns, EveryRunHasItsStages) {
  const std::string both = page({write("one", Lines().start(0).steps(1, 2, 1)),
                                 write("two", Lines().start(0).steps(1, 2, 2))});
  EXPECT_THAT(both, HasSubstr("<div class=\"bar-name\">one</div>"));
  EXPECT_THAT(both, HasSubstr("<div class=\"bar-text\">1000 ms</div>"));
}

TEST(PlainDuration, HasTheUnitsThatItNeeds) {
  EXPECT_EQ(plain_duration(4.25), "4.25 s");
  EXPECT_EQ(plain_duration(200), "3 min 20 s");
  EXPECT_EQ(plain_duration(7500), "2 h 5 min");
  EXPECT_EQ(plain_duration(200000), "2 d 7 h");
  EXPECT_EQ(plain_duration(std::nan("")), "–");
}

}  // namespace
}  // namespace ballot

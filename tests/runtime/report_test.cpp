// Pages made from metrics that the tests write.
#include "runtime/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "runtime/metrics_names.h"
#include "runtime/report_chart.h"
#include "runtime/report_data.h"

namespace ballot {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

class ReportTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ballot-report-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static json run_line() {
    return {{"type", "run"},   {"version", "0.1.0"}, {"model", "tiny-llama"}, {"workers", 4},
            {"rule", "olion"}, {"reduce", "vote"},   {"compute", "f32"},      {"seed", 1}};
  }
  static json step_line(int step, double loss) {
    const double noise = 0.02 * std::sin(step * 12.9898);
    return {{"type", "step"},
            {metric::kStep, step},
            {metric::kLoss, loss},
            {metric::kTokensTotal, step * 2048},
            {metric::kTokensPerSecond, 1500},
            {metric::kStepSeconds, 0.5 + noise},
            {metric::kDataSeconds, 0.002},
            {metric::kForwardSeconds, 0.12},
            {metric::kBackwardSeconds, 0.24 + noise},
            {metric::kDirectionSeconds, 0.06},
            {metric::kPackSeconds, 0.004},
            {metric::kExposedSeconds, 0.035},
            {metric::kApplySeconds, 0.008},
            {metric::kAuditSeconds, 0.004},
            {metric::kBytesSent, 500000},
            {metric::kVoteBytesSent, 470000},
            {metric::kMeanBytesSent, 28000},
            {metric::kControlBytesSent, 2000},
            {metric::kFp32Bytes, 15000000},
            {metric::kTieShare, 0.21 + noise},
            {metric::kUnanimousShare, 0.3 - noise},
            {metric::kHeldShare, 0.01},
            {metric::kAgreement, {0.61 + noise, 0.62, 0.60 - noise, 0.615}},
            {metric::kGradientFaults, 0},
            {metric::kLossFaults, 0}};
  }
  static json evaluation(int step, double loss) {
    return {
        {"type", "evaluation"}, {"step", step}, {"loss", loss}, {"tokens", 8192}, {"seconds", 1.5}};
  }
  // A run of `steps` steps, as its lines.
  static std::string whole_run(int steps, double end_loss = 2.0) {
    std::ostringstream out;
    out << run_line().dump() << "\n" << evaluation(0, 5.25).dump() << "\n";
    for (int step = 1; step <= steps; ++step)
      out << step_line(step,
                       end_loss + 3 * std::exp(-3.0 * step / steps) + 0.1 * std::sin(step * 78.233))
                 .dump()
          << "\n";
    out << evaluation(steps, end_loss).dump() << "\n"
        << json{{"type", "end"}, {"step", steps}, {"replicas_identical", true}, {"seconds", 60}}
               .dump()
        << "\n";
    return out.str();
  }
  std::string write_run(const std::string& name, const std::string& lines) {
    const std::filesystem::path run = std::filesystem::path(folder_) / name;
    std::filesystem::create_directories(run);
    std::ofstream(run / "metrics.jsonl", std::ios::binary) << lines;
    return run.string();
  }
  static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  std::string page_of(const std::vector<std::string>& runs) { return read(write_report(runs)); }
  static std::string message_of(const std::string& run) {
    try {
      write_report({run});
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }
  std::string folder_;
};

int count(const std::string& text, const std::string& part) {
  int result = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size())
    ++result;
  return result;
}

TEST_F(ReportTest, SaysWhatWasRunAndWhatItSent) {
  const std::string run = write_run("vote", whole_run(100));
  EXPECT_EQ(write_report({run}), run + "/report.html");
  const std::string page = read(run + "/report.html");
  for (const char* part :
       {"tiny-llama", "olion, vote", "5.25 nats/token", "2 nats/token", "500 kB", "15 MB",
        "30.0 times less", "<span class=\"good\">yes</span>", "voter 3", "Time per stage",
        "Loss by time", "Sent in all", "prefers-color-scheme", "Ties and unanimous"})
    EXPECT_THAT(page, HasSubstr(part));
  EXPECT_THAT(page, Not(HasSubstr("has not ended")));
}

TEST_F(ReportTest, IsOnePageWithoutScriptOrAnythingFromElsewhere) {
  const std::string page = page_of({write_run("vote", whole_run(50))});
  for (const char* part : {"<script", "src=", "href=", "url(", "@import", "http://", "https://"})
    EXPECT_THAT(page, Not(HasSubstr(part))) << part;
  for (const std::string tag :
       {"svg", "section", "table", "tr", "td", "ul", "li", "div", "title", "text"})
    EXPECT_EQ(count(page, "<" + tag + ">") + count(page, "<" + tag + " "),
              count(page, "</" + tag + ">"))
        << tag;
  EXPECT_THAT(page, Not(testing::ContainsRegex("[^a-z](nan|inf)[^a-z]")));
}

TEST_F(ReportTest, DrawsSeveralRunsWithColoursDashesAndMarkersOfTheirOwn) {
  const std::string vote = write_run("vote", whole_run(60)),
                    mean = write_run("mean", whole_run(60, 2.1));
  const std::string path = folder_ + "/both.html";
  EXPECT_EQ(write_report({vote, mean}, path), path);
  const std::string page = read(path);
  for (const char* part : {"vote, training", "mean, training", "vote, held out", "mean, held out",
                           "class=\"line thin c0\"", "class=\"line thin c1\"", "point c1"})
    EXPECT_THAT(page, HasSubstr(part));
  EXPECT_THAT(page, HasSubstr(".line.c1{stroke:var(--c1);stroke-dasharray"));
}

TEST_F(ReportTest, HostileTextIsEscaped) {
  const std::string bad = "</td><script>alert('x')</script><img src=\"x\" onerror=\"y\">&";
  std::string lines;
  for (const char* key : {"model", "rule", "reduce", "compute", "workers", "version"}) {
    json run = run_line();
    run[key] = bad;
    run[bad] = "\x01";
    lines = run.dump() + "\n" + step_line(1, 3).dump() + "\n";
    const std::string page = page_of({write_run("<b>x", lines)});
    EXPECT_THAT(page, Not(HasSubstr("<script")));
    EXPECT_THAT(page, Not(HasSubstr("<img")));
    EXPECT_THAT(page, Not(HasSubstr("<b>")));
    EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(&#39;x&#39;)"));
    EXPECT_THAT(page, HasSubstr("&lt;b&gt;x"));
  }
}

TEST(EscapeHtml, LeavesNoBrokenCharacter) {
  EXPECT_EQ(escape_html("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  EXPECT_EQ(escape_html("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"),
            "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  const std::string replaced = "\xef\xbf\xbd";
  EXPECT_EQ(escape_html("\xff"), replaced);
  EXPECT_EQ(escape_html("\xc3"), replaced);
  EXPECT_EQ(escape_html("\xc3<"),
            replaced + "&lt;");  // a broken lead must not swallow what follows
  EXPECT_EQ(escape_html("\xe0\x80\xbc"), replaced + replaced + replaced);  // an overlong '<'
  EXPECT_EQ(escape_html(std::string_view("\0\x1b\n", 3)), replaced + replaced + " ");
}

TEST_F(ReportTest, ALongRunMakesASmallPage) {
  // Lines of one step with another number and loss: writing JSON a hundred thousand times would be
  // most of the test.
  json line = step_line(1, 2);
  line.erase(metric::kStep);
  line.erase(metric::kLoss);
  const std::string rest = line.dump().substr(1);
  std::string lines = run_line().dump() + "\n";
  for (int step = 1; step <= 100'000; ++step)
    lines += fmt::format("{{\"step\":{},\"{}\":{:.4f},{}\n", step, metric::kLoss,
                         2 + std::sin(step * 78.233), rest);
  const std::string run = write_run("long", lines);
  write_report({run});
  EXPECT_THAT(read(run + "/report.html"), HasSubstr("<td>100000, has not ended</td>"));
  EXPECT_LT(std::filesystem::file_size(run + "/report.html"), 400'000u);
}

TEST_F(ReportTest, ShowsAgreementByLayerOfTheLastWindow) {
  const auto line = [](int step, json shares) {
    return json{{"type", "agreement"},
                {"step", step},
                {"steps", 5},
                {"layers", {"model.layers.0", "<b>"}},
                {"agreement", std::move(shares)}}
               .dump() +
           "\n";
  };
  const std::string page =
      page_of({write_run("layers", whole_run(10) + line(5, {{.1, .2, .3}, {.1, .2, .3}}) +
                                       line(10, {{.575, .514, .573}, {.55, nullptr, .55}}))});
  EXPECT_THAT(page, HasSubstr("Over 5 steps up to step 10"));
  EXPECT_THAT(page, HasSubstr(">model.layers.0</th>"));
  EXPECT_THAT(page, HasSubstr(">&lt;b&gt;</th>"));
  EXPECT_THAT(page, HasSubstr("var(--heat) 0%,transparent)\">0.575<"));
  EXPECT_THAT(page, HasSubstr("var(--heat) 48%,transparent)\">0.514<"));  // (.573 - .514) / .073
  EXPECT_THAT(page, HasSubstr("\">–</td>"));
  EXPECT_THAT(page_of({write_run("none", whole_run(10))}), Not(HasSubstr("Agreement by layer")));

  // Of many voters those that agree least.
  json row = json::array();
  for (int v = 0; v < 100; ++v) row.push_back(0.6 - 0.0005 * v);
  const std::string many = page_of({write_run("many", whole_run(10) + line(10, {row, row}))});
  EXPECT_THAT(many, HasSubstr("The 64 voters of 100"));
  EXPECT_THAT(many, HasSubstr("<th scope=\"col\">voter 99</th>"));
  EXPECT_THAT(many, Not(HasSubstr("<th scope=\"col\">voter 35</th>")));

  for (const json& wrong :
       {json(3), json{{.5}}, json{{.5}, {.5, .6}}, json{{.5}, {"<"}}, json{{.5}, 3}})
    EXPECT_THAT(message_of(write_run("bad", run_line().dump() + "\n" + line(5, wrong) +
                                                step_line(6, 2).dump() + "\n")),
                HasSubstr("metrics.jsonl:2: "))
        << wrong;
}

TEST_F(ReportTest, ATornLastLineIsLeftOut) {
  const std::string whole = whole_run(10);
  const std::string step = step_line(11, 2).dump();
  for (const std::size_t length : {std::size_t{1}, step.size() / 2, step.size() - 1})
    EXPECT_THAT(page_of({write_run("torn", whole + step.substr(0, length))}),
                HasSubstr("<td>10</td>"));
  EXPECT_THAT(page_of({write_run("torn", whole + step)}), HasSubstr("<td>11</td>"));
}

TEST_F(ReportTest, AnyOtherDamageIsNamedByItsLine) {
  const std::string start = run_line().dump() + "\n" + step_line(1, 2).dump() + "\n",
                    end = step_line(3, 2).dump() + "\n";
  json no_step = step_line(2, 2), word = step_line(2, 2), agreement = step_line(2, 2);
  no_step.erase(metric::kStep);
  word[metric::kBytesSent] = "many";
  agreement[metric::kAgreement] = {"<"};
  for (const std::string& damage :
       {std::string("{\"type\": \"st"), std::string(), std::string("[1]"), std::string("{}"),
        std::string("{\"type\": 3}"), no_step.dump(), word.dump(), agreement.dump(),
        std::string("{\"type\": \"\xff\"}"), std::string("\0\0\0", 3)})
    EXPECT_THAT(message_of(write_run("bad", start + damage + "\n" + end)),
                HasSubstr("metrics.jsonl:3: "))
        << damage;
  EXPECT_THROW(write_report({folder_ + "/nowhere"}), FileError);
}

TEST_F(ReportTest, ValuesThatAreNotFiniteAreGaps) {
  std::string lines = run_line().dump() + "\n";
  for (int step = 1; step <= 9; ++step) {
    json line = step_line(step, 3);
    if (step == 5) line[metric::kLoss] = nullptr;
    if (step == 5) line[metric::kAgreement] = {nullptr, 0.6, 0.6, 0.6};
    if (step == 5) line[metric::kGradientFaults] = 2;
    lines += line.dump() + "\n";
  }
  const std::string page = page_of({write_run("gap", lines)});
  const std::size_t begin = page.find("<path class=\"line thin c0\" d=\"M62");
  ASSERT_NE(begin, std::string::npos);
  const std::string curve = page.substr(begin, page.find("/>", begin) - begin);
  EXPECT_EQ(count(curve, "M"), 2);
  EXPECT_THAT(page, HasSubstr("2 tensors, 0 losses not finite"));
  EXPECT_THAT(page, HasSubstr("has not ended"));
  EXPECT_THAT(page, Not(testing::ContainsRegex("[^a-z](nan|inf)[^a-z]")));
}

TEST_F(ReportTest, ARestartsStepsReplaceTheEarlierOnes) {
  std::string lines = run_line().dump() + "\n";
  for (int step = 1; step <= 8; ++step) lines += step_line(step, 4).dump() + "\n";
  lines += run_line().dump() + "\n";
  for (int step = 6; step <= 10; ++step) lines += step_line(step, 3).dump() + "\n";
  const RunRecord run = read_run_record(write_run("again", lines));
  ASSERT_EQ(run.steps.size(), 10u);
  EXPECT_EQ(run.steps[4].loss, 4);
  EXPECT_EQ(run.steps[5].loss, 3);
  EXPECT_EQ(run.starts, 2);
}

TEST_F(ReportTest, WhatTheRunLineLeavesUnsaidIsInItsRunFile) {
  json line = run_line();
  for (const char* key : {"model", "rule", "reduce"}) line.erase(key);
  const std::string run = write_run("plain", line.dump() + "\n");
  std::ofstream(run + "/run.toml")
      << "[model]\nfolder = \"models/base\"  # a comment\n[group.hidden]\nrule = \"olion\"\n"
         "reduce = \"mean-fp32\"\n[group.vector]\nrule = \"adamw\"\n";
  const RunRecord record = read_run_record(run);
  EXPECT_EQ(record.model, "models/base");
  EXPECT_EQ(record.rule, "olion");
  EXPECT_EQ(record.reduce, "mean-fp32");
}

TEST_F(ReportTest, ARunWithoutStepsOrWorkersStillMakesAPage) {
  EXPECT_THAT(page_of({write_run("empty", "")}), HasSubstr("No values."));
  json step = step_line(1, 3);
  for (const char* key : {metric::kBytesSent, metric::kVoteBytesSent, metric::kMeanBytesSent,
                          metric::kControlBytesSent, metric::kFp32Bytes})
    step[key] = 0;
  step.erase(metric::kAgreement);
  const std::string page =
      page_of({write_run("alone", run_line().dump() + "\n" + step.dump() + "\n")});
  EXPECT_THAT(page, HasSubstr("Nothing was sent"));
  EXPECT_THAT(page, Not(HasSubstr("Agreement of each voter")));
}

TEST(Envelope, KeepsTheExtremesAndTheOrder) {
  std::vector<Point> points;
  for (int i = 0; i < 50'000; ++i) points.push_back({static_cast<double>(i), std::sin(i * 0.01)});
  points[31'234].y = 40;
  points[7'000].y = -40;
  const std::vector<Point> kept = envelope(points);
  EXPECT_LE(kept.size(), kMostPoints);
  double least = 0, greatest = 0;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    least = std::min(least, kept[i].y);
    greatest = std::max(greatest, kept[i].y);
    if (i > 0) {
      EXPECT_LT(kept[i - 1].x, kept[i].x);
    }
  }
  EXPECT_EQ(least, -40);
  EXPECT_EQ(greatest, 40);
}

}  // namespace
}  // namespace ballot

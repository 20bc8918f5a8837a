// `ballot status`, once and as a watch: on a terminal of the test's own, and without one; of a
// coordinator that goes and comes back, and of a run folder.
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmath>
#include <memory>

#include "tests/process/small_run.h"
#include "tests/support/free_port.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

// `ballot ARGUMENTS` on a terminal of `columns` x 30.
class OnTerminal {
 public:
  OnTerminal(const std::vector<std::string>& arguments, const std::string& folder, int columns) {
    winsize size{30, static_cast<unsigned short>(columns), 0, 0};
    id_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
    if (id_ == 0) {
      std::vector<std::string> words{BALLOT_BINARY};
      words.insert(words.end(), arguments.begin(), arguments.end());
      std::vector<char*> pointers;
      for (std::string& word : words) pointers.push_back(word.data());
      pointers.push_back(nullptr);
      if (::chdir(folder.c_str()) != 0) ::_exit(99);
      ::setenv("BALLOT_TOKEN", "of-this-test", 1);
      ::execv(BALLOT_BINARY, pointers.data());
      ::_exit(98);
    }
    EXPECT_GT(id_, 0);
    ::tcgetattr(terminal_, &before_);
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;
  ~OnTerminal() {
    if (exit_code_ < 0) {
      ::kill(id_, SIGKILL);
      ::waitpid(id_, nullptr, 0);
    }
    ::close(terminal_);
  }

  // The last whole frame holds the text.
  bool shows(const std::string& text) {
    return within(60s, [&] {
      read_some();
      return frame().find(text) != std::string::npos;
    });
  }
  bool no_longer_shows(const std::string& text) {
    return within(60s, [&] {
      read_some();
      return !frame().empty() && frame().find(text) == std::string::npos;
    });
  }
  void resize(int columns) const {
    const winsize size{30, static_cast<unsigned short>(columns), 0, 0};
    ::ioctl(terminal_, TIOCSWINSZ, &size);
  }
  void type(const std::string& keys) const {
    EXPECT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  void send(int signal) const { ::kill(id_, signal); }
  int wait() {
    int status = 0;
    const bool ended = within(30s, [&] {
      read_some();
      return ::waitpid(id_, &status, WNOHANG) == id_;
    });
    EXPECT_TRUE(ended) << all_;
    if (!ended) return kTimedOut;
    read_some();
    return exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // Keys, cursor and screen as they were.
  void expect_given_back() const {
    termios after{};
    ASSERT_EQ(::tcgetattr(terminal_, &after), 0);
    EXPECT_EQ(after.c_lflag, before_.c_lflag);
    EXPECT_GT(all_.rfind("\033[?25h"), all_.rfind("\033[?25l"));
    EXPECT_GT(all_.rfind("\033[?1049l"), all_.rfind("\033[?1049h"));
  }
  // Characters in the longest line of the last frame.
  std::size_t width() const {
    std::size_t widest = 0, now = 0;
    for (const char c : frame()) {
      now = c == '\n' || c == '\r' ? 0 : now + 1;
      widest = std::max(widest, now);
    }
    return widest;
  }
  const std::string& all() const { return all_; }
  // Without what moves the cursor; from its home to where it clears the rest.
  std::string frame() const {
    const std::size_t end = all_.rfind("\033[J");
    if (end == std::string::npos) return "";
    const std::size_t begin = all_.rfind("\033[H", end);
    std::string text = all_.substr(begin + 3, end - begin - 3);
    for (std::size_t at = 0; (at = text.find("\033[K", at)) != std::string::npos;)
      text.erase(at, 3);
    return text;
  }

 private:
  void read_some() {
    pollfd file{terminal_, POLLIN, 0};
    char bytes[4096];
    while (::poll(&file, 1, 0) == 1 && (file.revents & POLLIN) != 0) {
      const ssize_t count = ::read(terminal_, bytes, sizeof bytes);
      if (count <= 0) return;
      all_.append(bytes, static_cast<std::size_t>(count));
    }
  }
  int terminal_ = -1, exit_code_ = -1;
  pid_t id_ = -1;
  termios before_{};
  std::string all_;
};

class Status : public SmallRun {
 protected:
  void start_coordinator() {
    coordinator_ = std::make_unique<Command>(
        std::vector<std::string>{"coordinator", "out", "--listen", address_, "--start-workers", "2",
                                 "--heartbeat-timeout", "20s"},
        file(""), environment_);
  }
  std::unique_ptr<Command> worker(int number) {
    return std::make_unique<Command>(
        std::vector<std::string>{"train", "run.toml", "--coordinator", address_, "--worker",
                                 std::to_string(number), "--set", "train.steps=1000000", "--set",
                                 "train.checkpoint_every=0", "--set", "vote.deadline_seconds=60"},
        file(""), environment_);
  }
  std::string address_ = "127.0.0.1:" + std::to_string(test::free_port());
  Environment environment_{{"BALLOT_TOKEN", "of-this-test"}, {"OMP_NUM_THREADS", "1"}};
  std::unique_ptr<Command> coordinator_;
};

TEST_F(Status, OfARunFolderIsWhatItsRecordSays) {
  train(3, "out", {"vote.schedule=sharded"});
  const nlohmann::json last = metrics("out", "step").back();
  const Ended asked = ballot({"status", "out", "--json"});
  ASSERT_EQ(asked.exit_code, 0) << asked.output;
  const auto seen = nlohmann::json::parse(asked.output);
  EXPECT_EQ(seen["step"], 8);
  EXPECT_EQ(seen["steps"], 8);
  EXPECT_EQ(seen["ended"], true);
  EXPECT_EQ(seen["recorded"]["loss"], last["loss_metrics/global_avg_loss"]);
  EXPECT_EQ(seen["recorded"]["bytes_sent"], last["comm/wire_bytes_tx"]);
  EXPECT_EQ(seen["recorded"]["ties"], last["vote/tie"]);
  EXPECT_NEAR(seen["recorded"]["tokens_per_second"].get<double>(),
              3 * last["throughput(tps)"].get<double>(), 1);
  EXPECT_EQ(seen["agreement"].size(), 3u);
  EXPECT_EQ(seen["held_out_step"], 8);

  const Ended shown = ballot({"status", "out"});
  for (const char* part : {"step 8 of 8", "has ended", "loss", "tokens/s", "a step, fp32", "ties",
                           "held out", "checkpoint"})
    EXPECT_THAT(shown.output, HasSubstr(part));

  // Not on a terminal: a line, and it ends with the run.
  const Ended watched = ballot({"status", "out", "--watch", "0.1"});
  EXPECT_EQ(watched.exit_code, 0);
  EXPECT_THAT(watched.output, HasSubstr("step 8 of 8"));
  EXPECT_THAT(watched.output, Not(HasSubstr("\033")));

  // Its text is no order to a terminal.
  write(
      "out/metrics.jsonl",
      R"({"type":"run","model":"\u001b[2Jx","rule":"olion","reduce":"vote","workers":1,"steps":5})"
      "\n");
  EXPECT_THAT(ballot({"status", "out"}).output, Not(HasSubstr("\033")));
}

TEST_F(Status, AWatchOnATerminalCutsItsLinesAndGivesTheTerminalBack) {
  train(2, "out");
  for (const std::string key : {"q", "\x03"}) {
    OnTerminal watch({"status", "out", "--watch", "0.2"}, file(""), 40);
    ASSERT_TRUE(watch.shows("step 8 of 8")) << watch.all();
    EXPECT_EQ(watch.width(), 40u) << watch.frame();
    watch.resize(33);
    ASSERT_TRUE(within(20s, [&] { return watch.shows("step 8 of 8") && watch.width() == 33; }))
        << watch.frame();
    watch.type(key);
    EXPECT_EQ(watch.wait(), 0);
    watch.expect_given_back();
    const std::string after = watch.all().substr(watch.all().rfind("\033[?1049l"));
    EXPECT_THAT(after, HasSubstr("step 8 of 8")) << "the last lines stay";
  }
  OnTerminal watch({"status", "out", "--watch"}, file(""), 80);
  ASSERT_TRUE(watch.shows("step 8 of 8")) << watch.all();
  watch.send(SIGTERM);
  EXPECT_EQ(watch.wait(), 128 + SIGTERM);
  watch.expect_given_back();
}

TEST_F(Status, AWatchSurvivesACoordinatorThatIsAway) {
  OnTerminal watch({"status", address_, "--watch", "0.2", "--timeout", "1s"}, file(""), 160);
  ASSERT_TRUE(watch.shows("NO ANSWER yet")) << watch.all();
  start_coordinator();
  const auto first = worker(0), second = worker(1);
  ASSERT_TRUE(watch.shows("tokens/s")) << watch.all() << first->output();
  for (const char* part : {"voting", "a step, fp32", "ties", "agreement", "left", "of 1000000"})
    EXPECT_TRUE(watch.shows(part)) << watch.frame();

  // The figures are those of a line of the record.
  const Ended asked = ballot({"status", address_, "--json"}, environment_);
  ASSERT_EQ(asked.exit_code, 0) << asked.output;
  const auto recorded = nlohmann::json::parse(asked.output)["recorded"];
  bool found = false;
  for (const auto& line : metrics("out", "step"))
    if (line["step"] == recorded["step"]) {
      found = true;
      EXPECT_EQ(line["loss_metrics/global_avg_loss"], recorded["loss"]);
      EXPECT_EQ(line["comm/wire_bytes_tx"], recorded["bytes_sent"]);
      EXPECT_EQ(line["vote/tie"], recorded["ties"]);
      EXPECT_NEAR(line["comm/fp32_allreduce_bytes"].get<double>(),
                  recorded["fp32_bytes"].get<double>(), 1);
      EXPECT_NEAR(2 * line["throughput(tps)"].get<double>(),
                  recorded["tokens_per_second"].get<double>(),
                  1e-3 + 1e-6 * 2 * line["throughput(tps)"].get<double>());
    }
  EXPECT_TRUE(found) << recorded;

  coordinator_->send(SIGKILL);
  coordinator_->wait(10s);
  ASSERT_TRUE(watch.shows("NO ANSWER for")) << watch.all();
  EXPECT_TRUE(watch.shows("tokens/s")) << "what was last heard stays";
  start_coordinator();
  ASSERT_TRUE(watch.no_longer_shows("NO ANSWER")) << watch.all() << coordinator_->output();
  EXPECT_TRUE(watch.shows("tokens/s")) << watch.frame();
  watch.type("q");
  EXPECT_EQ(watch.wait(), 0);
  watch.expect_given_back();
}

TEST_F(Status, WithoutATerminalAnAbsentCoordinatorIsALineAndCtrlCEndsIt) {
  Command watch({"status", address_, "--watch", "0.2", "--timeout", "300ms"}, file(""),
                environment_);
  ASSERT_TRUE(within(30s, [&] { return watch.output().find("no answer: ") != std::string::npos; }));
  watch.send(SIGINT);
  const Ended ended = watch.wait(20s);
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_THAT(ended.output, HasSubstr(address_));
  EXPECT_THAT(ended.output, Not(HasSubstr("\033")));
}

TEST_F(Status, WhatCannotBeWatchedIsRefused) {
  std::filesystem::create_directories(file("empty"));
  EXPECT_EQ(ballot({"status", "empty"}).exit_code, 3);
  EXPECT_EQ(ballot({"status", "empty", "--watch"}).exit_code, 3);
  EXPECT_EQ(ballot({"status", "empty", "--watch", "0.01"}).exit_code, 2);
  EXPECT_EQ(ballot({"status", "empty", "--watch", "soon"}).exit_code, 2);
  EXPECT_EQ(ballot({"status", "empty", "--watch", "--json"}).exit_code, 2);
  // Not a matter of waiting: whom the coordinator does not let in.
  start_coordinator();
  ASSERT_TRUE(within(30s, [&] {
    return ballot({"status", address_, "--json"}, environment_).exit_code == 0;
  }));
  EXPECT_EQ(ballot({"status", address_, "--watch"}, {{"BALLOT_TOKEN", "another"}}).exit_code, 2);
}

}  // namespace
}  // namespace ballot

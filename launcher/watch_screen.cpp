#include "launcher/watch_screen.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/clock.h"
#include "core/error.h"

namespace ballot {
namespace {

using Interval = std::chrono::duration<double>;

// Asks on its own thread, so that a key is heard while nobody answers.
class Asker {
 public:
  struct Seen {
    std::optional<WatchFrame> frame;  // the last that there was
    TimePoint at{};                   // it
    std::string trouble;              // why there is no newer one; empty: it is new
    std::int64_t number = 0;          // of answers and failures
    std::exception_ptr end;
  };

  Asker(Interval interval, const std::function<WatchFrame()>& ask)
      : interval_(interval), ask_(ask), thread_([this] { run(); }) {}
  ~Asker() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Seen seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }

 private:
  void run() {
    while (true) {
      std::optional<WatchFrame> frame;
      std::string trouble;
      std::exception_ptr end;
      try {
        frame = ask_();
      } catch (const Error& error) {
        if (error.exit_code() == ExitCode::retry)
          trouble = error.what();
        else
          end = std::current_exception();
      } catch (...) {
        end = std::current_exception();
      }
      std::unique_lock lock(mutex_);
      if (frame) {
        seen_.frame = std::move(frame);
        seen_.at = system_clock().now();
      }
      seen_.trouble = trouble;
      seen_.end = end;
      ++seen_.number;
      if (end) return;
      changed_.wait_for(lock, interval_, [this] { return stop_; });
      if (stop_) return;
    }
  }

  const Interval interval_;
  const std::function<WatchFrame()>& ask_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  Seen seen_;
  std::thread thread_;
};

// These come as something to read while it lives; threads made meanwhile do not get them.
class SignalFile {
 public:
  SignalFile() {
    ::sigemptyset(&set_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP})
      ::sigaddset(&set_, signal);
    ::pthread_sigmask(SIG_BLOCK, &set_, &before_);
    file_ = ::signalfd(-1, &set_, SFD_NONBLOCK | SFD_CLOEXEC);
    if (file_ < 0) throw_file_error("open", "a file of signals");
  }
  ~SignalFile() {
    ::close(file_);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  int file() const { return file_; }
  int take() const {  // 0: none
    signalfd_siginfo info{};
    return ::read(file_, &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  sigset_t set_{}, before_{};
  int file_ = -1;
};

void write_all(const std::string& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::write(STDOUT_FILENO, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw_file_error("write", "standard output");
    done += static_cast<std::size_t>(count);
  }
}

// The whole screen, keys without echo and without waiting for a line; what there was comes back.
class Screen {
 public:
  Screen() { enter(); }
  ~Screen() {
    try {
      leave();
    } catch (const Error&) {
      // The terminal is gone.
    }
  }
  void enter() {
    if (::isatty(STDIN_FILENO) == 1 && ::tcgetattr(STDIN_FILENO, &before_) == 0) {
      termios keys = before_;
      keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      keys.c_cc[VMIN] = 1;
      keys.c_cc[VTIME] = 0;
      has_keys_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &keys) == 0;
    }
    entered_ = true;
    write_all("\033[?1049h\033[?25l");
  }
  void leave() {
    if (!std::exchange(entered_, false)) return;
    if (std::exchange(has_keys_, false)) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
    write_all("\033[?25h\033[?1049l");
  }
  bool has_keys() const { return has_keys_; }
  void draw(const std::vector<std::string>& lines) const {
    std::string bytes = "\033[H";
    for (std::size_t i = 0; i < lines.size(); ++i)
      bytes += lines[i] + "\033[K" + (i + 1 < lines.size() ? "\r\n" : "");
    write_all(bytes + "\033[J");
  }

 private:
  termios before_{};
  bool has_keys_ = false, entered_ = false;
};

struct Size {
  std::size_t rows = 24, columns = 80;
};
Size size_of_terminal() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
    return {};
  return {size.ws_row, size.ws_col};
}

std::vector<std::string> lines_of(const Asker::Seen& seen) {
  std::vector<std::string> lines;
  if (!seen.trouble.empty()) {
    lines.push_back(seen.frame
                        ? fmt::format("NO ANSWER for {:.0f} s, asks again; what was last heard:",
                                      seconds(system_clock().now() - seen.at))
                        : "NO ANSWER yet, asks again");
    lines.push_back(seen.trouble);
    lines.push_back("");
  }
  if (seen.frame) lines.insert(lines.end(), seen.frame->lines.begin(), seen.frame->lines.end());
  if (lines.empty()) lines.push_back("asks ...");
  return lines;
}

constexpr int kLookMilliseconds = 100;  // for an answer that has come
constexpr double kAgainSeconds = 1;     // how long ago the last answer was is told anew

int watch_on_terminal(const Asker& asker, const SignalFile& signals) {
  Screen screen;
  std::int64_t drawn = -1;
  Stopwatch since;
  while (true) {
    const Asker::Seen seen = asker.seen();
    if (seen.end) {
      screen.leave();
      std::rethrow_exception(seen.end);
    }
    if (seen.number != drawn || (!seen.trouble.empty() && since.elapsed() > kAgainSeconds)) {
      const Size size = size_of_terminal();
      screen.draw(fit_screen(lines_of(seen), size.rows, size.columns));
      drawn = seen.number;
      since = Stopwatch();
    }
    pollfd files[] = {{signals.file(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    ::poll(files, screen.has_keys() ? 2 : 1, kLookMilliseconds);
    char key = 0;
    bool quit = false;
    if (screen.has_keys() && (files[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0)
      quit = ::read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q' || key == 4;
    switch (const int signal = signals.take()) {
      case 0:
        break;
      case SIGWINCH:
        drawn = -1;
        break;
      case SIGTSTP:
        screen.leave();
        ::kill(::getpid(), SIGSTOP);
        screen.enter();
        drawn = -1;
        break;
      case SIGINT:
        quit = true;
        break;
      default:  // as the shell says it
        screen.leave();
        return 128 + signal;
    }
    if (!quit) continue;
    screen.leave();
    for (const std::string& line : lines_of(asker.seen()))
      fmt::print("{}\n", fit_line(line, 100'000));
    return 0;
  }
}

int watch_by_lines(const Asker& asker, const SignalFile& signals) {
  std::int64_t told = 0;
  while (true) {
    const Asker::Seen seen = asker.seen();
    if (seen.end) std::rethrow_exception(seen.end);
    if (seen.number != told) {
      told = seen.number;
      write_all(fit_line(seen.trouble.empty() ? seen.frame->summary : "no answer: " + seen.trouble,
                         100'000) +
                "\n");
      if (seen.trouble.empty() && seen.frame->ended) return 0;
    }
    pollfd file{signals.file(), POLLIN, 0};
    ::poll(&file, 1, kLookMilliseconds);
    const int signal = signals.take();
    if (signal == SIGINT) return 0;
    if (signal == SIGTERM || signal == SIGHUP || signal == SIGQUIT) return 128 + signal;
    if (signal == SIGTSTP) ::kill(::getpid(), SIGSTOP);
  }
}

// Bytes of the character at `at`; 0: none.
std::size_t character_bytes(std::string_view text, std::size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  const std::size_t count = first < 0x80                    ? 1
                            : first >= 0xc2 && first < 0xe0 ? 2
                            : first >= 0xe0 && first < 0xf0 ? 3
                            : first >= 0xf0 && first < 0xf5 ? 4
                                                            : 0;
  if (count == 0 || at + count > text.size()) return 0;
  for (std::size_t i = 1; i < count; ++i)
    if ((static_cast<unsigned char>(text[at + i]) & 0xc0) != 0x80) return 0;
  return count;
}

}  // namespace

std::string fit_line(std::string_view text, std::size_t columns) {
  std::string out;
  std::size_t shown = 0;
  for (std::size_t at = 0; at < text.size() && shown < columns; ++shown) {
    const std::size_t count = character_bytes(text, at);
    const auto first = static_cast<unsigned char>(text[at]);
    const bool obeyed =
        first < 0x20 || first == 0x7f ||
        (count == 2 && first == 0xc2 && static_cast<unsigned char>(text[at + 1]) < 0xa0);
    if (count == 0 || obeyed)
      out += '?';
    else
      out += text.substr(at, count);
    at += std::max<std::size_t>(count, 1);
  }
  return out;
}

std::vector<std::string> fit_screen(const std::vector<std::string>& lines, std::size_t rows,
                                    std::size_t columns) {
  std::vector<std::string> out;
  const std::size_t shown =
      lines.size() <= rows ? lines.size() : std::max<std::size_t>(rows, 1) - 1;
  for (std::size_t i = 0; i < shown; ++i) out.push_back(fit_line(lines[i], columns));
  if (shown < lines.size())
    out.push_back(fit_line(fmt::format("({} more lines)", lines.size() - shown), columns));
  return out;
}

int watch(Interval interval, const std::function<WatchFrame()>& ask) {
  const SignalFile signals;
  const Asker asker(interval, ask);
  return ::isatty(STDOUT_FILENO) == 1 ? watch_on_terminal(asker, signals)
                                      : watch_by_lines(asker, signals);
}

}  // namespace ballot

#include "launcher/cluster/program_run.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "core/clock.h"
#include "core/error.h"
#include "launcher/child_process.h"

namespace ballot {
namespace {

constexpr std::size_t kMostBytes = 1 << 20;

void read_all(const Pipe& pipe, std::string& text) {
  std::array<char, 65536> bytes;
  for (int turn = 0; turn < 16; ++turn) {  // a deadline passes also for who writes without end
    const ssize_t count = ::read(pipe.source.number(), bytes.data(), bytes.size());
    if (count <= 0) return;
    if (text.size() < kMostBytes) text.append(bytes.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace

ProgramRun run_program(const std::vector<std::string>& words, std::chrono::milliseconds patience) {
  const Pipe output = make_pipe(), errors = make_pipe();
  ChildProcess child(words, output.target.number(), errors.target.number());
  ProgramRun run;
  for (const Deadline deadline = Deadline::in(patience);;) {
    const bool ended = child.has_ended();
    read_all(output, run.output);
    read_all(errors, run.errors);
    if (ended) break;
    if (deadline.passed())  // the child is killed with this
      throw Timeout("waited {:g} s for {} to end", seconds(patience), words[0]);
    std::array<pollfd, 2> waits{
        {{output.source.number(), POLLIN, 0}, {errors.source.number(), POLLIN, 0}}};
    if (::poll(waits.data(), waits.size(), 10) < 0 && errno != EINTR)
      throw_file_error("wait for", words[0]);
  }
  run.exit_code = child.exit_code();
  return run;
}

std::string output_of(const std::string& program, const std::vector<std::string>& arguments,
                      const char* package) {
  const auto path = find_program(program);
  if (!path) throw Unavailable("{} is not in PATH: install {}", program, package);
  std::vector<std::string> words{*path};
  words.insert(words.end(), arguments.begin(), arguments.end());
  ProgramRun run = run_program(words);
  if (run.exit_code == 0) return std::move(run.output);
  while (!run.errors.empty() && run.errors.back() == '\n') run.errors.pop_back();
  // A scheduler that is away comes back.
  for (const char* away : {"Unable to contact", "Socket timed out", "Connection refused"})
    if (run.errors.find(away) != std::string::npos)
      throw TransportError("{} ended with {}: {}", program, run.exit_code, run.errors);
  throw ConfigError("{} ended with {}: {}", program, run.exit_code,
                    run.errors.empty() ? "it said nothing" : run.errors);
}

}  // namespace ballot

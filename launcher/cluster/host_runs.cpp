#include "launcher/cluster/host_runs.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <memory>

#include "core/error.h"
#include "launcher/child_process.h"
#include "launcher/signals.h"

namespace ballot {
namespace {

struct Run {
  Pipe output = make_pipe(), errors = make_pipe();
  Descriptor to_agent;
  std::unique_ptr<ChildProcess> child;
};

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void read_all(const Pipe& pipe, std::string& text) {
  std::array<char, 65536> bytes;
  for (int turn = 0; turn < 16; ++turn) {  // who writes without end is not all there is
    const ssize_t count = ::read(pipe.source.number(), bytes.data(), bytes.size());
    if (count <= 0) return;
    if (text.size() < kLongestAnswer) text.append(bytes.data(), static_cast<std::size_t>(count));
  }
}

void start(Run& run, const StartCommand& command) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_file_error("make a pipe", "pipe");
  const Descriptor input(ends[0]);
  run.to_agent = Descriptor(ends[1]);
  ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
  if (::write(ends[1], command.input.data(), command.input.size()) !=
      static_cast<ssize_t>(command.input.size()))
    throw ConfigError("an order of {} bytes is too long for an agent", command.input.size());
  run.child = std::make_unique<ChildProcess>(command.words, run.output.target.number(),
                                             run.errors.target.number(), input.number());
}

// The agent's last line is not the command's.
void take_end(HostAnswer& answer, int start_code) {
  answer.exit_code = start_code;
  const std::size_t end = answer.output.find_last_not_of('\n');
  if (end == std::string::npos) return;
  answer.output.resize(end + 1);
  const std::size_t line = answer.output.rfind('\n') + 1;  // npos + 1 is 0
  std::string_view rest;
  const auto code = parse_end(std::string_view(answer.output).substr(line), rest);
  if (!code) return;
  answer.reached = true;
  answer.exit_code = *code;
  answer.output.resize(line + rest.size());
}

}  // namespace

std::vector<HostAnswer> run_on_hosts(const Starter& starter, const std::vector<Host>& hosts,
                                     const std::function<AgentOrder(std::size_t host)>& order_of,
                                     Deadline deadline) {
  std::signal(SIGPIPE, SIG_IGN);
  Signals signals({SIGUSR1, SIGHUP});
  std::vector<HostAnswer> answers(hosts.size());
  std::vector<Run> runs(hosts.size());
  for (std::size_t h = 0; h < hosts.size(); ++h) {
    answers[h].host = hosts[h].name;
    start(runs[h], make_start(starter, hosts[h].name, order_of(h)));
  }
  for (std::size_t running = hosts.size(); running > 0;) {
    std::vector<pollfd> waits{{signals.descriptor(), POLLIN, 0}};
    for (const Run& run : runs)
      if (run.child)
        for (const Pipe* pipe : {&run.output, &run.errors})
          waits.push_back({pipe->source.number(), POLLIN, 0});
    if (::poll(waits.data(), waits.size(), 20) < 0 && errno != EINTR)
      throw_file_error("wait for", "the hosts");
    while (const int signal = signals.next())
      if (signal != SIGCHLD)  // those that run are killed with this
        throw Error(
            ExitCode::retry,
            fmt::format("asked to end by signal {} while the hosts were looked at", signal));
    for (std::size_t h = 0; h < hosts.size(); ++h) {
      Run& run = runs[h];
      if (!run.child) continue;
      read_all(run.output, answers[h].output);
      read_all(run.errors, answers[h].errors);
      if (!run.child->has_ended()) {
        if (!deadline.passed()) continue;
        answers[h].timed_out = true;
        run.child->send_group(SIGKILL);
        while (!run.child->has_ended()) ::usleep(1000);
      }
      read_all(run.output, answers[h].output);
      read_all(run.errors, answers[h].errors);
      take_end(answers[h], run.child->exit_code());
      answers[h].ended_at = now();
      run.child.reset();
      --running;
    }
  }
  return answers;
}

}  // namespace ballot

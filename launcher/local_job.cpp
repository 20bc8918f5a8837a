// One thread and one poll(): signals, the workers' pipes and mpirun's end.
#include "launcher/local_job.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "core/clock.h"              // Deadline
#include "core/error.h"              // Unavailable, require
#include "core/log.h"                // log_error, log_warning
#include "launcher/child_process.h"  // ChildProcess
#include "launcher/line_output.h"    // LineOutput
#include "launcher/mpirun.h"
#include "launcher/shell_words.h"
#include "launcher/signals.h"  // Signals

namespace ballot {
namespace {

constexpr std::chrono::seconds kSecondInterrupt{10};

std::vector<std::string> mpirun_command(const LocalJob& job, const std::vector<Pipe>& outputs,
                                        const Pipe& roll) {
  if (!job.hosts.hosts.empty()) return mpirun_on_hosts(job);
  std::vector<std::string> command = mpirun_words(job.workers, job.threads_per_worker, job.hosts);
  // Each worker opens its own pipes of the launcher by /proc, tells its process id and becomes the
  // command.
  const std::string descriptors = fmt::format("/proc/{}/fd/", ::getpid());
  std::string script = "case $OMPI_COMM_WORLD_RANK in\n";
  for (int rank = 0; rank < job.workers; ++rank)
    script += fmt::format("{0}) exec >{1}{2} 2>{1}{3};;\n", rank, descriptors,
                          outputs[2 * rank].target.number(), outputs[2 * rank + 1].target.number());
  script += fmt::format("esac\necho $OMPI_COMM_WORLD_RANK $$ >{}{}\nexec \"$@\"", descriptors,
                        roll.target.number());
  command.insert(command.end(), {"/bin/sh", "-c", script, "worker"});
  command.insert(command.end(), job.command.begin(), job.command.end());
  return command;
}

// One worker's process. The pidfd outlives the number, which may be reused.
struct Worker {
  int rank;
  pid_t id;
  Descriptor process;
  bool ended = false;
};

// The signal that ended a process that nobody has waited for yet, 0 if it was none, or nothing if
// it is too late to ask.
std::optional<int> signal_of_zombie(pid_t id) {
  std::ifstream file(fmt::format("/proc/{}/stat", id));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  const std::size_t name_end = line.rfind(')');  // the name may hold spaces
  if (name_end == std::string::npos || line.compare(name_end, 4, ") Z ") != 0) return std::nullopt;
  const std::size_t last = line.find_last_not_of(" \n");
  int status = 0;  // the last field, as waitpid gives it
  std::from_chars(line.data() + line.find_last_of(' ', last) + 1, line.data() + last + 1, status);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

class RunningJob {
 public:
  explicit RunningJob(const LocalJob& job);
  JobResult run();

 private:
  void read_signals();
  bool read_mpirun(std::string_view line);
  void read_roll(std::string_view bytes);
  void see_ended_workers();
  void ask_to_stop(int signal);
  void end_workers(int signal);  // by mpirun
  void await_end();              // from now the job has end_deadline left
  void kill_all();
  bool drain(std::size_t index);  // true if bytes came

  const LocalJob& job_;
  Signals signals_;
  std::vector<Pipe> pipes_;  // of rank r: 2r output, 2r + 1 errors; then mpirun's two; then the
                             // roll of process ids
  std::vector<Descriptor> far_logs_;  // of workers on other machines, by rank: read here
  std::deque<LogFile> logs_;
  std::deque<LineOutput> outputs_;
  std::string roll_;
  std::vector<Worker> workers_;
  std::optional<int>
      first_unexplained_;  // the rank that ended first, of those whose end nobody saw
  Deadline end_;
  TimePoint asked_at_{};
  int asked_signal_ = 0;
  bool draining_ = false;
  std::optional<LostRank> lost_;
  bool host_lost_ = false;
  std::unique_ptr<ChildProcess> mpirun_;
};

RunningJob::RunningJob(const LocalJob& job) : job_(job) {
  std::filesystem::create_directories(job.log_folder);
  for (int index = 0; index < 2 * job.workers + 3; ++index) pipes_.push_back(make_pipe());
  for (int rank = 0; rank <= job.workers; ++rank) {
    const bool is_mpirun = rank == job.workers;
    const std::string name = is_mpirun ? "mpirun" : fmt::format("worker {}", rank);
    const std::string file = (std::filesystem::path(job.log_folder) /
                              (is_mpirun ? "mpirun.log" : fmt::format("worker-{}.log", rank)))
                                 .string();
    const bool far = !is_mpirun && !job.hosts.hosts.empty();
    if (far) {  // made here, so that it can be read from where this job's part begins
      LogFile made(file);
      far_logs_.emplace_back(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
      ::lseek(far_logs_.back().number(), 0, SEEK_END);
    }
    logs_.emplace_back(far ? LogFile() : LogFile(file));
    for (const int terminal : {STDOUT_FILENO, STDERR_FILENO})
      outputs_.emplace_back(name, logs_.back(), job.forward_output ? terminal : -1,
                            is_mpirun ? [this](std::string_view& line) { return read_mpirun(line); }
                                      : std::function<bool(std::string_view&)>());
  }
  const std::size_t own = 2 * static_cast<std::size_t>(job.workers);
  mpirun_ =
      std::make_unique<ChildProcess>(mpirun_command(job, pipes_, pipes_.back()),
                                     pipes_[own].target.number(), pipes_[own + 1].target.number());
}

JobResult RunningJob::run() {
  std::vector<pollfd> waits;
  while (!mpirun_->has_ended()) {
    waits.assign(1, {signals_.descriptor(), POLLIN, 0});
    for (const Pipe& pipe : pipes_) waits.push_back({pipe.source.number(), POLLIN, 0});
    for (const Worker& worker : workers_)
      if (!worker.ended) waits.push_back({worker.process.number(), POLLIN, 0});
    // SIGCHLD wakes it when mpirun ends; the limit is for the deadline alone.
    // Files of other machines say nothing to poll().
    const int limit_ms = !far_logs_.empty() ? 200 : end_.at == TimePoint::max() ? -1 : 50;
    if (::poll(waits.data(), waits.size(), limit_ms) < 0 && errno != EINTR)
      throw_file_error("wait for", "the workers");
    see_ended_workers();
    read_signals();
    for (std::size_t index = 0; index < pipes_.size(); ++index) drain(index);
    if (end_.passed() && draining_) {
      log_warning("the workers did not end within {:g} s: ending them",
                  seconds(job_.drain_deadline));
      end_workers(SIGTERM);
    } else if (end_.passed()) {
      log_error("the job did not end within {:g} s: killing it", seconds(job_.end_deadline));
      end_ = {};
      kill_all();
    }
  }
  // What mpirun left behind when it was itself killed; after an orderly end there is nobody.
  kill_all();
  for (std::size_t index = 0; index < pipes_.size(); ++index)
    while (drain(index)) {
    }
  for (LineOutput& output : outputs_) output.finish();

  JobResult result{mpirun_->exit_code(), lost_, asked_signal_ != 0};
  // mpirun's own codes then: 1, that of the ssh whose connection broke (255), or 256 less that of
  // an error of its own (205); no signal gives as much.
  if (host_lost_ && (result.exit_code == 1 || result.exit_code > 128 + SIGRTMAX))
    result.exit_code = static_cast<int>(ExitCode::retry);
  // A worker gave up by itself (MPI_Abort), and mpirun killed the others before it said so: they
  // are not the cause.
  if (result.exit_code < 128) result.lost.reset();
  // mpirun gives the signal in its exit code, but does not always name the rank (4.1.4).
  if (!result.lost && first_unexplained_ && result.exit_code > 128)
    result.lost = LostRank{*first_unexplained_, result.exit_code - 128};
  if (asked_signal_ != 0) {
    if (!draining_ && result.exit_code != 0) result.exit_code = 128 + asked_signal_;
    result.lost.reset();
  }
  return result;
}

bool RunningJob::drain(std::size_t index) {
  std::array<char, 65536> bytes;
  const bool far = index % 2 == 0 && index / 2 < far_logs_.size();
  const int source = far ? far_logs_[index / 2].number() : pipes_[index].source.number();
  const ssize_t count = ::read(source, bytes.data(), bytes.size());
  if (count <= 0) return false;
  const std::string_view text(bytes.data(), static_cast<std::size_t>(count));
  if (index < outputs_.size())
    outputs_[index].add(text);
  else
    read_roll(text);
  return true;
}

// "RANK PID\n" of each worker; a line is one write, so it comes whole.
void RunningJob::read_roll(std::string_view bytes) {
  roll_ += bytes;
  for (std::size_t end; (end = roll_.find('\n')) != std::string::npos; roll_.erase(0, end + 1)) {
    std::istringstream line(roll_.substr(0, end));
    int rank = 0;
    pid_t id = 0;
    if (!(line >> rank >> id) || id <= 1) continue;
    Descriptor process(static_cast<int>(::syscall(SYS_pidfd_open, id, 0)));
    if (process.is_open())
      workers_.push_back({rank, id, std::move(process)});
    else if (!first_unexplained_)
      first_unexplained_ = rank;  // it has ended already
  }
}

// A worker that a signal ended is lost, whatever mpirun will say; unless the end was ordered.
void RunningJob::see_ended_workers() {
  for (Worker& worker : workers_) {
    pollfd state{worker.process.number(), POLLIN, 0};
    if (worker.ended || ::poll(&state, 1, 0) != 1) continue;
    worker.ended = true;
    const std::optional<int> signal = signal_of_zombie(worker.id);
    if (!signal && !first_unexplained_) first_unexplained_ = worker.rank;
    // After the first loss mpirun ends the others by signals of its own.
    if (signal && *signal != 0 && *signal != SIGTERM && !lost_ && end_.at == TimePoint::max()) {
      lost_ = LostRank{worker.rank, *signal};
      await_end();
    }
  }
}

bool RunningJob::read_mpirun(std::string_view line) {
  if (!lost_) lost_ = parse_lost_rank(std::string(line));
  if (lost_ || line.find("job has been aborted") != std::string_view::npos) await_end();
  // A host, or the way to it: mpirun itself ends with 1 then.
  for (const char* words : {"ORTE has lost communication with a remote daemon",
                            "ORTE was unable to reliably start one or more daemons"})
    if (line.find(words) != std::string_view::npos) {
      host_lost_ = true;
      await_end();
    }
  return true;
}

void RunningJob::read_signals() {
  while (const int signal = signals_.next())
    if (signal != SIGCHLD) ask_to_stop(signal);
}

void RunningJob::ask_to_stop(int signal) {
  const TimePoint now = system_clock().now();
  if (signal == SIGINT && asked_signal_ == SIGINT && now - asked_at_ <= kSecondInterrupt) {
    log_warning("interrupted twice: killing the job");
    draining_ = false;
    kill_all();
    return;
  }
  log_warning("{}: asking the workers to end", ::strsignal(signal));
  const bool first = asked_signal_ == 0;
  asked_signal_ = signal;
  asked_at_ = now;
  if (first && job_.drain_signal != 0 && !lost_) {
    draining_ = true;
    mpirun_->send(job_.drain_signal);
    end_ = Deadline::in(job_.drain_deadline);
  } else {
    end_workers(signal);
  }
}

void RunningJob::end_workers(int signal) {
  if (draining_) end_ = {};
  draining_ = false;
  mpirun_->send(signal);
  await_end();
}

void RunningJob::await_end() {
  if (end_.at == TimePoint::max()) end_ = Deadline::in(job_.end_deadline);
}

void RunningJob::kill_all() {
  mpirun_->send_group(SIGKILL);
  for (const Worker& worker : workers_)  // Open MPI gives each a process group of its own
    ::syscall(SYS_pidfd_send_signal, worker.process.number(), SIGKILL, nullptr, 0);
}

}  // namespace

std::vector<std::string> mpirun_on_hosts(const LocalJob& job) {
  std::vector<std::string> command = mpirun_words(job.workers, job.threads_per_worker, job.hosts);
  const std::string script = fmt::format(
      "exec >>{0}-$OMPI_COMM_WORLD_RANK.log 2>&1\nexec \"$@\"",
      shell_quoted(std::filesystem::absolute(job.log_folder).lexically_normal().string() +
                   "/worker"));
  command.insert(command.end(), {"/bin/sh", "-c", script, "worker"});
  command.insert(command.end(), job.command.begin(), job.command.end());
  return command;
}

std::optional<LostRank> parse_lost_rank(const std::string& line) {
  const auto number_after = [&](const char* words) -> std::optional<int> {
    const std::size_t at = line.find(words);
    if (at == std::string::npos) return std::nullopt;
    const char* begin = line.data() + at + std::strlen(words);
    int number = 0;
    const auto [end, error] = std::from_chars(begin, line.data() + line.size(), number);
    if (error != std::errc() || end == begin || number < 0) return std::nullopt;
    return number;
  };
  if (line.find("mpirun noticed that process rank ") == std::string::npos) return std::nullopt;
  const std::optional<int> rank = number_after("process rank ");
  const std::optional<int> signal = number_after("exited on signal ");
  if (!rank || !signal) return std::nullopt;
  return LostRank{*rank, *signal};
}

JobResult run_local_job(const LocalJob& job) {
  require(!job.command.empty(), "a job without a command");
  require(!job.log_folder.empty(), "a job without a log folder");
  if (job.workers < 1) throw ConfigError("{} workers, expected 1 or more", job.workers);
  if (job.threads_per_worker < 1)
    throw ConfigError("{} threads per worker, expected 1 or more", job.threads_per_worker);
  return RunningJob(job).run();
}

}  // namespace ballot

#include "tests/process/command.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace ballot {
namespace {

using namespace std::chrono_literals;

// Far above what any case takes on an idle machine; a case that hangs ends here and fails.
constexpr auto kLongest = 60s;

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool starts_with_any(const std::string& text, const std::vector<std::string>& beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(),
                     [&](const std::string& b) { return text.starts_with(b); });
}

std::vector<std::string> make_environment(const Environment& variables) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (!starts_with_any(*entry, {"OMPI_", "PMIX_", "SLURM_", "RANK=", "WORLD_SIZE=",
                                  "LOCAL_WORLD_SIZE=", "OMP_NUM_THREADS=", "DNNL_MAX_CPU_ISA="}))
      result.emplace_back(*entry);
  for (const auto& [name, value] : variables) result.push_back(name + "=" + value);
  return result;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Field 3 (state) and 4 (parent) of /proc/ID/stat; the name before them may hold spaces.
std::pair<char, pid_t> state_and_parent(pid_t id) {
  const std::string line = read_whole("/proc/" + std::to_string(id) + "/stat");
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return {'X', 0};
  std::istringstream rest(line.substr(name_end + 1));
  char state = 'X';
  pid_t parent = 0;
  rest >> state >> parent;
  return {state, parent};
}

std::vector<pid_t> children_of(pid_t id) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto child = static_cast<pid_t>(std::stol(name));
    if (state_and_parent(child).second == id) children.push_back(child);
  }
  return children;
}

bool has_variable(pid_t id, const std::string& variable) {
  const std::string all = '\0' + read_whole("/proc/" + std::to_string(id) + "/environ");
  return all.find('\0' + variable + '\0') != std::string::npos;
}

}  // namespace

Command::Command(const std::vector<std::string>& arguments, const std::string& folder,
                 const Environment& variables) {
  std::string name = folder + "/output-XXXXXX";
  const int output = ::mkostemp(name.data(), O_CLOEXEC);
  if (output < 0) throw std::runtime_error("cannot make " + name);
  output_file_ = name;
  std::vector<std::string> words{BALLOT_BINARY}, environment = make_environment(variables);
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::vector<char*> argv = pointers_to(words), envp = pointers_to(environment);
  id_ = ::fork();
  if (id_ == 0) {  // only what is safe between fork and exec
    ::setpgid(0, 0);
    if (::chdir(folder.c_str()) != 0) ::_exit(126);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  ::close(output);
  if (id_ < 0) throw std::runtime_error("cannot fork");
}

Command::~Command() {
  kill_all();
  std::error_code ignored;
  std::filesystem::remove(output_file_, ignored);
}

bool Command::is_running() {
  int status = 0;
  if (!ended_ && ::waitpid(id_, &status, WNOHANG) == id_) {
    ended_ = true;
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return !ended_;
}

void Command::send(int signal) const {
  if (!ended_) ::kill(id_, signal);
}

std::string Command::output() const {
  return read_whole(output_file_);
}

Ended Command::wait(std::chrono::milliseconds limit) {
  if (!within(limit, [this] { return !is_running(); })) kill_all();
  return {exit_code_, output()};
}

// Workers have process groups of their own, mpirun's doing; they are found from the top before the
// top is gone.
void Command::kill_all() {
  if (!is_running()) return;
  std::vector<pid_t> doomed{id_};
  for (std::size_t i = 0; i < doomed.size(); ++i)
    for (const pid_t child : children_of(doomed[i])) doomed.push_back(child);
  for (const pid_t id : doomed) ::kill(id, SIGKILL);
  ::waitpid(id_, nullptr, 0);
  ended_ = true;
}

pid_t Command::worker(int rank) const {
  for (const pid_t mpirun : children_of(id_))
    for (const pid_t process : children_of(mpirun))
      if (has_variable(process, "OMPI_COMM_WORLD_RANK=" + std::to_string(rank))) return process;
  return 0;
}

pid_t Command::child(const std::string& flag, const std::string& value) const {
  for (const pid_t process : children_of(id_)) {
    std::ifstream file("/proc/" + std::to_string(process) + "/cmdline", std::ios::binary);
    std::string argument, before;
    while (std::getline(file, argument, '\0')) {
      if (before == flag && argument == value) return process;
      before = argument;
    }
  }
  return 0;
}

Ended run_command(const std::vector<std::string>& arguments, const std::string& folder,
                  const Environment& variables) {
  return Command(arguments, folder, variables).wait(kLongest);
}

bool is_alive(pid_t id) {
  const char state = state_and_parent(id).first;
  return state != 'X' && state != 'Z';
}

bool within(std::chrono::milliseconds limit, const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < end) {
    if (holds()) return true;
    std::this_thread::sleep_for(2ms);
  }
  return holds();
}

}  // namespace ballot

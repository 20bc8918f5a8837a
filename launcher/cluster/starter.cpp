#include "launcher/cluster/starter.h"

#include <unistd.h>

#include "core/error.h"
#include "launcher/child_process.h"  // find_program
#include "launcher/shell_words.h"

namespace ballot {
namespace {

std::string require_program(const std::string& name, const char* package) {
  if (name.find('/') != std::string::npos) {
    if (::access(name.c_str(), X_OK) != 0)
      throw Unavailable("{}: no such program, or not one that may be run", name);
    return name;
  }
  const auto path = find_program(name);
  if (!path) throw Unavailable("{} is not in PATH: install {}", name, package);
  return *path;
}

// A host that does not answer is found out in 10 s, one that is gone in 15 s; nobody is asked for a
// password.
const std::vector<std::string> kSshOptions = {"-T",
                                              "-o",
                                              "BatchMode=yes",
                                              "-o",
                                              "ConnectTimeout=10",
                                              "-o",
                                              "ServerAliveInterval=5",
                                              "-o",
                                              "ServerAliveCountMax=3",
                                              "-o",
                                              "ControlMaster=no",
                                              "-o",
                                              "ControlPath=none"};

// One task on one node beside others of the same allocation; its exit is its own affair. No PMIx:
// Ballot needs none.
const std::vector<std::string> kSrunOptions = {"--nodes=1",    "--ntasks=1",          "--overlap",
                                               "--mem=0",      "--mpi=none",          "--quiet",
                                               "--unbuffered", "--kill-on-bad-exit=0"};

}  // namespace

StartCommand make_start(const Starter& starter, const std::string& host, const AgentOrder& order) {
  require(!starter.program.empty(), "a starter without a program");
  StartCommand start;
  const auto add = [&start](const std::vector<std::string>& words) {
    start.words.insert(start.words.end(), words.begin(), words.end());
  };
  switch (starter.method) {
    case StartMethod::here:
      start.words = {starter.program, "agent"};
      break;
    case StartMethod::ssh:
      require(!starter.ssh.empty(), "ssh without a program");
      add({require_program(starter.ssh[0], "the package openssh-client")});
      add({starter.ssh.begin() + 1, starter.ssh.end()});
      add(kSshOptions);
      // The far side's shell reads one line, whatever shell it is.
      add({host, "exec " + shell_quoted(starter.program) + " agent"});
      break;
    case StartMethod::srun:
      add({require_program("srun", "Slurm's client programs (Debian: slurm-client)")});
      add(kSrunOptions);
      if (starter.cpus > 0) start.words.push_back(fmt::format("--cpus-per-task={}", starter.cpus));
      add({"--nodelist=" + host, starter.program, "agent"});
      break;
  }
  start.input = encode_order(order);
  return start;
}

}  // namespace ballot

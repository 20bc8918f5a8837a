#include "tests/process/ssh_nodes.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace ballot {
namespace {

void make_key(const std::string& file) {
  const std::string command = fmt::format("ssh-keygen -q -t ed25519 -N '' -f '{}'", file);
  if (std::system(command.c_str()) != 0)
    throw std::runtime_error("ssh-keygen failed: install openssh-client");
}

// The children of a process, theirs and so on: sshd's sessions.
void kill_below(pid_t id) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    std::string line;
    std::getline(file, line);
    const std::size_t end = line.rfind(')');
    if (end == std::string::npos) continue;
    if (std::atoi(line.c_str() + end + 4) != id) continue;  // ") S PARENT"
    const auto child = static_cast<pid_t>(std::stol(name));
    kill_below(child);
    ::kill(child, SIGKILL);
  }
}

}  // namespace

SshNodes::SshNodes(const std::vector<std::string>& addresses, int port,
                   const std::vector<std::vector<std::string>>& within)
    : port_(port) {
  make_key(folder_.file("host"));
  make_key(folder_.file("user"));
  std::filesystem::copy_file(folder_.file("user.pub"), folder_.file("authorized"));
  std::filesystem::create_directories("/run/sshd");  // where Debian's sshd separates privileges
  // StrictModes looks at who owns the folders above the keys, which are this machine's.
  std::ofstream(folder_.file("sshd_config")) << fmt::format(
      "Port {0}\nHostKey {1}/host\nAuthorizedKeysFile {1}/authorized\n"
      "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
      "MaxStartups 100\n",
      port, folder_.path());
  for (std::size_t node = 0; node < addresses.size(); ++node) {
    std::vector<std::string> words =
        node < within.size() ? within[node] : std::vector<std::string>();
    const std::string log = folder_.file(fmt::format("sshd-{}.log", node));
    words.insert(words.end(), {"/usr/sbin/sshd", "-D", "-e", "-f", folder_.file("sshd_config"),
                               "-o", "ListenAddress=" + addresses[node]});
    servers_.push_back(std::make_unique<test::ServerProcess>(words, log));
    test::ServerProcess& server = *servers_.back();
    server.wait_until([&] { return server.log().find("Server listening") != std::string::npos; });
  }
}

std::string SshNodes::client() const {
  return fmt::format(
      "ssh -F none -p {} -i {} -o UserKnownHostsFile={} -o StrictHostKeyChecking=accept-new "
      "-o LogLevel=ERROR",
      port_, folder_.file("user"), folder_.file("known"));
}

void SshNodes::kill(std::size_t node) {
  kill_below(servers_[node]->id());
  servers_[node]->end(SIGKILL);
}

}  // namespace ballot

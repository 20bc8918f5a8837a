// Real sshds of a test, with keys made for it: "machines" to launch a job on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/support/server_process.h"
#include "tests/support/temporary_folder.h"

namespace ballot {

class SshNodes {
 public:
  // One sshd at each address, on `port` of it. `within`: words before each one's command, such as
  // `ip netns exec NAME`; empty: none.
  SshNodes(const std::vector<std::string>& addresses, int port,
           const std::vector<std::vector<std::string>>& within = {});

  // For --ssh.
  std::string client() const;
  // No new connection to this one; those that there are break.
  void kill(std::size_t node);

 private:
  TemporaryFolder folder_;
  const int port_;
  std::vector<std::unique_ptr<test::ServerProcess>> servers_;
};

}  // namespace ballot

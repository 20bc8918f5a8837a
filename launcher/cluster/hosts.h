// The machines of a job, as a user names them.
//
// A file has one host a line: "node1", "node1 slots=4" (mpirun's way) or "node1:4"; '#' begins a
// comment. A list is "node1:4,node2". A host without a number has one slot: room for one worker. A
// host named twice has the sum of its slots, as with mpirun.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ballot {

struct Host {
  std::string name;  // for ssh, srun and people
  int slots = 1;     // workers it has room for
  friend bool operator==(const Host&, const Host&) = default;
};

inline constexpr int kMostSlots = 1024;  // of one host
inline constexpr std::size_t kMostHosts = 4096;

// `text`: the name of a file where there is one, else a list. ConfigError with file, line and what
// was expected.
std::vector<Host> read_hosts(const std::string& text);

// The same from memory; `source` is what messages name. For tests and fuzzing.
std::vector<Host> parse_host_file(std::string_view bytes, const std::string& source);
std::vector<Host> parse_host_list(std::string_view list, const std::string& source);

int total_slots(const std::vector<Host>& hosts);

}  // namespace ballot

// What a launcher wants to know of a host before a job starts there: `ballot probe` gathers it on
// the host and prints it as one line of JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

struct NetworkInterface {
  std::string name;
  std::string address;  // IPv4, dotted
  int prefix = 0;       // bits of the network's part
  bool loopback = false;
  std::int64_t megabits = -1;  // per second, as the driver says; -1: it does not
};

struct HostFacts {
  std::string version;            // of Ballot there
  std::string name;               // as the host calls itself
  std::string machine;            // the same for processes of one machine and network namespace
  double time = 0;                // seconds since the epoch, when it answered
  int cores = 0;                  // that a process may use
  std::int64_t memory_bytes = 0;  // available
  std::int64_t disk_bytes = 0;    // free where the run's folder is or will be
  std::string folder_problem;     // why nothing can be written there; empty: it can
  std::string model_digest;       // of the model's folder; empty: not asked for
  std::vector<NetworkInterface> interfaces;  // that are up, IPv4
  std::vector<std::string> gpus;             // as CUDA describes them, with driver and runtime
  std::string gpu_problem;  // why there is none; empty: there is one, or nobody asked
  int free_port = 0;        // that nobody listened at, a moment ago
};

// `run_folder` need not exist. `model_folder` empty: no digest. What cannot be found out stays as
// above; of the model's files FileError and DataError come through.
HostFacts gather_host_facts(const std::string& run_folder, const std::string& model_folder,
                            bool with_gpus);

std::string encode_facts(const HostFacts& facts);  // one line
// DataError naming the field where the line is no facts.
HostFacts decode_facts(std::string_view line);

// A digest over names, sizes and contents of a model folder's files, in the order of their names:
// equal folders have equal digests. Hidden files and folders inside do not count. FileError where
// one cannot be read.
std::string digest_of_folder(const std::string& folder);

std::vector<NetworkInterface> find_interfaces();

}  // namespace ballot

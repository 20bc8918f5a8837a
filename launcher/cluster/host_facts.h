// What a launcher wants to know of a host before a job starts there: `ballot probe` gathers it on
// the host and prints it as one line of JSON.
#pragma once

#include <chrono>
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
  std::string computer() const;   // of that, the machine alone
  double time = 0;                // seconds since the epoch, when it answered
  int cores = 0;                  // that a process may use
  bool bf16 = false;              // its processor has bf16 products
  std::int64_t memory_bytes = 0;  // available
  std::int64_t disk_bytes = 0;    // free where the run's folder is or will be
  std::string folder_problem;     // why nothing can be written there; empty: it can
  bool sees_witness = true;       // the launcher's file; where it was asked for
  std::string model_digest;       // of the model's folder; empty: not asked for
  std::vector<NetworkInterface> interfaces;  // that are up, IPv4
  std::vector<std::string> gpus;             // as CUDA describes them, with driver and runtime
  std::int64_t gpu_memory_bytes = 0;         // free, of the GPU that has least
  std::string gpu_problem;   // why there is none; empty: there is one, or nobody asked
  std::string nccl;          // "NCCL 2.28.3", where a GPU was found
  std::string nccl_problem;  // why it cannot be used; empty: it can, or nobody asked
  int free_port = 0;         // that nobody listened at, a moment ago
};

struct HostQuestions {
  std::string run_folder;    // need not exist
  std::string model_folder;  // empty: no digest
  std::string witness;       // a file that the launcher has written near run_folder; empty: none
  // What a network's file system may take to show it.
  std::chrono::milliseconds witness_patience{5000};
  bool gpus = false;
};

// What cannot be found out stays as above; of the model's files FileError and DataError come
// through.
HostFacts gather_host_facts(const HostQuestions& questions);

// A file with a name that no other launcher has, in the run's folder or the nearest folder above it
// that there is: what a host must see that shares it. Gone with this object.
class Witness {
 public:
  explicit Witness(const std::string& run_folder);
  ~Witness();
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;
  const std::string& path() const { return path_; }        // whole; empty where there is none
  const std::string& problem() const { return problem_; }  // why it cannot be written; or empty

 private:
  std::string path_, problem_;
};

std::string encode_facts(const HostFacts& facts);  // one line
// DataError naming the field where the line is no facts.
HostFacts decode_facts(std::string_view line);

// A digest over names, sizes and contents of a model folder's files, in the order of their names:
// equal folders have equal digests. Hidden files and folders inside do not count. FileError where
// one cannot be read.
std::string digest_of_folder(const std::string& folder);

std::vector<NetworkInterface> find_interfaces();

}  // namespace ballot

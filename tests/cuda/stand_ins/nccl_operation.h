// What a communicator of the stand-in's NCCL runs in a stream: a group of sends and receives, or an
// all-reduce.
#pragma once

#include <nccl.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "stand_ins/nccl_world.h"

namespace ballot::stand_in {

// What a call of the program names.
struct Call {
  enum class Kind { send, receive, all_reduce };
  Kind kind{};
  const void* from = nullptr;
  void* to = nullptr;
  std::uint64_t count = 0;
  ncclDataType_t type{};
  int peer = 0;
  cudaStream_t stream = nullptr;

  std::size_t bytes() const;
  // Throws Violation unless what it reads and writes lies inside allocations of the device.
  void require_memory(int device) const;
};

// Throws Violation for what is no type.
std::size_t bytes_of(ncclDataType_t type);
std::string name_of(ncclDataType_t type);

class Operation {
 public:
  virtual ~Operation() = default;
  // Whether it is done; from within an operation of the stream. Violation where it does not match
  // what others run, or memory has ended meanwhile.
  bool run(World& world, int device);
  // Its receive buffers become 0xff, where they still exist.
  void poison() const;
  // What it waits for, in words.
  virtual std::string missing(const World& world) const = 0;
  virtual bool waits_for(int peer) const = 0;

  std::string name;
  cudaStream_t stream = nullptr;

 protected:
  explicit Operation(std::vector<Call> made) : calls(std::move(made)) {}
  virtual bool continues(World& world) = 0;  // false: done
  std::vector<Call> calls;

 private:
  bool started_ = false;
};

// Every send is matched by the receive of the same place in the order of the two ranks.
std::shared_ptr<Operation> make_group(std::vector<Call> calls, int rank, int size);
std::shared_ptr<Operation> make_all_reduce(const Call& call, int collective, int rank, int size);

}  // namespace ballot::stand_in

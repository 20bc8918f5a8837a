// NCCL as the CUDA backend offers it: groups of messages between GPUs, and sums of integers (2.28's
// documentation, "Point To Point Communication", "AllReduce" and "Fault Tolerance").
//
// Communicators do not block: a call that NCCL has not finished is asked for until its deadline.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "collectives/transport/device_link.h"  // DeviceMessage
#include "core/clock.h"                         // Deadline

namespace ballot {

// Names a communicator that is to be (ncclUniqueId): made by one rank, told to all.
using NcclId = std::array<std::byte, 128>;

// One rank's end of a communicator. One thread at a time.
class NcclCommunicator {
 public:
  // Aborts: to be ended when everything given to it has come to everybody, or has failed.
  virtual ~NcclCommunicator() = default;
  // As DeviceLink's; Timeout when NCCL has not taken the group by the deadline.
  virtual void exchange(std::span<const DeviceMessage> to, std::span<const DeviceMessage> from,
                        Stream& stream, Deadline deadline) = 0;
  virtual void sum(std::uint32_t* values, std::int64_t count, Stream& stream,
                   Deadline deadline) = 0;
  virtual void check() = 0;
  virtual void abort() noexcept = 0;
};

struct CudaNccl {
  virtual ~CudaNccl() = default;
  // "NCCL 2.28.9". Unavailable, saying why, where there is none.
  virtual std::string version() = 0;
  virtual NcclId make_id() = 0;
  // Collective over `size` ranks. Timeout when they have not all come by the deadline; calls
  // `meanwhile` again and again until then, which may throw.
  virtual std::unique_ptr<NcclCommunicator> join(const NcclId& id, int rank, int size,
                                                 Device device, Deadline deadline,
                                                 const std::function<void()>& meanwhile) = 0;
};

// The plugin's; throws as cuda_backend() does. (The plugin itself has another, in
// nccl_communicator.cpp.)
CudaNccl& cuda_nccl();

}  // namespace ballot

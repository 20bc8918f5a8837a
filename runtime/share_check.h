// Whether the parameters that go into a checkpoint are what their last update made of them.
//
// Between an update and the copy for the disk a bit may change in memory; the audit of the next
// step would find it, but the file would be whole, and wrong. So the bytes are held against the
// digest that the update returned (optim/replicated_update.h), tensor by tensor, as they are
// written. Momentum is not checked: it has no digest. One thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/error.h"
#include "runtime/checkpoint_share.h"

namespace ballot {

// A tensor in memory is not what its last update made. Names tensor and both digests.
class DamagedMemory : public ReplicasDiffer {
  using ReplicasDiffer::ReplicasDiffer;
};

class ShareCheck {
 public:
  // `digests`: one for each parameter of the arena, by Parameter::index. `files` must outlive it.
  ShareCheck(std::span<const CheckpointFile> files, std::vector<std::uint64_t> digests);
  // The next bytes of the tensors of `file`: files and their tensors in order, cut between any two
  // elements. DamagedMemory at the end of a tensor.
  void add(std::size_t file, std::span<const std::byte> bytes);

 private:
  std::span<const CheckpointFile> files_;
  std::vector<std::uint64_t> digests_;
  std::size_t file_ = 0, tensor_ = 0;  // where it is
  std::uint64_t done_ = 0;             // bytes of the tensor
  std::uint64_t sum_ = 0;              // of its elements
};

}  // namespace ballot

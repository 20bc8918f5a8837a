// In the place of nccl_communicator.cpp and nccl_library.cpp where there was no nccl.h.
#include "collectives/cuda_nccl.h"
#include "core/error.h"

namespace ballot {
namespace {

[[noreturn]] void refuse() {
  throw Unavailable("this CUDA backend was built without NCCL: nccl.h was not found");
}

class NoNccl final : public CudaNccl {
 public:
  std::string version() override { refuse(); }
  NcclId make_id() override { refuse(); }
  std::unique_ptr<NcclCommunicator> join(const NcclId&, int, int, Device, Deadline,
                                         const std::function<void()>&) override {
    refuse();
  }
};

}  // namespace

CudaNccl& cuda_nccl() {
  static auto* nccl = new NoNccl;
  return *nccl;
}

}  // namespace ballot

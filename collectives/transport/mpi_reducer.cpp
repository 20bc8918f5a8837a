#include "collectives/transport/mpi_reducer.h"

#include <chrono>
#include <cstring>
#include <limits>

#include "core/buffer.h"
#include "core/error.h"

namespace ballot {
namespace {

// Not in place for MPI, though for our caller: in place, Open MPI 4 sums up a tree and copies back
// down it, which sends a third more bytes than its ring and takes twice the time (W = 4).
class MpiSum final : public Transfer {
 public:
  MpiSum(MpiReducer& reducer, Purpose purpose, void* values, int count, std::size_t size_bytes,
         MPI_Datatype type, MPI_Op operation)
      : reducer_(reducer),
        purpose_(purpose),
        values_(values),
        count_(count),
        size_bytes_(size_bytes),
        type_(type),
        operation_(operation),
        mine_(size_bytes),
        arrived_(static_cast<std::size_t>(reducer.transport().size()), true) {}
  ~MpiSum() override {
    if (request_ != MPI_REQUEST_NULL) reducer_.end();  // nothing takes an all-reduce back
  }
  void start() override {
    require(request_ == MPI_REQUEST_NULL, "a sum is started while it is under way");
    arrived_.assign(arrived_.size(), false);
    std::memcpy(mine_.data(), values_, size_bytes_);
    check_mpi(MPI_Iallreduce(mine_.data(), values_, count_, type_, operation_,
                             reducer_.communicator(), &request_),
              "start an all-reduce");
    reducer_.count(purpose_, size_bytes_);
  }
  bool done() override {
    if (request_ == MPI_REQUEST_NULL) return true;
    int done = 0;
    check_mpi(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "finish an all-reduce");
    if (done != 0) arrived_.assign(arrived_.size(), true);
    return done != 0;
  }
  void wait(Deadline deadline) override {
    while (!done()) {
      if (deadline.passed())
        throw Timeout("rank {} waited for the others' part of an all-reduce ({}) past its deadline",
                      reducer_.transport().rank(), to_string(purpose_));
      reducer_.transport().idle(std::chrono::microseconds(200));
    }
  }
  const std::vector<bool>& arrived() override {
    done();
    return arrived_;
  }

 private:
  MpiReducer& reducer_;
  Purpose purpose_;
  void* values_;
  int count_;
  std::size_t size_bytes_;
  MPI_Datatype type_;
  MPI_Op operation_;
  Buffer mine_;
  std::vector<bool> arrived_;
  MPI_Request request_ = MPI_REQUEST_NULL;
};

void add_bf16(void* from, void* into, int* count, MPI_Datatype*) {
  const bfloat16* x = static_cast<const bfloat16*>(from);
  bfloat16* sum = static_cast<bfloat16*>(into);
  for (int i = 0; i < *count; ++i) sum[i] = to_bfloat16(to_float(sum[i]) + to_float(x[i]));
}

}  // namespace

std::string mpi_error_text(int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, static_cast<std::size_t>(length));
}

void check_mpi(int code, const char* what) {
  if (code != MPI_SUCCESS) throw TransportError("MPI cannot {}: {}", what, mpi_error_text(code));
}

MpiReducer::~MpiReducer() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (add_bf16_ != MPI_OP_NULL && finalized == 0) MPI_Op_free(&add_bf16_);
}

void MpiReducer::count(Purpose purpose, std::size_t bytes) {
  const std::size_t ranks = static_cast<std::size_t>(transport_.size());
  const std::size_t ring = 2 * (ranks - 1) * bytes / ranks;
  traffic_.bytes_sent[static_cast<std::size_t>(purpose)] += ring;
  traffic_.bytes_received[static_cast<std::size_t>(purpose)] += ring;
  traffic_.messages_sent[static_cast<std::size_t>(purpose)] += 2 * (ranks - 1);
}

std::unique_ptr<Transfer> MpiReducer::open(Purpose purpose, void* values, std::size_t count,
                                           std::size_t size_each, MPI_Datatype type,
                                           MPI_Op operation) {
  require(count <= static_cast<std::size_t>(std::numeric_limits<int>::max()),
          "a sum of {} values, MPI counts to {}", count, std::numeric_limits<int>::max());
  return std::make_unique<MpiSum>(*this, purpose, values, static_cast<int>(count),
                                  count * size_each, type, operation);
}

std::unique_ptr<Transfer> MpiReducer::open_sum(Purpose purpose, std::span<std::uint32_t> values) {
  return open(purpose, values.data(), values.size(), sizeof(std::uint32_t), MPI_UINT32_T, MPI_SUM);
}
std::unique_ptr<Transfer> MpiReducer::open_sum(Purpose purpose, std::span<float> values) {
  return open(purpose, values.data(), values.size(), sizeof(float), MPI_FLOAT, MPI_SUM);
}
std::unique_ptr<Transfer> MpiReducer::open_sum(Purpose purpose, std::span<bfloat16> values) {
  if (add_bf16_ == MPI_OP_NULL)
    check_mpi(MPI_Op_create(add_bf16, 1, &add_bf16_), "make a sum of bf16");
  return open(purpose, values.data(), values.size(), sizeof(bfloat16), MPI_UINT16_T, add_bf16_);
}

}  // namespace ballot

// The MPI library's own all-reduce behind Reducer. Private to the mpi transport: includes mpi.h.
#pragma once

#define OMPI_SKIP_MPICXX 1  // without the C++ bindings, which the standard removed
#include <mpi.h>

#include <string>

#include "collectives/transport/reducer.h"

namespace ballot {

std::string mpi_error_text(int code);
// TransportError "MPI cannot <what>: ..." unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* what);

class MpiReducer final : public Reducer {
 public:
  MpiReducer(Transport& transport, MPI_Comm communicator)
      : transport_(transport), communicator_(communicator) {}
  ~MpiReducer() override;
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<std::uint32_t> values) override;
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<float> values) override;
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<bfloat16> values) override;

  // 2 (W-1)/W x the bytes of the values; what the library really sends is its own affair.
  Traffic traffic() const { return traffic_; }
  void count(Purpose purpose, std::size_t bytes);
  bool ended() const { return ended_; }  // a sum was given up
  void end() { ended_ = true; }
  Transport& transport() const { return transport_; }
  MPI_Comm communicator() const { return communicator_; }

 private:
  std::unique_ptr<Transfer> open(Purpose purpose, void* values, std::size_t count,
                                 std::size_t size_each, MPI_Datatype type, MPI_Op operation);
  Transport& transport_;
  MPI_Comm communicator_;
  MPI_Op add_bf16_ = MPI_OP_NULL;
  Traffic traffic_;
  bool ended_ = false;
};

}  // namespace ballot

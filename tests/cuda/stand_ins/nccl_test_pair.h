// Two ranks that one thread plays, each on its device, for tests of the stand-in of NCCL.
#pragma once

#include <functional>

#include "stand_ins/nccl_test_rank.h"

namespace ballot::stand_in {

class NcclPair : public NcclStandIn {
 protected:
  void prepare() {
    id = new_id();
    for (int rank = 0; rank < 2; ++rank) ranks[rank] = Rank::begin(id, rank, 2);
    ncclResult_t states[2] = {ncclInProgress, ncclInProgress};
    while (states[0] == ncclInProgress || states[1] == ncclInProgress)
      for (int rank = 0; rank < 2; ++rank)
        ASSERT_EQ(ncclCommGetAsyncError(ranks[rank].comm, &states[rank]), ncclSuccess);
    for (int rank = 0; rank < 2; ++rank) x[rank] = ranks[rank].memory<std::uint8_t>(64);
    ranks[0].be_current();
  }

  ncclResult_t send(int rank, std::size_t count = 16, ncclDataType_t type = ncclUint8) {
    ranks[rank].be_current();
    return ncclSend(x[rank], count, type, 1 - rank, ranks[rank].comm, ranks[rank].stream);
  }
  ncclResult_t receive(int rank, std::size_t count = 16, ncclDataType_t type = ncclUint8) {
    ranks[rank].be_current();
    return ncclRecv(x[rank] + 32, count, type, 1 - rank, ranks[rank].comm, ranks[rank].stream);
  }
  ncclResult_t all_reduce(int rank, std::size_t count = 4, ncclDataType_t type = ncclUint32) {
    ranks[rank].be_current();
    return ncclAllReduce(x[rank], x[rank], count, type, ncclSum, ranks[rank].comm,
                         ranks[rank].stream);
  }
  cudaError_t synchronize(int rank) { return cudaStreamSynchronize(ranks[rank].stream); }

  // The call says so, or the wait for both streams.
  void expect_found(const std::function<ncclResult_t()>& mistake, const std::string& text,
                    ncclResult_t code = ncclInvalidArgument) {
    cudaDeviceReset();
    set_order(Order::eager);
    prepare();
    const ncclResult_t at_call = mistake();
    if (at_call == ncclSuccess) {
      EXPECT_TRUE(synchronize(0) != cudaSuccess || synchronize(1) != cudaSuccess) << text;
    } else {
      EXPECT_EQ(at_call, code) << text;
    }
    EXPECT_THAT(ncclGetLastError(ranks[0].comm), ::testing::HasSubstr(text));
    EXPECT_THAT(ncclGetErrorString(code), ::testing::HasSubstr(text));
    EXPECT_NE(ncclGroupStart(), ncclSuccess) << "a failure stays";
  }
  void expect_misuse(const std::function<ncclResult_t()>& mistake, const std::string& text) {
    expect_found(mistake, text, ncclInvalidUsage);
  }

  ncclUniqueId id;
  Rank ranks[2];
  std::uint8_t* x[2] = {};
};

}  // namespace ballot::stand_in

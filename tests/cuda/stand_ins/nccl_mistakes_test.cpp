// Each mistake of a program that the stand-in of NCCL is there to find, and what it says of it.
#include "stand_ins/nccl_test_pair.h"

namespace ballot::stand_in {
namespace {

using ::testing::HasSubstr;

// ---- mistakes that hang

TEST_F(NcclPair, SendsBeforeReceivesOnBothSidesHang) {
  wait_briefly();
  for (int order = 0; order < 3; ++order) {
    cudaDeviceReset();
    choose_order(order);
    prepare();
    for (int rank = 0; rank < 2; ++rank) {
      send(rank);
      EXPECT_EQ(settled(ranks[rank].comm), ncclSuccess);
      receive(rank);
      EXPECT_EQ(settled(ranks[rank].comm), ncclSuccess);
    }
    EXPECT_EQ(synchronize(0), cudaErrorLaunchTimeout);
    for (const char* text : {"ncclGroup of rank 0 of 2: 16 bytes to rank 1 not yet taken",
                             "ncclGroup of rank 1 of 2: 16 bytes to rank 0 not yet taken"})
      EXPECT_THAT(cudaGetErrorString(cudaErrorLaunchTimeout), HasSubstr(text));
  }
}

TEST_F(NcclPair, AMessageThatNobodySendsHangs) {
  wait_briefly();
  set_order(Order::lazy);
  prepare();
  ranks[0].group([&] {
    EXPECT_EQ(receive(0), ncclSuccess);
    EXPECT_EQ(send(0, 8), ncclSuccess);
  });
  ranks[1].group([&] { EXPECT_EQ(receive(1, 8), ncclSuccess); });
  EXPECT_EQ(synchronize(0), cudaErrorLaunchTimeout);
  EXPECT_THAT(cudaGetErrorString(cudaErrorLaunchTimeout),
              HasSubstr("ncclGroup of rank 0 of 2: waits for 16 bytes from rank 1"));
}

TEST_F(NcclPair, AnAllReduceThatOneRankDoesNotCallHangs) {
  wait_briefly();
  set_order(Order::eager);
  prepare();
  EXPECT_EQ(all_reduce(0), ncclSuccess);
  EXPECT_EQ(synchronize(0), cudaErrorLaunchTimeout);
  EXPECT_THAT(cudaGetErrorString(cudaErrorLaunchTimeout),
              HasSubstr("ncclAllReduce of rank 0 of 2: waits for 8 bytes from rank 1"));
}

TEST_F(NcclPair, ADestroyThatOneRankDoesNotCallHangs) {
  wait_briefly();
  prepare();
  EXPECT_EQ(ncclCommDestroy(ranks[0].comm), ncclUnhandledCudaError);
  EXPECT_THAT(ncclGetLastError(nullptr), HasSubstr("ncclCommDestroy of rank 0 of 2, which every"));
}

// ---- mistakes that are named

TEST_F(NcclPair, FindsMemoryThatIsNotTheDevices) {
  std::uint8_t host[16] = {};
  const auto send_from = [&](const void* from, std::size_t count) {
    return ncclSend(from, count, ncclUint8, 1, ranks[0].comm, ranks[0].stream);
  };
  expect_found([&] { return send_from(host, 16); }, "ncclSend: what NCCL sends is host memory");
  expect_found([&] { return send_from(nullptr, 16); }, "expected device memory");
  expect_found(
      [&] {
        ncclGroupStart();
        return send_from(host, 16);  // at the call, not when the group ends
      },
      "ncclSend: what NCCL sends is host memory");
  expect_found([&] { return send_from(x[0] + 60, 5); }, "only 4 are left there");
  expect_found([&] { return send_from(x[1], 16); }, "of device 1, used on device 0");
  expect_found(
      [&] { return ncclRecv(x[0] + 60, 2, ncclUint32, 1, ranks[0].comm, ranks[0].stream); },
      "ncclRecv: what NCCL receives into is 8 bytes");
  expect_found(
      [&] {
        return ncclAllReduce(x[0], x[1], 4, ncclUint32, ncclSum, ranks[0].comm, ranks[0].stream);
      },
      "what NCCL receives into is device memory");
}

TEST_F(NcclPair, FindsMemoryThatIsGivenBackWhileTheCallIsInProgress) {
  set_order(Order::lazy);
  prepare();
  EXPECT_EQ(send(0), ncclInProgress);
  EXPECT_EQ(cudaFree(x[0]), cudaSuccess);
  EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
  EXPECT_EQ(synchronize(0), cudaErrorInvalidValue);
  EXPECT_THAT(ncclGetLastError(nullptr), HasSubstr("which is in no live allocation"));
}

TEST_F(NcclPair, FindsStreamsAndDevicesThatDoNotAgree) {
  const auto send_on = [&](cudaStream_t on) {
    return ncclSend(x[0], 16, ncclUint8, 1, ranks[0].comm, on);
  };
  expect_misuse([&] { return send_on(nullptr); }, "default stream");
  expect_misuse([&] { return send_on(ranks[1].stream); },
                "a communicator of device 0 on a stream of device 1 while device 0 is current");
  expect_misuse(
      [&] {
        ranks[1].be_current();
        return send_on(ranks[0].stream);
      },
      "on a stream of device 0 while device 1 is current");
  expect_misuse(
      [&] {
        cudaStreamDestroy(ranks[0].stream);
        return send_on(ranks[0].stream);
      },
      "which is no live stream");
  expect_misuse(
      [&] {
        const cudaStream_t other = new_stream();
        ncclGroupStart();
        send_on(ranks[0].stream);
        ncclRecv(x[0] + 32, 16, ncclUint8, 1, ranks[0].comm, other);
        return ncclGroupEnd();
      },
      "a group of rank 0 of 2 on streams");
}

TEST_F(NcclPair, FindsPeersThatAreNoRanks) {
  for (const int peer : {-1, 2})
    expect_found(
        [&] { return ncclSend(x[0], 16, ncclUint8, peer, ranks[0].comm, ranks[0].stream); },
        "ncclSend of rank 0 of 2: its peer is rank " + std::to_string(peer));
}

TEST_F(NcclPair, FindsMessagesThatDoNotMatch) {
  expect_found(
      [&] {
        send(0, 16);
        return receive(1, 12);
      },
      "rank 1 receives from rank 0 12 of uint8 where rank 0 sends to rank 1 16 of uint8");
  expect_found(
      [&] {
        send(0, 16);
        return receive(1, 4, ncclUint32);
      },
      "rank 1 receives from rank 0 4 of uint32 where rank 0 sends to rank 1 16 of uint8");
  expect_found(
      [&] {
        send(0, 0);
        return receive(1, 1);
      },
      "1 of uint8 where rank 0 sends to rank 1 0 of uint8");
}

TEST_F(NcclPair, FindsCollectivesThatDoNotMatch) {
  expect_found(
      [&] {
        all_reduce(0, 4);
        return all_reduce(1, 3);
      },
      "all-reduces 3 of uint32 (its collective 1) where rank 0 all-reduces 4 of uint32");
  expect_found(
      [&] {
        all_reduce(0, 4);
        return all_reduce(1, 4, ncclFloat32);
      },
      "all-reduces 4 of float32 (its collective 1) where rank 0 all-reduces 4 of uint32");
  expect_found(
      [&] {
        all_reduce(0, 4);
        return receive(1);
      },
      "rank 1 receives from rank 0 16 of uint8 where rank 0 all-reduces 4 of uint32");
  expect_found(
      [&] {
        all_reduce(0, 4);
        all_reduce(1, 4);
        send(0, 4);
        return all_reduce(1, 4);
      },
      "rank 1 all-reduces 4 of uint32 (its collective 2) where rank 0 sends to rank 1 4 of uint8");
}

TEST_F(NcclPair, FindsReceivesThatOverlap) {
  const auto group = [&](const std::function<void()>& calls) {
    ncclGroupStart();
    calls();
    return ncclGroupEnd();
  };
  const auto receive_at = [&](int offset) {
    ncclRecv(x[0] + offset, 8, ncclUint8, 1, ranks[0].comm, ranks[0].stream);
  };
  expect_found([&] { return group([&] { receive_at(0), receive_at(7); }); }, "that it receives");
  expect_found([&] { return group([&] { receive_at(15), send(0, 16); }); }, "that it sends");
  expect_found([&] { return group([&] { send(0, 16), receive_at(15); }); }, "that it sends");
  expect_found(
      [&] {
        return ncclAllReduce(x[0], x[0] + 12, 4, ncclUint32, ncclSum, ranks[0].comm,
                             ranks[0].stream);
      },
      "that it sends");
  cudaDeviceReset();
  prepare();
  ranks[0].group([&] { receive_at(0), receive_at(8), receive_at(16); });
}

TEST_F(NcclPair, FindsMessagesToItselfThatAreNotReceived) {
  const auto to_itself = [&](bool receives, std::size_t count) {
    const Rank& me = ranks[0];
    ncclGroupStart();
    ncclSend(x[0], 16, ncclUint8, 0, me.comm, me.stream);
    if (receives) ncclRecv(x[0] + 32, count, ncclUint8, 0, me.comm, me.stream);
    return ncclGroupEnd();
  };
  expect_misuse([&] { return to_itself(false, 0); },
                "rank 0 sends 1 messages to itself and receives 0");
  expect_found([&] { return to_itself(true, 15); },
               "rank 0 receives 15 of uint8 from itself where it sends 16 of uint8");
  expect_misuse([&] { return ncclSend(x[0], 16, ncclUint8, 0, ranks[0].comm, ranks[0].stream); },
                "sends 1 messages to itself");
}

TEST_F(NcclPair, FindsAllReducesThatItDoesNotKnow) {
  const auto reduce = [&](ncclDataType_t type, ncclRedOp_t operation, int offset = 0) {
    return ncclAllReduce(x[0] + offset, x[0] + offset, 4, type, operation, ranks[0].comm,
                         ranks[0].stream);
  };
  expect_found([&] { return reduce(ncclInt8, ncclSum); },
               "an all-reduce of int8: add it with its rules");
  expect_found([&] { return reduce(ncclUint32, ncclMax); },
               "an all-reduce by operation 2: add it with its rules");
  expect_found([&] { return reduce(ncclUint32, ncclSum, 2); }, "which is not aligned to it");
  expect_found([&] { return reduce(ncclNumTypes, ncclSum); }, "type 12, which NCCL does not have");
  expect_misuse(
      [&] {
        ncclGroupStart();
        send(0);
        ncclAllReduce(x[0] + 32, x[0] + 32, 4, ncclUint32, ncclSum, ranks[0].comm, ranks[0].stream);
        return ncclGroupEnd();
      },
      "a group of all-reduces and of sends");
}

TEST_F(NcclPair, FindsCallsWhileSomethingIsInProgress) {
  const auto in_progress = [&] {
    set_order(Order::lazy);
    EXPECT_EQ(send(0), ncclInProgress);
    set_order(Order::eager);
    return ranks[0].comm;
  };
  const char* text = "whose last group is in progress: poll ncclCommGetAsyncError";
  expect_misuse([&] { return in_progress(), send(0); }, text);
  expect_misuse([&] { return in_progress(), all_reduce(0); }, text);
  expect_misuse([&] { return ncclCommFinalize(in_progress()); }, text);
  expect_misuse([&] { return ncclCommDestroy(in_progress()); }, text);
  expect_misuse(
      [&] {
        in_progress();
        ncclGroupStart();
        return send(0);
      },
      text);
  const auto coming = [&] {
    ranks[0] = Rank::begin(new_id(), 0, 2);
    return ranks[0].comm;
  };
  text = "whose making is in progress";
  expect_misuse([&] { return coming(), send(0); }, text);
  expect_misuse([&] { return ncclCommDestroy(coming()); }, text);
}

TEST_F(NcclPair, FindsCommunicatorsThatHaveEnded) {
  expect_misuse(
      [&] {
        EXPECT_EQ(ncclCommAbort(ranks[0].comm), ncclSuccess);
        return send(0);
      },
      "ncclSend with a communicator that was aborted");
  expect_misuse(
      [&] {
        EXPECT_EQ(ncclCommAbort(ranks[0].comm), ncclSuccess);
        ncclResult_t state = ncclSuccess;
        const ncclResult_t asked = ncclCommGetAsyncError(ranks[0].comm, &state);
        EXPECT_EQ(state, asked);
        return asked;
      },
      "ncclCommGetAsyncError with a communicator that was aborted");
  const auto finalize = [&] {
    for (const Rank& rank : ranks) EXPECT_EQ(ncclCommFinalize(rank.comm), ncclInProgress);
    ncclResult_t state = ncclSuccess;
    EXPECT_EQ(ncclCommGetAsyncError(ranks[0].comm, &state), ncclSuccess);
    EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
    EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
  };
  expect_misuse([&] { return finalize(), send(0); }, "that was finalized");
  expect_misuse(
      [&] {
        finalize();
        EXPECT_EQ(ncclCommDestroy(ranks[0].comm), ncclSuccess);
        return ncclCommDestroy(ranks[0].comm);
      },
      "ncclCommDestroy with a communicator that was destroyed");
  expect_misuse(
      [&] {
        EXPECT_EQ(ncclCommFinalize(ranks[0].comm), ncclInProgress);
        return ncclCommDestroy(ranks[0].comm);
      },
      "whose end is in progress");
  expect_found([&] { return ncclCommAbort(reinterpret_cast<ncclComm_t>(x)); },
               "which is no communicator");
  const ncclComm_t before = ranks[0].comm;
  expect_misuse([&] { return ncclCommFinalize(before); }, "that was ended by cudaDeviceReset");
}

TEST_F(NcclPair, FindsADestroyWhileOperationsAreQueued) {
  expect_misuse(
      [&] {
        send(0);
        receive(0);
        return ncclCommDestroy(ranks[0].comm);
      },
      "ncclCommDestroy of rank 0 of 2 while 2 of its operations are queued");
}

TEST_F(NcclPair, FindsADestroyWhereAnAbortIsNeeded) {
  expect_misuse(
      [&] {
        receive(0);
        ncclCommAbort(ranks[1].comm);
        EXPECT_EQ(settled(ranks[0].comm), ncclRemoteError);
        return ncclCommDestroy(ranks[0].comm);
      },
      "rank 1: it has aborted its communicator): abort it");
}

TEST_F(NcclPair, FindsGroupsThatAreNotPairs) {
  expect_misuse([] { return ncclGroupEnd(); }, "no ncclGroupStart is before it");
  expect_misuse(
      [&] {
        ncclGroupStart();
        return ncclCommFinalize(ranks[0].comm);
      },
      "within a group");
  cudaDeviceReset();
  set_order(Order::eager);
  prepare();
  ncclGroupStart();
  ncclGroupStart();
  EXPECT_EQ(send(0), ncclSuccess);
  EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
  EXPECT_EQ(cudaStreamQuery(ranks[0].stream), cudaSuccess) << "the outer group is still open";
  EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
  EXPECT_EQ(cudaStreamQuery(ranks[0].stream), cudaErrorNotReady);
}

TEST_F(NcclPair, FindsMembersThatCannotBe) {
  ncclComm_t comm = nullptr;
  const auto init = [&](int rank, int size, const ncclUniqueId& of, ncclConfig_t config) {
    return ncclCommInitRankConfig(&comm, size, of, rank, &config);
  };
  expect_found([&] { return init(2, 2, new_id(), not_blocking()); }, "rank 2 of 2");
  expect_found([&] { return init(0, 0, new_id(), not_blocking()); }, "rank 0 of 0");
  expect_found([&] { return init(0, 2, id, not_blocking()); }, "a unique id serves once");
  expect_found([&] { return init(0, 1, new_id(), ncclConfig_t{}); }, "NCCL_CONFIG_INITIALIZER");
  expect_found(
      [&] {
        ncclConfig_t config = not_blocking();
        config.version = 22500;
        return init(0, 1, new_id(), config);
      },
      "NCCL_CONFIG_INITIALIZER");
  const auto meet = [&](int device, int size) {
    const ncclUniqueId of = new_id();
    EXPECT_EQ(init(0, 2, of, not_blocking()), ncclInProgress);
    cudaSetDevice(device);
    ncclComm_t other = nullptr;
    ncclConfig_t config = not_blocking();
    EXPECT_EQ(ncclCommInitRankConfig(&other, size, of, 1, &config), ncclInProgress);
    ncclResult_t state = ncclInProgress;
    for (int i = 0; i < 10 && state == ncclInProgress; ++i)
      for (const ncclComm_t asked : {comm, other}) ncclCommGetAsyncError(asked, &state);
    return state;
  };
  expect_misuse([&] { return meet(0, 2); }, "ranks 0 and 1 are both on device 0");
  expect_found([&] { return meet(1, 3); }, "rank 0 says that there are 2 ranks, rank 1 says 3");
}

}  // namespace
}  // namespace ballot::stand_in

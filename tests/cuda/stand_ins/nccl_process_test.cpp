// The stand-in of NCCL between processes, and what the loss of one looks like to the others.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "stand_ins/nccl_test_rank.h"

namespace ballot::stand_in {
namespace {

using ::testing::HasSubstr;

class NcclProcesses : public NcclStandIn {
 protected:
  void TearDown() override {
    for (const pid_t child : children_) kill(child, SIGKILL);
    for (const pid_t child : children_) waitpid(child, nullptr, 0);
    NcclStandIn::TearDown();
  }

  void fork_one(const std::function<void()>& body) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(60);
      body();
      _exit(HasFailure() ? 1 : 0);
    }
    children_.push_back(child);
  }
  void expect_good_ends() {
    for (const pid_t child : children_) {
      int status = -1;
      EXPECT_EQ(waitpid(child, &status, 0), child);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    children_.clear();
  }
  void end_first_child() {
    kill(children_.at(0), SIGKILL);
    waitpid(children_.at(0), nullptr, 0);
    children_.clear();
  }

  // Rank 1 of two is lost within a transfer in which rank 0 waits for it.
  Rank lose_peer(std::uint8_t*& received) {
    const ncclUniqueId id = new_id();
    constexpr std::size_t kBytes = 8 << 20;
    fork_one([&] {
      const Rank me = Rank::join(id, 1, 2);
      std::uint8_t* to = me.memory<std::uint8_t>(kBytes);
      me.group([&] { ncclRecv(to, kBytes, ncclUint8, 0, me.comm, me.stream); });
      for (int i = 0; i < 20; ++i) cudaStreamQuery(me.stream);
      raise(SIGKILL);
    });
    const Rank me = Rank::join(id, 0, 2);
    received = me.memory<std::uint8_t>(16);
    EXPECT_EQ(cudaMemsetAsync(received, 7, 16, me.stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(me.stream), cudaSuccess);
    std::uint8_t* from = me.memory<std::uint8_t>(kBytes);
    // No settled(): the loss may be known already.
    EXPECT_EQ(ncclGroupStart(), ncclSuccess);
    EXPECT_EQ(ncclSend(from, kBytes, ncclUint8, 1, me.comm, me.stream), ncclSuccess);
    EXPECT_EQ(ncclRecv(received, 16, ncclUint8, 1, me.comm, me.stream), ncclSuccess);
    EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
    return me;
  }

 private:
  std::vector<pid_t> children_;
};

TEST_F(NcclProcesses, EveryoneWritesToEveryone) {
  for (const int size : {2, 3})
    for (int order = 0; order < 4; ++order) {
      const ncclUniqueId id = new_id();
      for (int rank = 0; rank < size; ++rank)
        fork_one([&] {
          choose_order(order);
          Rank me = Rank::join(id, rank, size);
          exchange_letters(me, 2);
          me.leave();
        });
      expect_good_ends();
    }
}

TEST_F(NcclProcesses, AllReduceIsTheSumOfAll) {
  constexpr int kSize = 3;
  const ncclUniqueId id = new_id();
  for (int rank = 0; rank < kSize; ++rank)
    fork_one([&] {
      Rank me = Rank::join(id, rank, kSize);
      std::vector<std::uint32_t> own(10001), sums(own.size());
      for (std::size_t i = 0; i < own.size(); ++i) {
        own[i] = static_cast<std::uint32_t>(i) * 1000003u + static_cast<std::uint32_t>(rank);
        sums[i] = kSize * static_cast<std::uint32_t>(i) * 1000003u + 3;
      }
      std::uint32_t* x = me.memory_of(own);
      me.group([&] {
        EXPECT_EQ(ncclAllReduce(x, x, own.size(), ncclUint32, ncclSum, me.comm, me.stream),
                  ncclSuccess);
      });
      EXPECT_EQ(me.read(x, own.size()), sums);
      me.leave();
    });
  expect_good_ends();
}

TEST_F(NcclProcesses, ALostPeerIsARemoteErrorThatNamesIt) {
  set_order(Order::eager);
  std::uint8_t* received = nullptr;
  const Rank me = lose_peer(received);
  while (settled(me.comm) == ncclSuccess) cudaStreamQuery(me.stream);
  EXPECT_EQ(settled(me.comm), ncclRemoteError);
  EXPECT_THAT(ncclGetLastError(me.comm), HasSubstr("rank 1: its process has ended"));
  EXPECT_THAT(ncclGetErrorString(ncclRemoteError), HasSubstr("remote process exited"));
  EXPECT_EQ(ncclSend(received, 1, ncclUint8, 1, me.comm, me.stream), ncclRemoteError);
  EXPECT_EQ(cudaStreamQuery(me.stream), cudaErrorNotReady) << "it ends with the abort only";
  EXPECT_EQ(ncclCommAbort(me.comm), ncclSuccess);
  EXPECT_EQ(cudaStreamSynchronize(me.stream), cudaSuccess);
  EXPECT_EQ(me.read(received, 16), std::vector<std::uint8_t>(16, 0xff));
}

TEST_F(NcclProcesses, ASilentLossNeverEnds) {
  set_order(Order::eager);
  setenv("BALLOT_STAND_IN_NCCL_LOSS", "silent", 1);
  std::uint8_t* received = nullptr;
  const Rank me = lose_peer(received);
  wait_briefly();
  EXPECT_EQ(settled(me.comm), ncclSuccess);
  EXPECT_EQ(cudaStreamSynchronize(me.stream), cudaErrorLaunchTimeout);
  EXPECT_THAT(cudaGetErrorString(cudaErrorLaunchTimeout),
              HasSubstr("ncclGroup of rank 0 of 2: waits for 16 bytes from rank 1"));
  ncclResult_t state = ncclSuccess;
  EXPECT_EQ(ncclCommGetAsyncError(me.comm, &state), ncclUnhandledCudaError) << "a failure stays";
}

TEST_F(NcclProcesses, APeerThatEndsWhileNobodyNeedsItIsMissedWhenItIsNeeded) {
  set_order(Order::eager);
  const ncclUniqueId id = new_id();
  fork_one([&] {
    Rank::join(id, 1, 2);
    pause();
  });
  const Rank me = Rank::join(id, 0, 2);
  end_first_child();
  EXPECT_EQ(settled(me.comm), ncclSuccess);
  std::uint8_t* x = me.memory<std::uint8_t>(16);
  EXPECT_EQ(ncclRecv(x, 16, ncclUint8, 1, me.comm, me.stream), ncclSuccess);
  EXPECT_EQ(settled(me.comm), ncclRemoteError);
}

TEST_F(NcclProcesses, APeerLostBeforeAllHaveComeIsARemoteError) {
  const ncclUniqueId id = new_id();
  int listening[2];
  ASSERT_EQ(pipe(listening), 0);
  fork_one([&] {
    char go = 0;
    EXPECT_EQ(read(listening[0], &go, 1), 1);
    const Rank me = Rank::begin(id, 1, 3);
    ncclResult_t state = ncclSuccess;
    EXPECT_EQ(ncclCommGetAsyncError(me.comm, &state), ncclSuccess);
    raise(SIGKILL);
  });
  const Rank me = Rank::begin(id, 0, 3);
  EXPECT_EQ(write(listening[1], "!", 1), 1);
  EXPECT_EQ(settled(me.comm), ncclRemoteError);
  EXPECT_THAT(ncclGetLastError(me.comm),
              HasSubstr("ncclCommInitRank of rank 0 of 3 waits for rank 1"));
  EXPECT_EQ(ncclCommAbort(me.comm), ncclSuccess);
  close(listening[0]);
  close(listening[1]);
}

TEST_F(NcclProcesses, AnAbortIsHeardByTheOthersAndEndsTheirWait) {
  set_order(Order::eager);
  const ncclUniqueId id = new_id();
  fork_one([&] {
    const Rank me = Rank::join(id, 1, 2);
    EXPECT_EQ(ncclCommAbort(me.comm), ncclSuccess);
    pause();  // the process lives
  });
  const Rank me = Rank::join(id, 0, 2);
  std::uint8_t* x = me.memory<std::uint8_t>(16);
  EXPECT_EQ(ncclRecv(x, 16, ncclUint8, 1, me.comm, me.stream), ncclSuccess);
  while (settled(me.comm) == ncclSuccess) cudaStreamQuery(me.stream);
  EXPECT_THAT(ncclGetLastError(me.comm), HasSubstr("rank 1: it has aborted its communicator"));
}

TEST_F(NcclProcesses, AnAbortIsHeardEvenAfterAFailure) {
  set_order(Order::eager);
  const ncclUniqueId id = new_id();
  fork_one([&] {
    const Rank me = Rank::join(id, 1, 2);
    float host = 0;
    EXPECT_EQ(cudaFree(&host), cudaErrorInvalidValue);
    EXPECT_EQ(ncclCommAbort(me.comm), ncclInvalidArgument);
    pause();
  });
  const Rank me = Rank::join(id, 0, 2);
  std::uint8_t* x = me.memory<std::uint8_t>(16);
  EXPECT_EQ(ncclRecv(x, 16, ncclUint8, 1, me.comm, me.stream), ncclSuccess);
  while (settled(me.comm) == ncclSuccess) cudaStreamQuery(me.stream);
  EXPECT_THAT(ncclGetLastError(me.comm), HasSubstr("rank 1: it has aborted its communicator"));
}

}  // namespace
}  // namespace ballot::stand_in

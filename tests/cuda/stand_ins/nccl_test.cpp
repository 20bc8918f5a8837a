// The stand-in of NCCL within one process: what it must move, in which orders, and how unkindly.
#include <cmath>
#include <numeric>
#include <set>

#include "core/bfloat16.h"
#include "core/cuda/kernel.h"
#include "stand_ins/nccl_test_pair.h"

namespace ballot {
namespace kernels {

__global__ void __launch_bounds__(32)
    add_one(std::uint32_t* to, const std::uint32_t* from, std::int64_t count) {
  for (std::int64_t i = global_thread(); i < count; i += grid_threads()) to[i] = from[i] + 1;
}

}  // namespace kernels

namespace stand_in {
namespace {

using ::testing::HasSubstr;

void add_one(std::uint32_t* to, const std::uint32_t* from, std::int64_t count, cudaStream_t on) {
  launch(kernels::add_one, 1, 32, 0, on, to, from, count);
}

// ---- ranks that are threads

using NcclThreads = NcclStandIn;

void each_rank(int size, const std::function<void(Rank&)>& body) {
  const ncclUniqueId id = new_id();
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank)
    ranks.emplace_back([&, rank] {
      Rank me = Rank::join(id, rank, size);
      body(me);
      me.leave();
    });
  for (std::thread& rank : ranks) rank.join();
}

TEST_F(NcclThreads, EveryoneWritesToEveryone) {
  for (const int size : {1, 2, 3, 5})
    for (int order = 0; order < 4; ++order) {
      cudaDeviceReset();
      choose_order(order);
      each_rank(size, [](Rank& me) { exchange_letters(me, 2); });
    }
}

TEST_F(NcclThreads, MessagesBetweenTwoRanksMatchInTheirOrder) {
  constexpr int kGroups = 4, kMessages = 5;
  for (int order = 0; order < 6; ++order) {
    cudaDeviceReset();
    choose_order(order);
    each_rank(2, [](Rank& me) {
      std::vector<std::uint32_t> own(kGroups * kMessages);
      std::iota(own.begin(), own.end(), 100u * static_cast<unsigned>(me.rank));
      const std::uint32_t* from = me.memory_of(own);
      auto* to = me.memory<std::uint32_t>(own.size());
      for (int g = 0; g < kGroups; ++g)
        me.group([&] {
          for (int i = g * kMessages; i < (g + 1) * kMessages; ++i) {
            ncclSend(from + i, 1, ncclUint32, 1 - me.rank, me.comm, me.stream);
            ncclRecv(to + i, 1, ncclUint32, 1 - me.rank, me.comm, me.stream);
          }
        });
      std::iota(own.begin(), own.end(), 100u * static_cast<unsigned>(1 - me.rank));
      EXPECT_EQ(me.read(to, own.size()), own);
    });
  }
}

template <class T>
void all_reduce(Rank& me, ncclDataType_t type, const std::vector<std::vector<T>>& terms,
                const std::vector<T>& sums) {
  const std::size_t count = sums.size();
  for (const bool in_place : {true, false}) {
    T* from = me.memory_of(terms[me.rank]);
    T* to = in_place ? from : me.memory<T>(count);
    me.group([&] {
      EXPECT_EQ(ncclAllReduce(from, to, count, type, ncclSum, me.comm, me.stream), ncclSuccess);
    });
    const std::vector<T> got = me.read(to, count);
    EXPECT_EQ(std::memcmp(got.data(), sums.data(), count * sizeof(T)), 0)
        << count << " elements of type " << type << " of rank " << me.rank << " of " << me.size;
  }
}

// The sum of terms that a function of rank and index makes, in the order of ranks.
template <class T, class Term, class Add>
void all_reduce(int size, ncclDataType_t type, const Term& term, const Add& add) {
  for (const std::size_t count : {1u, 2u, 7u, 1000u, 100000u}) {
    std::vector<std::vector<T>> terms(size);
    for (int rank = 0; rank < size; ++rank)
      for (std::size_t i = 0; i < count; ++i) terms[rank].push_back(term(rank, i));
    std::vector<T> sums = terms[0];
    for (int rank = 1; rank < size; ++rank)
      for (std::size_t i = 0; i < count; ++i) sums[i] = add(sums[i], terms[rank][i]);
    cudaDeviceReset();
    each_rank(size, [&](Rank& me) { all_reduce(me, type, terms, sums); });
  }
}

TEST_F(NcclThreads, AllReduceSumsInTheOrderOfRanks) {
  const auto plus = [](auto a, auto b) { return static_cast<decltype(a)>(a + b); };
  for (const int size : {1, 2, 3, 5}) {
    choose_order(size);
    all_reduce<std::uint32_t>(
        size, ncclUint32,
        [](int rank, std::size_t i) {
          return static_cast<std::uint32_t>(i * 2654435761u) + static_cast<std::uint32_t>(rank);
        },
        plus);
    all_reduce<std::int64_t>(
        size, ncclInt64,
        [](int rank, std::size_t i) {
          return (rank % 2 == 0 ? -1 : 3) * static_cast<std::int64_t>(i << 33) - rank;
        },
        plus);
  }
  all_reduce<std::uint64_t>(
      3, ncclUint64, [](int rank, std::size_t i) { return (std::uint64_t{1} << 63) + i + rank; },
      plus);
  all_reduce<float>(
      3, ncclFloat32,
      [](int rank, std::size_t i) {
        const float large[] = {1e8f, 1.0f, -1e8f};
        return large[(static_cast<std::size_t>(rank) + i) % 3];
      },
      plus);
  all_reduce<bfloat16>(
      5, ncclBfloat16,
      [](int rank, std::size_t i) {
        return to_bfloat16(static_cast<float>(i % 100) + std::ldexp(1.0f, -rank));
      },
      [](bfloat16 a, bfloat16 b) { return to_bfloat16(to_float(a) + to_float(b)); });
}

TEST_F(NcclThreads, AGroupOfAllReducesRunsThemAll) {
  each_rank(3, [](Rank& me) {
    std::uint32_t* x = me.memory_of(std::vector<std::uint32_t>{1, 2});
    std::uint32_t* y = me.memory_of(std::vector<std::uint32_t>{10, 20, 30});
    me.group([&] {
      EXPECT_EQ(ncclAllReduce(x, x, 2, ncclUint32, ncclSum, me.comm, me.stream), ncclSuccess);
      EXPECT_EQ(ncclAllReduce(y, y, 3, ncclUint32, ncclSum, me.comm, me.stream), ncclSuccess);
    });
    EXPECT_EQ(me.read(x, 2), (std::vector<std::uint32_t>{3, 6}));
    EXPECT_EQ(me.read(y, 3), (std::vector<std::uint32_t>{30, 60, 90}));
  });
}

TEST_F(NcclThreads, ABlockingCommunicatorWaitsForAllAndHoldsNothingBack) {
  const ncclUniqueId id = new_id();
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank)
    ranks.emplace_back([&, rank] {
      Rank me{rank, 3};
      me.be_current();
      me.stream = new_stream();
      EXPECT_EQ(ncclCommInitRankConfig(&me.comm, 3, id, rank, nullptr), ncclSuccess);
      for (int i = 0; i < 5; ++i) {
        std::uint32_t* x = me.memory_of(std::vector<std::uint32_t>{1});
        EXPECT_EQ(ncclAllReduce(x, x, 1, ncclUint32, ncclSum, me.comm, me.stream), ncclSuccess);
        EXPECT_EQ(me.read(x, 1), std::vector<std::uint32_t>{3});
      }
      if (rank == 0) {
        EXPECT_EQ(ncclCommFinalize(me.comm), ncclSuccess);
      }
      EXPECT_EQ(ncclCommDestroy(me.comm), ncclSuccess);
    });
  for (std::thread& rank : ranks) rank.join();
}

// ---- two ranks that one thread plays

TEST_F(NcclPair, TellsTheVersionOfItsHeader) {
  int version = 0;
  EXPECT_EQ(ncclGetVersion(&version), ncclSuccess);
  EXPECT_EQ(version, NCCL_VERSION_CODE);
}

TEST_F(NcclPair, UniqueIdsDiffer) {
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    const ncclUniqueId made = new_id();
    ids.emplace(made.internal, sizeof made.internal);
  }
  EXPECT_EQ(ids.size(), 100u);
}

TEST_F(NcclPair, RanksOfAnIdThatWasPassedOnInPartDoNotMeet) {
  const ncclUniqueId whole = new_id();
  ncclUniqueId part = whole;
  part.internal[NCCL_UNIQUE_ID_BYTES - 1] ^= 1;
  const Rank zero = Rank::begin(whole, 0, 2), one = Rank::begin(part, 1, 2);
  ncclResult_t state = ncclSuccess;
  for (int i = 0; i < 20; ++i)
    for (const Rank& rank : {zero, one}) {
      EXPECT_EQ(ncclCommGetAsyncError(rank.comm, &state), ncclSuccess);
      EXPECT_EQ(state, ncclInProgress);
    }
}

TEST_F(NcclPair, ASendIsNotDoneBeforeItsReceiveRuns) {
  set_order(Order::eager);
  prepare();
  EXPECT_EQ(send(0), ncclSuccess);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(cudaStreamQuery(ranks[0].stream), cudaErrorNotReady);
  EXPECT_EQ(receive(1), ncclSuccess);
  EXPECT_EQ(synchronize(0), cudaSuccess);
  EXPECT_EQ(synchronize(1), cudaSuccess);
}

TEST_F(NcclPair, AReceiveBufferIsUndefinedUntilTheReceiveIsDone) {
  set_order(Order::eager);
  prepare();
  const cudaStream_t other = (ranks[1].be_current(), new_stream());
  EXPECT_EQ(cudaMemsetAsync(x[1], 7, 64, ranks[1].stream), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(x[0], 5, 64, ranks[0].stream), cudaSuccess);
  EXPECT_EQ(receive(1), ncclSuccess);
  EXPECT_EQ(ranks[1].read(x[1] + 32, 16, other), std::vector<std::uint8_t>(16, 0xff));
  EXPECT_EQ(send(0), ncclSuccess);
  EXPECT_EQ(ranks[1].read(x[1] + 32, 16), std::vector<std::uint8_t>(16, 5));
  EXPECT_EQ(ranks[1].read(x[1] + 48, 16), std::vector<std::uint8_t>(16, 7)) << "and no more";
}

TEST_F(NcclPair, OperationsOfACommunicatorRunInTheOrderOfTheirIssueWhateverTheirStreams) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    cudaDeviceReset();
    set_order(seed % 2 == 0 ? Order::lazy : Order::random, seed);
    prepare();
    const cudaStream_t other = (ranks[1].be_current(), new_stream());
    EXPECT_EQ(cudaMemsetAsync(x[0], 1, 8, ranks[0].stream), cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(x[0] + 8, 2, 8, ranks[0].stream), cudaSuccess);
    ranks[0].be_current();
    for (int i = 0; i < 2; ++i) {
      ncclSend(x[0] + 8 * i, 8, ncclUint8, 1, ranks[0].comm, ranks[0].stream);
      EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
    }
    ranks[1].be_current();
    ncclRecv(x[1], 8, ncclUint8, 0, ranks[1].comm, other);
    EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
    ncclRecv(x[1] + 8, 8, ncclUint8, 0, ranks[1].comm, ranks[1].stream);
    EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
    EXPECT_EQ(ranks[1].read(x[1] + 8, 8), std::vector<std::uint8_t>(8, 2));
    EXPECT_EQ(ranks[1].read(x[1], 8, other), std::vector<std::uint8_t>(8, 1));
  }
}

TEST_F(NcclPair, WhatIsSentIsReadAtOnceOrWhenItIsTaken) {
  for (const Order order : {Order::eager, Order::lazy}) {
    cudaDeviceReset();
    set_order(order);
    prepare();
    const cudaStream_t other = new_stream();
    EXPECT_EQ(cudaMemsetAsync(x[0], 1, 16, ranks[0].stream), cudaSuccess);
    EXPECT_EQ(synchronize(0), cudaSuccess);
    send(0);
    EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
    for (int i = 0; i < 200; ++i) EXPECT_EQ(cudaStreamQuery(ranks[0].stream), cudaErrorNotReady);
    EXPECT_EQ(cudaMemsetAsync(x[0], 2, 16, other), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(other), cudaSuccess);
    receive(1);
    EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
    EXPECT_EQ(ranks[1].read(x[1] + 32, 16),
              std::vector<std::uint8_t>(16, order == Order::eager ? 1 : 2));
  }
}

// Compute, exchange on another stream, compute: what a forgotten event does to rank 0.
enum class Forgotten { nothing, before_the_group, after_the_group, before_the_next_write };
class NcclEvents : public NcclPair {
 protected:
  bool is_right(Forgotten forgotten, int seed) {
    constexpr std::uint32_t kCount = 8;
    cudaDeviceReset();
    choose_order(2 + seed);
    prepare();
    std::uint32_t *made[2], *received[2], *result[2];
    cudaStream_t communication[2];
    for (int rank = 0; rank < 2; ++rank) {
      const Rank& me = ranks[rank];
      std::uint32_t* given = me.memory_of(std::vector<std::uint32_t>(kCount, 10u * (1u + rank)));
      EXPECT_EQ(synchronize(rank), cudaSuccess);
      for (auto* buffers : {made, received, result})
        buffers[rank] = me.memory<std::uint32_t>(kCount);
      communication[rank] = new_stream();
      const cudaEvent_t computed = new_event(), exchanged = new_event();
      add_one(made[rank], given, kCount, me.stream);
      EXPECT_EQ(cudaEventRecord(computed, me.stream), cudaSuccess);
      if (forgotten != Forgotten::before_the_group || rank == 0) {
        EXPECT_EQ(cudaStreamWaitEvent(communication[rank], computed, 0), cudaSuccess);
      }
      me.group([&] {
        ncclSend(made[rank], kCount, ncclUint32, 1 - rank, me.comm, communication[rank]);
        ncclRecv(received[rank], kCount, ncclUint32, 1 - rank, me.comm, communication[rank]);
      });
      EXPECT_EQ(cudaEventRecord(exchanged, communication[rank]), cudaSuccess);
      const Forgotten here =
          rank == 0 ? Forgotten::after_the_group : Forgotten::before_the_next_write;
      if (forgotten != here) {
        EXPECT_EQ(cudaStreamWaitEvent(me.stream, exchanged, 0), cudaSuccess);
      }
      add_one(result[rank], received[rank], kCount, me.stream);
      add_one(made[rank], made[rank], kCount, me.stream);
    }
    return ranks[0].read(result[0], kCount) == std::vector<std::uint32_t>(kCount, 22);
  }
};

TEST_F(NcclEvents, AForgottenEventShowsAndAKeptOneNever) {
  int before = 0, after = 0, write = 0;
  for (int seed = 0; seed < 25; ++seed) {
    EXPECT_TRUE(is_right(Forgotten::nothing, seed)) << seed;
    before += is_right(Forgotten::before_the_group, seed) ? 0 : 1;
    after += is_right(Forgotten::after_the_group, seed) ? 0 : 1;
    write += is_right(Forgotten::before_the_next_write, seed) ? 0 : 1;
  }
  EXPECT_GT(before, 0);
  EXPECT_GT(after, 0);
  EXPECT_GT(write, 0);
}

TEST_F(NcclPair, WhatIsInProgressIsInNoStreamYet) {
  set_order(Order::lazy);
  prepare();
  EXPECT_EQ(cudaMemsetAsync(x[0], 5, 64, ranks[0].stream), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(x[1], 7, 64, ranks[1].stream), cudaSuccess);
  EXPECT_EQ(send(0), ncclInProgress);
  EXPECT_EQ(receive(1), ncclInProgress);
  EXPECT_EQ(ranks[1].read(x[1] + 32, 16), std::vector<std::uint8_t>(16, 7))
      << "the copy went before the receive that was not polled for";
  EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
  EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
  EXPECT_EQ(ranks[1].read(x[1] + 32, 16), std::vector<std::uint8_t>(16, 5));
}

TEST_F(NcclPair, AGroupIsInProgressSometimes) {
  std::set<ncclResult_t> seen;
  for (int seed = 2; seed < 30; ++seed) {
    cudaDeviceReset();
    choose_order(seed);
    prepare();
    seen.insert(send(0));
  }
  EXPECT_EQ(seen, (std::set<ncclResult_t>{ncclSuccess, ncclInProgress}));
}

TEST_F(NcclPair, ItsEndWaitsForAllRanks) {
  for (int order = 0; order < 4; ++order) {
    cudaDeviceReset();
    choose_order(order);
    prepare();
    ncclResult_t state = ncclSuccess;
    EXPECT_EQ(ncclCommFinalize(ranks[0].comm), ncclInProgress);
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(ncclCommGetAsyncError(ranks[0].comm, &state), ncclSuccess);
      EXPECT_EQ(state, ncclInProgress);
    }
    EXPECT_EQ(ncclCommFinalize(ranks[1].comm), ncclInProgress);
    EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
    EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
    for (const Rank& rank : ranks) EXPECT_EQ(ncclCommDestroy(rank.comm), ncclSuccess);
  }
}

TEST_F(NcclPair, ItsEndFlushesWhatWasIssued) {
  for (int order = 0; order < 4; ++order) {
    cudaDeviceReset();
    choose_order(order);
    prepare();
    EXPECT_EQ(cudaMemsetAsync(x[0], 5, 64, ranks[0].stream), cudaSuccess);
    send(0);
    receive(1);
    for (const Rank& rank : ranks) EXPECT_EQ(settled(rank.comm), ncclSuccess);
    for (const Rank& rank : ranks) EXPECT_EQ(ncclCommFinalize(rank.comm), ncclInProgress);
    ncclResult_t states[2] = {ncclInProgress, ncclInProgress};
    while (states[0] == ncclInProgress || states[1] == ncclInProgress)
      for (int rank = 0; rank < 2; ++rank)
        ASSERT_EQ(ncclCommGetAsyncError(ranks[rank].comm, &states[rank]), ncclSuccess);
    EXPECT_EQ(cudaStreamQuery(ranks[1].stream), cudaSuccess);
    EXPECT_EQ(ranks[1].read(x[1] + 32, 16), std::vector<std::uint8_t>(16, 5));
  }
}

// ---- losses

TEST_F(NcclPair, AnAbortEndsWhatIsQueuedAndTheOtherRankHearsOfIt) {
  for (int order = 0; order < 4; ++order) {
    cudaDeviceReset();
    choose_order(order);
    prepare();
    EXPECT_EQ(cudaMemsetAsync(x[0], 7, 64, ranks[0].stream), cudaSuccess);
    receive(0);
    EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
    send(0);
    EXPECT_EQ(settled(ranks[0].comm), ncclSuccess);
    receive(1);
    EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
    EXPECT_EQ(ncclCommAbort(ranks[0].comm), ncclSuccess);
    EXPECT_EQ(synchronize(0), cudaSuccess);
    EXPECT_EQ(ranks[0].read(x[0] + 32, 16), std::vector<std::uint8_t>(16, 0xff));
    EXPECT_EQ(settled(ranks[1].comm), ncclRemoteError);
    EXPECT_THAT(ncclGetLastError(ranks[1].comm), HasSubstr("rank 0: it has aborted"));
    EXPECT_EQ(ncclCommAbort(ranks[1].comm), ncclSuccess);
    EXPECT_THAT(ncclGetLastError(ranks[1].comm), HasSubstr("rank 0: it has aborted"));
    EXPECT_EQ(synchronize(1), cudaSuccess);
  }
}

TEST_F(NcclPair, AnAllReduceWaitsForEveryRank) {
  set_order(Order::eager);
  prepare();
  EXPECT_EQ(all_reduce(1), ncclSuccess);
  EXPECT_EQ(ncclCommAbort(ranks[0].comm), ncclSuccess);
  EXPECT_EQ(settled(ranks[1].comm), ncclRemoteError);
  EXPECT_THAT(ncclGetLastError(ranks[1].comm),
              HasSubstr("ncclAllReduce of rank 1 of 2 waits for rank 0"));
}

TEST_F(NcclPair, AnAbortOfWhatIsInProgressLeavesNothingBehind) {
  set_order(Order::lazy);
  prepare();
  EXPECT_EQ(receive(0), ncclInProgress);
  EXPECT_EQ(ncclCommAbort(ranks[0].comm), ncclSuccess);
  EXPECT_EQ(cudaStreamQuery(ranks[0].stream), cudaSuccess);
}

TEST_F(NcclPair, ALossThatNobodyIsToldOfNeverEnds) {
  wait_briefly();
  setenv("BALLOT_STAND_IN_NCCL_LOSS", "silent", 1);
  set_order(Order::eager);
  prepare();
  EXPECT_EQ(receive(1), ncclSuccess);
  EXPECT_EQ(ncclCommAbort(ranks[0].comm), ncclSuccess);
  EXPECT_EQ(settled(ranks[1].comm), ncclSuccess);
  EXPECT_EQ(synchronize(1), cudaErrorLaunchTimeout);
}

TEST_F(NcclPair, ARankThatNeverComesIsWaitedForUntilAnAbort) {
  const Rank me = Rank::begin(new_id(), 0, 2);
  ncclResult_t state = ncclSuccess;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(ncclCommGetAsyncError(me.comm, &state), ncclSuccess);
    EXPECT_EQ(state, ncclInProgress);
  }
  EXPECT_EQ(ncclCommAbort(me.comm), ncclSuccess);
  wait_briefly();
  ncclComm_t comm = nullptr;
  EXPECT_EQ(ncclCommInitRankConfig(&comm, 2, new_id(), 0, nullptr), ncclUnhandledCudaError);
  EXPECT_THAT(ncclGetLastError(nullptr), HasSubstr("ncclCommInitRank of rank 0 of 2 has waited"));
}

}  // namespace
}  // namespace stand_in
}  // namespace ballot

// What the tests of the stand-in of NCCL do as one rank of a communicator.
#pragma once

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "stand_ins/work_queue.h"

namespace ballot::stand_in {

inline cudaStream_t new_stream() {
  cudaStream_t made = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), cudaSuccess);
  return made;
}

inline cudaEvent_t new_event() {
  cudaEvent_t made = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), cudaSuccess);
  return made;
}

inline ncclUniqueId new_id() {
  ncclUniqueId id;
  EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  return id;
}

inline ncclConfig_t not_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

// How the communicator stands when nothing is in progress any more.
inline ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress)
    if (const ncclResult_t asked = ncclCommGetAsyncError(comm, &state); asked != ncclSuccess)
      return asked;
  return state;
}

struct Rank {
  int rank = 0, size = 1;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;

  // Begins on the device of its number; others have to join before it has settled.
  static Rank begin(const ncclUniqueId& id, int rank, int size) {
    Rank made{rank, size};
    ncclConfig_t config = not_blocking();
    made.be_current();
    made.stream = new_stream();
    EXPECT_EQ(ncclCommInitRankConfig(&made.comm, size, id, rank, &config), ncclInProgress)
        << ncclGetLastError(nullptr);
    return made;
  }
  static Rank join(const ncclUniqueId& id, int rank, int size) {
    Rank made = begin(id, rank, size);
    EXPECT_EQ(settled(made.comm), ncclSuccess) << ncclGetLastError(made.comm);
    return made;
  }

  void be_current() const { EXPECT_EQ(cudaSetDevice(rank), cudaSuccess); }

  // Runs calls of NCCL as a group until it is in the stream.
  template <class Calls>
  void group(const Calls& calls) const {
    be_current();
    EXPECT_EQ(ncclGroupStart(), ncclSuccess) << ncclGetLastError(comm);
    calls();
    const ncclResult_t ended = ncclGroupEnd();
    EXPECT_TRUE(ended == ncclSuccess || ended == ncclInProgress) << ncclGetLastError(comm);
    EXPECT_EQ(settled(comm), ncclSuccess) << ncclGetLastError(comm);
  }

  template <class T>
  T* memory(std::size_t count) const {
    be_current();
    void* made = nullptr;
    EXPECT_EQ(cudaMalloc(&made, count * sizeof(T)), cudaSuccess);
    return static_cast<T*>(made);
  }
  template <class T>
  T* memory_of(const std::vector<T>& values) const {
    T* made = memory<T>(values.size());
    EXPECT_EQ(cudaMemcpyAsync(made, values.data(), values.size() * sizeof(T),
                              cudaMemcpyHostToDevice, stream),
              cudaSuccess);
    return made;
  }
  template <class T>
  std::vector<T> read(const T* from, std::size_t count, cudaStream_t on) const {
    std::vector<T> values(count);
    EXPECT_EQ(cudaMemcpyAsync(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost, on),
              cudaSuccess)
        << cudaGetErrorString(cudaGetLastError());
    return values;
  }
  template <class T>
  std::vector<T> read(const T* from, std::size_t count) const {
    return read(from, count, stream);
  }

  void leave() {
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(ncclCommFinalize(comm), ncclInProgress) << ncclGetLastError(comm);
    EXPECT_EQ(settled(comm), ncclSuccess) << ncclGetLastError(comm);
    EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess) << ncclGetLastError(comm);
  }
};

// Bytes that tell from whom, to whom and which they are.
inline std::vector<std::uint8_t> letter(int from, int to, int round, std::size_t bytes) {
  std::vector<std::uint8_t> made(bytes);
  auto state = static_cast<std::uint32_t>(from * 100 + to * 10 + round + 1) * 2654435761u;
  for (std::uint8_t& byte : made) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::uint8_t>(state >> 24);
  }
  return made;
}

// Nothing, a little, what is not a multiple of anything, and megabytes.
inline std::size_t bytes_between(int from, int to, int round) {
  const std::size_t sizes[] = {1, 4096, 0, 70001, 37, 1 << 20};
  if (from == 0 && to != 0) return (std::size_t{3} << 20) + 5;
  return sizes[static_cast<std::size_t>(from * 2 + to + round) % std::size(sizes)];
}

// Everybody writes to everybody, itself too.
inline void exchange_letters(const Rank& me, int rounds) {
  std::vector<std::vector<std::uint8_t*>> received(rounds);
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::uint8_t*> sent;
    for (int peer = 0; peer < me.size; ++peer) {
      sent.push_back(
          me.memory_of(letter(me.rank, peer, round, bytes_between(me.rank, peer, round))));
      received[round].push_back(me.memory<std::uint8_t>(bytes_between(peer, me.rank, round)));
    }
    me.group([&] {
      for (int i = 0; i < me.size; ++i) {
        const int to = (me.rank + i) % me.size, from = (me.rank + me.size - i) % me.size;
        EXPECT_EQ(ncclSend(sent[to], bytes_between(me.rank, to, round), ncclUint8, to, me.comm,
                           me.stream),
                  ncclSuccess);
        EXPECT_EQ(ncclRecv(received[round][from], bytes_between(from, me.rank, round), ncclUint8,
                           from, me.comm, me.stream),
                  ncclSuccess);
      }
    });
  }
  for (int round = 0; round < rounds; ++round)
    for (int from = 0; from < me.size; ++from) {
      const std::size_t bytes = bytes_between(from, me.rank, round);
      EXPECT_TRUE(me.read(received[round][from], bytes) == letter(from, me.rank, round, bytes))
          << "round " << round << ": " << bytes << " bytes from " << from << " to " << me.rank;
    }
}

// Each test begins and ends with devices that know nothing.
class NcclStandIn : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("BALLOT_STAND_IN_DEVICES", "8", 1);
    cudaDeviceReset();
    cudaSetDevice(0);
  }
  void TearDown() override {
    cudaDeviceReset();
    cudaSetDevice(0);
    set_order(Order::random, 1);
    unsetenv("BALLOT_STAND_IN_DEVICES");
    unsetenv("BALLOT_STAND_IN_DEADLINE_S");
    unsetenv("BALLOT_STAND_IN_NCCL_LOSS");
  }
  // Where a wait that cannot end is expected.
  static void wait_briefly() { setenv("BALLOT_STAND_IN_DEADLINE_S", "0.1", 1); }
  // Eager, lazy, then random by seed.
  static void choose_order(int number) {
    set_order(number == 0   ? Order::eager
              : number == 1 ? Order::lazy
                            : Order::random,
              static_cast<std::uint64_t>(number));
  }
};

}  // namespace ballot::stand_in

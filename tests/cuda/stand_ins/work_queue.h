// Streams and events of the stand-in: each stream a queue of operations that run one by one, in an
// order between streams that is chosen to be unkind.
//
// $BALLOT_STAND_IN_STREAMS (or set_order) says when operations run: "eager": at once, as soon as
// events permit; "lazy": not before somebody waits for them, and then no more than what the wait
// needs; "random:SEED": whenever a coin says so, of any stream that events permit. An operation may
// also say "not yet" (a collective whose peers have not come), so that none holds up another
// stream. Operations run on whichever thread drives the queues, under the device's lock. When
// nothing can run for the deadline ($BALLOT_STAND_IN_DEADLINE_S, 20 s) the wait fails, naming what
// every stream is stuck in.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace ballot::stand_in {

struct Work {
  std::string what;
  std::function<bool()> run;  // false: not yet, ask again
  bool touches_memory = true;
  std::function<std::string()> missing{};  // what it waits for, where it may say "not yet"
};

struct EventState {
  std::uint64_t recorded = 0;   // how often it was
  std::uint64_t completed = 0;  // the newest of those that the stream has come to
  std::chrono::steady_clock::time_point at;
  cudaStream_t stream = nullptr;  // of the last record
};

}  // namespace ballot::stand_in

struct CUstream_st {
  int number = 0;
  int device = 0;
  std::deque<ballot::stand_in::Work> work;
  bool destroyed = false;  // goes when its work is done
};

struct CUevent_st {
  std::shared_ptr<ballot::stand_in::EventState> state;
  bool timed = false;
};

namespace ballot::stand_in {

enum class Order { eager, lazy, random };
void set_order(Order order, std::uint64_t seed = 1);

// Held by every call; a wait lets go of it between attempts.
std::mutex& device_lock();

// Callers hold the lock. All throw Violation for a handle that is not alive, and for the legacy
// default stream (null), which nothing of ours may use.
cudaStream_t make_stream(int device);
void destroy_stream(cudaStream_t stream);
cudaStream_t require_stream(cudaStream_t stream, const char* who);
cudaEvent_t make_event(bool timed);
void destroy_event(cudaEvent_t event);
cudaEvent_t require_event(cudaEvent_t event, const char* who);

void enqueue(cudaStream_t stream, Work work);
// Drives the queues until `done`; `first` is preferred where the order is lazy.
void run_until(const std::function<bool()>& done, cudaStream_t first, const std::string& who);
void finish(cudaStream_t stream, const char* who);
void finish_device(int device, const char* who);
// One attempt where the order is random: a program that polls an event must see it come.
void poll(cudaStream_t stream);

// How many more times a program has to ask for what a library may do at once or later: never where
// the order is eager, once where it is lazy.
int delay();

// What is queued is dropped and every handle ends; then what others have asked for is done.
void forget_streams();
void at_reset(void (*forget)());

}  // namespace ballot::stand_in

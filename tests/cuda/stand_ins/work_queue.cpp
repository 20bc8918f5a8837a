#include "stand_ins/work_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "stand_ins/device_memory.h"
#include "stand_ins/failure.h"

namespace ballot::stand_in {
namespace {

using Clock = std::chrono::steady_clock;

struct Queues {
  std::vector<std::unique_ptr<CUstream_st>> streams;
  std::vector<std::unique_ptr<CUevent_st>> events;
  int made = 0;
  Order order = Order::random;
  std::mt19937_64 random{1};
  bool running = false;  // an operation is: it must not come back to us
  std::vector<void (*)()> at_reset;
};

Queues& queues() {
  static auto* instance = [] {
    auto* made = new Queues;
    const char* text = std::getenv("BALLOT_STAND_IN_STREAMS");
    if (text == nullptr) return made;
    if (std::strcmp(text, "eager") == 0) {
      made->order = Order::eager;
    } else if (std::strcmp(text, "lazy") == 0) {
      made->order = Order::lazy;
    } else if (std::strncmp(text, "random:", 7) == 0) {
      made->random.seed(std::strtoull(text + 7, nullptr, 10));
    } else {
      std::fprintf(stderr, "BALLOT_STAND_IN_STREAMS = %s: expected eager, lazy or random:SEED\n",
                   text);
      std::exit(2);
    }
    return made;
  }();
  return *instance;
}

std::chrono::duration<double> deadline() {
  const char* text = std::getenv("BALLOT_STAND_IN_DEADLINE_S");
  return std::chrono::duration<double>(text == nullptr ? 20.0 : std::strtod(text, nullptr));
}

// Runs the first operation of a stream; whether it is done.
bool attempt(cudaStream_t stream) {
  Work& head = stream->work.front();
  queues().running = true;
  struct Ended {
    ~Ended() { queues().running = false; }
  } const ended;
  std::optional<Access> access;
  if (head.touches_memory) access.emplace(head.what.c_str());
  try {
    if (!head.run()) return false;
  } catch (const Violation&) {
    throw;
  } catch (const std::exception& fault) {  // of a kernel
    throw Violation(cudaErrorLaunchFailure, fault.what());
  }
  stream->work.pop_front();
  return true;
}

void bury_destroyed() {
  std::erase_if(queues().streams, [](const auto& s) { return s->destroyed && s->work.empty(); });
}

// One operation of some stream, `first` before the others; whether one was done.
bool step(cudaStream_t first) {
  std::vector<cudaStream_t> order;
  for (const auto& stream : queues().streams)
    if (!stream->work.empty()) order.push_back(stream.get());
  std::shuffle(order.begin(), order.end(), queues().random);
  if (first != nullptr)
    std::stable_partition(order.begin(), order.end(), [&](cudaStream_t s) { return s == first; });
  for (const cudaStream_t stream : order)
    if (attempt(stream)) {
      bury_destroyed();
      return true;
    }
  return false;
}

std::string stuck_streams() {
  std::string text;
  for (const auto& stream : queues().streams) {
    if (stream->work.empty()) continue;
    const Work& head = stream->work.front();
    text += fmt::format("; stream {} of device {} is stuck in {}", stream->number, stream->device,
                        head.what);
    if (head.missing) text += ": " + head.missing();
  }
  return text;
}

}  // namespace

void set_order(Order order, std::uint64_t seed) {
  queues().order = order;
  queues().random.seed(seed);
}

std::mutex& device_lock() {
  static auto* instance = new std::mutex;
  return *instance;
}

cudaStream_t make_stream(int device) {
  auto stream = std::make_unique<CUstream_st>();
  stream->number = ++queues().made;
  stream->device = device;
  queues().streams.push_back(std::move(stream));
  return queues().streams.back().get();
}

cudaStream_t require_stream(cudaStream_t stream, const char* who) {
  if (stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread)
    refuse(cudaErrorInvalidResourceHandle, "{} on a default stream, which nothing of ours may use",
           who);
  for (const auto& live : queues().streams)
    if (live.get() == stream && !live->destroyed) return stream;
  refuse(cudaErrorInvalidResourceHandle, "{} on {}, which is no live stream", who,
         static_cast<const void*>(stream));
}

void destroy_stream(cudaStream_t stream) {
  require_stream(stream, "cudaStreamDestroy")->destroyed = true;
  bury_destroyed();
}

cudaEvent_t make_event(bool timed) {
  auto event = std::make_unique<CUevent_st>();
  event->state = std::make_shared<EventState>();
  event->timed = timed;
  queues().events.push_back(std::move(event));
  return queues().events.back().get();
}

cudaEvent_t require_event(cudaEvent_t event, const char* who) {
  for (const auto& live : queues().events)
    if (live.get() == event) return event;
  refuse(cudaErrorInvalidResourceHandle, "{} of {}, which is no live event", who,
         static_cast<const void*>(event));
}

void destroy_event(cudaEvent_t event) {
  require_event(event, "cudaEventDestroy");
  std::erase_if(queues().events, [&](const auto& e) { return e.get() == event; });
}

void enqueue(cudaStream_t stream, Work work) {
  if (queues().running)
    refuse(cudaErrorNotPermitted, "{} was given to a stream from within an operation", work.what);
  stream->work.push_back(std::move(work));
  Queues& q = queues();
  if (q.order == Order::eager)
    while (step(nullptr)) continue;
  if (q.order == Order::random)
    while (q.random() % 2 == 0 && step(nullptr)) continue;
}

void run_until(const std::function<bool()>& done, cudaStream_t first, const std::string& who) {
  constexpr std::chrono::microseconds kShortest{20}, kLongest{1000};
  auto end = Clock::now() + deadline();
  auto pause = kShortest;
  while (!done()) {
    if (step(queues().order == Order::lazy ? first : nullptr)) {
      end = Clock::now() + deadline();
      pause = kShortest;
      continue;
    }
    if (Clock::now() >= end)
      refuse(cudaErrorLaunchTimeout, "{} has waited for {:g} s and nothing can run{}", who,
             deadline().count(), stuck_streams());
    // Another thread may be what an operation waits for.
    device_lock().unlock();
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, kLongest);
    device_lock().lock();
    if (failure() != cudaSuccess) throw Violation(failure(), failure_text());
  }
}

void finish(cudaStream_t stream, const char* who) {
  // A stream that another thread ends meanwhile counts as done.
  const auto done = [stream] {
    for (const auto& live : queues().streams)
      if (live.get() == stream) return live->work.empty();
    return true;
  };
  run_until(done, stream, who);
  check_surroundings();
}

void finish_device(int device, const char* who) {
  const auto done = [device] {
    return std::all_of(queues().streams.begin(), queues().streams.end(),
                       [&](const auto& s) { return s->device != device || s->work.empty(); });
  };
  run_until(done, nullptr, who);
  check_surroundings();
}

void poll(cudaStream_t stream) {
  if (queues().order == Order::random || queues().random() % 8 == 0) step(stream);
}

int delay() {
  switch (queues().order) {
    case Order::eager:
      return 0;
    case Order::lazy:
      return 1;
    default:
      return static_cast<int>(queues().random() % 3);
  }
}

void forget_streams() {
  queues().streams.clear();
  queues().events.clear();
  for (void (*forget)() : queues().at_reset) forget();
}

void at_reset(void (*forget)()) {
  queues().at_reset.push_back(forget);
}

}  // namespace ballot::stand_in

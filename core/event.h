// A point in the work of a stream that other streams and the host can ask for and wait for.
//
// On the CPU a stream's work is over when the call that gave it returns, so everything here is at
// once. One thread at a time. Must not be destroyed before its streams' device is done with it,
// which the CUDA runtime sees to.
#pragma once

#include "core/device.h"  // Device, Stream

namespace ballot {

class Event {
 public:
  explicit Event(Device device = {});
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();

  // Stands for all work given to the stream so far; what it stood for before is forgotten.
  void record(Stream& stream);
  // That work is over; also before the first record(). Never blocks.
  bool done() const;
  // Until that work is over: as long as the device takes, for which there is no deadline.
  void wait() const;
  // What is given to the stream from now on runs after that work. Never blocks the host.
  void hold(Stream& stream) const;

 private:
  Device device_;
  void* handle_ = nullptr;  // a cudaEvent_t; null on the CPU
};

}  // namespace ballot

// A worker's side of the coordinator: joins, tells how the worker stands, and has the newest Order
// at hand.
//
// The coordinator may go and come back at any time: the stream is opened again, with growing
// pauses, for as long as it takes, and a worker's steps wait for none of it. Any thread may call;
// orders are handed out as they come, only the newest is kept, since each says all there is to say.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "runtime/coordinator/coordinator_access.h"
#include "runtime/coordinator/service_status.h"
#include "runtime/protocol/messages.h"

namespace ballot {

struct CoordinatorClientOptions {
  // "host:port", or several with commas between: a leader and those that stand by (docs/
  // coordinator.md). Each is tried in turn, until one answers.
  std::string address;
  std::string run;
  CoordinatorAccess access;
  // A pulse leaves when there is something new to tell and at least so often; while the worker
  // waits for an order (joining, sealed, leaving), more often.
  Duration heartbeat = std::chrono::milliseconds(500);
  Duration urgent = std::chrono::milliseconds(50);
  // A stream on which no order comes for so long is opened anew.
  Duration silence = std::chrono::seconds(10);
  Duration first_pause = std::chrono::milliseconds(100);  // between tries; doubles up to the last
  Duration last_pause = std::chrono::seconds(3);
};

class CoordinatorClient {
 public:
  struct Heard {
    Order order;
    std::int64_t number = 0;  // of the order, from 1
    TimePoint at;
  };

  // ConfigError for an address or TLS files that cannot work. Opens nothing yet.
  explicit CoordinatorClient(CoordinatorClientOptions options);
  // Bounded: cuts the stream.
  ~CoordinatorClient();

  // The run is the options'; a nonce is drawn where there is none. Asks until it is answered:
  // ConfigError where this worker is refused, SentAway where it was sent away, TransportError where
  // the two do not trust each other's TLS, Timeout naming the address and the last failure.
  Identity join(Join join, Deadline deadline);

  // What the coordinator is told from now on. Its sequence is set here. Does not wait.
  void tell(Pulse pulse);

  // The newest order to the incarnation told of last.
  std::optional<Heard> latest() const;
  // Waits for one with another number than `seen` (0: any); nothing at the deadline.
  std::optional<Heard> wait_newer(std::int64_t seen, Deadline deadline) const;

  // Why there are no orders now; empty while they come.
  std::string trouble() const;

 private:
  class Stream;
  void run();
  void serve_stream(std::unique_lock<std::mutex>& lock);
  void take(const Order& order);  // from gRPC's threads
  // With the mutex held.
  void set_trouble(const std::string& asked, std::string why);
  Duration interval() const;
  const std::string& address() const { return addresses_[turn_ % addresses_.size()]; }

  const CoordinatorClientOptions options_;
  std::vector<std::string> addresses_;
  mutable std::mutex mutex_;
  std::size_t turn_ = 0;
  mutable std::condition_variable changed_;
  bool ending_ = false;
  std::optional<Pulse> told_;
  bool news_ = false;  // told_ has not left yet
  std::int64_t sequence_ = 0;
  std::optional<Heard> heard_;
  std::int64_t orders_ = 0;
  std::string trouble_;
  std::map<std::string, std::string> said_;  // of the trouble, by address
  std::thread thread_;
};

// Of an operator: one call, answered within `patience`. ConfigError where it is refused, Timeout
// naming the address where nobody answers.
ServiceStatus fetch_status(const std::string& address, const CoordinatorAccess& access,
                           Duration patience);
void expel_worker(const std::string& address, const std::string& run,
                  const CoordinatorAccess& access, std::int32_t worker, const std::string& reason,
                  Duration patience);

}  // namespace ballot

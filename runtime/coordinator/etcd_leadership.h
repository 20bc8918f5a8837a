// Leadership as a key in etcd that lives as long as its owner's lease: /ballot/RUN/leader.
//
// A thread of its own stands for it: while somebody else's key is there it watches it; when it goes
// it takes a lease and puts its own key, if there still is none; then it keeps the lease alive. The
// row is written only on condition that the key is still this one's (etcd_row_store.h), so that a
// leader which was stopped past its lease writes nothing, whatever it believes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "collectives/transport/grpc_transport.h"  // GrpcTls
#include "core/clock.h"
#include "runtime/coordinator/etcd_address.h"
#include "runtime/coordinator/leadership.h"

namespace ballot {

class EtcdClient;

struct EtcdLeadershipOptions {
  EtcdAddress cluster;
  GrpcTls tls;  // used with etcds://
  std::string run;
  std::string name;  // of this coordinator, as others are told of it
  // How long others wait after its last sign of life. Whole seconds, rounded up; etcd may make it
  // longer (by default at least 2 s).
  Duration lease = std::chrono::seconds(5);
  Duration call = std::chrono::seconds(2);  // how long one member of etcd may take to answer
};

class EtcdLeadership final : public Leadership {
 public:
  // ConfigError or FileError for TLS files that cannot work. Waits for nobody.
  explicit EtcdLeadership(EtcdLeadershipOptions options);
  // Gives its lease back, so that another one leads at once. Bounded by a few calls.
  ~EtcdLeadership() override;

  bool leads() const override;
  std::string standing() const override;

  // While it leads: the revision at which its key was made, which names this leadership and no
  // other, earlier or later one.
  std::optional<std::int64_t> key_revision() const;
  // Somebody has seen that this key is not there any more.
  void lost(std::int64_t key_revision);

  const EtcdLeadershipOptions& options() const { return options_; }
  std::string key() const;

 private:
  void run();
  void stand();
  void campaign();
  void keep();
  void give_back();
  void say(std::string standing);
  bool pause(Duration time);  // whether it goes on

  const EtcdLeadershipOptions options_;
  std::unique_ptr<EtcdClient> client_;  // the thread's
  std::int64_t lease_ = 0;              // the thread's; 0: none

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::optional<std::int64_t> key_revision_;
  TimePoint until_{};
  std::string standing_ = "etcd has not been asked yet";
  std::thread thread_;
};

}  // namespace ballot

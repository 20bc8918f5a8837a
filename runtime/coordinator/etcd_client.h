// One thread's connection to an etcd cluster: reads, conditional writes, leases, waiting for a key
// to go. Private to this folder: it brings etcd's messages and gRPC's headers.
//
// One member is spoken to at a time; after a failed call the next one of the list is dialed. All
// calls end at their deadline, whatever the cluster does. TransportError, naming the cluster, where
// it does not do what it was asked for; nothing is known then of whether it will have done it.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/clock.h"
#include "proto/etcd.pb.h"
#include "runtime/coordinator/coordinator_access.h"
#include "runtime/coordinator/etcd_address.h"

namespace ballot {

class EtcdClient {
 public:
  struct Value {
    std::string bytes;
    std::int64_t create_revision = 0, mod_revision = 0, lease = 0;
  };
  struct Reading {
    std::optional<Value> value;  // none: there is no such key
    std::int64_t revision = 0;   // of the store, as it was read
  };
  // What became of a transaction.
  struct Answer {
    enum class Kind { yes, no, refused, unclear };  // no: the condition did not hold
    Kind kind = Kind::unclear;
    std::string why;  // refused or unclear
    etcdserverpb::TxnResponse response;
  };

  // `call`: how long one member may take to answer. ConfigError or FileError for TLS files that
  // cannot work. Dials nobody yet.
  EtcdClient(EtcdAddress cluster, const GrpcTls& tls, Duration call);

  // Every member is asked, until one answers. The answer is the majority's.
  Reading read(const std::string& key);
  // Asks one member once: what was unclear has to be read.
  Answer transact(const etcdserverpb::TxnRequest& request);
  struct Granted {
    std::int64_t lease = 0;
    Duration time = {};
  };
  Granted grant(Duration time);
  // The time it lasts from now on; 0: there is none such any more.
  Duration keep_alive(std::int64_t lease);
  void revoke(std::int64_t lease);
  // Returns once the key is not there at a revision from `revision` on, or at the deadline, or when
  // interrupt() is called: what is so now has to be read.
  void wait_gone(const std::string& key, std::int64_t revision, Deadline deadline);

  // From another thread: ends wait_gone(), now and from now on.
  void interrupt();

  std::string name() const { return cluster_.text(); }

 private:
  using Call = std::function<grpc::Status(grpc::ClientContext&)>;
  const std::shared_ptr<grpc::Channel>& channel();
  grpc::Status call(Duration limit, const Call& body);
  void next_member();
  [[noreturn]] void fail(const std::string& doing, const grpc::Status& status) const;

  const EtcdAddress cluster_;
  CoordinatorAccess access_;
  const Duration call_;
  std::size_t member_ = 0;
  std::shared_ptr<grpc::Channel> channel_;
  std::mutex mutex_;
  grpc::ClientContext* waiting_ = nullptr;  // of wait_gone()
  bool interrupted_ = false;
};

std::string etcd_key(const std::string& run, const char* leaf);  // "/ballot/RUN/row"

}  // namespace ballot

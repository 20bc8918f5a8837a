#include "runtime/coordinator/etcd_client.h"

#include <algorithm>

#include "core/error.h"
#include "proto/etcd.grpc.pb.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/grpc_ends.h"

namespace ballot {
namespace {

namespace pb = etcdserverpb;

std::chrono::system_clock::time_point system_time_in(Duration duration) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(duration);
}

// etcd's own refusal, before anything was done. Whatever may come from the way to it, or after the
// request has gone to the other members, is not.
bool is_refusal(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::NOT_FOUND:
      return status.error_message().starts_with("etcdserver: ");
    default:
      return false;
  }
}

}  // namespace

std::string etcd_key(const std::string& run, const char* leaf) {
  return fmt::format("/ballot/{}/{}", run, leaf);
}

EtcdClient::EtcdClient(EtcdAddress cluster, const GrpcTls& tls, Duration call)
    : cluster_(std::move(cluster)), call_(call) {
  require(!cluster_.members.empty(), "an etcd cluster without members");
  if (cluster_.tls && !tls.given())
    throw ConfigError("store {}: expected --tls-ca, --tls-certificate and --tls-key",
                      cluster_.text());
  if (cluster_.tls) access_.tls = tls;
  access_.tls.name.clear();  // of this cluster's members, not of a coordinator
  prepare_grpc_process();
  make_server_credentials(access_);  // reads the TLS files
}

const std::shared_ptr<grpc::Channel>& EtcdClient::channel() {
  if (channel_ == nullptr) channel_ = make_channel(cluster_.members[member_], access_);
  return channel_;
}

// With a channel of its own: one that has failed waits longer and longer before it dials again.
void EtcdClient::next_member() {
  channel_.reset();
  member_ = (member_ + 1) % cluster_.members.size();
}

grpc::Status EtcdClient::call(Duration limit, const Call& body) {
  grpc::Status status;
  try {
    channel();
    grpc::ClientContext context;
    context.set_deadline(system_time_in(limit));
    status = body(context);
  } catch (const TransportError& error) {  // a name that does not resolve (now)
    status = {grpc::StatusCode::UNAVAILABLE, error.what()};
  }
  if (!status.ok() && !is_refusal(status)) next_member();
  return status;
}

void EtcdClient::fail(const std::string& doing, const grpc::Status& status) const {
  throw TransportError("{}: cannot {}: {}", name(), doing, describe(status));
}

EtcdClient::Reading EtcdClient::read(const std::string& key) {
  pb::RangeRequest request;
  request.set_key(key);
  pb::RangeResponse response;
  grpc::Status status;
  for (std::size_t tries = 0; tries < cluster_.members.size(); ++tries) {
    status = call(call_, [&](grpc::ClientContext& context) {
      return pb::KV::NewStub(channel_)->Range(&context, request, &response);
    });
    if (status.ok() || is_refusal(status)) break;
  }
  if (!status.ok()) fail(fmt::format("read {}", printable(key)), status);
  Reading reading;
  reading.revision = response.header().revision();
  if (response.kvs_size() > 0) {
    pb::KeyValue& found = *response.mutable_kvs(0);
    reading.value = Value{std::move(*found.mutable_value()), found.create_revision(),
                          found.mod_revision(), found.lease()};
  }
  return reading;
}

EtcdClient::Answer EtcdClient::transact(const pb::TxnRequest& request) {
  Answer answer;
  const grpc::Status status = call(call_, [&](grpc::ClientContext& context) {
    return pb::KV::NewStub(channel_)->Txn(&context, request, &answer.response);
  });
  if (status.ok()) {
    answer.kind = answer.response.succeeded() ? Answer::Kind::yes : Answer::Kind::no;
  } else {
    answer.kind = is_refusal(status) ? Answer::Kind::refused : Answer::Kind::unclear;
    answer.why = fmt::format("{}: {}", name(), describe(status));
  }
  return answer;
}

EtcdClient::Granted EtcdClient::grant(Duration time) {
  pb::LeaseGrantRequest request;
  request.set_ttl(std::chrono::ceil<std::chrono::seconds>(time).count());
  pb::LeaseGrantResponse response;
  const grpc::Status status = call(call_, [&](grpc::ClientContext& context) {
    return pb::Lease::NewStub(channel_)->LeaseGrant(&context, request, &response);
  });
  if (!status.ok()) fail("be granted a lease", status);
  if (!response.error().empty() || response.id() == 0 || response.ttl() <= 0)
    throw TransportError("{}: granted lease {} of {} s: {}", name(), response.id(), response.ttl(),
                         printable(response.error()));
  return {response.id(), std::chrono::seconds(response.ttl())};
}

Duration EtcdClient::keep_alive(std::int64_t lease) {
  pb::LeaseKeepAliveRequest request;
  request.set_id(lease);
  pb::LeaseKeepAliveResponse response;
  const grpc::Status status = call(call_, [&](grpc::ClientContext& context) {
    const auto stream = pb::Lease::NewStub(channel_)->LeaseKeepAlive(&context);
    const bool answered = stream->Write(request) && stream->Read(&response);
    if (!answered) return stream->Finish();
    context.TryCancel();  // one answer is all that is wanted
    stream->Finish();
    return grpc::Status::OK;
  });
  if (!status.ok()) fail("keep its lease", status);
  if (response.id() != lease)
    throw TransportError("{}: kept lease {}, asked for {}", name(), response.id(), lease);
  return std::chrono::seconds(std::max<std::int64_t>(0, response.ttl()));
}

void EtcdClient::revoke(std::int64_t lease) {
  pb::LeaseRevokeRequest request;
  request.set_id(lease);
  pb::LeaseRevokeResponse response;
  const grpc::Status status = call(call_, [&](grpc::ClientContext& context) {
    return pb::Lease::NewStub(channel_)->LeaseRevoke(&context, request, &response);
  });
  if (!status.ok() && status.error_code() != grpc::StatusCode::NOT_FOUND)
    fail("give back its lease", status);
}

void EtcdClient::wait_gone(const std::string& key, std::int64_t revision, Deadline deadline) {
  pb::WatchRequest request;
  request.mutable_create_request()->set_key(key);
  request.mutable_create_request()->set_start_revision(revision);
  const Duration limit = deadline.at - std::chrono::steady_clock::now();
  const grpc::Status status = call(limit, [&](grpc::ClientContext& context) {
    // A member that is cut off from the others ends the stream, instead of saying nothing.
    context.AddMetadata("hasleader", "true");
    {
      const std::lock_guard lock(mutex_);
      if (interrupted_) return grpc::Status::OK;
      waiting_ = &context;
    }
    const auto stream = pb::Watch::NewStub(channel_)->Watch(&context);
    bool gone = false;
    pb::WatchResponse response;
    for (bool open = stream->Write(request); open && !gone && stream->Read(&response);) {
      gone = response.canceled() || response.compact_revision() != 0;
      for (const pb::Event& event : response.events())
        gone = gone || event.type() == pb::Event::DELETE;
    }
    if (gone) context.TryCancel();
    grpc::Status end = stream->Finish();
    const std::lock_guard lock(mutex_);
    waiting_ = nullptr;
    return gone || interrupted_ || deadline.passed() ? grpc::Status::OK : end;
  });
  if (!status.ok() && status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED)
    fail(fmt::format("watch {}", printable(key)), status);
}

void EtcdClient::interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  if (waiting_ != nullptr) waiting_->TryCancel();
}

}  // namespace ballot

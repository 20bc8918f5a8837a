#include "runtime/coordinator/etcd_leadership.h"

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/etcd_client.h"

namespace ballot {
namespace {

constexpr Duration kPause = std::chrono::milliseconds(200);  // after a failure
// The key is read anew so often even if nothing is heard of it.
constexpr Duration kLongestWatch = std::chrono::seconds(10);

}  // namespace

EtcdLeadership::EtcdLeadership(EtcdLeadershipOptions options)
    : options_(std::move(options)),
      client_(std::make_unique<EtcdClient>(options_.cluster, options_.tls, options_.call)) {
  thread_ = std::thread([this] { run(); });
}

EtcdLeadership::~EtcdLeadership() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  client_->interrupt();
  thread_.join();
}

std::string EtcdLeadership::key() const {
  return etcd_key(options_.run, "leader");
}

bool EtcdLeadership::leads() const {
  return key_revision().has_value();
}

std::optional<std::int64_t> EtcdLeadership::key_revision() const {
  const std::lock_guard lock(mutex_);
  return std::chrono::steady_clock::now() < until_ ? key_revision_ : std::nullopt;
}

std::string EtcdLeadership::standing() const {
  const std::lock_guard lock(mutex_);
  if (key_revision_ && std::chrono::steady_clock::now() >= until_)
    return "leads no more: its lease may have ended, etcd does not answer";
  return standing_;
}

void EtcdLeadership::lost(std::int64_t key_revision) {
  const std::lock_guard lock(mutex_);
  if (key_revision_ != key_revision) return;
  key_revision_.reset();
  changed_.notify_all();
}

// Said once, until it changes.
void EtcdLeadership::say(std::string standing) {
  {
    const std::lock_guard lock(mutex_);
    if (standing == standing_) return;
    standing_ = standing;
  }
  log_info("{}", standing);
}

bool EtcdLeadership::pause(Duration time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [&] { return ending_; });
}

void EtcdLeadership::run() {
  do {
    try {
      stand();
    } catch (const std::exception& error) {
      say(fmt::format("nobody is known to lead: {}", describe_failure(error).message));
    }
  } while (pause(kPause));
  try {
    give_back();
  } catch (const std::exception& error) {
    log_warning("another coordinator leads only after the lease's {:.0f} s: {}",
                seconds(options_.lease), describe_failure(error).message);
  }
}

// Until it has led, or somebody else has, or a call failed.
void EtcdLeadership::stand() {
  give_back();
  const EtcdClient::Reading seen = client_->read(key());
  if (!seen.value) return campaign();
  say(fmt::format("stands by: {} leads", printable(seen.value->bytes)));
  client_->wait_gone(key(), seen.revision + 1, Deadline::in(kLongestWatch));
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return;
  }
  if (!client_->read(key()).value) campaign();
}

void EtcdLeadership::campaign() {
  const TimePoint asked = std::chrono::steady_clock::now();
  const EtcdClient::Granted granted = client_->grant(options_.lease);
  lease_ = granted.lease;
  etcdserverpb::TxnRequest request;
  etcdserverpb::Compare& absent = *request.add_compare();
  absent.set_target(etcdserverpb::Compare::CREATE);
  absent.set_key(key());
  absent.set_create_revision(0);
  etcdserverpb::PutRequest& put = *request.add_success()->mutable_request_put();
  put.set_key(key());
  put.set_value(options_.name);
  put.set_lease(lease_);
  const EtcdClient::Answer answer = client_->transact(request);
  // What is unclear ends with the lease, which is given back before anything else is tried.
  if (answer.kind == EtcdClient::Answer::Kind::no) return;
  if (answer.kind != EtcdClient::Answer::Kind::yes) throw TransportError("{}", answer.why);
  {
    const std::lock_guard lock(mutex_);
    key_revision_ = answer.response.header().revision();
    until_ = asked + granted.time;
  }
  say(fmt::format("leads by lease {:016x} of {:.0f} s in {}", static_cast<std::uint64_t>(lease_),
                  seconds(granted.time), client_->name()));
  keep();
}

void EtcdLeadership::keep() {
  std::string why;
  std::unique_lock lock(mutex_);
  TimePoint next = until_ - 2 * (until_ - std::chrono::steady_clock::now()) / 3;
  while (true) {
    changed_.wait_until(lock, std::min(next, until_), [&] { return ending_ || !key_revision_; });
    const TimePoint now = std::chrono::steady_clock::now();
    if (ending_) break;
    if (!key_revision_) why = "its key has gone";
    if (now >= until_) why = fmt::format("its lease could not be kept{}", why);
    if (!key_revision_ || now >= until_) break;
    lock.unlock();
    std::optional<Duration> kept;
    try {
      kept = client_->keep_alive(lease_);
      why.clear();
    } catch (const TransportError& error) {
      why = fmt::format(": {}", error.what());
    }
    lock.lock();
    if (kept == Duration(0)) {
      why = "its lease has ended";
      break;
    }
    if (kept) until_ = now + *kept;
    next = now + (kept ? *kept / 3 : kPause);
  }
  key_revision_.reset();
  const bool ending = ending_;
  lock.unlock();
  if (!ending) say(fmt::format("leads no more: {}", why));
}

void EtcdLeadership::give_back() {
  if (lease_ == 0) return;
  client_->revoke(lease_);
  lease_ = 0;
}

}  // namespace ballot

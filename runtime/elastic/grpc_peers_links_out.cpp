#include "runtime/elastic/grpc_peers_links_out.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/convert.h"  // printable
#include "runtime/coordinator/grpc_ends.h"
#include "runtime/elastic/grpc_peers_ends.h"
#include "runtime/elastic/peer_frames_requests.h"

namespace ballot {
namespace {

constexpr Duration kLongestPause = std::chrono::milliseconds(500);
// Nobody listens: the process is gone, and one that is started anew is another incarnation.
constexpr Duration kRefusedFor = std::chrono::milliseconds(300);
// A link that was open for less and broke is not opened again at once.
constexpr Duration kShortLived = std::chrono::seconds(1);
// Frames that wait on one link: ballots and verdicts of a few steps. A link that falls behind is
// opened anew, after which WorkerCore says what still matters.
constexpr std::size_t kMostQueued = 16;

TimePoint now() {
  return std::chrono::steady_clock::now();
}

}  // namespace

// All but dial() with the hub's mutex held.
class LinksOut::Link : public std::enable_shared_from_this<Link> {
 public:
  Link(std::shared_ptr<PeersHub> hub, const Hello& hello, const TermWorker& peer)
      : hub_(std::move(hub)),
        hello_(encode_hello(hello)),
        term_(hello.term),
        peer_(peer),
        pause_(hub_->options.hello_pause),
        due_(now()),
        patience_until_(due_ + hub_->options.link_patience) {}

  PeersHub& hub() const { return *hub_; }
  const std::shared_ptr<PeersHub>& hub_owner() const { return hub_; }
  const std::string& hello() const { return hello_; }
  std::int64_t term() const { return term_; }
  const Identity& peer() const { return peer_.identity; }
  bool over() const { return over_; }
  bool wants_to_dial() const { return !over_ && stream_ == nullptr && due_ <= now(); }
  // When look() or a dial is due.
  std::optional<TimePoint> next() const {
    if (over_ || open_) return std::nullopt;
    return stream_ == nullptr ? std::min(due_, patience_until_) : patience_until_;
  }
  void look() {
    if (!over_ && !open_ && now() >= patience_until_) lose();
  }
  const std::shared_ptr<Stream>& open_stream() const {
    static const std::shared_ptr<Stream> none;
    return open_ ? stream_ : none;
  }
  // No more, and nothing more is told of it.
  void drop() {
    dropped_ = true;
    close();
  }
  // The same, but what was sent still leaves. The stream that it leaves by, if there is one.
  std::shared_ptr<Stream> drain();
  void dial();

  void accepted(const Stream* stream);
  void ended(const Stream* stream, const grpc::Status& status);

 private:
  void close();
  void failed(const std::string& why, bool refused);
  void lose();
  void wait() {
    due_ = now() + pause_;
    pause_ = std::min(2 * pause_, kLongestPause);
  }

  const std::shared_ptr<PeersHub> hub_;
  const std::string hello_;
  const std::int64_t term_;
  const TermWorker peer_;
  std::shared_ptr<grpc::Channel> channel_;  // to say Hello again on
  std::shared_ptr<Stream> stream_;          // dialing or open
  bool open_ = false, over_ = false, dropped_ = false;
  Duration pause_;
  TimePoint due_, patience_until_, opened_{};
  std::optional<TimePoint> refused_since_;
  std::string last_failure_ = "no answer";
};

// One try of a link. Holds itself until gRPC has done with it.
class LinksOut::Stream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                               public std::enable_shared_from_this<Stream> {
 public:
  Stream(std::shared_ptr<Link> link, std::shared_ptr<grpc::Channel> channel)
      : link_(std::move(link)),
        hub_(link_->hub_owner()),
        channel_(std::move(channel)),
        stub_(channel_) {}

  // These with the hub's mutex held.
  void start() {
    self_ = shared_from_this();
    ++hub_->streams;
    if (!hub_->token.empty()) context_.AddMetadata(kTokenKey, hub_->token);
    context_.AddMetadata(kLinkHelloKey, link_->hello());
    stub_.PrepareBidiStreamingCall(&context_, kLinkMethod, {}, this);
    AddHold();  // for writes from other threads
    StartRead(&read_);
    StartCall();
  }
  void close() {
    if (closed_) return;
    closed_ = true;
    queue_.clear();
    context_.TryCancel();
    if (!writing_) return release();
    if (end_.local_port == 0) return;
    hub_->stuck.push_back(end_);  // perhaps: it is this link's alone
    hub_->changed.notify_all();
  }
  // What is queued leaves, then it ends. Lets go of the lock for a while.
  void drain(std::unique_lock<std::mutex>& lock) {
    draining_ = true;
    write_next(lock);
  }
  bool is_over() const { return closed_ || self_ == nullptr; }
  // Lets go of the lock for a while.
  void send(std::unique_lock<std::mutex>& lock, OutgoingFrame frame) {
    if (closed_) return;
    if (queue_.size() >= kMostQueued) {
      log_warning("the link to worker {} is {} frames behind, it is opened anew",
                  link_->peer().worker, queue_.size());
      return close();
    }
    queue_.push_back(std::move(frame));
    write_next(lock);
  }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  void OnReadDone(bool ok) override {
    const std::lock_guard lock(hub_->mutex);
    if (!ok || answered_) return close();  // it has nothing else to say
    answered_ = true;
    if (closed_) return;
    note_connection();
    link_->accepted(this);
    read_.Clear();
    StartRead(&read_);
  }
  void OnWriteDone(bool ok) override {
    const std::shared_ptr<Stream> alive = shared_from_this();
    write_.Clear();
    std::unique_lock lock(hub_->mutex);
    writing_ = false;
    if (closed_) return release();
    if (!ok) return;  // the read fails as well, and tells
    write_next(lock);
  }
  void OnDone(const grpc::Status& status) override {
    std::shared_ptr<Stream> last;  // destroyed outside the mutex
    const std::lock_guard lock(hub_->mutex);
    last.swap(self_);
    cutter_.reset();
    link_->ended(this, status);
    --hub_->streams;
    hub_->changed.notify_all();
  }

 private:
  // The answer says how the peer sees this end.
  void note_connection() {
    try {
      const NetworkAddress mine = parse_grpc_peer(printable(to_bytes(read_)));
      const NetworkAddress other = parse_grpc_peer(context_.peer());
      end_ = {mine.port, other.ip, other.port};
    } catch (const TransportError&) {  // then it is not found
    }
  }
  // Whoever sets writing_ alone touches the cutter and what is written.
  void write_next(std::unique_lock<std::mutex>& lock) {
    if (writing_ || closed_) return;
    if (!cutter_ || cutter_->done()) {
      cutter_.reset();
      if (queue_.empty()) {
        if (draining_ && holds_) {
          StartWritesDone();
          release();
        }
        return;
      }
      cutter_.emplace(std::move(queue_.front()), frames_++);
      queue_.pop_front();
    }
    writing_ = true;
    lock.unlock();
    const OutgoingPiece piece = cutter_->next();
    write_ = to_message(piece, cutter_->owner());
    hub_->sent += piece.bytes;
    lock.lock();
    if (!closed_) return StartWrite(&write_);
    writing_ = false;
    release();
  }
  void release() {
    if (std::exchange(holds_, false)) RemoveHold();
  }

  const std::shared_ptr<Link> link_;
  const std::shared_ptr<PeersHub> hub_;
  const std::shared_ptr<grpc::Channel> channel_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer read_, write_;
  std::deque<OutgoingFrame> queue_;
  std::optional<PieceCutter> cutter_;
  std::uint64_t frames_ = 0;
  ConnectionEnd end_;
  bool writing_ = false, closed_ = false, answered_ = false, draining_ = false;
  bool holds_ = true;  // see AddHold()
  std::shared_ptr<Stream> self_;
};

void LinksOut::Link::close() {
  over_ = true;
  open_ = false;
  if (stream_ != nullptr) stream_->close();
  stream_.reset();
  channel_.reset();
}

std::shared_ptr<LinksOut::Stream> LinksOut::Link::drain() {
  dropped_ = over_ = true;
  const bool was_open = std::exchange(open_, false);
  std::shared_ptr<Stream> stream = std::exchange(stream_, nullptr);
  channel_.reset();
  if (stream == nullptr || was_open) return stream;
  stream->close();
  return nullptr;
}

void LinksOut::Link::dial() {
  std::shared_ptr<grpc::Channel> channel;
  {
    const std::lock_guard lock(hub_->mutex);
    channel = channel_;
  }
  try {
    if (channel == nullptr) channel = dial_peer(peer_.address, hub_->options);
  } catch (const std::exception& error) {
    const std::lock_guard lock(hub_->mutex);
    if (!over_) failed(describe_failure(error).message, false);
    return;
  }
  const std::lock_guard lock(hub_->mutex);
  if (over_) return;
  stream_ = std::make_shared<Stream>(shared_from_this(), std::move(channel));
  stream_->start();
}

void LinksOut::Link::accepted(const Stream* stream) {
  if (over_ || stream != stream_.get()) return;
  open_ = true;
  opened_ = now();
  refused_since_.reset();
  channel_.reset();
  log_debug("the link to worker {} of term {} is open", peer_.identity.worker, term_);
  hub_->events.post([link = shared_from_this()] {
    {
      const std::lock_guard lock(link->hub_->mutex);
      if (link->over_) return;
    }
    link->hub_->handlers.link_opened(link->term_, link->peer_.identity);
  });
}

void LinksOut::Link::ended(const Stream* stream, const grpc::Status& status) {
  if (over_ || stream != stream_.get()) return;
  const bool was_open = open_;
  const std::shared_ptr<grpc::Channel> channel = stream_->channel();
  stream_.reset();
  open_ = false;
  if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION) {
    log_info("worker {} at {} refuses the link of term {}: {}", peer_.identity.worker,
             peer_.address, term_, describe(status));
    return close();
  }
  if (was_open) {
    patience_until_ = now() + hub_->options.link_patience;
    if (now() - opened_ >= kShortLived) {
      pause_ = hub_->options.hello_pause;
      due_ = now();
      return hub_->changed.notify_all();
    }
  }
  if (status.error_code() == grpc::StatusCode::ABORTED) {  // not yet: it is there
    channel_ = channel;
    refused_since_.reset();
    wait();
    patience_until_ = due_ + hub_->options.link_patience;
    return hub_->changed.notify_all();
  }
  channel_.reset();
  failed(describe(status), status.error_message().find("Connection refused") != std::string::npos);
}

void LinksOut::Link::failed(const std::string& why, bool refused) {
  last_failure_ = why;
  if (!refused) refused_since_.reset();
  if (refused && !refused_since_) refused_since_ = now();
  if (now() >= patience_until_ || (refused && now() - *refused_since_ >= kRefusedFor))
    return lose();
  wait();
  if (refused) due_ = std::min(due_, now() + kRefusedFor / 4);
  hub_->changed.notify_all();
}

void LinksOut::Link::lose() {
  const std::string why = fmt::format("no link to {}: {}", peer_.address, last_failure_);
  close();
  hub_->events.post([link = shared_from_this(), why] {
    {
      const std::lock_guard lock(link->hub_->mutex);
      if (link->dropped_) return;
    }
    link->hub_->handlers.peer_lost(link->term_, link->peer_.identity, why);
  });
}

LinksOut::LinksOut(std::shared_ptr<PeersHub> hub) : hub_(std::move(hub)) {
  thread_ = std::thread([this] { run(); });
}

LinksOut::~LinksOut() {
  stop();
}

void LinksOut::open(const TermRecord& record, const Identity& me) {
  const std::lock_guard lock(hub_->mutex);
  for (const auto& link : links_) link->drop();
  links_.clear();
  if (stopping_) return;
  const Hello hello{hub_->options.run, record.term, me};
  for (const TermWorker& worker : record.workers)
    if (worker.identity.worker != me.worker)
      links_.push_back(std::make_shared<Link>(hub_, hello, worker));
  hub_->changed.notify_all();
}

void LinksOut::close() {
  std::unique_lock lock(hub_->mutex);
  // A peer may need the verdict that was sent last, or its step is made again.
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& link : std::exchange(links_, {}))
    if (std::shared_ptr<Stream> stream = link->drain()) streams.push_back(std::move(stream));
  const TimePoint until = now() + hub_->options.link_patience;
  for (const auto& stream : streams) {
    draining_.emplace_back(stream, until);
    stream->drain(lock);
  }
  hub_->changed.notify_all();
}

void LinksOut::send(const Identity& to, std::int64_t term, OutgoingFrame frame) {
  std::unique_lock lock(hub_->mutex);
  for (const auto& link : links_) {
    if (link->peer() != to || link->term() != term) continue;
    const std::shared_ptr<Stream> stream = link->open_stream();
    if (stream != nullptr) stream->send(lock, std::move(frame));
    return;
  }
}

void LinksOut::stop() {
  {
    const std::lock_guard lock(hub_->mutex);
    stopping_ = true;
    for (const auto& link : links_) link->drop();
    links_.clear();
    for (const auto& [stream, until] : draining_) stream->close();
    draining_.clear();
    hub_->changed.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  std::unique_lock lock(hub_->mutex);
  end_stuck(lock);
}

void LinksOut::end_stuck(std::unique_lock<std::mutex>& lock) {
  const std::vector<ConnectionEnd> stuck = std::exchange(hub_->stuck, {});
  lock.unlock();
  for (const ConnectionEnd& end : stuck) end_connection(end);
  lock.lock();
}

void LinksOut::run() {
  std::unique_lock lock(hub_->mutex);
  while (!stopping_) {
    if (!hub_->stuck.empty()) {
      end_stuck(lock);
      continue;  // it let go of the lock
    }
    std::vector<std::shared_ptr<Link>> due;
    TimePoint wake = TimePoint::max();
    std::erase_if(draining_, [&](const auto& entry) {
      if (entry.first->is_over()) return true;
      if (now() < entry.second) {
        wake = std::min(wake, entry.second);
        return false;
      }
      entry.first->close();
      return true;
    });
    for (const auto& link : links_) {
      link->look();
      if (link->wants_to_dial())
        due.push_back(link);
      else if (const auto next = link->next())
        wake = std::min(wake, *next);
    }
    if (!hub_->stuck.empty()) continue;  // of what was closed just now
    if (!due.empty()) {
      lock.unlock();
      for (const auto& link : due) link->dial();
      due.clear();
      lock.lock();
    } else if (wake == TimePoint::max()) {
      hub_->changed.wait(lock);
    } else {
      hub_->changed.wait_until(lock, wake);
    }
  }
}

}  // namespace ballot

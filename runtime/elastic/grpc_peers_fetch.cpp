#include "runtime/elastic/grpc_peers_fetch.h"

#include "core/error.h"
#include "runtime/elastic/grpc_peers_reader.h"
#include "runtime/elastic/peer_frames_requests.h"

namespace ballot {

PeerFetcher::PeerFetcher(std::shared_ptr<PeersHub> hub) : hub_(std::move(hub)) {
  thread_ = std::thread([this] { run(); });
}

PeerFetcher::~PeerFetcher() {
  stop();
}

void PeerFetcher::fetch(const Source& source, const Fetch& fetch, Deadline deadline) {
  const std::lock_guard lock(hub_->mutex);
  wanted_ = Wanted{source, fetch, deadline, ++number_};
  if (current_ != nullptr) current_->cancel();
  hub_->changed.notify_all();
}

void PeerFetcher::stop() {
  {
    const std::lock_guard lock(hub_->mutex);
    stopping_ = true;
    ++number_;
    if (current_ != nullptr) current_->cancel();
    hub_->changed.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void PeerFetcher::tell(std::int64_t number, std::function<void()> handler) {
  hub_->events.post([this, number, handler = std::move(handler)] {
    {
      const std::lock_guard lock(hub_->mutex);
      if (number != number_) return;
    }
    handler();
  });
}

void PeerFetcher::run() {
  std::unique_lock lock(hub_->mutex);
  while (true) {
    hub_->changed.wait(lock, [&] { return stopping_ || wanted_; });
    if (stopping_) return;
    const Wanted wanted = *std::exchange(wanted_, std::nullopt);
    lock.unlock();
    try {
      auto reply = std::make_shared<FetchReply>(read(wanted));
      tell(wanted.number, [hub = hub_, source = wanted.source.identity, reply] {
        hub->handlers.fetched(source, std::move(*reply));
      });
    } catch (const std::exception& error) {
      tell(wanted.number,
           [hub = hub_, source = wanted.source.identity, why = describe_failure(error).message] {
             hub->handlers.fetch_failed(source, why);
           });
    }
    lock.lock();
  }
}

FetchReply PeerFetcher::read(const Wanted& wanted) {
  FrameReader reader(hub_, wanted.source,
                     {kFetchMethod, encode_fetch({hub_->options.run, wanted.fetch}), kFetchKinds,
                      hub_->options.most_reply_bytes},
                     wanted.deadline);
  // While it lives, a newer fetch cancels it.
  const auto set_current = [&](FrameReader* current) {
    const std::lock_guard lock(hub_->mutex);
    current_ = current;
    if (wanted.number != number_) reader.cancel();
  };
  set_current(&reader);
  struct Reset {
    const decltype(set_current)& set;
    ~Reset() { set(nullptr); }
  } const reset{set_current};

  const auto refuse = [&](const std::string& why) {
    hub_->refuse_frame(Refusal::malformed, wanted.source.address, why);
    throw TransportError("worker {} at {}: {}", wanted.source.identity.worker,
                         wanted.source.address, why);
  };
  std::optional<PeerFrame> frame = reader.next();
  if (!frame || !std::holds_alternative<ReplyFrame>(*frame))
    refuse("an answer to a fetch that does not begin with a reply");
  auto [reply, records] = std::get<ReplyFrame>(std::move(*frame));
  if (reply.from != wanted.fetch.from)
    refuse(fmt::format("records after step {}, asked for those after step {}", reply.from.step,
                       wanted.fetch.from.step));
  std::uint64_t bytes = 0;
  while ((frame = reader.next())) {
    auto* record = std::get_if<RecordFrame>(&*frame);
    if (record == nullptr || reply.records.size() == records)
      refuse(fmt::format("something else than the {} records of its reply", records));
    bytes += record->bytes;
    if (bytes > hub_->options.most_reply_bytes)
      refuse(fmt::format("records of more than {} bytes", hub_->options.most_reply_bytes));
    const Position before = reply.records.empty() ? reply.from : reply.records.back()->position();
    if (record->record->step != before.step + 1 || record->record->previous != before.digest)
      refuse(fmt::format("a record of step {} that does not follow step {}", record->record->step,
                         before.step));
    hub_->fetched += record->bytes;
    reply.records.push_back(std::move(record->record));
  }
  if (reply.records.size() != records)
    refuse(fmt::format("{} of {} records", reply.records.size(), records));
  return std::move(reply);
}

}  // namespace ballot

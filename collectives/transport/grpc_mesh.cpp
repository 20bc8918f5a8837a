#include "collectives/transport/grpc_mesh.h"

#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "collectives/transport/grpc_credentials.h"
#include "core/error.h"
#include "core/log.h"

namespace ballot {
namespace {

// Smaller payloads are copied behind their header: cheaper than lending a slice.
constexpr std::size_t kCopiedBytes = 8192;
// Small frames that wait for each other travel together, up to about this many bytes.
constexpr std::size_t kTogetherBytes = std::size_t{64} << 10;
// Small early frames are copied out of gRPC's read buffers, which are much larger.
constexpr std::size_t kPinnedBytes = std::size_t{64} << 10;

void check_options(const GrpcOptions& options) {
  const auto expect = [](bool holds, const auto& what, const auto& value, const char* expected) {
    if (!holds) throw ConfigError("grpc {} = {}: expected {}", what, value, expected);
  };
  expect(options.size >= 1 && options.size <= 4096, "size", options.size, "1 to 4096");
  expect(options.rank >= 0 && options.rank < options.size, "rank", options.rank,
         "at least 0 and less than the size");
  expect(options.frame_bytes >= 4096 && options.frame_bytes <= kMostFrameBytes, "frame_bytes",
         options.frame_bytes, "4 KiB to 2 MiB");
  expect(options.io_threads >= 1 && options.io_threads <= 64, "io_threads", options.io_threads,
         "1 to 64");
  expect(options.keepalive >= std::chrono::seconds(1), "keepalive", seconds(options.keepalive),
         "1 second or more");
}

// gRPC's own complaints (a handshake that failed, say) belong into the log of the worker.
void log_from_grpc(gpr_log_func_args* args) {
  if (args->severity == GPR_LOG_SEVERITY_ERROR)
    log_warning("gRPC: {}", args->message);
  else
    log_debug("gRPC: {}", args->message);
}

// Once a process. gRPC 1.51 destroys its event engine with the last channel or server and waits for
// its threads then, up to seconds and, from one of those threads, for ever: a channel that is never
// used and never destroyed keeps the engine.
void prepare_grpc() {
  gpr_set_log_function(log_from_grpc);
  static const auto* const kept = new std::shared_ptr<grpc::Channel>(
      grpc::CreateChannel("ipv4:127.0.0.1:1", grpc::InsecureChannelCredentials()));
  (void)kept;
}

// What a peer says, without what a terminal would obey.
std::string printable(ConstBytes text) {
  std::string result;
  for (const std::byte byte : text) {
    const char c = static_cast<char>(byte);
    result += c >= ' ' && c <= '~' ? c : '?';
  }
  return result;
}

// gRPC gives a lent slice back.
void give_back(void* user_data) {
  auto* outbound = static_cast<Outbound*>(user_data);
  MeshSignal& signal = *outbound->signal;
  const std::lock_guard lock(signal.mutex);
  if (--outbound->lent == 0) signal.notify();
}

}  // namespace

Mesh::Mesh(const GrpcOptions& options) : options_(options) {
  check_options(options_);
  static const bool prepared = (prepare_grpc(), true);
  (void)prepared;
  for (int r = 0; r < options_.size; ++r) {
    peers_.push_back(std::make_unique<Peer>(options_.frame_bytes));
    peers_.back()->rank = r;
  }
  if (options_.size == 1) return;
  const Deadline deadline = Deadline::in(options_.connect);
  rendezvous_ = resolve(parse_host_port(options_.rendezvous, "rendezvous"));
  NetworkAddress& mine = mine_ = rendezvous_;
  if (!options_.host.empty())
    mine = resolve({options_.host, rendezvous_.port});
  else if (options_.rank != 0)
    mine = address_towards(rendezvous_);
  if (options_.rank != 0) mine.port = 0;
  const GrpcCredentials credentials = make_credentials(options_, rendezvous_, mine);
  try {
    mine = listen(mine, credentials);
    if (options_.rank == 0)
      desk_ = std::make_unique<JoinDesk>(options_, mine, service_, *queue_, signal_);
    for (int i = 0; i < options_.io_threads; ++i) threads_.emplace_back([this] { serve(); });
    wire::Table table;
    if (options_.rank == 0) {
      desk_->open();
      table = desk_->wait(deadline);
    } else {
      rendezvous_channel_ = grpc::CreateCustomChannel(rendezvous_.grpc_target(), credentials.dial,
                                                      channel_arguments(options_));
      table = join(options_, rendezvous_, mine, rendezvous_channel_, deadline);
    }
    connect(table, credentials, deadline);
  } catch (...) {
    shut_down();
    throw;
  }
}

Mesh::~Mesh() {
  end();
  {
    const Deadline deadline = Deadline::in(options_.linger);
    std::unique_lock lock(signal_.mutex);
    signal_.changed.wait_until(lock, deadline.at, [&] {
      return signal_.cutting || std::ranges::all_of(peers_, [&](const auto& peer) {
               return peer->rank == options_.rank || peer->farewell ||
                      peer->state == PeerState::lost || peer->state == PeerState::rejected;
             });
    });
  }
  shut_down();
}

void Mesh::shut_down() {
  if (queue_ == nullptr) return;
  cut();
  queue_->Shutdown();
  for (std::thread& thread : threads_) thread.join();
  void* tag = nullptr;
  for (bool ok = false; queue_->Next(&tag, &ok);) {
  }
}

NetworkAddress Mesh::listen(const NetworkAddress& address, const GrpcCredentials& credentials) {
  grpc::ServerBuilder builder;
  set_server_arguments(options_, builder);
  int port = 0;
  builder.AddListeningPort(address.text(), credentials.listen, &port);
  builder.RegisterService(&service_);
  queue_ = builder.AddCompletionQueue();
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    const std::string reason = why_not_listen(address);
    const std::string text =
        fmt::format("rank {} cannot listen at {}: {}", options_.rank, address.text(),
                    reason.empty() ? "gRPC refuses the address or the TLS files" : reason);
    if (reason.empty()) throw ConfigError("{}", text);
    throw TransportError("{}", text);
  }
  NetworkAddress result = address;
  result.port = static_cast<std::uint16_t>(port);
  return result;
}

void Mesh::connect(const wire::Table& table, const GrpcCredentials& credentials,
                   Deadline deadline) {
  term_ = table.term();
  for (int r = 0; r < options_.size; ++r) {
    const std::lock_guard lock(signal_.mutex);
    at(r).address = table.addresses(r);
  }
  for (auto& owned : peers_) {
    Peer& peer = *owned;
    peer.opened.run = [this, &peer](bool ok) { was_opened(peer, ok); };
    peer.was_read.run = [this, &peer](bool ok) { was_read(peer, ok); };
    peer.was_written.run = [this, &peer](bool ok) {
      if (ok) {  // otherwise the read fails as well, and tells
        {
          const std::lock_guard lock(signal_.mutex);
          peer.writing = false;
        }
        pump(peer.rank);
      }
      end_operation(peer);
    };
    peer.finished.run = [this, &peer](bool) {
      lose(peer, PeerState::lost,
           peer.status.error_message().empty() ? "its connection was closed"
                                               : peer.status.error_message());
      end_operation(peer);
    };
  }
  take_next_caller();
  for (int r = 0; r < options_.rank; ++r) {
    if (r == 0) {
      at(0).dialed = rendezvous_;
      dial(at(0), std::move(rendezvous_channel_));
      continue;
    }
    at(r).dialed = resolve(parse_host_port(table.addresses(r), "a peer's address"));
    dial(at(r), grpc::CreateCustomChannel(at(r).dialed.grpc_target(), credentials.dial,
                                          channel_arguments(options_)));
  }
  std::unique_lock lock(signal_.mutex);
  while (true) {
    std::vector<int> missing;
    std::string addresses;
    for (const auto& peer : peers_) {
      if (peer->rank == options_.rank) continue;
      if (peer->state == PeerState::lost || peer->state == PeerState::rejected)
        throw PeerLost("rank {} could not connect to rank {} at {}: {}", options_.rank, peer->rank,
                       peer->address, peer->why);
      if (peer->state != PeerState::connecting) continue;
      missing.push_back(peer->rank);
      addresses += (addresses.empty() ? "" : ", ") + peer->address;
    }
    if (missing.empty()) return;
    if (deadline.passed())
      throw Timeout("rank {} waited for the connection with {} at {} past its deadline",
                    options_.rank, name_ranks(missing), addresses);
    signal_.changed.wait_until(lock, deadline.at);
  }
}

void Mesh::dial(Peer& peer, std::shared_ptr<grpc::Channel> channel) {
  wire::Hello hello = make_hello(options_);
  hello.set_term(term_);
  auto stream = std::make_unique<DialedStream>(std::move(channel), hello, *queue_, &peer.opened);
  DialedStream& dialed = *stream;
  peer.stream = std::move(stream);
  if (!begin_operation(peer)) return;
  if (begin_operation(peer)) dialed.dial();  // another for this call, as in pump()
  end_operation(peer);
}

void Mesh::take_next_caller() {
  auto owned = std::make_unique<Caller>();
  Caller* caller = owned.get();
  caller->stream = std::make_unique<AcceptedStream>();
  caller->called.run = [this, caller](bool ok) {
    if (ok) answer(*caller);
  };
  caller->refused.run = [this, caller](bool) {
    std::unique_ptr<Caller> gone;  // destroyed outside the mutex
    const std::lock_guard lock(signal_.mutex);
    const auto found =
        std::ranges::find_if(callers_, [&](const auto& other) { return other.get() == caller; });
    gone = std::move(*found);
    callers_.erase(found);
  };
  {
    const std::lock_guard lock(signal_.mutex);
    if (signal_.cutting) return;
    callers_.push_back(std::move(owned));
  }
  caller->stream->accept(service_, *queue_, &caller->called);
}

void Mesh::answer(Caller& caller) {
  take_next_caller();
  wire::Hello hello;
  std::string why = "it does not say who it is";
  if (hello.ParseFromString(caller.stream->hello())) why = why_refused(options_, hello);
  if (why.empty() && hello.term() != term_)
    why = fmt::format("it is of term 0x{:016x}, expected 0x{:016x}", hello.term(), term_);
  if (why.empty() && hello.rank() < options_.rank)
    why = fmt::format("rank {} dials rank {}, expected to be dialed", hello.rank(), options_.rank);
  Peer* peer = nullptr;
  if (why.empty()) {
    peer = &at(hello.rank());
    const std::lock_guard lock(signal_.mutex);
    if (signal_.cutting)
      why = "this worker ends";
    else if (peer->stream != nullptr)
      why = fmt::format("rank {} has connected before", hello.rank());
    else
      peer->stream = std::move(caller.stream), ++peer->operations;
  }
  if (!why.empty()) {
    log_warning("a stream from {} is refused: {}", caller.stream->who(), why);
    caller.stream->refuse({grpc::StatusCode::FAILED_PRECONDITION, why}, &caller.refused);
    return;
  }
  static_cast<AcceptedStream&>(*peer->stream).welcome(&peer->opened);
}

void Mesh::was_opened(Peer& peer, bool ok) {
  const auto* dialed = dynamic_cast<const DialedStream*>(peer.stream.get());
  const auto* accepted = dynamic_cast<const AcceptedStream*>(peer.stream.get());
  std::string seen_as;
  if (ok) seen_as = dialed != nullptr ? dialed->welcome() : accepted->who();
  if (!seen_as.empty()) {
    {
      const NetworkAddress seen = parse_grpc_peer(seen_as);
      const std::lock_guard lock(signal_.mutex);
      if (dialed != nullptr)
        peer.end = {seen.port, peer.dialed.ip, peer.dialed.port};
      else
        peer.end = {mine_.port, seen.ip, seen.port};
      if (peer.state == PeerState::connecting) peer.state = PeerState::up;
      signal_.notify();
    }
    read_next(peer);
  } else {
    ask_why(peer);
  }
  end_operation(peer);
}

bool Mesh::begin_operation(Peer& peer) {
  const std::lock_guard lock(signal_.mutex);
  if (signal_.cutting || peer.over) return false;
  ++peer.operations;
  return true;
}

void Mesh::end_operation(Peer& peer) {
  std::unique_ptr<PeerStream> gone;  // destroyed outside the mutex: it gives back lent slices
  const std::lock_guard lock(signal_.mutex);
  if (--peer.operations > 0) return;
  if (peer.over) gone = std::move(peer.stream);
  signal_.notify();
}

void Mesh::read_next(Peer& peer) {
  if (begin_operation(peer)) peer.stream->read(&peer.message, &peer.was_read);
}

void Mesh::ask_why(Peer& peer) {
  if (begin_operation(peer)) {
    if (peer.stream->finish(&peer.status, &peer.finished)) return;
    end_operation(peer);
  }
  lose(peer, PeerState::lost, "its connection was closed");
}

void Mesh::was_read(Peer& peer, bool ok) {
  if (ok) {
    try {
      handle_message(peer);
      read_next(peer);
    } catch (const TransportError& error) {
      log_warning("rank {} at {} is cut off: {}", peer.rank, peer.address, error.what());
      {
        const std::lock_guard lock(signal_.mutex);
        ++rejected_frames_;
      }
      lose(peer, PeerState::rejected, error.what());
    }
  } else {
    ask_why(peer);
  }
  end_operation(peer);
}

void Mesh::handle_message(Peer& peer) {
  auto slices = std::make_shared<std::vector<grpc::Slice>>();
  std::uint64_t left = peer.message.Length();
  if (!peer.message.Dump(slices.get()).ok()) throw TransportError("a message that cannot be read");
  peer.message.Clear();

  // Takes the next bytes of the slices, however they are cut; there must be as many.
  std::size_t slice = 0, offset = 0;
  const auto take = [&](std::uint64_t bytes, const auto& body) {
    left -= bytes;
    while (bytes > 0) {
      const grpc::Slice& current = (*slices)[slice];
      const std::size_t count =
          static_cast<std::size_t>(std::min<std::uint64_t>(bytes, current.size() - offset));
      if (count > 0)
        body(ConstBytes(reinterpret_cast<const std::byte*>(current.begin()) + offset, count));
      offset += count;
      bytes -= count;
      if (offset == current.size()) ++slice, offset = 0;
    }
  };
  const auto take_into = [&](std::byte* out, std::uint64_t bytes) {
    take(bytes, [&](ConstBytes piece) {
      std::memcpy(out, piece.data(), piece.size());
      out += piece.size();
    });
  };
  do {
    std::array<std::byte, kFrameHeaderBytes> first{};
    const std::uint64_t bytes = left;
    const std::size_t there = static_cast<std::size_t>(std::min<std::uint64_t>(left, first.size()));
    take_into(first.data(), there);
    const FrameHeader header = read_frame_header(ConstBytes(first).first(there), bytes, term_,
                                                 static_cast<std::uint32_t>(peer.rank));
    std::array<ReadyNotice, kMostNotices> notices;
    take_into(reinterpret_cast<std::byte*>(notices.data()), header.notices * sizeof(ReadyNotice));
    FramePayload payload;
    if (header.length > kPinnedBytes) {
      take(header.length, [&](ConstBytes piece) { payload.pieces.push_back(piece); });
      payload.owner = slices;
    } else if (header.length > 0) {
      auto copy = std::make_shared<std::vector<std::byte>>(header.length);
      take_into(copy->data(), header.length);
      payload.pieces = {*copy};
      payload.owner = std::move(copy);
    }
    handle_frame(peer, header, std::span(notices).first(header.notices), std::move(payload));
  } while (left > 0);
  pump(peer.rank);  // notices and leaves may have let something go
}

void Mesh::handle_frame(Peer& peer, const FrameHeader& header, std::span<const ReadyNotice> notices,
                        FramePayload payload) {
  std::vector<FramePayload> garbage;  // destroyed outside the mutex
  std::unique_lock lock(signal_.mutex);
  for (const ReadyNotice& notice : notices) peer.outbox.ready(notice);
  switch (header.kind) {
    case FrameKind::data: {
      if (peer.state == PeerState::left) throw TransportError("a message after its leave");
      Inbound* inbound = peer.inbox.receive(header, std::move(payload));
      if (inbound != nullptr) copy_held(lock, peer.rank, *inbound);
      break;
    }
    case FrameKind::notice:
      break;
    case FrameKind::leave:
      if (peer.state == PeerState::left) throw TransportError("a second leave");
      peer.state = PeerState::left;
      peer.why = "it left";
      peer.gone = ++gone_;
      if (!payload.pieces.empty()) peer.why += ", it says: " + printable(payload.pieces.front());
      peer.outbox.peer_left();
      signal_.notify();
      break;
    case FrameKind::left:
      peer.farewell = true;
      signal_.notify();
      break;
  }
  garbage = peer.inbox.take_garbage();
}

void Mesh::copy_held(std::unique_lock<std::mutex>& lock, int rank, Inbound& inbound) {
  Peer& peer = at(rank);
  while (std::optional<HeldFrame> frame = peer.inbox.take(inbound)) {
    lock.unlock();
    copy_frame(inbound, *frame);
    frame->payload = {};  // back to gRPC, outside the mutex
    lock.lock();
    peer.inbox.copied(inbound, *frame);
    if (inbound.arrived) signal_.notify();
  }
  if (inbound.wrong_total) signal_.notify();
}

std::vector<ConstBytes> Mesh::append(Peer& peer, NextFrame& frame) {
  FrameHeader& header = frame.header;
  header.term = term_;
  header.sender = static_cast<std::uint32_t>(options_.rank);
  seal_frame_header(header);
  const auto add = [&](ConstBytes bytes) {
    peer.head.insert(peer.head.end(), bytes.begin(), bytes.end());
  };
  add(std::as_bytes(std::span(&header, 1)));
  add(std::as_bytes(std::span(frame.notices)));
  add(std::as_bytes(std::span(frame.reason)));
  if (frame.outbound == nullptr) return {};
  Outbound& outbound = *frame.outbound;
  std::vector<ConstBytes> pieces = take_pieces(outbound, header.length);
  if (header.length > kCopiedBytes) {
    outbound.lent += static_cast<int>(pieces.size());
    return pieces;
  }
  for (const ConstBytes piece : pieces) add(piece);
  if (outbound.over()) signal_.notify();
  return {};
}

void Mesh::pump(int rank) {
  Peer& peer = at(rank);
  std::vector<ConstBytes> lent;
  Outbound* lender = nullptr;
  std::vector<grpc::Slice> slices;
  {
    const std::lock_guard lock(signal_.mutex);
    if (peer.writing || signal_.cutting || peer.over ||
        (peer.state != PeerState::up && peer.state != PeerState::left))
      return;
    peer.head.clear();
    while (lent.empty() && peer.head.size() < kTogetherBytes) {
      std::optional<NextFrame> frame = peer.outbox.next();
      if (!frame) break;
      lent = append(peer, *frame);
      lender = frame->outbound;
    }
    if (peer.head.empty()) return;
    slices.reserve(1 + lent.size());
    slices.emplace_back(peer.head.data(), peer.head.size());  // a copy, nothing of gRPC's yet
    peer.writing = true;
    peer.operations += 2;  // the write, and this call, which may return after it has ended
  }
  for (const ConstBytes piece : lent)
    slices.emplace_back(const_cast<std::byte*>(piece.data()), piece.size(), &give_back, lender);
  const grpc::ByteBuffer message(slices.data(), slices.size());
  slices.clear();
  peer.stream->write(message, &peer.was_written);
  end_operation(peer);
}

void Mesh::lose(Peer& peer, PeerState state, const std::string& why) {
  {
    const std::lock_guard lock(signal_.mutex);
    if (peer.state == PeerState::lost || peer.state == PeerState::rejected) return;
    if (peer.state == PeerState::left && state == PeerState::lost) {
      peer.farewell = true;
    } else {
      peer.state = state;
      peer.why = why;
      peer.gone = ++gone_;
      if (first_loss_.empty())
        first_loss_ = fmt::format("rank {} at {}: {}", peer.rank, peer.address, why);
    }
    peer.outbox.fail();
    signal_.notify();
  }
  if (!begin_operation(peer)) return;
  if (peer.stream != nullptr) peer.stream->cancel();
  {
    const std::lock_guard lock(signal_.mutex);
    peer.over = true;
  }
  end_operation(peer);
}

void Mesh::end() {
  {
    const std::lock_guard lock(signal_.mutex);
    if (ended_) return;
    ended_ = true;
    for (auto& peer : peers_) peer->outbox.leave(first_loss_);
    signal_.notify();
  }
  for (const auto& peer : peers_)
    if (peer->rank != options_.rank) pump(peer->rank);
}

void Mesh::cut() {
  {
    const std::lock_guard lock(signal_.mutex);
    if (signal_.cutting) return;
    signal_.cutting = ended_ = true;
    for (const auto& peer : peers_) peer->outbox.fail();
    signal_.notify();
  }
  for (const auto& peer : peers_) {
    bool open = false;
    {
      const std::lock_guard lock(signal_.mutex);
      open = peer->stream != nullptr;
      if (open) ++peer->operations;
    }
    if (!open) continue;
    peer->stream->cancel();
    if (peer->end.local_port != 0) end_connection(peer->end);
    end_operation(*peer);
  }
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  {
    std::unique_lock lock(signal_.mutex);
    const bool over = signal_.changed.wait_until(lock, Deadline::in(release_time()).at, [&] {
      return running_ == 0 &&
             std::ranges::all_of(peers_, [](const auto& peer) { return peer->operations == 0; });
    });
    if (!over) {
      log_error("gRPC does not end its operations {} s after the connections were cut: giving up",
                seconds(release_time()));
      std::abort();
    }
  }
  // What was dialed is closed with its channel; what was accepted, the server has closed.
  rendezvous_channel_.reset();
  for (const auto& peer : peers_) peer->stream.reset();
}

void Mesh::serve() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
    {
      const std::lock_guard lock(signal_.mutex);
      ++running_;
    }
    try {
      static_cast<CompletionEvent*>(tag)->run(ok);
    } catch (const std::exception& error) {
      log_error("rank {}: a thread of the grpc transport: {}", options_.rank,
                describe_failure(error).message);
      for (const auto& peer : peers_)
        if (peer->rank != options_.rank) lose(*peer, PeerState::lost, error.what());
    }
    const std::lock_guard lock(signal_.mutex);
    if (--running_ == 0 && signal_.cutting) signal_.notify();
  }
}

}  // namespace ballot

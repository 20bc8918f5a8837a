#include "collectives/transport/mpi_transport.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <thread>

#include "collectives/transport/mpi_reducer.h"
#include "core/error.h"
#include "core/log.h"

namespace ballot {
namespace {

constexpr auto kShortestSleep = std::chrono::microseconds(20);
constexpr auto kLongestSleep = std::chrono::microseconds(200);
constexpr std::uint64_t kTags = 32768;  // the standard promises tags up to 32767
constexpr std::uint64_t kKeptTags = kTags / 2;

class MpiTransport;

// One persistent request per part (and per piece of a part above the largest message); persistent
// requests are matched in the order they are started, so a part's place in the list is its name.
class MpiTransfer final : public Transfer {
 public:
  MpiTransfer(MpiTransport& transport, Purpose purpose, int tag, std::span<const SendParts> to,
              std::span<const ReceiveParts> from);
  ~MpiTransfer() override;
  void start() override;
  bool done() override {
    poll();
    return left_ == 0;
  }
  void wait(Deadline deadline) override;
  const std::vector<bool>& arrived() override {
    poll();
    return arrived_;
  }

 private:
  struct Piece {
    int peer;
    bool incoming;
    int bytes;
  };
  void poll();
  void finish(std::size_t index, const MPI_Status& status);

  MpiTransport& transport_;
  Purpose purpose_;
  std::vector<MPI_Request> requests_;
  std::vector<Piece> pieces_;
  std::vector<bool> active_;
  std::vector<int> done_;  // what MPI_Testsome gives back
  std::vector<MPI_Status> statuses_;
  std::vector<int> incoming_;       // pieces by rank
  std::vector<int> incoming_left_;  // of this start
  std::vector<std::size_t> incoming_bytes_, outgoing_bytes_;
  std::vector<bool> sends_to_;
  std::vector<bool> arrived_;
  int left_ = 0;
};

class MpiTransport final : public Transport {
 public:
  MpiTransport(MPI_Comm communicator, std::size_t piece_bytes)
      : communicator_(communicator), piece_bytes_(piece_bytes), reducer_(*this, communicator) {
    check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "set the error handler");
    check_mpi(MPI_Comm_rank(communicator_, &rank_), "tell the rank");
    check_mpi(MPI_Comm_size(communicator_, &size_), "tell the number of ranks");
  }
  ~MpiTransport() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!ended_ && !reducer_.ended() && finalized == 0) MPI_Comm_free(&communicator_);
  }

  std::string name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Reducer* reducer() override { return &reducer_; }

  // MPI over TCP moves only while it is called: the pause stays short while things move.
  void idle(Duration at_most) override {
    const auto pause = std::min<Duration>(at_most, sleep_);
    if (pause > Duration::zero()) std::this_thread::sleep_for(pause);
    sleep_ = std::min<Duration>(sleep_ * 2, kLongestSleep);
  }

  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    require(color >= 0, "split by color {}, expected 0 or more", color);
    barrier(deadline);  // MPI_Comm_split knows no deadline; once all have come it is short
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(communicator_, color, rank_, &part), "split a communicator");
    return std::make_unique<MpiTransport>(part, piece_bytes_);
  }

  Traffic traffic() const override { return traffic_ + reducer_.traffic(); }

  MPI_Comm communicator() const { return communicator_; }
  std::size_t piece_bytes() const { return piece_bytes_; }
  void end() { ended_ = true; }
  void require_usable() const {
    if (ended_)
      throw TransportError("mpi rank {}: its transport was ended by an earlier failure", rank_);
  }
  void count_sent(Purpose purpose, std::size_t bytes) {
    traffic_.bytes_sent[static_cast<std::size_t>(purpose)] += bytes;
    ++traffic_.messages_sent[static_cast<std::size_t>(purpose)];
  }
  void count_received(Purpose purpose, std::size_t bytes) {
    traffic_.bytes_received[static_cast<std::size_t>(purpose)] += bytes;
  }
  void has_moved() { sleep_ = kShortestSleep; }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t number, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    require_usable();
    if (number < kOnce && number >= kKeptTags)
      throw Unavailable("mpi: {} transfers are open, expected at most {}", number + 1, kKeptTags);
    const std::uint64_t tag =
        number < kOnce ? number : kKeptTags + (number - kOnce) % (kTags - kKeptTags);
    return std::make_unique<MpiTransfer>(*this, purpose, static_cast<int>(tag), to, from);
  }

 private:
  MPI_Comm communicator_;
  std::size_t piece_bytes_;
  int rank_ = 0, size_ = 1;
  bool ended_ = false;
  Duration sleep_ = kShortestSleep;
  Traffic traffic_;
  MpiReducer reducer_;
};

// Runs body(offset, bytes) over the pieces of a part. The last is always shorter than a whole
// piece, so that two sides that expect different sizes see it in a piece, whatever the sizes.
template <class Body>
void for_each_piece(std::size_t size, std::size_t piece_bytes, const Body& body) {
  for (std::size_t offset = 0;; offset += piece_bytes) {
    const std::size_t bytes = std::min(piece_bytes, size - offset);
    body(offset, static_cast<int>(bytes));
    if (bytes < piece_bytes) return;
  }
}

MpiTransfer::MpiTransfer(MpiTransport& transport, Purpose purpose, int tag,
                         std::span<const SendParts> to, std::span<const ReceiveParts> from)
    : transport_(transport),
      purpose_(purpose),
      incoming_(to.size()),
      incoming_left_(to.size()),
      incoming_bytes_(to.size()),
      outgoing_bytes_(to.size()),
      sends_to_(to.size()),
      arrived_(to.size(), true) {
  // Everybody starts with another peer, so that a rank is not sent to by all at once.
  const auto for_each_peer = [&](const auto& body) {
    for (int i = 1; i < transport.size(); ++i) body((transport.rank() + i) % transport.size());
  };
  const auto add = [&](int peer, bool incoming, int bytes) {
    requests_.push_back(MPI_REQUEST_NULL);
    pieces_.push_back({peer, incoming, bytes});
    return &requests_.back();
  };
  for_each_peer([&](int peer) {
    const std::size_t p = static_cast<std::size_t>(peer);
    incoming_bytes_[p] = size_bytes(from[p]);
    for (const Bytes target : from[p])
      for_each_piece(target.size(), transport.piece_bytes(), [&](std::size_t offset, int bytes) {
        ++incoming_[p];
        check_mpi(MPI_Recv_init(target.data() + offset, bytes, MPI_BYTE, peer, tag,
                                transport.communicator(), add(peer, true, bytes)),
                  "prepare to receive");
      });
  });
  for_each_peer([&](int peer) {
    const std::size_t p = static_cast<std::size_t>(peer);
    sends_to_[p] = !to[p].empty();
    outgoing_bytes_[p] = size_bytes(to[p]);
    for (const ConstBytes source : to[p])
      for_each_piece(source.size(), transport.piece_bytes(), [&](std::size_t offset, int bytes) {
        check_mpi(MPI_Send_init(source.data() + offset, bytes, MPI_BYTE, peer, tag,
                                transport.communicator(), add(peer, false, bytes)),
                  "prepare to send");
      });
  });
  active_.resize(requests_.size());
  done_.resize(requests_.size());
  statuses_.resize(requests_.size());
}

void MpiTransfer::start() {
  require(left_ == 0, "a transfer of rank {} is started while it is under way", transport_.rank());
  transport_.require_usable();
  for (std::size_t p = 0; p < incoming_.size(); ++p) {
    incoming_left_[p] = incoming_[p];
    arrived_[p] = incoming_[p] == 0;
    if (sends_to_[p]) transport_.count_sent(purpose_, outgoing_bytes_[p]);
  }
  left_ = static_cast<int>(requests_.size());
  active_.assign(requests_.size(), true);
  if (left_ > 0) check_mpi(MPI_Startall(left_, requests_.data()), "start a transfer");
  transport_.has_moved();
}

MpiTransfer::~MpiTransfer() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) return;
  // Receives can be taken back; sends cannot be, so this transport is of no more use.
  if (left_ > 0) transport_.end();
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    if (left_ > 0 && active_[i] && pieces_[i].incoming) {
      // A receive whose message has begun to arrive cannot be cancelled, and waiting for it would
      // wait for ever when its sender is frozen.
      MPI_Cancel(&requests_[i]);
      int done = 0;
      MPI_Test(&requests_[i], &done, MPI_STATUS_IGNORE);
    }
    MPI_Request_free(&requests_[i]);
  }
}

void MpiTransfer::finish(std::size_t index, const MPI_Status& status) {
  const Piece& piece = pieces_[index];
  active_[index] = false;
  --left_;
  if (!piece.incoming) return;
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  if (bytes != piece.bytes)
    throw TransportError("rank {} sent {} bytes to rank {}, expected {}", piece.peer, bytes,
                         transport_.rank(), piece.bytes);
  const std::size_t peer = static_cast<std::size_t>(piece.peer);
  if (--incoming_left_[peer] == 0) {
    arrived_[peer] = true;
    transport_.count_received(purpose_, incoming_bytes_[peer]);
  }
}

void MpiTransfer::poll() {
  if (left_ == 0) return;
  int count = 0;
  const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                done_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS)
    check_mpi(code, "test for finished transfers");
  if (count == MPI_UNDEFINED || count == 0) return;
  transport_.has_moved();
  for (int i = 0; i < count; ++i) {
    const std::size_t k = static_cast<std::size_t>(i);
    const std::size_t index = static_cast<std::size_t>(done_[k]);
    const Piece& piece = pieces_[index];
    if (code == MPI_ERR_IN_STATUS && statuses_[k].MPI_ERROR != MPI_SUCCESS) {
      int error_class = 0;
      MPI_Error_class(statuses_[k].MPI_ERROR, &error_class);
      active_[index] = false;
      --left_;
      if (error_class == MPI_ERR_TRUNCATE)
        throw TransportError("rank {} sent more bytes to rank {} than the {} expected", piece.peer,
                             transport_.rank(), piece.bytes);
      throw PeerLost("rank {}: {}", piece.peer, mpi_error_text(statuses_[k].MPI_ERROR));
    }
    finish(index, statuses_[k]);
  }
}

void MpiTransfer::wait(Deadline deadline) {
  for (;;) {
    poll();
    if (left_ == 0) return;
    if (deadline.passed()) {
      std::vector<int> missing;
      for (std::size_t i = 0; i < requests_.size(); ++i)
        if (active_[i]) missing.push_back(pieces_[i].peer);
      std::ranges::sort(missing);
      missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
      throw Timeout("rank {} waited for {} ({}) past its deadline", transport_.rank(),
                    name_ranks(missing), to_string(purpose_));
    }
    transport_.idle(kLongestSleep);
  }
}

}  // namespace

MpiSession::MpiSession() : exceptions_(std::uncaught_exceptions()) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  require(initialized == 0, "a second MPI session in one process");
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "start");
  if (provided < MPI_THREAD_SERIALIZED)
    throw Unavailable("MPI offers thread level {}, expected at least {} (serialized)", provided,
                      static_cast<int>(MPI_THREAD_SERIALIZED));
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_) {
    log_error("an exception ends this rank: aborting the job");
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::internal));
  }
  MPI_Finalize();
}

int MpiSession::rank() const {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int MpiSession::size() const {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

std::unique_ptr<Transport> MpiSession::world(std::size_t piece_bytes) const {
  require(piece_bytes >= 1 && piece_bytes <= std::size_t{1} << 30, "pieces of {} bytes",
          piece_bytes);
  MPI_Comm communicator = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &communicator), "duplicate the world");
  return std::make_unique<MpiTransport>(communicator, piece_bytes);
}

void MpiSession::abort(int exit_code) const {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);  // MPI_Abort may return
}

}  // namespace ballot

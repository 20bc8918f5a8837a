// The sharded vote between GPUs: ballots go to the owners of chunks and verdicts come back over a
// DeviceLink, and are counted where they arrive.
//
// A piece is handed over as a whole when it starts, and nobody on the host waits in between:
//
//   up:    abstentions -> device (and of a ballot that was cast on the CPU its bits)
//   wire:  chunk w -> rank w; tally of the own chunk; its verdict -> all
//   down:  verdict -> host
//
// Bits cast on the GPU stay there, and the verdict's stay there as well: their copy on the host is
// for the journal and the digest.
//
// Ranks give the link their pieces in one order, because pieces start in order; so nothing else may
// use the link before the last piece has started. At a step's end ranks report to each other, over
// the transport, what they counted and the digest of the verdict that they hold; the reports are
// expected from the step's beginning, so that a rank that the transport knows to be lost is named.
// Messages on the link have no checksums of ours: a verdict damaged on its way is found by those
// digests, a ballot is not.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "collectives/device_tally.h"
#include "collectives/peer_reports.h"
#include "collectives/piece_vote.h"
#include "collectives/transport/device_link.h"
#include "core/copy.h"
#include "core/error.h"
#include "core/event.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

class DeviceVote final : public PieceVote {
 public:
  DeviceVote(const Ballot& ballot, Transport& transport, DeviceLink& link,
             const VoteOptions& options)
      : PieceVote(ballot, transport, options, transport.size(), transport.size()),
        link_(link),
        device_(link.device()),
        rank_(transport.rank()),
        from_host_(ballot.device().kind == Device::Kind::cpu),
        reports_(transport, Purpose::vote, end_bytes()),
        up_(device_),
        wire_(device_),
        down_(device_) {
    states_.resize(queue_.count());
    Places up, down, apart;
    for (std::size_t p = 0; p < states_.size(); ++p) place(p, up, down, apart);
    up_host_ = PinnedBuffer(up.size_bytes(), device_);
    up_device_ = Buffer(up.size_bytes(), device_);
    if (!from_host_)
      require(ballot.device() == device_, "a ballot on {}, a link between {}s",
              to_string(ballot.device()), to_string(device_));
    verdict_.bits = BitVector(layout_.extent(), device_);
    verdict_.device_bits = Buffer(words_bytes(verdict_.bits.word_count()), device_);
    verdict_.held_elements = BitVector(holds_elements() ? layout_.extent() : 0, device_);
    verdict_.device_held_elements =
        Buffer(words_bytes(verdict_.held_elements.word_count()), device_);
    down_host_ = PinnedBuffer(down.size_bytes(), device_);
    down_device_ = Buffer(down.size_bytes(), device_);
    received_ = Buffer(apart.size_bytes(), device_);
    for (State& s : states_) open(s);
    bytes_ += reports_.sent_bytes();
    cost_.ballots = (real_bits_ + 7) / 8;
    cost_.framing = bytes_ - cost_.ballots - cost_.abstentions;
    clear(own_);
  }

  ~DeviceVote() override {
    if (!is_whole()) link_.abort();  // or its streams would never end
  }

 private:
  // Offsets: `up` of up_host_ and up_device_, `down` likewise, the rest of received_.
  struct State {
    BallotChunk range;
    std::vector<BallotChunk> chunks;       // by voter
    std::size_t up_begin = 0, up_end = 0;  // all of the piece's
    std::size_t down_begin = 0, down_end = 0;
    std::size_t ballot_up = 0;                  // the piece's words, if they come from the host
    std::vector<std::size_t> abstentions_up;    // by voter
    std::vector<std::size_t> held_blocks_down;  // by voter
    std::vector<std::size_t> bits_in, abstentions_in;  // by voter; none of the own
    std::vector<DeviceMessage> ballots_to, ballots_from, verdicts_to, verdicts_from;
    std::vector<BallotPart> parts;
    VerdictPart verdict{};
    std::unique_ptr<DeviceTally> tally;
    Event uploaded, counted, home;
  };

  static std::size_t words_bytes(std::int64_t words) { return at(words) * 8; }
  static std::uint64_t* words_at(std::byte* memory, std::size_t offset) {
    return reinterpret_cast<std::uint64_t*>(memory + offset);
  }

  void place(std::size_t p, Places& up, Places& down, Places& apart) {
    State& s = states_[p];
    const PieceRange piece = queue_.pieces().ranges()[p];
    s.range = layout_.chunk(piece.begin, piece.end, 0, 1);
    for (int v = 0; v < voters_; ++v)
      s.chunks.push_back(layout_.chunk(piece.begin, piece.end, v, voters_));
    const BallotChunk& mine = s.chunks[at(rank_)];
    s.up_begin = up.size_bytes();
    if (from_host_) s.ballot_up = up.add(words_bytes(s.range.word_count()));
    s.down_begin = down.size_bytes();
    for (int v = 0; v < voters_; ++v) {
      s.abstentions_up.push_back(up.add(words_bytes(block_words(s.chunks[at(v)]))));
      s.held_blocks_down.push_back(down.add(words_bytes(block_words(s.chunks[at(v)]))));
      const bool other = v != rank_;
      s.bits_in.push_back(other ? apart.add(words_bytes(mine.word_count())) : 0);
      s.abstentions_in.push_back(other ? apart.add(words_bytes(block_words(mine))) : 0);
    }
    s.up_end = up.size_bytes();
    s.down_end = down.size_bytes();
  }

  // A chunk's words on the device: of the ballot, of the verdict's bits or held elements.
  std::byte* ballot_of(const State& s, const BallotChunk& chunk) const {
    return from_host_
               ? up_device_.data() + s.ballot_up + words_bytes((chunk.begin - s.range.begin) / 64)
               : reinterpret_cast<std::byte*>(ballot_.device_bits() + chunk.begin / 64);
  }
  static std::byte* words_of(const Buffer& all, const BallotChunk& chunk) {
    return all.data() + words_bytes(chunk.begin / 64);
  }

  void open(State& s) {
    const BallotChunk& mine = s.chunks[at(rank_)];
    std::byte* const up = up_device_.data();
    std::byte* const down = down_device_.data();
    std::byte* const in = received_.data();
    // A chunk's verdict: bits, held elements, held blocks.
    const auto add_verdict = [&](std::vector<DeviceMessage>& messages, int rank, int voter) {
      const BallotChunk& chunk = s.chunks[at(voter)];
      const std::size_t bytes = words_bytes(chunk.word_count());
      messages.push_back({rank, words_of(verdict_.device_bits, chunk), bytes});
      if (holds_elements())
        messages.push_back({rank, words_of(verdict_.device_held_elements, chunk), bytes});
      messages.push_back(
          {rank, down + s.held_blocks_down[at(voter)], words_bytes(block_words(chunk))});
    };
    for (int v = 0; v < voters_; ++v) {
      const BallotChunk& theirs = s.chunks[at(v)];
      if (v == rank_) {
        s.parts.push_back({words_at(ballot_of(s, mine), 0), words_at(up, s.abstentions_up[at(v)])});
        continue;
      }
      s.parts.push_back({words_at(in, s.bits_in[at(v)]), words_at(in, s.abstentions_in[at(v)])});
      s.ballots_to.push_back({v, ballot_of(s, theirs), words_bytes(theirs.word_count())});
      s.ballots_to.push_back({v, up + s.abstentions_up[at(v)], words_bytes(block_words(theirs))});
      s.ballots_from.push_back({v, in + s.bits_in[at(v)], words_bytes(mine.word_count())});
      s.ballots_from.push_back({v, in + s.abstentions_in[at(v)], words_bytes(block_words(mine))});
      add_verdict(s.verdicts_to, v, rank_);
      add_verdict(s.verdicts_from, v, v);
      count_cost(theirs, 1);
      count_cost(mine, bit_planes());
    }
    s.verdict = {
        words_at(words_of(verdict_.device_bits, mine), 0),
        words_at(down, s.held_blocks_down[at(rank_)]),
        holds_elements() ? words_at(words_of(verdict_.device_held_elements, mine), 0) : nullptr};
    s.tally = std::make_unique<DeviceTally>(layout_, mine, voters_, device_);
    s.tally->take(s.parts, up_);  // now: a count must not wait
    s.uploaded = Event(device_);
    s.counted = Event(device_);
    s.home = Event(device_);
  }

  void count_cost(const BallotChunk& chunk, int planes) {
    real_bits_ += layout_.real_elements(chunk.begin, chunk.end) * planes;
    bytes_ += chunk.word_count() * 8 * planes + block_words(chunk) * 8;
    cost_.abstentions += block_words(chunk) * 8;
  }

  // The end's message of each rank: header, digest of the verdict, statistics of what it counted.
  std::size_t end_bytes() const {
    return kHeaderBytes + sizeof(std::uint64_t) + statistics_bytes();
  }
  // What waits for the wire would wait for ever: a stream that is ended, memory that is given back.
  template <class Body>
  auto or_abort(const Body& body) {
    try {
      return body();
    } catch (...) {
      link_.abort();
      throw;
    }
  }

  void start_piece(std::size_t p) override {
    or_abort([&] { start(p); });
  }
  Progress advance_piece(std::size_t p) override {
    return or_abort([&] { return go_on(p); });
  }
  void give_up_piece(std::size_t p) override {
    or_abort([&] { give_up_waiting(p); });
  }
  bool advance_end() override {
    return or_abort([&] { return end(); });
  }

  void start(std::size_t p) {
    if (p == 0) reports_.expect();
    State& s = states_[p];
    Stopwatch watch;
    std::byte* const host = up_host_.data();
    if (from_host_)
      std::memcpy(host + s.ballot_up, ballot_.bits().words() + s.range.begin / 64,
                  words_bytes(s.range.word_count()));
    for (int v = 0; v < voters_; ++v) {
      const BallotChunk& chunk = s.chunks[at(v)];
      copy_bits(ballot_.abstentions().words(), chunk.first_block,
                words_at(host, s.abstentions_up[at(v)]), 0, block_count(chunk));
    }
    work_seconds_ += watch.lap();  // what follows works on the device, or waits for NCCL
    copy_bytes(up_device_.data() + s.up_begin, device_, host + s.up_begin, Device{},
               s.up_end - s.up_begin, up_);
    s.uploaded.record(up_);
    s.uploaded.hold(wire_);
    link_.exchange(Purpose::vote, s.ballots_to, s.ballots_from, wire_);
    s.tally->count(s.parts, tally_options(), s.verdict, wire_);
    link_.exchange(Purpose::vote, s.verdicts_to, s.verdicts_from, wire_);
    s.counted.record(wire_);
    s.counted.hold(down_);
    copy_bytes(down_host_.data() + s.down_begin, Device{}, down_device_.data() + s.down_begin,
               device_, s.down_end - s.down_begin, down_);
    fetch(verdict_.bits, verdict_.device_bits, s.range);
    if (holds_elements()) fetch(verdict_.held_elements, verdict_.device_held_elements, s.range);
    s.tally->fetch_statistics(down_);
    s.home.record(down_);
  }

  void fetch(const BitVector& to, const Buffer& from, const BallotChunk& range) {
    copy_bytes(to.words() + range.begin / 64, Device{}, words_of(from, range), device_,
               words_bytes(range.word_count()), down_);
  }

  Progress go_on(std::size_t p) {
    State& s = states_[p];
    if (!s.home.done()) {
      link_.check();
      reports_.check();
      return Progress::none;
    }
    Stopwatch watch;
    for (int v = 0; v < voters_; ++v)
      copy_bits(words_at(down_host_.data(), s.held_blocks_down[at(v)]), 0,
                verdict_.held_blocks.words(), s.chunks[at(v)].first_block,
                block_count(s.chunks[at(v)]));
    VoteStatistics counted;
    s.tally->read_statistics(counted, &counted_);
    add(counted, own_);
    work_seconds_ += watch.lap();
    return Progress::done;
  }

  // No transfer of the transport: NCCL knows no ranks that are missing.
  Transfer* waits_for(std::size_t) override { return nullptr; }
  void give_up_waiting(std::size_t p) {
    link_.check();
    throw Timeout(
        "rank {}: piece {} of {} of the vote of step {} has not come back over {}, which does not "
        "say which of the other {} ranks it waits for",
        rank_, p, states_.size(), step_, transport_.name(), voters_ - 1);
  }

  std::uint64_t digest_of_verdict() const {
    const auto add = [](const BitVector& bits, std::uint64_t seed) {
      return XXH3_64bits_withSeed(bits.words(), words_bytes(bits.word_count()), seed);
    };
    std::uint64_t digest = add(verdict_.held_blocks, add(verdict_.bits, 0));
    if (holds_elements()) digest = add(verdict_.held_elements, digest);
    return digest;
  }

  bool end() {
    if (!reported_) {
      const std::uint64_t digest = digest_of_verdict();
      const Bytes mine = reports_.message(rank_);
      std::memcpy(mine.data() + kHeaderBytes, &digest, sizeof digest);
      write(own_, mine.data() + kHeaderBytes + sizeof digest);
      seal_message(header(MessageKind::agreement, rank_, 0, 0), mine);
      reports_.send();
      reported_ = true;
    }
    if (!reports_.done()) return false;
    std::vector<std::uint64_t> digests;
    for (int v = 0; v < voters_; ++v) {
      const Bytes message = reports_.message(v);
      if (v != rank_) check_message(header(MessageKind::agreement, v, 0, 0), message);
      digests.emplace_back();
      std::memcpy(&digests.back(), message.data() + kHeaderBytes, sizeof(std::uint64_t));
      add(message.data() + kHeaderBytes + sizeof(std::uint64_t), verdict_.statistics);
    }
    require_one_verdict(digests);
    clear(own_);
    reported_ = false;
    return true;
  }
  Transfer* end_waits_for() override { return reported_ ? reports_.missing() : nullptr; }

  void require_one_verdict(const std::vector<std::uint64_t>& digests) const {
    const auto holders = [&](std::uint64_t digest) { return std::ranges::count(digests, digest); };
    if (holders(digests.front()) == voters_) return;
    std::vector<int> alone;  // those whom no majority holds with
    for (int v = 0; v < voters_; ++v)
      if (2 * holders(digests[at(v)]) <= voters_) alone.push_back(v);
    throw TransportError(
        "of the verdict of step {} {} hold{} something else than {}: damaged on the way", step_,
        name_ranks(alone), alone.size() == 1 ? "s" : "",
        static_cast<int>(alone.size()) == voters_ ? "each other" : "the rest");
  }

  DeviceLink& link_;
  const Device device_;
  const int rank_;
  const bool from_host_;  // the ballot is cast there
  PinnedBuffer up_host_, down_host_;
  Buffer up_device_, down_device_, received_;
  PeerReports reports_;
  std::vector<State> states_;
  VoteStatistics own_;  // of the chunks that this rank counted
  std::int64_t real_bits_ = 0, bytes_ = 0;
  bool reported_ = false;
  Stream up_, wire_, down_;  // end before what they work on
};

}  // namespace

std::unique_ptr<Vote> make_device_vote(const Ballot& ballot, Transport& transport, DeviceLink& link,
                                       const VoteOptions& options) {
  return std::make_unique<DeviceVote>(ballot, transport, link, options);
}

}  // namespace ballot

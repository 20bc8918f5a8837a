// The sharded vote between GPUs: ballots go to the owners of chunks and verdicts come back over a
// DeviceLink, and are counted where they arrive.
//
//   up:    abstentions -> device (and of a ballot that was cast on the CPU its bits)
//   wire:  chunk w -> rank w; tally of the own chunk; its verdict -> all
//   down:  verdict -> host
#include "collectives/device_piece_vote.h"
#include "collectives/device_tally.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

class DeviceShardedVote final : public DevicePieceVote {
 public:
  DeviceShardedVote(const Ballot& ballot, Transport& transport, DeviceLink& link,
                    const VoteOptions& options)
      : DevicePieceVote(ballot, transport, link, options, transport.size(), transport.size()),
        up_(device_),
        wire_(device_),
        down_(device_) {
    states_.resize(queue_.count());
    Places up, down, apart;
    for (std::size_t p = 0; p < states_.size(); ++p) place(p, up, down, apart);
    up_host_ = PinnedBuffer(up.size_bytes(), device_);
    up_device_ = Buffer(up.size_bytes(), device_);
    down_host_ = PinnedBuffer(down.size_bytes(), device_);
    down_device_ = Buffer(down.size_bytes(), device_);
    received_ = Buffer(apart.size_bytes(), device_);
    for (State& s : states_) open(s);
    end_cost();
  }
  ~DeviceShardedVote() override { abort_unfinished(); }

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

  void place(std::size_t p, Places& up, Places& down, Places& apart) {
    State& s = states_[p];
    const PieceRange piece = queue_.pieces().ranges()[p];
    s.range = layout_.chunk(piece.begin, piece.end, 0, 1);
    for (int v = 0; v < voters_; ++v)
      s.chunks.push_back(layout_.chunk(piece.begin, piece.end, v, voters_));
    const BallotChunk& mine = s.chunks[at(rank_)];
    s.up_begin = up.size_bytes();
    s.ballot_up = place_ballot(s.range, up);
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

  void open(State& s) {
    const BallotChunk& mine = s.chunks[at(rank_)];
    std::byte* const up = up_device_.data();
    std::byte* const down = down_device_.data();
    std::byte* const in = received_.data();
    for (int v = 0; v < voters_; ++v) {
      const BallotChunk& theirs = s.chunks[at(v)];
      std::byte* const bits = ballot_of(s.range, theirs, up + s.ballot_up);
      if (v == rank_) {
        s.parts.push_back({words_at(bits, 0), words_at(up, s.abstentions_up[at(v)])});
        continue;
      }
      s.parts.push_back({words_at(in, s.bits_in[at(v)]), words_at(in, s.abstentions_in[at(v)])});
      s.ballots_to.push_back({v, bits, words_bytes(theirs.word_count())});
      s.ballots_to.push_back({v, up + s.abstentions_up[at(v)], words_bytes(block_words(theirs))});
      s.ballots_from.push_back({v, in + s.bits_in[at(v)], words_bytes(mine.word_count())});
      s.ballots_from.push_back({v, in + s.abstentions_in[at(v)], words_bytes(block_words(mine))});
      const std::int64_t their_blocks = block_words(theirs), blocks = block_words(mine);
      add_verdict(s.verdicts_to, v, mine, down + s.held_blocks_down[at(rank_)], blocks);
      add_verdict(s.verdicts_from, v, theirs, down + s.held_blocks_down[at(v)], their_blocks);
      count_cost(theirs, 1, their_blocks * 8);
      count_cost(mine, bit_planes(), blocks * 8);
    }
    s.verdict = {words_at(device_bits(mine), 0), words_at(down, s.held_blocks_down[at(rank_)]),
                 reinterpret_cast<std::uint64_t*>(device_held_elements(mine))};
    s.tally = std::make_unique<DeviceTally>(layout_, mine, voters_, device_);
    s.tally->take(s.parts, up_);  // now: a count must not wait
    s.uploaded = Event(device_);
    s.counted = Event(device_);
    s.home = Event(device_);
  }

  void start(std::size_t p) override {
    State& s = states_[p];
    Stopwatch watch;
    std::byte* const host = up_host_.data();
    copy_ballot(s.range, host + s.ballot_up);
    for (int v = 0; v < voters_; ++v)
      copy_abstentions(s.chunks[at(v)], words_at(host, s.abstentions_up[at(v)]));
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
    fetch_verdict(s.range, down_);
    s.tally->fetch_statistics(down_);
    s.home.record(down_);
  }
  const Event& home(std::size_t p) const override { return states_[p].home; }

  void take(std::size_t p) override {
    State& s = states_[p];
    for (int v = 0; v < voters_; ++v)
      take_held_blocks(s.chunks[at(v)], words_at(down_host_.data(), s.held_blocks_down[at(v)]));
    VoteStatistics counted;
    s.tally->read_statistics(counted, &counted_);
    add(counted, own_);
  }

  PinnedBuffer up_host_, down_host_;
  Buffer up_device_, down_device_, received_;
  std::vector<State> states_;
  Stream up_, wire_, down_;  // end before what they work on
};

}  // namespace

std::unique_ptr<Vote> make_device_sharded_vote(const Ballot& ballot, Transport& transport,
                                               DeviceLink& link, const VoteOptions& options) {
  return std::make_unique<DeviceShardedVote>(ballot, transport, link, options);
}

}  // namespace ballot

// The lane vote between GPUs: every rank's ballot as counters in lanes of uint32 (lanes.h), summed
// by the DeviceLink in one all-reduce a piece; from the same sums every rank decides the same
// verdict itself.
//
//   up:    abstentions -> device (and of a ballot that was cast on the CPU its bits); both spread
//          into lanes
//   wire:  the sum of everybody's lanes
//   down:  verdict of the sums, agreement of the own ballot with it -> host
//
// Lanes are 2 to 16 times what a ballot is, so two pieces have them at a time: one is spread or
// decided while the other travels.
//
// A count above the number of voters is no sum of ballots and an error that names the piece. That
// ranks sum the same step's pieces of the same vote is found by the reports at its end.
#include "collectives/device_chunk.h"
#include "collectives/device_piece_vote.h"
#include "collectives/lanes.h"
#include "core/error.h"

namespace ballot {
namespace {

constexpr std::size_t kLaneBuffers = 2;

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}
std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
// Words of abstentions, in whole tiles of lanes.
std::int64_t abstention_words(const BallotChunk& chunk) {
  return round_up(block_words(chunk), 8);
}

class DeviceLaneVote final : public DevicePieceVote {
 public:
  DeviceLaneVote(const Ballot& ballot, Transport& transport, DeviceLink& link,
                 const VoteOptions& options)
      : DevicePieceVote(ballot, transport, link, options, transport.size(),
                        lane_owners(transport.size())),
        lane_bits_(lane_bits(voters_)),
        up_(device_),
        wire_(device_),
        down_(device_) {
    states_.resize(queue_.count());
    Places up, down;
    std::int64_t values = 0, sample = 0;
    for (std::size_t p = 0; p < states_.size(); ++p) {
      State& s = states_[p];
      const PieceRange piece = queue_.pieces().ranges()[p];
      s.range = layout_.chunk(piece.begin, piece.end, 0, 1);
      s.element_values = lane_values(s.range.word_count(), lane_bits_);
      const std::int64_t block_values = lane_values(abstention_words(s.range), lane_bits_);
      // A multiple of W: then a ring's share of it is the same everywhere.
      s.values = round_up(s.element_values + block_values, voters_);
      s.up_begin = up.size_bytes();
      s.ballot_up = place_ballot(s.range, up);
      s.abstentions_up = up.add(words_bytes(abstention_words(s.range)));
      s.up_end = up.size_bytes();
      s.held_blocks_down = down.add(words_bytes(block_words(s.range)));
      values = std::max(values, s.values);
      sample = std::max(sample, device_sample_words(s.range));
      count_cost(s, block_values);
    }
    up_host_ = PinnedBuffer(up.size_bytes(), device_);
    up_device_ = Buffer(up.size_bytes(), device_);
    down_host_ = PinnedBuffer(down.size_bytes(), device_);
    down_device_ = Buffer(down.size_bytes(), device_);
    sample_ = Buffer(words_bytes(sample), device_);
    for (Buffer& lanes : lanes_) lanes = Buffer(at(values) * sizeof(std::uint32_t), device_);
    for (State& s : states_) open(s);
    end_cost();
  }
  ~DeviceLaneVote() override { abort_unfinished(); }

 private:
  // Offsets: `up` of up_host_ and up_device_, `down` likewise.
  struct State {
    BallotChunk range;
    std::int64_t element_values = 0, values = 0;  // lanes: of the elements; with those of blocks
    std::size_t up_begin = 0, up_end = 0;
    std::size_t ballot_up = 0;  // the piece's words, if they come from the host
    std::size_t abstentions_up = 0, held_blocks_down = 0;
    VerdictPart verdict{};
    BallotPart mine{};
    std::unique_ptr<DeviceChunk> chunk;
    std::unique_ptr<DeviceBallots> ballot;
    std::unique_ptr<DeviceDecision> decision;
    std::unique_ptr<DeviceComparison> comparison;
    Event spread, summed, decided, home;
  };

  // A piece takes so many owners' chunks that the messages of a ring have a good size.
  static int lane_owners(int voters) {
    return (voters + lane_bits(voters) - 1) / lane_bits(voters);
  }

  // As a ring would send them.
  void count_cost(const State& s, std::int64_t block_values) {
    const std::int64_t passes = 2 * (voters_ - 1);
    real_lanes_ += layout_.real_elements(s.range.begin, s.range.end) * passes;
    real_bits_ = real_lanes_ * lane_bits_ / voters_;
    bytes_ += s.values / voters_ * 4 * passes;
    cost_.abstentions += block_values * 4 * passes / voters_;
  }

  std::uint32_t* lanes_of(std::size_t p) const {
    return lanes_[p % kLaneBuffers].as<std::uint32_t>();
  }

  void open(State& s) {
    s.mine = {words_at(ballot_of(s.range, s.range, up_device_.data() + s.ballot_up), 0),
              words_at(up_device_.data(), s.abstentions_up)};
    s.verdict = {words_at(device_bits(s.range), 0),
                 words_at(down_device_.data(), s.held_blocks_down),
                 reinterpret_cast<std::uint64_t*>(device_held_elements(s.range))};
    s.chunk = std::make_unique<DeviceChunk>(layout_, s.range, device_);
    s.ballot = std::make_unique<DeviceBallots>(1, device_);
    s.ballot->take({&s.mine, 1}, up_);
    s.decision = std::make_unique<DeviceDecision>(*s.chunk, voters_);
    s.comparison = std::make_unique<DeviceComparison>(*s.chunk, 1);
    s.spread = Event(device_);
    s.summed = Event(device_);
    s.decided = Event(device_);
    s.home = Event(device_);
  }

  void start(std::size_t p) override {
    State& s = states_[p];
    Stopwatch watch;
    std::byte* const host = up_host_.data();
    copy_ballot(s.range, host + s.ballot_up);
    copy_abstentions(s.range, words_at(host, s.abstentions_up));
    work_seconds_ += watch.lap();  // what follows works on the device, or waits for NCCL
    copy_bytes(up_device_.data() + s.up_begin, device_, host + s.up_begin, Device{},
               s.up_end - s.up_begin, up_);
    std::uint32_t* const lanes = lanes_of(p);
    if (p >= kLaneBuffers) states_[p - kLaneBuffers].decided.hold(up_);
    cuda_vote().spread_lanes(s.mine.bits, s.range.word_count(), lane_bits_, lanes, up_);
    cuda_vote().spread_lanes(s.mine.abstentions, abstention_words(s.range), lane_bits_,
                             lanes + s.element_values, up_);
    s.spread.record(up_);
    s.spread.hold(wire_);
    link_.sum(Purpose::vote, lanes, s.values, wire_);
    s.summed.record(wire_);
    s.summed.hold(down_);
    auto* const sample = sample_.as<std::uint64_t>();
    cuda_vote().tally_lanes(s.decision->begin(tally_options(), s.verdict, sample, down_), lanes,
                            lanes + s.element_values, down_);
    s.decided.record(down_);
    s.comparison->compare(s.ballot->places(), s.verdict.bits, sample, down_);
    copy_bytes(down_host_.data() + s.held_blocks_down, Device{},
               down_device_.data() + s.held_blocks_down, device_, words_bytes(block_words(s.range)),
               down_);
    fetch_verdict(s.range, down_);
    s.decision->fetch(down_);
    s.comparison->fetch(down_);
    s.home.record(down_);
  }
  const Event& home(std::size_t p) const override { return states_[p].home; }

  void take(std::size_t p) override {
    State& s = states_[p];
    take_held_blocks(s.range, words_at(down_host_.data(), s.held_blocks_down));
    VoteStatistics counted;
    if (!s.decision->read(counted))
      throw TransportError(
          "the sum of lanes of piece {} of step {}: a count is above the {} voters", p, step_,
          voters_);
    // All know all of it but how the others' ballots agree: the first rank says it.
    clear(step_counted_);
    if (rank_ == 0) {
      step_counted_.elements = counted.elements;
      step_counted_.ties = counted.ties;
      step_counted_.unanimous = counted.unanimous;
      step_counted_.held_blocks = counted.held_blocks;
      step_counted_.blocks = counted.blocks;
    }
    const auto me = at(rank_);
    s.comparison->read({&step_counted_.agreed[me], 1}, {&step_counted_.compared[me], 1}, &counted_,
                       me);
    add(step_counted_, own_);
  }

  const int lane_bits_;
  std::int64_t real_lanes_ = 0;
  PinnedBuffer up_host_, down_host_;
  Buffer up_device_, down_device_;
  Buffer lanes_[kLaneBuffers];
  Buffer sample_;  // of one piece at a time
  std::vector<State> states_;
  VoteStatistics step_counted_;
  Stream up_, wire_, down_;  // end before what they work on
};

}  // namespace

std::unique_ptr<Vote> make_device_lane_vote(const Ballot& ballot, Transport& transport,
                                            DeviceLink& link, const VoteOptions& options) {
  return std::make_unique<DeviceLaneVote>(ballot, transport, link, options);
}

}  // namespace ballot

// The lane vote: every rank's ballot as counters in lanes of uint32 (lanes.h), summed by the
// transport's Reducer; from the same sums every rank decides the same verdict itself.
//
// What a piece sums: lanes of its elements, lanes of its blocks' abstentions, then digest, step and
// piece, and a linear checksum. An all-reduce carries no header and no checksum of a message, since
// nobody receives what another sent; what guards it instead: the checksum is linear, so the sum's
// must be the sum of all; digest, step and piece must be W times the own ones; no lane may be above
// W; and in the end all ranks compare digests of what they decided. Damage is found, but nobody can
// say whose it is.
//
// A reducer may need its sums to be started in one order everywhere (MPI does): pieces start in
// order whatever order segments are released in.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>

#include "collectives/count_planes.h"
#include "collectives/lanes.h"
#include "collectives/piece_vote.h"
#include "collectives/transport/reducer.h"
#include "collectives/voter_agreement.h"
#include "core/error.h"

namespace ballot {
namespace {

// After the lanes.
constexpr std::int64_t kDigest = 0, kStep = 2, kPiece = 4, kChecksum = 5, kTail = 6;

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A piece takes so many owners' chunks that the messages of a ring have a good size.
int ring_owners(int voters) {
  return (voters + lane_bits(voters) - 1) / lane_bits(voters);
}

class LaneVote final : public PieceVote {
 public:
  LaneVote(const Ballot& ballot, Transport& transport, const VoteOptions& options)
      : PieceVote(ballot, transport, options, transport.size(), ring_owners(transport.size())),
        lane_bits_(lane_bits(voters_)),
        agreement_(transport, 1, 1) {
    Places places;
    std::int64_t scratch = 0, samples = 0;
    for (const PieceRange range : queue_.pieces().ranges()) {
      State& s = states_.emplace_back();
      s.chunk = layout_.chunk(range.begin, range.end, 0, 1);
      s.element_values = lane_values(s.chunk.word_count(), lane_bits_);
      s.block_values = lane_values(abstention_words(s.chunk), lane_bits_);
      // A multiple of W: then a ring's share of it is the same everywhere.
      s.count = round_up(s.element_values + s.block_values + kTail, voters_);
      s.values = places.add(at(s.count) * sizeof(std::uint32_t));
      s.abstentions = places.add(at(abstention_words(s.chunk)) * 8);
      s.held = places.add(at(block_words(s.chunk)) * 8);
      scratch = std::max(scratch, count_words(s.chunk, voters_));
      samples = std::max(samples, sample_words(s.chunk));
    }
    counts_ = places.add(at(scratch) * 8);
    sample_ = places.add(at(samples) * 8);
    memory_ = Buffer(places.size_bytes());
    for (State& s : states_)
      s.sum = transport.reducer()->open_sum(Purpose::vote, {values(s), at(s.count)});
    clear(own_);
    count_cost();
  }

 private:
  struct State {
    BallotChunk chunk;  // the piece
    std::int64_t element_values = 0, block_values = 0, count = 0;
    std::size_t values = 0, abstentions = 0, held = 0;  // in memory_
    std::unique_ptr<Transfer> sum;
  };

  // Words of abstentions, in whole tiles.
  static std::int64_t abstention_words(const BallotChunk& chunk) {
    return round_up(block_words(chunk), 8);
  }
  std::uint32_t* values(const State& s) const {
    return reinterpret_cast<std::uint32_t*>(memory_.data() + s.values);
  }
  std::uint64_t* words_at(std::size_t offset) const {
    return reinterpret_cast<std::uint64_t*>(memory_.data() + offset);
  }
  std::uint32_t* tail(const State& s) const {
    return values(s) + s.element_values + s.block_values;
  }
  std::int64_t checked_values(const State& s) const {
    return s.element_values + s.block_values + kChecksum;
  }

  void count_cost() {
    const std::int64_t passes = 2 * (voters_ - 1);
    std::int64_t real_bits = 0, block_bytes = 0, bytes = agreement_.sent_bytes();
    for (const State& s : states_) {
      real_bits += layout_.real_elements(s.chunk.begin, s.chunk.end) * lane_bits_;
      block_bytes += s.block_values * 4;
      bytes += s.count / voters_ * 4 * passes;
    }
    cost_.ballots = (real_bits * passes + 8 * voters_ - 1) / (8 * voters_);
    cost_.abstentions = block_bytes * passes / voters_;
    cost_.framing = bytes - cost_.ballots - cost_.abstentions;
  }

  // What must be the same everywhere; the tail's first five values.
  void write_identity(std::size_t p, std::uint32_t* target) const {
    const std::uint64_t step = static_cast<std::uint64_t>(step_);
    target[kDigest] = static_cast<std::uint32_t>(digest_);
    target[kDigest + 1] = static_cast<std::uint32_t>(digest_ >> 32);
    target[kStep] = static_cast<std::uint32_t>(step);
    target[kStep + 1] = static_cast<std::uint32_t>(step >> 32);
    target[kPiece] = static_cast<std::uint32_t>(p);
  }

  void start_piece(std::size_t p) override {
    State& s = states_[p];
    Stopwatch watch;
    copy_bits(ballot_.abstentions().words(), s.chunk.first_block, words_at(s.abstentions), 0,
              block_count(s.chunk));
    expand_lanes(ballot_.bits().words() + s.chunk.begin / 64, s.chunk.word_count(), lane_bits_,
                 values(s));
    expand_lanes(words_at(s.abstentions), abstention_words(s.chunk), lane_bits_,
                 values(s) + s.element_values);
    write_identity(p, tail(s));
    tail(s)[kChecksum] = linear_checksum(values(s), checked_values(s));
    std::fill(tail(s) + kTail, values(s) + s.count, 0u);
    s.sum->start();
    work_seconds_ += watch.lap();
  }

  Progress advance_piece(std::size_t p) override {
    State& s = states_[p];
    if (!s.sum->done()) return Progress::none;
    Stopwatch watch;
    check_sum(p);
    decide(s);
    work_seconds_ += watch.lap();
    return Progress::done;
  }

  void check_sum(std::size_t p) const {
    const State& s = states_[p];
    const std::uint32_t sum = linear_checksum(values(s), checked_values(s));
    if (sum != tail(s)[kChecksum])
      throw TransportError(
          "the sum of lanes of piece {} of step {}: its checksum is {:08x}, its values give "
          "{:08x}: damaged on the way",
          p, step_, tail(s)[kChecksum], sum);
    std::uint32_t mine[kChecksum];
    write_identity(p, mine);
    constexpr const char* kNames[] = {"digest", "digest", "step", "step", "piece"};
    for (std::int64_t i = 0; i < kChecksum; ++i) {
      const std::uint32_t expected = mine[i] * static_cast<std::uint32_t>(voters_);
      if (tail(s)[i] != expected)
        throw TransportError(
            "the sum of lanes of piece {} of step {}: the ranks' {} adds up to {}, expected {} x "
            "{}: not all ranks sum the same",
            p, step_, kNames[i], tail(s)[i], voters_, mine[i]);
    }
  }

  void decide(State& s) {
    const CountPart counts = count_part(words_at(counts_), s.chunk, voters_);
    const bool counted = collect_planes(values(s), s.chunk.word_count(), lane_bits_, voters_,
                                        counts.planes, count_digits(voters_));
    std::uint32_t most = 0;
    for (std::int64_t block = 0; block < block_count(s.chunk); ++block) {
      const std::uint32_t silent = lane_of(values(s) + s.element_values, block, lane_bits_);
      most = std::max(most, silent);
      counts.voting[block] =
          static_cast<std::uint16_t>(static_cast<std::uint32_t>(voters_) - silent);
    }
    if (!counted || most > static_cast<std::uint32_t>(voters_))
      throw TransportError(
          "the sum of lanes of elements {} to {} of step {}: a count is above the {} voters",
          s.chunk.begin, s.chunk.end, step_, voters_);
    const VerdictPart part = {verdict_bits(s.chunk).data(), words_at(s.held),
                              holds_elements() ? verdict_held_elements(s.chunk).data() : nullptr};
    tally_counts(layout_, s.chunk, std::span(&counts, 1), tally_options(), part, own_,
                 words_at(sample_));
    add(own_, verdict_.statistics);
    copy_bits(part.held_blocks, 0, verdict_.held_blocks.words(), s.chunk.first_block,
              block_count(s.chunk));
    compare_voter(layout_, s.chunk,
                  {ballot_.bits().words() + s.chunk.begin / 64, words_at(s.abstentions)}, part.bits,
                  words_at(sample_), agreement_.agreed(0), agreement_.compared(0), &counted_,
                  at(transport_.rank()));
    agreement_.add_digest(digest_of(s, part));
  }

  std::uint64_t digest_of(const State& s, const VerdictPart& part) const {
    const std::size_t bytes = at(s.chunk.word_count()) * 8;
    std::uint64_t digest = XXH3_64bits_withSeed(part.bits, bytes, at(s.chunk.begin));
    if (holds_elements()) digest = XXH3_64bits_withSeed(part.held_elements, bytes, digest);
    return XXH3_64bits_withSeed(part.held_blocks, at(block_words(s.chunk)) * 8, digest);
  }

  Transfer* waits_for(std::size_t p) override { return states_[p].sum.get(); }

  bool advance_end() override {
    return agreement_.advance(header(MessageKind::agreement, transport_.rank(), 0, 0),
                              verdict_.statistics);
  }
  Transfer* end_waits_for() override { return &agreement_.transfer(); }

  const int lane_bits_;
  Buffer memory_;
  std::vector<State> states_;
  std::size_t counts_ = 0, sample_ = 0;  // in memory_: of one piece at a time
  VoteStatistics own_;
  VoterAgreement agreement_;
};

}  // namespace

std::unique_ptr<Vote> make_lane_vote(const Ballot& ballot, Transport& transport,
                                     const VoteOptions& options) {
  return std::make_unique<LaneVote>(ballot, transport, options);
}

}  // namespace ballot

// The hierarchical vote between GPUs (hierarchical_vote.cpp): a node's workers count their ballots
// first, and only counts travel between nodes, over a DeviceLink.
//
//   up:    abstentions -> device (and of a ballot that was cast on the CPU its bits)
//   wire:  in the node: slice j -> its worker j, who adds up each chunk of it;
//          between nodes: counts of chunk n -> worker j of node n, who decides it; its verdict and
//          a sample of the counts -> worker j of every node, who compares its node's ballots with
//          it; in the node: the verdict of slice j -> all
//   down:  verdict -> host
//
// All four exchanges are groups of sends and receives on the one communicator. Communicators of
// their own for nodes and places (ncclCommSplit) would bring nothing but more to join, to watch and
// to abort: no exchange is a collective that NCCL does better, since counts of several digits are
// no type of its, and two communicators under way at once must be kept in one order on all ranks by
// the program, which one has by itself. A piece's exchanges wait for each other, so pieces pass one
// behind the other; what keeps the links busy is their size.
#include "collectives/count_planes.h"
#include "collectives/device_chunk.h"
#include "collectives/device_piece_vote.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

bool by_nodes(const VoteOptions& options) {
  return options.estimator == Estimator::majority_of_majorities;
}

class DeviceHierarchicalVote final : public DevicePieceVote {
 public:
  DeviceHierarchicalVote(const Ballot& ballot, Transport& transport, DeviceLink& link,
                         const VoteOptions& options)
      : DevicePieceVote(ballot, transport, link, options,
                        by_nodes(options) ? transport.size() / options.node_size : transport.size(),
                        transport.size()),
        nodes_(transport.size() / options.node_size),
        node_(rank_ / options.node_size),
        places_(options.node_size),
        place_(rank_ % options.node_size),
        entered_(by_nodes(options) ? 1 : places_),
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
    apart_ = Buffer(apart.size_bytes(), device_);
    for (State& s : states_) open(s);
    up_.synchronize();
    end_cost();
  }
  ~DeviceHierarchicalVote() override { abort_unfinished(); }

 private:
  // A chunk of the own slice.
  struct Part {
    BallotChunk chunk;
    std::int64_t word = 0, block_word = 0;                   // where it begins among the slice's
    std::size_t counts_to = 0, counts_from = 0, sample = 0;  // in apart_
    std::unique_ptr<DeviceChunk> places;
    std::unique_ptr<DeviceBallots> cast;     // of the node's workers
    std::unique_ptr<DeviceBallots> elected;  // majority of majorities: the node's one ballot
    std::unique_ptr<DeviceDecision> within;  // which this decides
    VerdictPart node_ballot{};
    std::unique_ptr<DeviceComparison> comparison;  // of what the node enters
  };
  // Offsets: `up` of up_host_ and up_device_, `down` likewise, the rest of apart_.
  struct State {
    BallotChunk range;
    std::vector<BallotChunk> slices;       // by place
    std::vector<Part> parts;               // of the own slice, by node
    std::size_t up_begin = 0, up_end = 0;  // all of the piece's
    std::size_t down_begin = 0, down_end = 0;
    std::size_t ballot_up = 0;                                  // if it comes from the host
    std::vector<std::size_t> abstentions_up, held_blocks_down;  // by place, chunk by chunk
    std::vector<std::size_t> bits_in, abstentions_in;  // of the own slice, by place; none own
    std::size_t node_bits = 0, node_abstentions = 0, counts = 0;
    std::vector<DeviceMessage> ballots_to, ballots_from, counts_to, counts_from;
    std::vector<DeviceMessage> verdicts_to, verdicts_from, shares_to, shares_from;
    VerdictPart verdict{};  // of the own chunk
    std::unique_ptr<DeviceDecision> decision;
    Event uploaded, shared, home;
  };

  int rank_of(int node, int place) const { return node * places_ + place; }
  BallotChunk chunk_of(const BallotChunk& slice, int node) const {
    return layout_.chunk(slice.begin, slice.end, node, nodes_);
  }
  // Blocks travel chunk by chunk, each from a word of its own, as they are counted.
  std::int64_t slice_block_words(const BallotChunk& slice) const {
    std::int64_t words = 0;
    for_each_chunk(
        slice, [&](int, const BallotChunk& chunk, std::int64_t) { words += block_words(chunk); });
    return words;
  }
  // Calls body(node, chunk, word of its first block among the slice's).
  template <class Body>
  void for_each_chunk(const BallotChunk& slice, const Body& body) const {
    std::int64_t word = 0;
    for (int n = 0; n < nodes_; ++n) {
      const BallotChunk chunk = chunk_of(slice, n);
      body(n, chunk, word);
      word += block_words(chunk);
    }
  }
  std::size_t counts_bytes(const BallotChunk& chunk) const {
    return words_bytes(count_words(chunk, entered_));
  }
  DeviceCounts counts_at(std::size_t offset, const BallotChunk& chunk) const {
    const CountPart part = count_part(words_at(apart_.data(), offset), chunk, entered_);
    return {part.planes, part.voting};
  }

  void place(std::size_t p, Places& up, Places& down, Places& apart) {
    State& s = states_[p];
    const PieceRange piece = queue_.pieces().ranges()[p];
    s.range = layout_.chunk(piece.begin, piece.end, 0, 1);
    for (int j = 0; j < places_; ++j)
      s.slices.push_back(layout_.chunk(piece.begin, piece.end, j, places_));
    const BallotChunk& slice = s.slices[at(place_)];
    s.up_begin = up.size_bytes();
    s.ballot_up = place_ballot(s.range, up);
    s.down_begin = down.size_bytes();
    for (int j = 0; j < places_; ++j) {
      const std::size_t blocks = words_bytes(slice_block_words(s.slices[at(j)]));
      s.abstentions_up.push_back(up.add(blocks));
      s.held_blocks_down.push_back(down.add(blocks));
      const bool other = j != place_;
      s.bits_in.push_back(other ? apart.add(words_bytes(slice.word_count())) : 0);
      s.abstentions_in.push_back(other ? apart.add(words_bytes(slice_block_words(slice))) : 0);
    }
    s.up_end = up.size_bytes();
    s.down_end = down.size_bytes();
    if (by_nodes(options_)) {
      s.node_bits = apart.add(words_bytes(slice.word_count()));
      s.node_abstentions = apart.add(words_bytes(slice_block_words(slice)));
    }
    s.counts = apart.add(at(nodes_) * sizeof(DeviceCounts));
    const BallotChunk mine = chunk_of(slice, node_);
    for_each_chunk(slice, [&](int n, const BallotChunk& chunk, std::int64_t block_word) {
      Part& part = s.parts.emplace_back();
      part.chunk = chunk;
      part.word = (chunk.begin - slice.begin) / 64;
      part.block_word = block_word;
      part.counts_to = apart.add(counts_bytes(part.chunk));
      part.counts_from = n == node_ ? part.counts_to : apart.add(counts_bytes(mine));
      part.sample = apart.add(words_bytes(device_sample_words(part.chunk)));
    });
  }

  void open(State& s) {
    const BallotChunk& slice = s.slices[at(place_)];
    std::byte* const up = up_device_.data();
    std::byte* const down = down_device_.data();
    std::byte* const in = apart_.data();
    std::vector<BallotPart> ballots;  // of the own slice, by place
    for (int j = 0; j < places_; ++j) {
      const BallotChunk& theirs = s.slices[at(j)];
      std::byte* const bits = ballot_of(s.range, theirs, up + s.ballot_up);
      if (j == place_) {
        ballots.push_back({words_at(bits, 0), words_at(up, s.abstentions_up[at(j)])});
        continue;
      }
      ballots.push_back({words_at(in, s.bits_in[at(j)]), words_at(in, s.abstentions_in[at(j)])});
      const int rank = rank_of(node_, j);
      const std::int64_t their_blocks = slice_block_words(theirs),
                         blocks = slice_block_words(slice);
      s.ballots_to.push_back({rank, bits, words_bytes(theirs.word_count())});
      s.ballots_to.push_back({rank, up + s.abstentions_up[at(j)], words_bytes(their_blocks)});
      s.ballots_from.push_back({rank, in + s.bits_in[at(j)], words_bytes(slice.word_count())});
      s.ballots_from.push_back({rank, in + s.abstentions_in[at(j)], words_bytes(blocks)});
      add_verdict(s.shares_to, rank, slice, down + s.held_blocks_down[at(place_)], blocks);
      add_verdict(s.shares_from, rank, theirs, down + s.held_blocks_down[at(j)], their_blocks);
      count_cost(theirs, 1, their_blocks * 8);
      count_cost(slice, bit_planes(), blocks * 8);
    }
    const Part& own = s.parts[at(node_)];
    std::vector<DeviceCounts> counts;  // of the own chunk
    for (int n = 0; n < nodes_; ++n) {
      open_part(s, n, ballots);
      counts.push_back(counts_at(s.parts[at(n)].counts_from, own.chunk));
    }
    copy_bytes(in + s.counts, device_, counts.data(), Device{}, counts.size() * sizeof counts[0],
               up_);
    s.decision = std::make_unique<DeviceDecision>(*own.places, voters_);
    s.verdict = {words_at(device_bits(own.chunk), 0), words_at(held_blocks_of(s, own), 0),
                 reinterpret_cast<std::uint64_t*>(device_held_elements(own.chunk))};
    s.uploaded = Event(device_);
    s.shared = Event(device_);
    s.home = Event(device_);
  }

  // `ballots` are the slice's.
  void open_part(State& s, int n, const std::vector<BallotPart>& ballots) {
    const Part& own = s.parts[at(node_)];
    Part& part = s.parts[at(n)];
    const BallotChunk &mine = own.chunk, &chunk = part.chunk;
    std::byte* const in = apart_.data();
    part.places = std::make_unique<DeviceChunk>(layout_, chunk, device_);
    part.comparison = std::make_unique<DeviceComparison>(*part.places, at(entered_));
    std::vector<BallotPart> cast;
    for (const BallotPart& ballot : ballots)
      cast.push_back({ballot.bits + part.word, ballot.abstentions + part.block_word});
    part.cast = std::make_unique<DeviceBallots>(cast.size(), device_);
    part.cast->take(cast, up_);  // now: a count must not wait
    if (by_nodes(options_)) {
      part.within = std::make_unique<DeviceDecision>(*part.places, places_);
      part.node_ballot = {words_at(in, s.node_bits) + part.word,
                          words_at(in, s.node_abstentions) + part.block_word, nullptr};
      const BallotPart one{part.node_ballot.bits, part.node_ballot.held_blocks};
      part.elected = std::make_unique<DeviceBallots>(1, device_);
      part.elected->take({&one, 1}, up_);
    }
    if (n == node_) return;
    const int rank = rank_of(n, place_), digits = count_digits(entered_);
    s.counts_to.push_back({rank, in + part.counts_to, counts_bytes(chunk)});
    s.counts_from.push_back({rank, in + part.counts_from, counts_bytes(mine)});
    add_verdict(s.verdicts_to, rank, mine, held_blocks_of(s, own), block_words(mine));
    add_verdict(s.verdicts_from, rank, chunk, held_blocks_of(s, part), block_words(chunk));
    s.verdicts_to.push_back({rank, in + own.sample, words_bytes(device_sample_words(mine))});
    s.verdicts_from.push_back({rank, in + part.sample, words_bytes(device_sample_words(chunk))});
    count_cost(chunk, digits, (count_words(chunk, entered_) - digits * chunk.word_count()) * 8);
    count_cost(mine, bit_planes(), block_words(mine) * 8);
    bytes_ += device_sample_words(mine) * 8;
  }
  std::byte* held_blocks_of(const State& s, const Part& part) const {
    return down_device_.data() + s.held_blocks_down[at(place_)] + words_bytes(part.block_word);
  }

  void start(std::size_t p) override {
    State& s = states_[p];
    Stopwatch watch;
    std::byte* const host = up_host_.data();
    copy_ballot(s.range, host + s.ballot_up);
    for (int j = 0; j < places_; ++j)
      for_each_chunk(s.slices[at(j)], [&](int, const BallotChunk& chunk, std::int64_t word) {
        copy_abstentions(chunk, words_at(host, s.abstentions_up[at(j)]) + word);
      });
    work_seconds_ += watch.lap();  // what follows works on the device, or waits for NCCL
    copy_bytes(up_device_.data() + s.up_begin, device_, host + s.up_begin, Device{},
               s.up_end - s.up_begin, up_);
    s.uploaded.record(up_);
    s.uploaded.hold(wire_);
    link_.exchange(Purpose::vote, s.ballots_to, s.ballots_from, wire_);
    for (Part& part : s.parts) count(part);
    link_.exchange(Purpose::vote, s.counts_to, s.counts_from, wire_);
    cuda_vote().tally_counts(
        s.decision->begin(tally_options(), s.verdict, sample_of(s.parts[at(node_)]), wire_),
        reinterpret_cast<const DeviceCounts*>(apart_.data() + s.counts), nodes_, entered_, wire_);
    link_.exchange(Purpose::vote, s.verdicts_to, s.verdicts_from, wire_);
    for (Part& part : s.parts)
      part.comparison->compare(entered(part).places(), words_at(device_bits(part.chunk), 0),
                               sample_of(part), wire_);
    link_.exchange(Purpose::vote, s.shares_to, s.shares_from, wire_);
    s.shared.record(wire_);
    s.shared.hold(down_);
    copy_bytes(down_host_.data() + s.down_begin, Device{}, down_device_.data() + s.down_begin,
               device_, s.down_end - s.down_begin, down_);
    fetch_verdict(s.range, down_);
    s.decision->fetch(down_);
    for (const Part& part : s.parts) part.comparison->fetch(down_);
    s.home.record(down_);
  }
  const Event& home(std::size_t p) const override { return states_[p].home; }

  const DeviceBallots& entered(const Part& part) const {
    return by_nodes(options_) ? *part.elected : *part.cast;
  }
  std::uint64_t* sample_of(const Part& part) const { return words_at(apart_.data(), part.sample); }

  // A node that is tied within itself takes the shared coin, also where ties = hold.
  void count(Part& part) {
    if (by_nodes(options_))
      cuda_vote().tally(
          part.within->begin({options_.seed, step_, Ties::coin}, part.node_ballot, nullptr, wire_),
          part.cast->places(), wire_);
    cuda_vote().count_ballots(part.places->places(), entered(part).places(), entered_,
                              counts_at(part.counts_to, part.chunk), wire_);
  }

  void take(std::size_t p) override {
    State& s = states_[p];
    for (int j = 0; j < places_; ++j)
      for_each_chunk(s.slices[at(j)], [&](int, const BallotChunk& chunk, std::int64_t word) {
        take_held_blocks(chunk, words_at(down_host_.data(), s.held_blocks_down[at(j)]) + word);
      });
    clear(counted_here_);
    s.decision->read(counted_here_);
    const std::size_t first = at(node_ * entered_), count = at(entered_);
    for (const Part& part : s.parts)
      part.comparison->read(std::span(counted_here_.agreed).subspan(first, count),
                            std::span(counted_here_.compared).subspan(first, count), &counted_,
                            first);
    add(counted_here_, own_);
  }

  const int nodes_, node_, places_, place_;
  const int entered_;  // ballots that a node enters
  PinnedBuffer up_host_, down_host_;
  Buffer up_device_, down_device_, apart_;
  std::vector<State> states_;
  VoteStatistics counted_here_;
  Stream up_, wire_, down_;  // end before what they work on
};

}  // namespace

std::unique_ptr<Vote> make_device_hierarchical_vote(const Ballot& ballot, Transport& transport,
                                                    DeviceLink& link, const VoteOptions& options) {
  return std::make_unique<DeviceHierarchicalVote>(ballot, transport, link, options);
}

}  // namespace ballot

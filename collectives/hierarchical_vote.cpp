// The hierarchical vote: a node's workers count their ballots first, and only counts travel between
// nodes: the same bits and statistics as the flat vote, at less on the link between nodes.
//
// Rank r is worker r % node_size of node r / node_size. A piece is cut into one slice a worker of a
// node and a slice into one chunk a node. Worker j of a node gets slice j of all its node's ballots
// (local exchange), adds them up, sends the counts of chunk n to worker j of node n (exchange),
// which adds up all nodes' counts and decides, and sends the verdict and a sample of the counts to
// worker j of every node (gather). Worker j compares its node's ballots with the sample and passes
// the verdict of slice j on to its own node (local gather). In the end all tell each other how
// their node's voters agreed.
//
// estimator = majority_of_majorities: a node casts one ballot, the exact majority of its workers;
// where all of them abstain, it abstains. The nodes are the voters, in the statistics too. A node
// that is tied within itself has to say something, so it takes the shared coin even where ties =
// hold; only ties between nodes are held.
#include <bit>

#include "collectives/count_planes.h"
#include "collectives/piece_vote.h"
#include "collectives/voter_agreement.h"
#include "core/error.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

template <class Word>
ConstBytes bytes_of(std::span<Word> words) {
  return std::as_bytes(words);
}

bool by_nodes(const VoteOptions& options) {
  return options.estimator == Estimator::majority_of_majorities;
}

class HierarchicalVote final : public PieceVote {
 public:
  HierarchicalVote(const Ballot& ballot, Transport& transport, const VoteOptions& options,
                   std::unique_ptr<Transport> peers, std::unique_ptr<Transport> fellows)
      : PieceVote(ballot, transport, options, by_nodes(options) ? peers->size() : transport.size(),
                  transport.size()),
        peers_(std::move(peers)),
        fellows_(std::move(fellows)),
        nodes_(peers_->size()),
        node_(peers_->rank()),
        places_(fellows_->size()),
        place_(fellows_->rank()),
        entered_(by_nodes(options) ? 1 : places_),
        agreement_(transport, places_, entered_) {
    states_.resize(queue_.count());
    // Two rounds over the same places: how much memory, then where.
    Places places;
    for (std::size_t p = 0; p < states_.size(); ++p) place(p, places);
    memory_ = Buffer(places.size_bytes());
    for (std::size_t p = 0; p < states_.size(); ++p) open(p);
    bytes_ += agreement_.sent_bytes();
    cost_.ballots = (real_bits_ + 7) / 8;
    cost_.framing = bytes_ - cost_.ballots - cost_.abstentions;
  }

  Traffic split_traffic() const override { return peers_->traffic() + fellows_->traffic(); }

 private:
  enum class Stage { ballots, counts, verdicts, shares };

  // Ballots of the own slice, chunk by chunk (by node) and voter by voter.
  using Parts = std::vector<std::vector<BallotPart>>;

  // Offsets in memory_.
  struct State {
    Stage stage = Stage::ballots;
    std::vector<BallotChunk> slices;                                // by place
    std::vector<BallotChunk> chunks;                                // of the own slice, by node
    std::vector<std::size_t> ballot_to, ballot_from, bits_from;     // by place
    std::vector<std::size_t> counts_to, counts_from, verdict_from;  // by node
    std::vector<std::size_t> share_from;                            // by place
    std::size_t node_bits = 0, node_abstentions = 0;                // the node's one ballot
    Parts cast, elected;            // of the node's workers; the node's one
    std::vector<CountPart> counts;  // of the own chunk, by node
    std::unique_ptr<Transfer> exchange, counting, gather, share;
  };

  int rank_of(int node, int place) const { return node * places_ + place; }
  std::uint64_t* words_at(std::size_t offset) const {
    return reinterpret_cast<std::uint64_t*>(memory_.data() + offset);
  }
  Bytes memory(std::size_t offset, std::size_t bytes) const {
    return memory_.bytes().subspan(offset, bytes);
  }

  // Abstentions travel chunk by chunk, each from a word of its own, as they are counted.
  std::int64_t abstention_words(const BallotChunk& slice) const {
    std::int64_t words = 0;
    for (int n = 0; n < nodes_; ++n) words += block_words(chunk_of(slice, n));
    return words;
  }
  BallotChunk chunk_of(const BallotChunk& slice, int node) const {
    return layout_.chunk(slice.begin, slice.end, node, nodes_);
  }

  // What travels, in the order of the stages: first parts of messages.
  std::size_t ballot_head_bytes(const BallotChunk& slice) const {
    return kHeaderBytes + at(abstention_words(slice)) * 8;
  }
  std::size_t counts_bytes(const BallotChunk& chunk) const {
    return kHeaderBytes + at(count_words(chunk, entered_)) * 8;
  }
  std::size_t verdict_head_bytes(const BallotChunk& chunk) const {
    return share_head_bytes(chunk) + at(sample_words(chunk)) * 8;
  }
  std::size_t share_head_bytes(const BallotChunk& slice) const {
    return kHeaderBytes + kStatisticsBytes + at(block_words(slice)) * 8;
  }
  Bytes ballot_head(const State& s, std::size_t offset, int place) const {
    return memory(offset, ballot_head_bytes(s.slices[at(place)]));
  }
  Bytes verdict_head(const State& s, int node) const {
    return memory(s.verdict_from[at(node)], verdict_head_bytes(s.chunks[at(node)]));
  }
  Bytes share_head(const State& s, int place) const {
    return memory(s.share_from[at(place)], share_head_bytes(s.slices[at(place)]));
  }
  // Held blocks come after the statistics, the sample after them.
  std::uint64_t* held_of(Bytes head) const {
    return reinterpret_cast<std::uint64_t*>(head.data() + kHeaderBytes + kStatisticsBytes);
  }
  std::uint64_t* sample_of(Bytes head, const BallotChunk& chunk) const {
    return held_of(head) + block_words(chunk);
  }
  std::span<const std::uint64_t> ballot_words(const BallotChunk& slice) const {
    return std::span<const std::uint64_t>(ballot_.bits().span())
        .subspan(at(slice.begin / 64), at(slice.word_count()));
  }
  std::span<std::uint64_t> received_words(const State& s, int place) const {
    return {words_at(s.bits_from[at(place)]), at(s.slices[at(place_)].word_count())};
  }
  CountPart counts_at(std::size_t message, const BallotChunk& chunk) const {
    return count_part(words_at(message + kHeaderBytes), chunk, entered_);
  }

  void place(std::size_t p, Places& places) {
    State& s = states_[p];
    const PieceRange range = queue_.pieces().ranges()[p];
    for (int j = 0; j < places_; ++j)
      s.slices.push_back(layout_.chunk(range.begin, range.end, j, places_));
    const BallotChunk& slice = s.slices[at(place_)];
    for (int n = 0; n < nodes_; ++n) s.chunks.push_back(chunk_of(slice, n));
    for (int j = 0; j < places_; ++j) {
      const bool mine = j == place_;
      s.ballot_to.push_back(places.add(ballot_head_bytes(s.slices[at(j)])));
      s.ballot_from.push_back(mine ? s.ballot_to.back() : places.add(ballot_head_bytes(slice)));
      s.bits_from.push_back(mine ? 0 : places.add(at(slice.word_count()) * 8));
      s.share_from.push_back(places.add(share_head_bytes(s.slices[at(j)])));
    }
    if (by_nodes(options_)) {
      s.node_bits = places.add(at(slice.word_count()) * 8);
      s.node_abstentions = places.add(at(abstention_words(slice)) * 8);
    }
    for (int n = 0; n < nodes_; ++n) {
      s.counts_to.push_back(places.add(counts_bytes(s.chunks[at(n)])));
      s.counts_from.push_back(n == node_ ? s.counts_to.back()
                                         : places.add(counts_bytes(s.chunks[at(node_)])));
      s.verdict_from.push_back(places.add(verdict_head_bytes(s.chunks[at(n)])));
    }
  }

  // Adds a ballot of the slice, whose bits and abstentions begin there.
  void add_parts(State& s, Parts& parts, const std::uint64_t* bits,
                 const std::uint64_t* abstentions) const {
    parts.resize(at(nodes_));
    for (int n = 0; n < nodes_; ++n) {
      parts[at(n)].push_back({bits, abstentions});
      bits += s.chunks[at(n)].word_count();
      abstentions += block_words(s.chunks[at(n)]);
    }
  }

  void open(std::size_t p) {
    State& s = states_[p];
    const BallotChunk& slice = s.slices[at(place_)];
    const BallotChunk& chunk = s.chunks[at(node_)];

    std::vector<SendParts> to(at(places_)), shares(at(places_));
    std::vector<ReceiveParts> from(at(places_)), shares_in(at(places_));
    for (int j = 0; j < places_; ++j) {
      const Bytes head = ballot_head(s, s.ballot_from[at(j)], place_);
      const std::uint64_t* const abstentions =
          reinterpret_cast<const std::uint64_t*>(head.data() + kHeaderBytes);
      const bool mine = j == place_;
      add_parts(s, s.cast, mine ? ballot_words(slice).data() : received_words(s, j).data(),
                abstentions);
      if (mine) continue;
      const BallotChunk& theirs = s.slices[at(j)];
      to[at(j)] = {ballot_head(s, s.ballot_to[at(j)], j), bytes_of(ballot_words(theirs))};
      from[at(j)] = {head, std::as_writable_bytes(received_words(s, j))};
      shares[at(j)] = send(verdict_parts(share_head(s, place_), slice));
      shares_in[at(j)] = verdict_parts(share_head(s, j), theirs);
      count_cost(to[at(j)], theirs, 1, abstention_words(theirs));
      count_cost(shares[at(j)], slice, bit_planes(), block_words(slice));
    }
    if (by_nodes(options_))
      add_parts(s, s.elected, words_at(s.node_bits), words_at(s.node_abstentions));

    std::vector<SendParts> counts(at(nodes_)), verdicts(at(nodes_));
    std::vector<ReceiveParts> counts_in(at(nodes_)), verdicts_in(at(nodes_));
    for (int n = 0; n < nodes_; ++n) {
      s.counts.push_back(counts_at(s.counts_from[at(n)], chunk));
      if (n == node_) continue;
      const BallotChunk& theirs = s.chunks[at(n)];
      counts[at(n)] = {memory(s.counts_to[at(n)], counts_bytes(theirs))};
      counts_in[at(n)] = {memory(s.counts_from[at(n)], counts_bytes(chunk))};
      verdicts[at(n)] = send(verdict_parts(verdict_head(s, node_), chunk));
      verdicts_in[at(n)] = verdict_parts(verdict_head(s, n), theirs);
      const int digits = count_digits(entered_);
      count_cost(counts[at(n)], theirs, digits,
                 count_words(theirs, entered_) - digits * theirs.word_count());
      count_cost(verdicts[at(n)], chunk, bit_planes(), block_words(chunk));
    }
    s.exchange = fellows_->open_exchange(Purpose::vote, to, from);
    s.counting = peers_->open_exchange(Purpose::vote, counts, counts_in);
    s.gather = peers_->open_exchange(Purpose::vote, verdicts, verdicts_in);
    s.share = fellows_->open_exchange(Purpose::vote, shares, shares_in);
  }

  // A verdict of `chunk`, as it is sent and received: its head, then its bits where they are.
  ReceiveParts verdict_parts(Bytes head, const BallotChunk& chunk) const {
    ReceiveParts parts = {head, std::as_writable_bytes(verdict_bits(chunk))};
    if (holds_elements()) parts.push_back(std::as_writable_bytes(verdict_held_elements(chunk)));
    return parts;
  }
  static SendParts send(const ReceiveParts& parts) { return {parts.begin(), parts.end()}; }

  void count_cost(const SendParts& parts, const BallotChunk& chunk, int planes,
                  std::int64_t words_of_abstentions) {
    real_bits_ += layout_.real_elements(chunk.begin, chunk.end) * planes;
    cost_.abstentions += words_of_abstentions * 8;
    bytes_ += static_cast<std::int64_t>(size_bytes(parts));
  }

  void start_piece(std::size_t p) override {
    State& s = states_[p];
    Stopwatch watch;
    for (int j = 0; j < places_; ++j) {
      const BallotChunk& slice = s.slices[at(j)];
      const Bytes head = ballot_head(s, s.ballot_to[at(j)], j);
      auto* abstentions = reinterpret_cast<std::uint64_t*>(head.data() + kHeaderBytes);
      for (int n = 0; n < nodes_; ++n) {
        const BallotChunk chunk = chunk_of(slice, n);
        copy_bits(ballot_.abstentions().words(), chunk.first_block, abstentions, 0,
                  block_count(chunk));
        abstentions += block_words(chunk);
      }
      if (j == place_) continue;
      const ConstBytes bits[] = {bytes_of(ballot_words(slice))};
      seal_message(header(MessageKind::ballot, transport_.rank(), p, j), head, bits);
    }
    s.exchange->start();
    s.stage = Stage::ballots;
    work_seconds_ += watch.lap();
  }

  Progress advance_piece(std::size_t p) override {
    State& s = states_[p];
    if (!waits_for(p)->done()) return Progress::none;
    Stopwatch watch;
    switch (s.stage) {
      case Stage::ballots:
        count_slice(p);
        s.counting->start();
        s.stage = Stage::counts;
        break;
      case Stage::counts:
        decide_chunk(p);
        s.gather->start();
        s.stage = Stage::verdicts;
        break;
      case Stage::verdicts:
        collect_slice(p);
        s.share->start();
        s.stage = Stage::shares;
        break;
      case Stage::shares:
        collect_shares(p);
        work_seconds_ += watch.lap();
        return Progress::done;
    }
    work_seconds_ += watch.lap();
    return Progress::moved;
  }

  Transfer* waits_for(std::size_t p) override {
    State& s = states_[p];
    return s.stage == Stage::ballots    ? s.exchange.get()
           : s.stage == Stage::counts   ? s.counting.get()
           : s.stage == Stage::verdicts ? s.gather.get()
                                        : s.share.get();
  }

  // The ballots that this node enters into the count of chunk n.
  std::span<const BallotPart> entered(const State& s, int n) const {
    return by_nodes(options_) ? s.elected[at(n)] : s.cast[at(n)];
  }

  void count_slice(std::size_t p) {
    State& s = states_[p];
    for (int j = 0; j < places_; ++j) {
      if (j == place_) continue;
      const ConstBytes bits[] = {bytes_of(received_words(s, j))};
      check_message(header(MessageKind::ballot, rank_of(node_, j), p, place_),
                    ballot_head(s, s.ballot_from[at(j)], place_), bits);
    }
    std::uint64_t* bits = words_at(s.node_bits);
    std::uint64_t* abstentions = words_at(s.node_abstentions);
    for (int n = 0; n < nodes_; ++n) {
      const BallotChunk& chunk = s.chunks[at(n)];
      if (by_nodes(options_)) {
        tally(layout_, chunk, s.cast[at(n)], {options_.seed, step_, Ties::coin},
              {bits, abstentions, nullptr}, within_);
        bits += chunk.word_count();
        abstentions += block_words(chunk);
      }
      count_ballots(layout_, chunk, entered(s, n), counts_at(s.counts_to[at(n)], chunk));
      if (n != node_)
        seal_message(header(MessageKind::counts, transport_.rank(), p, n),
                     memory(s.counts_to[at(n)], counts_bytes(chunk)));
    }
  }

  void decide_chunk(std::size_t p) {
    State& s = states_[p];
    const BallotChunk& chunk = s.chunks[at(node_)];
    for (int n = 0; n < nodes_; ++n)
      if (n != node_)
        check_message(header(MessageKind::counts, rank_of(n, place_), p, node_),
                      memory(s.counts_from[at(n)], counts_bytes(chunk)));
    const Bytes head = verdict_head(s, node_);
    const VerdictPart part = {verdict_bits(chunk).data(), held_of(head),
                              holds_elements() ? verdict_held_elements(chunk).data() : nullptr};
    tally_counts(layout_, chunk, s.counts, tally_options(), part, own_, sample_of(head, chunk));
    write(own_, head.data() + kHeaderBytes);
    if (nodes_ > 1)
      seal_verdict(header(MessageKind::verdict, transport_.rank(), p, node_), head, chunk);
  }

  void collect_slice(std::size_t p) {
    State& s = states_[p];
    VoteStatistics sum;  // without voters
    for (int n = 0; n < nodes_; ++n) {
      const BallotChunk& chunk = s.chunks[at(n)];
      const Bytes head = verdict_head(s, n);
      if (n != node_)
        check_verdict(header(MessageKind::verdict, rank_of(n, place_), p, n), head, chunk);
      take(head, chunk, sum);
      const auto ballots = entered(s, n);
      for (int i = 0; i < entered_; ++i)
        compare_voter(layout_, chunk, ballots[at(i)], verdict_bits(chunk).data(),
                      sample_of(head, chunk), agreement_.agreed(i), agreement_.compared(i),
                      &counted_, at(node_ * entered_ + i));
    }
    add_totals(sum);
    if (places_ == 1) return;
    const BallotChunk& slice = s.slices[at(place_)];
    const Bytes head = share_head(s, place_);
    write(sum, head.data() + kHeaderBytes);
    copy_bits(verdict_.held_blocks.words(), slice.first_block, held_of(head), 0,
              block_count(slice));
    seal_verdict(header(MessageKind::share, transport_.rank(), p, place_), head, slice);
  }

  void collect_shares(std::size_t p) {
    State& s = states_[p];
    VoteStatistics sum;
    for (int j = 0; j < places_; ++j) {
      if (j == place_) continue;
      const Bytes head = share_head(s, j);
      check_verdict(header(MessageKind::share, rank_of(node_, j), p, j), head, s.slices[at(j)]);
      take(head, s.slices[at(j)], sum);
    }
    add_totals(sum);
  }

  // Statistics and held blocks from the head of a verdict.
  void take(Bytes head, const BallotChunk& chunk, VoteStatistics& sum) {
    add(head.data() + kHeaderBytes, sum);
    copy_bits(held_of(head), 0, verdict_.held_blocks.words(), chunk.first_block,
              block_count(chunk));
  }
  void add_totals(const VoteStatistics& part) {
    VoteStatistics& sum = verdict_.statistics;
    sum.elements += part.elements;
    sum.ties += part.ties;
    sum.unanimous += part.unanimous;
    sum.held_blocks += part.held_blocks;
    sum.blocks += part.blocks;
  }

  void seal_verdict(const MessageHeader& what, Bytes head, const BallotChunk& chunk) const {
    const ConstBytes rest[] = {bytes_of(verdict_bits(chunk)),
                               bytes_of(verdict_held_elements(chunk))};
    seal_message(what, head, std::span(rest).first(at(bit_planes())));
  }
  void check_verdict(const MessageHeader& what, Bytes head, const BallotChunk& chunk) const {
    const ConstBytes rest[] = {bytes_of(verdict_bits(chunk)),
                               bytes_of(verdict_held_elements(chunk))};
    check_message(what, head, std::span(rest).first(at(bit_planes())));
  }

  bool advance_end() override {
    return agreement_.advance(header(MessageKind::agreement, transport_.rank(), 0, 0),
                              verdict_.statistics);
  }
  Transfer* end_waits_for() override { return &agreement_.transfer(); }

  // Elements, ties, unanimous, held blocks, blocks: what write() gives without voters.
  static constexpr std::size_t kStatisticsBytes = 5 * sizeof(std::int64_t);

  std::unique_ptr<Transport> peers_;    // the same place of every node
  std::unique_ptr<Transport> fellows_;  // the same node
  const int nodes_, node_, places_, place_;
  const int entered_;  // ballots that a node enters
  Buffer memory_;
  std::vector<State> states_;
  VoteStatistics own_;     // of the own chunk, without voters
  VoteStatistics within_;  // of the node's own majority
  VoterAgreement agreement_;
  std::int64_t real_bits_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<Vote> make_hierarchical_vote(const Ballot& ballot, Transport& transport,
                                             const VoteOptions& options, Deadline deadline) {
  auto peers = transport.split(transport.rank() % options.node_size, deadline);
  auto fellows = transport.split(transport.rank() / options.node_size, deadline);
  return std::make_unique<HierarchicalVote>(ballot, transport, options, std::move(peers),
                                            std::move(fellows));
}

}  // namespace ballot

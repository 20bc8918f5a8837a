// The sharded vote, also by members: ballots go to the owners of chunks, verdicts come back.
//
// A piece is cut into one slice a member (of the same voter; one slice where each voter is one
// worker) and a slice into one chunk a voter. Member m of voter v sends chunk w of slice m to
// member m of voter w, tallies its own chunk, sends its verdict to member m of every voter, and
// then, where a voter has several members, the whole slice to its fellow members.
#include "collectives/piece_vote.h"
#include "core/error.h"

namespace ballot {
namespace {

std::size_t at(int r) {
  return static_cast<std::size_t>(r);
}

template <class Word>
ConstBytes bytes_of(std::span<Word> words) {
  return std::as_bytes(words);
}

class ShardedVote final : public PieceVote {
 public:
  ShardedVote(const Ballot& ballot, Transport& transport, const VoteOptions& options,
              std::unique_ptr<Transport> peers, std::unique_ptr<Transport> fellows)
      : PieceVote(ballot, transport, options, transport.size() / options.members, transport.size()),
        own_peers_(std::move(peers)),
        fellows_(std::move(fellows)),
        peers_(own_peers_ ? *own_peers_ : transport),
        rank_(peers_.rank()),
        member_(fellows_ ? fellows_->rank() : 0) {
    states_.resize(queue_.count());
    // Two rounds over the same places: how much memory, then where.
    Places places;
    for (std::size_t p = 0; p < states_.size(); ++p) place(p, places);
    memory_ = Buffer(places.size_bytes());
    for (std::size_t p = 0; p < states_.size(); ++p) open(p);
    clear(own_);
  }

  Traffic split_traffic() const override {
    Traffic sum;
    if (own_peers_) sum = sum + own_peers_->traffic();
    if (fellows_) sum = sum + fellows_->traffic();
    return sum;
  }

 private:
  enum class Stage { ballots, verdicts, shares };

  // Offsets in memory_.
  struct State {
    Stage stage = Stage::ballots;
    BallotChunk slice;                                           // of this member
    std::vector<BallotChunk> chunks;                             // by voter
    std::vector<BallotChunk> slices;                             // by member
    std::vector<std::size_t> ballot_to, ballot_from, bits_from;  // by voter
    std::vector<std::size_t> verdict_from;                       // by voter; the own one's too
    std::vector<std::size_t> share_from;                         // by member; the own one's too
    std::vector<BallotPart> parts;
    std::unique_ptr<Transfer> exchange, gather, share;
    VoteStatistics statistics;  // of the slice
  };

  int members() const { return fellows_ ? fellows_->size() : 1; }
  Bytes memory(std::size_t offset, std::size_t bytes) const {
    return memory_.bytes().subspan(offset, bytes);
  }
  std::size_t ballot_head(const BallotChunk& chunk) const {
    return kHeaderBytes + static_cast<std::size_t>(block_words(chunk)) * 8;
  }
  std::size_t verdict_head(const BallotChunk& chunk) const {
    return kHeaderBytes + statistics_bytes() + static_cast<std::size_t>(block_words(chunk)) * 8;
  }
  static std::uint64_t* words_at(Bytes head, std::size_t offset) {
    return reinterpret_cast<std::uint64_t*>(head.data() + offset);
  }
  Bytes verdict_head_of(const State& s, int voter) const {
    return memory(s.verdict_from[at(voter)], verdict_head(s.chunks[at(voter)]));
  }
  Bytes share_head_of(const State& s, int member) const {
    return memory(s.share_from[at(member)], verdict_head(s.slices[at(member)]));
  }
  std::span<const std::uint64_t> ballot_words(const BallotChunk& chunk) const {
    return std::span<const std::uint64_t>(ballot_.bits().span())
        .subspan(static_cast<std::size_t>(chunk.begin / 64),
                 static_cast<std::size_t>(chunk.word_count()));
  }
  std::span<std::uint64_t> received_words(const State& s, int voter) const {
    return {words_at(memory_.bytes(), s.bits_from[at(voter)]),
            static_cast<std::size_t>(s.chunks[at(rank_)].word_count())};
  }

  void place(std::size_t p, Places& places) {
    State& s = states_[p];
    const PieceRange range = queue_.pieces().ranges()[p];
    for (int m = 0; m < members(); ++m)
      s.slices.push_back(layout_.chunk(range.begin, range.end, m, members()));
    s.slice = s.slices[at(member_)];
    for (int v = 0; v < voters_; ++v)
      s.chunks.push_back(layout_.chunk(s.slice.begin, s.slice.end, v, voters_));
    const BallotChunk& mine = s.chunks[at(rank_)];
    for (int v = 0; v < voters_; ++v) {
      s.ballot_to.push_back(places.add(ballot_head(s.chunks[at(v)])));
      s.ballot_from.push_back(v == rank_ ? s.ballot_to.back() : places.add(ballot_head(mine)));
      s.bits_from.push_back(
          v == rank_ ? 0 : places.add(static_cast<std::size_t>(mine.word_count()) * 8));
      s.verdict_from.push_back(places.add(verdict_head(s.chunks[at(v)])));
    }
    if (members() > 1)
      for (int m = 0; m < members(); ++m)
        s.share_from.push_back(places.add(verdict_head(s.slices[at(m)])));
  }

  // A verdict of `chunk`, as it is sent and received: its head, then its bits where they are.
  ReceiveParts verdict_parts(Bytes head, const BallotChunk& chunk) const {
    ReceiveParts parts = {head, std::as_writable_bytes(verdict_bits(chunk))};
    if (holds_elements()) parts.push_back(std::as_writable_bytes(verdict_held_elements(chunk)));
    return parts;
  }

  void open(std::size_t p) {
    State& s = states_[p];
    const BallotChunk& mine = s.chunks[at(rank_)];
    const std::size_t count = at(voters_);
    std::vector<SendParts> ballots(count), verdicts(count);
    std::vector<ReceiveParts> ballots_in(count), verdicts_in(count);
    const ReceiveParts own = verdict_parts(verdict_head_of(s, rank_), mine);
    for (int v = 0; v < voters_; ++v) {
      const Bytes head = memory(s.ballot_from[at(v)], ballot_head(mine));
      const std::uint64_t* bits =
          v == rank_ ? ballot_words(mine).data() : received_words(s, v).data();
      s.parts.push_back({bits, words_at(head, kHeaderBytes)});
      if (v == rank_) continue;
      const BallotChunk& theirs = s.chunks[at(v)];
      ballots[at(v)] = {memory(s.ballot_to[at(v)], ballot_head(theirs)),
                        bytes_of(ballot_words(theirs))};
      ballots_in[at(v)] = {head, std::as_writable_bytes(received_words(s, v))};
      verdicts[at(v)].assign(own.begin(), own.end());
      verdicts_in[at(v)] = verdict_parts(verdict_head_of(s, v), theirs);
      count_cost(theirs, ballots[at(v)], 1);
      count_cost(mine, verdicts[at(v)], bit_planes());
    }
    s.exchange = peers_.open_exchange(Purpose::vote, ballots, ballots_in);
    s.gather = peers_.open_exchange(Purpose::vote, verdicts, verdicts_in);
    clear(s.statistics);
    if (members() == 1) return;
    std::vector<SendParts> shares(at(members()));
    std::vector<ReceiveParts> shares_in(at(members()));
    const ReceiveParts share = verdict_parts(share_head_of(s, member_), s.slice);
    for (int m = 0; m < members(); ++m) {
      if (m == member_) continue;
      shares[at(m)].assign(share.begin(), share.end());
      shares_in[at(m)] = verdict_parts(share_head_of(s, m), s.slices[at(m)]);
      count_cost(s.slice, shares[at(m)], bit_planes());
    }
    s.share = fellows_->open_exchange(Purpose::vote, shares, shares_in);
  }

  void count_cost(const BallotChunk& chunk, const SendParts& parts, int planes) {
    real_bits_ += layout_.real_elements(chunk.begin, chunk.end) * planes;
    cost_.abstentions += block_words(chunk) * 8;
    bytes_ += static_cast<std::int64_t>(size_bytes(parts));
    cost_.ballots = (real_bits_ + 7) / 8;
    cost_.framing = bytes_ - cost_.ballots - cost_.abstentions;
  }

  void start_piece(std::size_t p) override {
    State& s = states_[p];
    Stopwatch watch;
    for (int v = 0; v < voters_; ++v) {
      const BallotChunk& chunk = s.chunks[at(v)];
      const Bytes head = memory(s.ballot_to[at(v)], ballot_head(chunk));
      copy_bits(ballot_.abstentions().words(), chunk.first_block, words_at(head, kHeaderBytes), 0,
                block_count(chunk));
      if (v == rank_) continue;
      const ConstBytes bits[] = {bytes_of(ballot_words(chunk))};
      seal_message(header(MessageKind::ballot, rank_, p, v), head, bits);
    }
    s.exchange->start();
    s.stage = Stage::ballots;
    work_seconds_ += watch.lap();
  }

  Progress advance_piece(std::size_t p) override {
    State& s = states_[p];
    switch (s.stage) {
      case Stage::ballots:
        if (!s.exchange->done()) return Progress::none;
        tally_chunk(p);
        s.gather->start();
        s.stage = Stage::verdicts;
        return Progress::moved;
      case Stage::verdicts:
        if (!s.gather->done()) return Progress::none;
        collect_slice(p);
        if (members() == 1) return Progress::done;
        s.share->start();
        s.stage = Stage::shares;
        return Progress::moved;
      case Stage::shares:
        if (!s.share->done()) return Progress::none;
        collect_shares(p);
        return Progress::done;
    }
    return Progress::none;
  }

  Transfer* waits_for(std::size_t p) override {
    State& s = states_[p];
    return s.stage == Stage::ballots    ? s.exchange.get()
           : s.stage == Stage::verdicts ? s.gather.get()
                                        : s.share.get();
  }

  void seal_verdict(const MessageHeader& what, Bytes head, const BallotChunk& chunk) const {
    const ConstBytes rest[] = {bytes_of(verdict_bits(chunk)),
                               bytes_of(verdict_held_elements(chunk))};
    seal_message(what, head, std::span(rest).first(static_cast<std::size_t>(bit_planes())));
  }
  void check_verdict(const MessageHeader& what, Bytes head, const BallotChunk& chunk) const {
    const ConstBytes rest[] = {bytes_of(verdict_bits(chunk)),
                               bytes_of(verdict_held_elements(chunk))};
    check_message(what, head, std::span(rest).first(static_cast<std::size_t>(bit_planes())));
  }

  void tally_chunk(std::size_t p) {
    State& s = states_[p];
    Stopwatch watch;
    const BallotChunk& mine = s.chunks[at(rank_)];
    for (int v = 0; v < voters_; ++v) {
      if (v == rank_) continue;
      const ConstBytes bits[] = {bytes_of(received_words(s, v))};
      check_message(header(MessageKind::ballot, v, p, rank_),
                    memory(s.ballot_from[at(v)], ballot_head(mine)), bits);
    }
    const Bytes head = verdict_head_of(s, rank_);
    const VerdictPart part = {verdict_bits(mine).data(),
                              words_at(head, kHeaderBytes + statistics_bytes()),
                              holds_elements() ? verdict_held_elements(mine).data() : nullptr};
    tally(layout_, mine, s.parts, tally_options(), part, own_, &counted_);
    write(own_, head.data() + kHeaderBytes);
    if (voters_ > 1) seal_verdict(header(MessageKind::verdict, rank_, p, rank_), head, mine);
    work_seconds_ += watch.lap();
  }

  void take_held_blocks(Bytes head, const BallotChunk& chunk) {
    copy_bits(words_at(head, kHeaderBytes + statistics_bytes()), 0, verdict_.held_blocks.words(),
              chunk.first_block, block_count(chunk));
  }

  void collect_slice(std::size_t p) {
    State& s = states_[p];
    Stopwatch watch;
    clear(s.statistics);
    for (int v = 0; v < voters_; ++v) {
      const Bytes head = verdict_head_of(s, v);
      if (v != rank_) check_verdict(header(MessageKind::verdict, v, p, v), head, s.chunks[at(v)]);
      add(head.data() + kHeaderBytes, s.statistics);
      take_held_blocks(head, s.chunks[at(v)]);
    }
    add(s.statistics, verdict_.statistics);
    if (members() > 1) {
      const Bytes head = share_head_of(s, member_);
      write(s.statistics, head.data() + kHeaderBytes);
      copy_bits(verdict_.held_blocks.words(), s.slice.first_block,
                words_at(head, kHeaderBytes + statistics_bytes()), 0, block_count(s.slice));
      seal_verdict(header(MessageKind::share, member_, p, member_), head, s.slice);
    }
    work_seconds_ += watch.lap();
  }

  void collect_shares(std::size_t p) {
    State& s = states_[p];
    Stopwatch watch;
    for (int m = 0; m < members(); ++m) {
      if (m == member_) continue;
      const Bytes head = share_head_of(s, m);
      check_verdict(header(MessageKind::share, m, p, m), head, s.slices[at(m)]);
      add(head.data() + kHeaderBytes, verdict_.statistics);
      take_held_blocks(head, s.slices[at(m)]);
    }
    work_seconds_ += watch.lap();
  }

  std::unique_ptr<Transport> own_peers_, fellows_;
  Transport& peers_;  // the same member of every voter
  int rank_, member_;
  Buffer memory_;
  std::vector<State> states_;
  VoteStatistics own_;
  std::int64_t real_bits_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<Vote> make_sharded_vote(const Ballot& ballot, Transport& transport,
                                        const VoteOptions& options, Deadline deadline) {
  std::unique_ptr<Transport> peers, fellows;
  if (options.members > 1) {
    peers = transport.split(transport.rank() % options.members, deadline);
    fellows = transport.split(transport.rank() / options.members, deadline);
  }
  return std::make_unique<ShardedVote>(ballot, transport, options, std::move(peers),
                                       std::move(fellows));
}

}  // namespace ballot

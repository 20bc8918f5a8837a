// The gathered vote: everybody gets every ballot and tallies it all. One message a peer, for small
// models and links whose latency counts more than their bytes.
#include "collectives/piece_vote.h"

namespace ballot {
namespace {

std::size_t at(int r) {
  return static_cast<std::size_t>(r);
}

class GatheredVote final : public PieceVote {
 public:
  GatheredVote(const Ballot& ballot, Transport& transport, const VoteOptions& options)
      : PieceVote(ballot, transport, options, transport.size(), 1), rank_(transport.rank()) {
    states_.resize(queue_.count());
    Places places;
    for (std::size_t p = 0; p < states_.size(); ++p) place(p, places);
    memory_ = Buffer(places.size_bytes());
    std::int64_t bytes = 0, real_bits = 0;
    for (std::size_t p = 0; p < states_.size(); ++p) {
      const std::int64_t copies = voters_ - 1;
      const BallotChunk& chunk = states_[p].chunk;
      bytes += static_cast<std::int64_t>(open(p)) * copies;
      real_bits += layout_.real_elements(chunk.begin, chunk.end) * copies;
      cost_.abstentions += block_words(chunk) * 8 * copies;
    }
    cost_.ballots = (real_bits + 7) / 8;
    cost_.framing = bytes - cost_.ballots - cost_.abstentions;
    clear(own_);
  }

 private:
  struct State {
    BallotChunk chunk;                     // the piece
    std::vector<std::size_t> heads, bits;  // by voter, in memory_; the own bits are the ballot's
    std::size_t held = 0;
    std::vector<BallotPart> parts;
    std::unique_ptr<Transfer> exchange;
  };

  std::size_t head_bytes(const BallotChunk& chunk) const {
    return kHeaderBytes + static_cast<std::size_t>(block_words(chunk)) * 8;
  }
  Bytes head(const State& s, int voter) const {
    return memory_.bytes().subspan(s.heads[at(voter)], head_bytes(s.chunk));
  }
  std::uint64_t* words_at(std::size_t offset) const {
    return reinterpret_cast<std::uint64_t*>(memory_.data() + offset);
  }
  ConstBytes bits(const State& s, int voter) const {
    return {reinterpret_cast<const std::byte*>(s.parts[at(voter)].bits),
            static_cast<std::size_t>(s.chunk.word_count()) * 8};
  }

  void place(std::size_t p, Places& places) {
    State& s = states_[p];
    const PieceRange range = queue_.pieces().ranges()[p];
    s.chunk = layout_.chunk(range.begin, range.end, 0, 1);
    for (int v = 0; v < voters_; ++v) {
      s.heads.push_back(places.add(head_bytes(s.chunk)));
      s.bits.push_back(v == rank_ ? 0
                                  : places.add(static_cast<std::size_t>(s.chunk.word_count()) * 8));
    }
    s.held = places.add(static_cast<std::size_t>(block_words(s.chunk)) * 8);
  }

  // The bytes of a ballot.
  std::size_t open(std::size_t p) {
    State& s = states_[p];
    std::vector<SendParts> to(at(voters_));
    std::vector<ReceiveParts> from(at(voters_));
    for (int v = 0; v < voters_; ++v)
      s.parts.push_back(
          {v == rank_ ? ballot_.bits().words() + s.chunk.begin / 64 : words_at(s.bits[at(v)]),
           words_at(s.heads[at(v)] + kHeaderBytes)});
    const SendParts mine = {head(s, rank_), bits(s, rank_)};
    for (int v = 0; v < voters_; ++v) {
      if (v == rank_) continue;
      to[at(v)] = mine;
      from[at(v)] = {head(s, v), memory_.bytes().subspan(s.bits[at(v)], bits(s, v).size())};
    }
    s.exchange = transport_.open_exchange(Purpose::vote, to, from);
    return size_bytes(mine);
  }

  void start_piece(std::size_t p) override {
    State& s = states_[p];
    Stopwatch watch;
    copy_bits(ballot_.abstentions().words(), s.chunk.first_block,
              words_at(s.heads[at(rank_)] + kHeaderBytes), 0, block_count(s.chunk));
    const ConstBytes rest[] = {bits(s, rank_)};
    if (voters_ > 1) seal_message(header(MessageKind::ballot, rank_, p, 0), head(s, rank_), rest);
    s.exchange->start();
    work_seconds_ += watch.lap();
  }

  Progress advance_piece(std::size_t p) override {
    State& s = states_[p];
    if (!s.exchange->done()) return Progress::none;
    Stopwatch watch;
    for (int v = 0; v < voters_; ++v) {
      if (v == rank_) continue;
      const ConstBytes rest[] = {bits(s, v)};
      check_message(header(MessageKind::ballot, v, p, 0), head(s, v), rest);
    }
    const VerdictPart part = {verdict_bits(s.chunk).data(), words_at(s.held),
                              holds_elements() ? verdict_held_elements(s.chunk).data() : nullptr};
    // All count the same: one of them says so.
    tally(layout_, s.chunk, s.parts, tally_options(), part, own_, rank_ == 0 ? &counted_ : nullptr);
    copy_bits(part.held_blocks, 0, verdict_.held_blocks.words(), s.chunk.first_block,
              block_count(s.chunk));
    add(own_, verdict_.statistics);
    work_seconds_ += watch.lap();
    return Progress::done;
  }

  Transfer* waits_for(std::size_t p) override { return states_[p].exchange.get(); }

  int rank_;
  Buffer memory_;
  std::vector<State> states_;
  VoteStatistics own_;
};

}  // namespace

std::unique_ptr<Vote> make_gathered_vote(const Ballot& ballot, Transport& transport,
                                         const VoteOptions& options) {
  return std::make_unique<GatheredVote>(ballot, transport, options);
}

}  // namespace ballot

#include "collectives/vote.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "collectives/message.h"
#include "collectives/tally.h"
#include "core/error.h"
#include "core/hash.h"

namespace ballot {
namespace {

std::int64_t words_for(std::int64_t bits) {
  return (bits + 63) / 64;
}

std::int64_t block_words(const BallotChunk& chunk) {
  return words_for(chunk.last_block - chunk.first_block);
}

}  // namespace

// Two kinds of messages, words of 8 bytes after the header:
//   ballot:  bits of the chunk | its abstentions
//   verdict: statistics (5 numbers, then agreed and compared of each voter) | bits | held elements
//   (ties = hold only) |
//            held blocks
struct Vote::State {
  const BallotLayout& layout;
  Transport& transport;
  VoteOptions options;
  int rank, size;
  std::uint64_t digest;
  std::vector<BallotChunk> chunks;  // by owner
  Buffer ballots_out, ballots_in, verdicts;
  std::vector<Bytes> ballot_to, ballot_from, verdict_from;  // by rank; the own rank's too
  std::vector<ConstBytes> ballot_to_const;
  std::vector<BallotPart> parts;
  VoteStatistics own;
  Verdict verdict;
  Times times;

  State(const BallotLayout& the_layout, Transport& the_transport, VoteOptions the_options)
      : layout(the_layout),
        transport(the_transport),
        options(the_options),
        rank(transport.rank()),
        size(transport.size()) {
    digest = hash64(layout.digest(), options.seed, static_cast<std::uint64_t>(options.ties),
                    static_cast<std::uint64_t>(size));
    for (int r = 0; r < size; ++r) chunks.push_back(layout.chunk(r, size));
    const BallotChunk& mine = chunks[at(rank)];
    std::size_t out = 0, verdict_bytes_all = 0;
    for (int r = 0; r < size; ++r) {
      out += ballot_bytes(chunks[at(r)]);
      verdict_bytes_all += verdict_bytes(chunks[at(r)]);
    }
    ballots_out = Buffer(out);
    ballots_in = Buffer(ballot_bytes(mine) * at(size));
    verdicts = Buffer(verdict_bytes_all);
    std::size_t out_offset = 0, verdict_offset = 0;
    for (int r = 0; r < size; ++r) {
      const std::size_t bytes = ballot_bytes(chunks[at(r)]),
                        verdict_size = verdict_bytes(chunks[at(r)]);
      ballot_to.push_back(ballots_out.bytes().subspan(out_offset, bytes));
      ballot_to_const.push_back(ballot_to.back());
      out_offset += bytes;
      // The own ballot is tallied where it was packed.
      ballot_from.push_back(
          r == rank ? ballot_to.back()
                    : ballots_in.bytes().subspan(at(r) * ballot_bytes(mine), ballot_bytes(mine)));
      verdict_from.push_back(verdicts.bytes().subspan(verdict_offset, verdict_size));
      verdict_offset += verdict_size;
      const std::uint64_t* bits = words_of(ballot_from.back());
      parts.push_back({bits, bits + mine.word_count()});
    }
    verdict.bits = BitVector(layout.extent());
    verdict.held_blocks = BitVector(layout.blocks());
    if (options.ties == Ties::hold) verdict.held_elements = BitVector(layout.extent());
    own.agreed.resize(at(size));
    own.compared.resize(at(size));
  }

  static std::size_t at(int r) { return static_cast<std::size_t>(r); }
  static std::uint64_t* words_of(Bytes message) {
    return reinterpret_cast<std::uint64_t*>(message.data() + kHeaderBytes);
  }
  int bit_planes() const { return options.ties == Ties::hold ? 2 : 1; }
  std::int64_t statistics_words() const { return 5 + 2 * size; }
  static std::size_t ballot_bytes(const BallotChunk& chunk) {
    return kHeaderBytes + static_cast<std::size_t>(chunk.word_count() + block_words(chunk)) * 8;
  }
  std::size_t verdict_bytes(const BallotChunk& chunk) const {
    return kHeaderBytes +
           static_cast<std::size_t>(statistics_words() + chunk.word_count() * bit_planes() +
                                    block_words(chunk)) *
               8;
  }
  MessageHeader header(MessageKind kind, std::int64_t step, int sender, int chunk) const {
    MessageHeader header;
    header.kind = kind;
    header.step = step;
    header.digest = digest;
    header.sender = static_cast<std::uint32_t>(sender);
    header.chunk = static_cast<std::uint32_t>(chunk);
    return header;
  }

  // The places of a verdict's parts in its message.
  struct VerdictMessage {
    std::int64_t* statistics;
    std::uint64_t* bits;
    std::uint64_t* held_elements;  // null with ties = coin
    std::uint64_t* held_blocks;
  };
  VerdictMessage open(int owner) const {
    std::uint64_t* words = words_of(verdict_from[at(owner)]);
    const std::int64_t count = chunks[at(owner)].word_count();
    VerdictMessage message;
    message.statistics = reinterpret_cast<std::int64_t*>(words);
    message.bits = words + statistics_words();
    message.held_elements = options.ties == Ties::hold ? message.bits + count : nullptr;
    message.held_blocks = message.bits + count * bit_planes();
    return message;
  }

  void pack(const Ballot& ballot, std::int64_t step) {
    for (int r = 0; r < size; ++r) {
      const BallotChunk& chunk = chunks[at(r)];
      std::uint64_t* words = words_of(ballot_to[at(r)]);
      std::copy_n(ballot.bits().words() + chunk.begin / 64, chunk.word_count(), words);
      copy_bits(ballot.abstentions().words(), chunk.first_block, words + chunk.word_count(), 0,
                chunk.last_block - chunk.first_block);
      if (r != rank) seal_message(header(MessageKind::ballot, step, rank, r), ballot_to[at(r)]);
    }
  }

  void tally_own(std::int64_t step) {
    for (int r = 0; r < size; ++r)
      if (r != rank) check_message(header(MessageKind::ballot, step, r, rank), ballot_from[at(r)]);
    const VerdictMessage message = open(rank);
    tally(layout, chunks[at(rank)], parts, {options.seed, step, options.ties},
          {message.bits, message.held_blocks, message.held_elements}, own);
    std::int64_t* out = message.statistics;
    for (const std::int64_t value :
         {own.elements, own.ties, own.unanimous, own.held_blocks, own.blocks})
      *out++ = value;
    out = std::copy(own.agreed.begin(), own.agreed.end(), out);
    std::copy(own.compared.begin(), own.compared.end(), out);
    seal_message(header(MessageKind::verdict, step, rank, rank), verdict_from[at(rank)]);
  }

  void assemble(std::int64_t step) {
    VoteStatistics& total = verdict.statistics;
    total.elements = total.ties = total.unanimous = total.held_blocks = total.blocks = 0;
    total.agreed.assign(at(size), 0);
    total.compared.assign(at(size), 0);
    for (int r = 0; r < size; ++r) {
      if (r != rank) check_message(header(MessageKind::verdict, step, r, r), verdict_from[at(r)]);
      const BallotChunk& chunk = chunks[at(r)];
      const VerdictMessage message = open(r);
      const std::int64_t* in = message.statistics;
      for (std::int64_t* sum :
           {&total.elements, &total.ties, &total.unanimous, &total.held_blocks, &total.blocks})
        *sum += *in++;
      for (std::int64_t& sum : total.agreed) sum += *in++;
      for (std::int64_t& sum : total.compared) sum += *in++;
      std::copy_n(message.bits, chunk.word_count(), verdict.bits.words() + chunk.begin / 64);
      if (message.held_elements != nullptr)
        std::copy_n(message.held_elements, chunk.word_count(),
                    verdict.held_elements.words() + chunk.begin / 64);
      copy_bits(message.held_blocks, 0, verdict.held_blocks.words(), chunk.first_block,
                chunk.last_block - chunk.first_block);
    }
  }
};

Vote::Vote(const BallotLayout& layout, Transport& transport, VoteOptions options)
    : state_(std::make_unique<State>(layout, transport, options)) {}

Vote::~Vote() = default;

const Verdict& Vote::elect(const Ballot& ballot, std::int64_t step, Deadline deadline) {
  State& s = *state_;
  require(ballot.layout().digest() == s.layout.digest(),
          "ballot of another layout: {} elements, expected {}", ballot.layout().extent(),
          s.layout.extent());
  Stopwatch watch;
  s.pack(ballot, step);
  s.transport.start_exchange(Purpose::vote, s.ballot_to_const, s.ballot_from)->wait(deadline);
  s.times.exchange = watch.lap();
  s.tally_own(step);
  s.times.tally = watch.lap();
  s.transport.start_gather(Purpose::vote, s.verdict_from[State::at(s.rank)], s.verdict_from)
      ->wait(deadline);
  s.assemble(step);
  s.times.exchange += watch.lap();
  return s.verdict;
}

Vote::Times Vote::times() const {
  return state_->times;
}

Vote::Cost Vote::cost() const {
  const State& s = *state_;
  const BallotChunk& mine = s.chunks[State::at(s.rank)];
  const std::int64_t copies = s.size - 1;  // of the own chunk's verdict
  std::int64_t real_bits = s.layout.real_elements(mine.begin, mine.end) * copies * s.bit_planes();
  std::int64_t bytes = static_cast<std::int64_t>(s.verdict_bytes(mine)) * copies;
  Cost cost;
  cost.abstentions = block_words(mine) * 8 * copies;
  for (int r = 0; r < s.size; ++r) {
    if (r == s.rank) continue;
    const BallotChunk& chunk = s.chunks[State::at(r)];
    real_bits += s.layout.real_elements(chunk.begin, chunk.end);
    bytes += static_cast<std::int64_t>(State::ballot_bytes(chunk));
    cost.abstentions += block_words(chunk) * 8;
  }
  cost.ballots = (real_bits + 7) / 8;
  cost.framing = bytes - cost.ballots - cost.abstentions;
  return cost;
}

}  // namespace ballot

#include "collectives/piece_vote.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/hash.h"

namespace ballot {
namespace {

Pieces make_pieces(const BallotLayout& layout, const VoteOptions& options, int voters, int owners) {
  std::vector<std::int64_t> starts;
  for (const BallotSegment& segment : layout.segments()) starts.push_back(segment.offset);
  const std::int64_t piece = options.piece_elements > 0
                                 ? options.piece_elements
                                 : choose_piece(layout.extent(), owners, smallest_ballot(voters));
  return Pieces(std::move(starts), layout.extent(), piece, kBallotAlignment);
}

}  // namespace

PieceVote::PieceVote(const Ballot& ballot, Transport& transport, const VoteOptions& options,
                     int voters, int owners)
    : ballot_(ballot),
      layout_(ballot.layout()),
      transport_(transport),
      options_(options),
      voters_(voters),
      queue_(make_pieces(layout_, options, voters, owners)),
      counted_(layout_.segments().size(), static_cast<std::size_t>(voters)) {
  // Pinned where a GPU reads them.
  verdict_.bits = BitVector(layout_.extent(), ballot.device());
  verdict_.held_blocks = BitVector(layout_.blocks(), ballot.device());
  if (holds_elements()) verdict_.held_elements = BitVector(layout_.extent(), ballot.device());
  digest_ = hash64(layout_.digest(), options.seed, static_cast<std::uint64_t>(options.ties),
                   static_cast<std::uint64_t>(voters));
  digest_ = hash64(digest_, static_cast<std::uint64_t>(options.schedule),
                   static_cast<std::uint64_t>(options.estimator), queue_.count());
}

void PieceVote::begin(std::int64_t step) {
  require(whole_, "the vote of step {} begins while that of step {} is under way", step, step_);
  step_ = step;
  queue_.begin();
  whole_ = false;
  work_seconds_ = 0;
  clear(verdict_.statistics);
}

bool PieceVote::advance() {
  moved_ = false;
  if (whole_) return true;
  moved_ = queue_.advance([this](std::size_t p) { start_piece(p); },
                          [this](std::size_t p) { return advance_piece(p); });
  whole_ = queue_.all_done() && advance_end();
  return whole_;
}

void PieceVote::give_up() {
  for (const std::size_t p : queue_.under_way()) give_up_piece(p);
  if (Transfer* transfer = end_waits_for()) transfer->wait(Deadline::in(Duration::zero()));
  const std::size_t segment = queue_.pieces().unreleased();
  if (segment < queue_.pieces().segments())
    throw LogicError("the vote of a step waits for the ballot of " +
                     layout_.segments()[segment].name + ", which was never released");
  throw Timeout("rank {}: the vote of step {} passed its deadline when all had come",
                transport_.rank(), step_);
}

MessageHeader PieceVote::header(MessageKind kind, int sender, std::size_t piece, int chunk) const {
  MessageHeader header;
  header.kind = kind;
  header.step = step_;
  header.digest = digest_;
  header.sender = static_cast<std::uint32_t>(sender);
  header.chunk = static_cast<std::uint32_t>(piece) * 2048 + static_cast<std::uint32_t>(chunk);
  return header;
}

void PieceVote::clear(VoteStatistics& statistics) const {
  statistics.elements = statistics.ties = statistics.unanimous = 0;
  statistics.held_blocks = statistics.blocks = 0;
  statistics.agreed.assign(static_cast<std::size_t>(voters_), 0);
  statistics.compared.assign(static_cast<std::size_t>(voters_), 0);
}

void PieceVote::write(const VoteStatistics& s, std::byte* target) {
  const auto put = [&target](std::span<const std::int64_t> values) {
    if (values.empty()) return;  // a share of a node's verdict has no voters
    std::memcpy(target, values.data(), values.size_bytes());
    target += values.size_bytes();
  };
  const std::int64_t head[] = {s.elements, s.ties, s.unanimous, s.held_blocks, s.blocks};
  put(head);
  put(s.agreed);
  put(s.compared);
}

void PieceVote::add(const std::byte* source, VoteStatistics& sum) {
  const auto next = [&source] {
    std::int64_t value;
    std::memcpy(&value, source, sizeof value);
    source += sizeof value;
    return value;
  };
  for (std::int64_t* total :
       {&sum.elements, &sum.ties, &sum.unanimous, &sum.held_blocks, &sum.blocks})
    *total += next();
  for (std::int64_t& total : sum.agreed) total += next();
  for (std::int64_t& total : sum.compared) total += next();
}

void PieceVote::add(const VoteStatistics& part, VoteStatistics& sum) {
  sum.elements += part.elements;
  sum.ties += part.ties;
  sum.unanimous += part.unanimous;
  sum.held_blocks += part.held_blocks;
  sum.blocks += part.blocks;
  for (std::size_t v = 0; v < sum.agreed.size(); ++v) {
    sum.agreed[v] += part.agreed[v];
    sum.compared[v] += part.compared[v];
  }
}

std::span<std::uint64_t> PieceVote::verdict_bits(const BallotChunk& chunk) const {
  return verdict_.bits.span().subspan(static_cast<std::size_t>(chunk.begin / 64),
                                      static_cast<std::size_t>(chunk.word_count()));
}

std::span<std::uint64_t> PieceVote::verdict_held_elements(const BallotChunk& chunk) const {
  if (!holds_elements()) return {};
  return verdict_.held_elements.span().subspan(static_cast<std::size_t>(chunk.begin / 64),
                                               static_cast<std::size_t>(chunk.word_count()));
}

}  // namespace ballot

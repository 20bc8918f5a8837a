#define XXH_INLINE_ALL
#include "collectives/device_piece_vote.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

// The end's message of each rank: header, digest of the verdict, statistics of what it counted.
std::size_t end_bytes(int voters) {
  return kHeaderBytes + sizeof(std::uint64_t) + at(5 + 2 * voters) * sizeof(std::int64_t);
}

}  // namespace

DevicePieceVote::DevicePieceVote(const Ballot& ballot, Transport& transport, DeviceLink& link,
                                 const VoteOptions& options, int voters, int owners)
    : PieceVote(ballot, transport, options, voters, owners),
      link_(link),
      device_(link.device()),
      rank_(transport.rank()),
      from_host_(ballot.device().kind == Device::Kind::cpu),
      reports_(transport, Purpose::vote, end_bytes(voters)) {
  if (!from_host_)
    require(ballot.device() == device_, "a ballot on {}, a link between {}s",
            to_string(ballot.device()), to_string(device_));
  verdict_.bits = BitVector(layout_.extent(), device_);
  verdict_.device_bits = Buffer(words_bytes(verdict_.bits.word_count()), device_);
  verdict_.held_elements = BitVector(holds_elements() ? layout_.extent() : 0, device_);
  verdict_.device_held_elements = Buffer(words_bytes(verdict_.held_elements.word_count()), device_);
  clear(own_);
}

void DevicePieceVote::copy_ballot(const BallotChunk& piece, std::byte* host) const {
  if (from_host_)
    std::memcpy(host, ballot_.bits().words() + piece.begin / 64, words_bytes(piece.word_count()));
}

std::byte* DevicePieceVote::ballot_of(const BallotChunk& piece, const BallotChunk& chunk,
                                      std::byte* uploaded) const {
  return from_host_ ? uploaded + words_bytes((chunk.begin - piece.begin) / 64)
                    : reinterpret_cast<std::byte*>(ballot_.device_bits() + chunk.begin / 64);
}

void DevicePieceVote::copy_abstentions(const BallotChunk& chunk, std::uint64_t* target) const {
  copy_bits(ballot_.abstentions().words(), chunk.first_block, target, 0, block_count(chunk));
}

void DevicePieceVote::take_held_blocks(const BallotChunk& chunk, const std::uint64_t* source) {
  copy_bits(source, 0, verdict_.held_blocks.words(), chunk.first_block, block_count(chunk));
}

void DevicePieceVote::add_verdict(std::vector<DeviceMessage>& messages, int rank,
                                  const BallotChunk& chunk, std::byte* held_blocks,
                                  std::int64_t held_words) const {
  const std::size_t bytes = words_bytes(chunk.word_count());
  messages.push_back({rank, device_bits(chunk), bytes});
  if (holds_elements()) messages.push_back({rank, device_held_elements(chunk), bytes});
  messages.push_back({rank, held_blocks, words_bytes(held_words)});
}

void DevicePieceVote::fetch_verdict(const BallotChunk& chunk, Stream& stream) {
  const std::size_t bytes = words_bytes(chunk.word_count());
  copy_bytes(verdict_.bits.words() + chunk.begin / 64, Device{}, device_bits(chunk), device_, bytes,
             stream);
  if (holds_elements())
    copy_bytes(verdict_.held_elements.words() + chunk.begin / 64, Device{},
               device_held_elements(chunk), device_, bytes, stream);
}

void DevicePieceVote::count_cost(const BallotChunk& chunk, int planes, std::int64_t block_bytes) {
  real_bits_ += layout_.real_elements(chunk.begin, chunk.end) * planes;
  bytes_ += chunk.word_count() * 8 * planes + block_bytes;
  cost_.abstentions += block_bytes;
}

void DevicePieceVote::end_cost() {
  bytes_ += reports_.sent_bytes();
  cost_.ballots = (real_bits_ + 7) / 8;
  cost_.framing = bytes_ - cost_.ballots - cost_.abstentions;
}

void DevicePieceVote::start_piece(std::size_t p) {
  or_abort(link_, [&] {
    if (p == 0) reports_.expect();
    start(p);
  });
}

Progress DevicePieceVote::advance_piece(std::size_t p) {
  return or_abort(link_, [&] {
    if (!home(p).done()) {
      link_.check();
      reports_.check();
      return Progress::none;
    }
    Stopwatch watch;
    take(p);
    work_seconds_ += watch.lap();
    return Progress::done;
  });
}

void DevicePieceVote::give_up_piece(std::size_t p) {
  or_abort(link_, [&] {
    link_.check();
    throw piece_not_back(transport_, p, queue_.count(), "vote", step_);
  });
}

bool DevicePieceVote::advance_end() {
  return or_abort(link_, [&] { return end(); });
}

std::uint64_t DevicePieceVote::digest_of_verdict() const {
  const auto add = [](const BitVector& bits, std::uint64_t seed) {
    return XXH3_64bits_withSeed(bits.words(), words_bytes(bits.word_count()), seed);
  };
  std::uint64_t digest = add(verdict_.held_blocks, add(verdict_.bits, 0));
  if (holds_elements()) digest = add(verdict_.held_elements, digest);
  return digest;
}

bool DevicePieceVote::end() {
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
  for (int r = 0; r < transport_.size(); ++r) {
    const Bytes message = reports_.message(r);
    if (r != rank_) check_message(header(MessageKind::agreement, r, 0, 0), message);
    digests.emplace_back();
    std::memcpy(&digests.back(), message.data() + kHeaderBytes, sizeof(std::uint64_t));
    add(message.data() + kHeaderBytes + sizeof(std::uint64_t), verdict_.statistics);
  }
  require_one_verdict(digests);
  clear(own_);
  reported_ = false;
  return true;
}

void DevicePieceVote::require_one_verdict(const std::vector<std::uint64_t>& digests) const {
  const int ranks = transport_.size();
  const auto holders = [&](std::uint64_t digest) { return std::ranges::count(digests, digest); };
  if (holders(digests.front()) == ranks) return;
  std::vector<int> alone;  // those whom no majority holds with
  for (int r = 0; r < ranks; ++r)
    if (2 * holders(digests[at(r)]) <= ranks) alone.push_back(r);
  throw TransportError(
      "of the verdict of step {} {} hold{} something else than {}: damaged on the way", step_,
      name_ranks(alone), alone.size() == 1 ? "s" : "",
      static_cast<int>(alone.size()) == ranks ? "each other" : "the rest");
}

}  // namespace ballot

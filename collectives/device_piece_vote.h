// What votes between GPUs share: the verdict in a GPU's memory and its copy on the host, whom a
// lost piece is told of, the messages at a step's end. Private to collectives.
//
// A piece is handed over as a whole when it starts, and nobody on the host waits in between: up
// (abstentions to the device, and of a ballot that was cast on the CPU its bits), over the link,
// down (the verdict to the host). Bits cast on the GPU stay there, and the verdict's stay there as
// well: their copy on the host is for the journal and the digest.
//
// Ranks give the link their pieces in one order, because pieces start in order; so nothing else may
// use the link before the last piece has started. At a step's end ranks report to each other, over
// the transport, what they counted and the digest of the verdict that they hold; the reports are
// expected from the step's beginning, so that a rank that the transport knows to be lost is named.
// Messages on the link have no checksums of ours: a verdict damaged on its way is found by those
// digests, a ballot is not.
//
// A schedule's streams, its last members, end before what they work on: so its destructor calls
// abort_unfinished(), or they would wait for ever.
#pragma once

#include <vector>

#include "collectives/peer_reports.h"
#include "collectives/piece_vote.h"
#include "collectives/transport/device_link.h"
#include "core/copy.h"
#include "core/event.h"

namespace ballot {

class DevicePieceVote : public PieceVote {
 protected:
  DevicePieceVote(const Ballot& ballot, Transport& transport, DeviceLink& link,
                  const VoteOptions& options, int voters, int owners);

  // Gives a piece's work to streams, in the end to that of home(piece).
  virtual void start(std::size_t piece) = 0;
  virtual const Event& home(std::size_t piece) const = 0;
  // All of the piece has come: held blocks go to the verdict, statistics to own_.
  virtual void take(std::size_t piece) = 0;

  void abort_unfinished() noexcept {
    if (!is_whole()) link_.abort();
  }

  // A piece's ballot: its words on their way from the host if it was cast there. `offset` is what
  // place_ballot() gave.
  std::size_t place_ballot(const BallotChunk& piece, Places& up) const {
    return from_host_ ? up.add(words_bytes(piece.word_count())) : 0;
  }
  void copy_ballot(const BallotChunk& piece, std::byte* host) const;
  std::byte* ballot_of(const BallotChunk& piece, const BallotChunk& chunk,
                       std::byte* uploaded) const;
  // Blocks of a chunk from a word of their own, and back.
  void copy_abstentions(const BallotChunk& chunk, std::uint64_t* target) const;
  void take_held_blocks(const BallotChunk& chunk, const std::uint64_t* source);

  // A chunk's verdict on the device.
  std::byte* device_bits(const BallotChunk& chunk) const {
    return verdict_.device_bits.data() + words_bytes(chunk.begin / 64);
  }
  std::byte* device_held_elements(const BallotChunk& chunk) const {
    return holds_elements() ? verdict_.device_held_elements.data() + words_bytes(chunk.begin / 64)
                            : nullptr;
  }
  // Adds the messages that carry it, with so many words of held blocks lying there.
  void add_verdict(std::vector<DeviceMessage>& messages, int rank, const BallotChunk& chunk,
                   std::byte* held_blocks, std::int64_t held_words) const;
  void fetch_verdict(const BallotChunk& chunk, Stream& stream);

  void count_cost(const BallotChunk& chunk, int planes, std::int64_t block_bytes);
  void end_cost();  // when all is counted

  static std::size_t words_bytes(std::int64_t words) { return static_cast<std::size_t>(words) * 8; }
  static std::uint64_t* words_at(std::byte* memory, std::size_t offset) {
    return reinterpret_cast<std::uint64_t*>(memory + offset);
  }

  DeviceLink& link_;
  const Device device_;
  const int rank_;
  const bool from_host_;  // the ballot is cast there
  VoteStatistics own_;    // what this rank adds to everybody's
  std::int64_t real_bits_ = 0, bytes_ = 0;

 private:
  void start_piece(std::size_t p) final;
  Progress advance_piece(std::size_t p) final;
  // No transfer of the transport: NCCL knows no ranks that are missing.
  Transfer* waits_for(std::size_t) final { return nullptr; }
  void give_up_piece(std::size_t p) final;
  bool advance_end() final;
  Transfer* end_waits_for() final { return reported_ ? reports_.missing() : nullptr; }

  bool end();
  std::uint64_t digest_of_verdict() const;
  void require_one_verdict(const std::vector<std::uint64_t>& digests) const;

  PeerReports reports_;
  bool reported_ = false;
};

}  // namespace ballot

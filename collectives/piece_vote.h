// What all schedules of the vote share: the pieces, the verdict they fill, its statistics, the
// headers of messages. Private to collectives.
//
// A schedule says what a piece's stages are: start_piece() when its ballots may leave, then
// advance_piece() until it is done. Pieces start in order, a few at a time (collective.h).
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "collectives/message.h"
#include "collectives/piece_queue.h"
#include "collectives/tally.h"
#include "collectives/vote.h"
#include "core/buffer.h"

namespace ballot {

inline std::int64_t block_count(const BallotChunk& chunk) {
  return chunk.last_block - chunk.first_block;
}
inline std::int64_t block_words(const BallotChunk& chunk) {
  return (block_count(chunk) + 63) / 64;
}

class PieceVote : public Vote {
 public:
  std::size_t segments() const final { return queue_.pieces().segments(); }
  void begin(std::int64_t step) final;
  void release(std::size_t segment) final { queue_.release(segment); }
  bool advance() final;
  bool moved() const final { return moved_; }
  bool under_way() const final {
    return !queue_.under_way().empty() || (!whole_ && queue_.all_left());
  }
  void give_up() final;
  double work_seconds() const final { return work_seconds_; }
  void limit_in_flight(std::size_t pieces) final { queue_.limit_in_flight(pieces); }
  Transport& transport() final { return transport_; }
  const Verdict& verdict() const final { return verdict_; }
  Cost cost() const final { return cost_; }
  int voters() const final { return voters_; }
  const SegmentAgreement& counted() const final { return counted_; }
  void forget_counted() final { counted_.clear(); }
  bool all_started() const final { return queue_.all_left(); }
  std::int64_t pieces() const final { return static_cast<std::int64_t>(queue_.count()); }

 protected:
  bool is_whole() const { return whole_; }  // no step is under way

  // A piece takes `owners` owners' chunks.
  PieceVote(const Ballot& ballot, Transport& transport, const VoteOptions& options, int voters,
            int owners);

  virtual void start_piece(std::size_t piece) = 0;
  virtual Progress advance_piece(std::size_t piece) = 0;
  // The transfer that the piece waits for; null when for none.
  virtual Transfer* waits_for(std::size_t piece) = 0;
  // Throws Timeout, saying whom the piece waits for; returns if for nobody.
  virtual void give_up_piece(std::size_t piece) {
    if (Transfer* transfer = waits_for(piece)) transfer->wait(Deadline::in(Duration::zero()));
  }
  // After the last piece; true when nothing is left to do.
  virtual bool advance_end() { return true; }
  virtual Transfer* end_waits_for() { return nullptr; }

  bool holds_elements() const { return options_.ties == Ties::hold; }
  int bit_planes() const { return holds_elements() ? 2 : 1; }
  TallyOptions tally_options() const { return {options_.seed, step_, options_.ties}; }
  MessageHeader header(MessageKind kind, int sender, std::size_t piece, int chunk) const;

  // Statistics in messages: elements, ties, unanimous, held blocks, blocks, then agreed and
  // compared of each voter, as int64.
  std::size_t statistics_bytes() const {
    return static_cast<std::size_t>(5 + 2 * voters_) * sizeof(std::int64_t);
  }
  static void write(const VoteStatistics& statistics, std::byte* target);
  static void add(const std::byte* source, VoteStatistics& sum);
  static void add(const VoteStatistics& part, VoteStatistics& sum);
  void clear(VoteStatistics& statistics) const;

  // A verdict's bits (and held elements) of these elements, where the verdict has them.
  std::span<std::uint64_t> verdict_bits(const BallotChunk& chunk) const;
  std::span<std::uint64_t> verdict_held_elements(const BallotChunk& chunk) const;

  const Ballot& ballot_;
  const BallotLayout& layout_;
  Transport& transport_;
  const VoteOptions options_;
  const int voters_;
  PieceQueue queue_;
  Verdict verdict_;
  SegmentAgreement counted_;
  std::uint64_t digest_;
  std::int64_t step_ = 0;
  double work_seconds_ = 0;
  Cost cost_;

 private:
  bool whole_ = true, moved_ = false;
};

// Places of many small things in one buffer, each on a cache line of its own.
class Places {
 public:
  std::size_t add(std::size_t bytes) {
    const std::size_t place = size_;
    size_ += (bytes + 63) / 64 * 64;
    return place;
  }
  std::size_t size_bytes() const { return size_; }

 private:
  std::size_t size_ = 0;
};

// The schedules; make_vote() has checked the options.
std::unique_ptr<Vote> make_sharded_vote(const Ballot& ballot, Transport& transport,
                                        const VoteOptions& options, Deadline deadline);
std::unique_ptr<Vote> make_gathered_vote(const Ballot& ballot, Transport& transport,
                                         const VoteOptions& options);
std::unique_ptr<Vote> make_lane_vote(const Ballot& ballot, Transport& transport,
                                     const VoteOptions& options);
std::unique_ptr<Vote> make_hierarchical_vote(const Ballot& ballot, Transport& transport,
                                             const VoteOptions& options, Deadline deadline);
// The same between GPUs.
std::unique_ptr<Vote> make_device_sharded_vote(const Ballot& ballot, Transport& transport,
                                               DeviceLink& link, const VoteOptions& options);
std::unique_ptr<Vote> make_device_lane_vote(const Ballot& ballot, Transport& transport,
                                            DeviceLink& link, const VoteOptions& options);
std::unique_ptr<Vote> make_device_hierarchical_vote(const Ballot& ballot, Transport& transport,
                                                    DeviceLink& link, const VoteOptions& options);

}  // namespace ballot

// Bounded memory through which tensors go to a disk as they were at one instant, while a step goes
// on to change them.
//
//   disk's thread   next(): the files' bytes in order, piece by piece; where there is room it
//   copies
//                   pieces ahead of the one that is written
//   step's thread   before_change(): at once if the tensor is copied already or is none of these;
//                   else copies it, and waits for room if need be
//
// A piece is a stretch of one file's tensors, so small tensors share one and large ones are cut.
// One room is kept for the piece that is next in order: the disk's thread always goes on, however
// little memory there is, and so does the step's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "core/clock.h"
#include "core/copy.h"
#include "runtime/checkpoint_share.h"

namespace ballot {

class CheckpointStaging {
 public:
  // At least two pieces of kLeastPiece bytes. Memory is taken by reserve(), or when files come.
  explicit CheckpointStaging(std::uint64_t bytes);
  // Takes what these files can use.
  void reserve(std::span<const CheckpointFile> files);

  // Step's thread. What the files' tensors hold now will be copied. The files before must be done
  // (next() gave nothing) or given up; `files` must outlive these.
  void start(std::span<const CheckpointFile> files);
  // Step's thread. Returns the seconds that it took. When the disk has taken nothing for `patience`
  // the files are given up, with a reason that names it.
  double before_change(const Parameter& parameter, Changing what, Duration patience);

  struct Piece {
    std::size_t file = 0;
    std::span<const std::byte> bytes;  // whole elements; valid until the next call of next()
  };
  // Disk's thread. The next piece in order; none: that was the last one, or they were given up.
  std::optional<Piece> next();

  // Any thread. From now on nobody waits for a copy; next() gives nothing.
  void give_up(const std::string& reason);
  // Why they were given up; empty: they were not.
  std::string reason() const;
  std::uint64_t size_bytes() const { return memory_.size_bytes(); }

  static constexpr std::uint64_t kLeastPiece = 64, kMostPiece = std::uint64_t{4} << 20;

 private:
  enum class Stage : std::uint8_t { pending, copying, staged, done };
  struct Cut {  // a piece: bytes [begin, end) of a file's data
    std::size_t file = 0;
    std::uint64_t begin = 0, end = 0;
    Stage stage = Stage::pending;
    std::size_t room = 0;
  };
  struct Stretch {  // pieces that hold some of a tensor
    std::size_t begin = 0, end = 0;
  };
  void copy(const Cut& cut) const;
  // All of these with the mutex held.
  void take_room(Cut& cut);
  // A device could not be read: the files are given up, nobody waits for these.
  void fail(std::span<Cut> cuts, const std::string& why);
  bool is_copied(const Stretch& stretch) const;

  const std::uint64_t limit_bytes_, piece_bytes_;
  Device device_;  // of the tensors, all of them
  PinnedBuffer memory_;

  std::span<const CheckpointFile> files_;
  std::vector<std::vector<std::uint64_t>> offsets_;  // of each file's tensors, and of its end
  std::vector<std::vector<Stretch>> stretches_[2];   // by Changing, then by parameter

  std::atomic<bool> under_way_ = false;
  mutable std::mutex mutex_;  // of everything below
  std::condition_variable changed_;
  std::vector<Cut> cuts_;
  std::vector<std::size_t> rooms_;  // free ones
  std::size_t next_ = 0;            // in order: what next() gives
  std::size_t ahead_ = 0;           // before it nothing is pending
  bool holds_ = false;              // next() has given cuts_[next_ - 1] and it is in use
  bool step_waits_ = false;
  std::uint64_t progress_ = 0;  // pieces whose room was given back
  std::string reason_;
};

}  // namespace ballot

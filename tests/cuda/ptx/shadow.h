// Who accessed which bytes of global or shared memory, so that two accesses with nothing to order
// them are found, whatever order they happened to run in.
//
// Two accesses of the same bytes by different threads, of which one writes, are a race unless the
// same block had a barrier between them, or the same warp a __syncwarp of all lanes. Atomics do not
// race with one another. Nothing orders two blocks of a launch (a counter that the last block waits
// for does not either: use a second launch). What a launch reads through the read-only path
// (ld.global.nc: const __restrict__ pointers) it must write nowhere, not even in order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace ballot::ptx {

// One access, or several that stand for one: by a warp, a block or many blocks.
struct Access {
  enum class By : std::uint8_t { none, thread, warp, block, blocks };
  By by = By::none;
  bool atomic = false;
  std::uint16_t thread = 0;  // in its block
  std::uint32_t block = 0;
  std::uint32_t block_epoch = 0;  // barriers before it
  std::uint32_t warp_epoch = 0;   // of its warp
  std::int32_t instruction = 0;
};

// What a new access met.
struct Race {
  Access earlier;
  bool earlier_wrote = false;
  bool read_only_path = false;
};

enum class Use : std::uint8_t { read, read_only_path, write, atomic };

// The shadow of one range of memory during one launch (global) or of one block (shared).
class Shadow {
 public:
  explicit Shadow(std::size_t bytes) : pages_((bytes + kPageBytes - 1) / kPageBytes) {}
  // Bytes [offset, offset + bytes) are used by `now`; what it races with, if anything.
  std::optional<Race> use(std::size_t offset, std::size_t bytes, Use use, const Access& now);
  void clear();

 private:
  static constexpr std::size_t kPageBytes = 4096;
  struct Cell {
    Access write;  // the last
    Access read;   // since the last write
    bool read_only_path = false;
    bool written = false;
  };
  // As fine as the smallest access so far: 4, 2 or 1 bytes a cell.
  struct Page {
    unsigned shift = 2;
    std::vector<Cell> cells;
  };
  static void refine(Page& page, unsigned shift);
  std::optional<Race> use_cell(Cell& cell, Use use, const Access& now);
  std::vector<std::unique_ptr<Page>> pages_;
};

}  // namespace ballot::ptx

// The race rules of shadow.h, a cell at a time.
#include "ptx/shadow.h"

#include <algorithm>

namespace ballot::ptx {
namespace {

bool is_ordered(const Access& earlier, const Access& now) {
  if (earlier.by == Access::By::none) return true;
  if (earlier.by == Access::By::blocks || earlier.block != now.block) return false;
  if (earlier.block_epoch < now.block_epoch) return true;
  if (earlier.by == Access::By::block) return false;
  if (earlier.by == Access::By::thread && earlier.thread == now.thread) return true;
  return earlier.thread / 32 == now.thread / 32 && earlier.warp_epoch < now.warp_epoch;
}

// One record for an earlier access and one that it does not exclude.
Access merge(const Access& earlier, const Access& now) {
  if (is_ordered(earlier, now)) return now;  // what is ordered after `now` is so after both
  Access both = now;
  if (earlier.by == Access::By::blocks || earlier.block != now.block)
    both.by = Access::By::blocks;
  else if (earlier.by == Access::By::block || earlier.thread / 32 != now.thread / 32)
    both.by = Access::By::block;
  else
    both.by = Access::By::warp;
  return both;
}

}  // namespace

void Shadow::clear() {
  for (auto& page : pages_)
    if (page != nullptr) std::fill(page->cells.begin(), page->cells.end(), Cell());
}

void Shadow::refine(Page& page, unsigned shift) {
  const std::size_t copies = std::size_t{1} << (page.shift - shift);
  std::vector<Cell> cells;
  cells.reserve(page.cells.size() * copies);
  for (const Cell& cell : page.cells) cells.insert(cells.end(), copies, cell);
  page.cells = std::move(cells);
  page.shift = shift;
}

std::optional<Race> Shadow::use_cell(Cell& cell, Use use, const Access& now) {
  const bool writes = use == Use::write || use == Use::atomic;
  if (writes && cell.read_only_path) return Race{cell.read, false, true};
  if (use == Use::read_only_path && cell.written) return Race{cell.write, true, true};
  const bool both_atomic = use == Use::atomic && cell.write.atomic;
  if (!both_atomic && !is_ordered(cell.write, now)) return Race{cell.write, true, false};
  if (!writes) {
    cell.read = merge(cell.read, now);
    cell.read_only_path |= use == Use::read_only_path;
    return std::nullopt;
  }
  if (!is_ordered(cell.read, now)) return Race{cell.read, false, false};
  cell.write = both_atomic ? merge(cell.write, now) : now;
  cell.write.atomic = use == Use::atomic;
  cell.read = Access();
  cell.written = true;
  return std::nullopt;
}

std::optional<Race> Shadow::use(std::size_t offset, std::size_t bytes, Use use, const Access& now) {
  // Accesses are aligned to their size, so they stay in one page.
  auto& slot = pages_[offset / kPageBytes];
  const unsigned shift = bytes >= 4 ? 2 : (bytes == 2 ? 1 : 0);
  if (slot == nullptr) {
    slot = std::make_unique<Page>();
    slot->shift = shift;
    slot->cells.resize(kPageBytes >> shift);
  }
  Page& page = *slot;
  if (shift < page.shift) refine(page, shift);
  const std::size_t first = offset % kPageBytes >> page.shift;
  const std::size_t last = (offset % kPageBytes + bytes - 1) >> page.shift;
  for (std::size_t i = first; i <= last; ++i)
    if (auto race = use_cell(page.cells[i], use, now)) return race;
  return std::nullopt;
}

}  // namespace ballot::ptx

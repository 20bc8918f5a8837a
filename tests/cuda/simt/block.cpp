// The scheduler of one launch and what its threads do together.
#include "simt/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>

#include "simt/fault.h"  // KernelFault

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace ballot::simt {

thread_local Thread* current_thread = nullptr;
thread_local const Launch* current_launch = nullptr;

namespace {

constexpr unsigned kFullMask = 0xffffffffu;
constexpr std::size_t kMostResidentThreads = 2048;
constexpr std::size_t kSharedArena = 512 << 10;  // of a block: more than any GPU has, and guards
constexpr std::size_t kGuard = 64;
constexpr unsigned char kPoison = 0xff;     // a NaN, or -1
constexpr unsigned char kGuardByte = 0xfd;  // so that what is read there is huge
// 1 of so many atomics lets others run.
constexpr std::uint64_t kYieldOneIn = 8;

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  std::uint64_t operator()() {  // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }
  // In [0, n), near enough to evenly.
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(((*this)() >> 32) * n >> 32); }

 private:
  std::uint64_t state_;
};

std::string place(Site site) {
  return site.file == nullptr ? std::string("an unnamed place")
                              : fmt::format("{}:{}", site.file, site.line);
}

std::string name(const Thread& thread) {
  return fmt::format("thread {} of block ({}, {}, {})", thread.thread_idx.x, thread.block->index.x,
                     thread.block->index.y, thread.block->index.z);
}

void poison(void* memory, std::size_t bytes, bool forbidden) {
#if defined(__SANITIZE_ADDRESS__)
  if (forbidden)
    __asan_poison_memory_region(memory, bytes);
  else
    __asan_unpoison_memory_region(memory, bytes);
#else
  if (forbidden) std::memset(memory, kGuardByte, bytes);
#endif
}

// Stacks and shared memory outlive a launch: making them costs more than most launches.
struct Pool {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::unique_ptr<std::byte[]>> arenas;
  std::vector<Block> blocks;
};
Pool& pool() {
  thread_local Pool pool;
  return pool;
}

class Schedule {
 public:
  explicit Schedule(const Launch& launch, std::uint64_t seed)
      : launch_(launch), random_(seed), seed_(seed) {}

  void run();

  std::uint64_t warp_function(Thread& thread);
  void barrier(Thread& thread);
  void perhaps_yield(Thread& thread);
  [[noreturn]] void fault(const std::string& what, Site site);
  std::size_t dynamic_bytes() const { return launch_.shared_bytes; }

  void fiber_main();

 private:
  void run_resident(const std::vector<std::uint64_t>& indices);
  void prepare(Block& block, std::uint64_t index, std::byte* shared_memory);
  void check_guards(const Block& block);
  Thread* pick();
  void resume(Thread& next, Fiber& from, bool for_good);
  void wait(Thread& thread);
  void make_ready(Thread& thread) {
    thread.state = Thread::State::ready;
    ready_.push_back(&thread);
  }
  void finish(Thread& thread);
  std::string who_waits() const;

  const Launch& launch_;
  Random random_;
  std::uint64_t seed_;
  Fiber launcher_;
  std::vector<Fiber*> idle_;  // fibers on which no thread is
  std::size_t fibers_taken_ = 0;
  std::vector<Thread*> ready_;      // that were left waiting and can go on
  std::vector<Thread*> unstarted_;  // the next one last
  std::vector<Block*> resident_;
  std::size_t alive_ = 0;
  Thread* starting_ = nullptr;
  std::optional<std::string> fault_;
};

thread_local Schedule* schedule __attribute__((tls_model("initial-exec"))) = nullptr;

void enter_fiber() {
  schedule->fiber_main();
}

void Schedule::run() {
  const std::uint64_t blocks =
      std::uint64_t{launch_.grid.x} * launch_.grid.y * std::uint64_t{launch_.grid.z};
  const std::size_t most_resident =
      std::max<std::size_t>(1, std::min<std::size_t>(4, kMostResidentThreads / launch_.block.x));
  // Which block comes first must not matter: upwards, downwards, or as the multiples of an odd
  // stride modulo a power of two fall.
  const std::size_t order = random_.below(3);
  const std::uint64_t circle = std::bit_ceil(blocks);
  const std::uint64_t stride = random_() | 1;
  std::vector<std::uint64_t> indices;
  std::size_t resident = 1 + random_.below(most_resident);
  const std::uint64_t steps = order == 2 ? circle : blocks;
  for (std::uint64_t i = 0; i < steps; ++i) {
    const std::uint64_t index =
        order == 0 ? i : (order == 1 ? blocks - 1 - i : (i * stride) & (circle - 1));
    if (index >= blocks) continue;
    indices.push_back(index);
    if (indices.size() == resident) {
      run_resident(indices);
      indices.clear();
      resident = 1 + random_.below(most_resident);
    }
  }
  if (!indices.empty()) run_resident(indices);
}

void Schedule::prepare(Block& block, std::uint64_t index, std::byte* shared_memory) {
  const dim3& grid = launch_.grid;
  block.index = {static_cast<unsigned>(index % grid.x),
                 static_cast<unsigned>(index / grid.x % grid.y),
                 static_cast<unsigned>(index / grid.x / grid.y)};
  const unsigned count = launch_.block.x;
  if (block.threads.size() != count) {
    block.threads.assign(count, Thread());
    block.warps.assign(count / 32, Warp());
    for (unsigned i = 0; i < count; ++i) {
      block.threads[i].thread_idx = {i, 0, 0};
      block.threads[i].lane = static_cast<int>(i % 32);
      block.threads[i].warp = &block.warps[i / 32];
      block.threads[i].block = &block;
    }
    for (unsigned i = 0; i < count / 32; ++i) block.warps[i].lanes = &block.threads[i * 32];
  }
  for (Warp& warp : block.warps) {
    warp.returned = 0;
    warp.gatherings.clear();
  }
  for (Thread& thread : block.threads) {
    thread.state = Thread::State::unstarted;
    thread.fiber = nullptr;
  }
  block.shared.clear();
  block.shared_memory = shared_memory;
  block.shared_used = 0;
  block.shared_bytes = 0;
  block.run_ahead = random_.below(2) == 0;
  block.waiting_at_barrier = 0;
  block.returned = 0;
}

void Schedule::run_resident(const std::vector<std::uint64_t>& indices) {
  Pool& pool = simt::pool();
  while (pool.arenas.size() < indices.size()) {
    auto arena = std::make_unique<std::byte[]>(kSharedArena);
    poison(arena.get(), kSharedArena, true);
    pool.arenas.push_back(std::move(arena));
  }
  if (pool.blocks.size() < 4) pool.blocks.resize(4);  // never again: threads point to them
  resident_.clear();
  unstarted_.clear();
  ready_.clear();
  for (std::size_t i = 0; i < indices.size(); ++i) {
    prepare(pool.blocks[i], indices[i], pool.arenas[i].get());
    resident_.push_back(&pool.blocks[i]);
    for (Thread& thread : pool.blocks[i].threads) unstarted_.push_back(&thread);
  }
  alive_ = unstarted_.size();
  switch (random_.below(3)) {
    case 0:
      std::reverse(unstarted_.begin(), unstarted_.end());
      break;  // upwards
    case 1:
      break;
    default:  // by warps
      for (std::size_t i = unstarted_.size() / 32; i > 1; --i) {
        const std::size_t j = random_.below(i);
        if (j != i - 1)
          std::swap_ranges(unstarted_.begin() + static_cast<std::ptrdiff_t>((i - 1) * 32),
                           unstarted_.begin() + static_cast<std::ptrdiff_t>(i * 32),
                           unstarted_.begin() + static_cast<std::ptrdiff_t>(j * 32));
      }
  }
  resume(*pick(), launcher_, false);
  current_thread = nullptr;
  for (Block* block : resident_) {
    if (!fault_) check_guards(*block);
    poison(block->shared_memory, block->shared_used, true);
  }
  if (fault_) throw KernelFault(*fault_);  // the next launch starts all fibers anew
}

// The next thread to run, taken from the lists; null when none can.
Thread* Schedule::pick() {
  const std::size_t choices = ready_.size() + (unstarted_.empty() ? 0 : 1);
  if (choices == 0) return nullptr;
  std::size_t i = ready_.size();
  if (!ready_.empty())
    i = ready_.back()->block->run_ahead ? ready_.size() - 1 : random_.below(choices);
  if (i == ready_.size()) {
    Thread* thread = unstarted_.back();
    unstarted_.pop_back();
    return thread;
  }
  Thread* thread = ready_[i];
  ready_[i] = ready_.back();
  ready_.pop_back();
  return thread;
}

void Schedule::resume(Thread& next, Fiber& from, bool for_good) {
  current_thread = &next;
  if (next.state == Thread::State::unstarted) {
    Fiber* fiber = nullptr;
    if (!idle_.empty()) {
      fiber = idle_.back();
      idle_.pop_back();
      fiber->restart();
    } else {
      Pool& pool = simt::pool();
      if (fibers_taken_ == pool.fibers.size())
        pool.fibers.push_back(std::make_unique<Fiber>(fibers_taken_, enter_fiber));
      fiber = pool.fibers[fibers_taken_++].get();
      fiber->restart();
    }
    next.fiber = fiber;
    starting_ = &next;
  }
  next.state = Thread::State::running;
  from.switch_to(*next.fiber, for_good);
}

// What every fiber does: one thread after another as long as the next one is a new one.
void Schedule::fiber_main() {
  Thread* thread = starting_;
  Fiber& self = *thread->fiber;
  for (;;) {
    try {
      launch_.call();
      finish(*thread);
    } catch (const KernelFault& fault) {
      fault_ = fault.what();
    } catch (const std::exception& exception) {
      fault_ = fmt::format("{}: {} threw an exception: {}", describe(launch_), name(*thread),
                           exception.what());
    }
    Thread* next = fault_ ? nullptr : pick();
    if (next == nullptr) {
      if (!fault_ && alive_ > 0)
        fault_ = fmt::format("{}: no thread can go on: {}", describe(launch_), who_waits());
      self.switch_to(launcher_, true);  // the threads that wait are left where they are
    }
    if (next->state != Thread::State::unstarted) {
      idle_.push_back(&self);
      resume(*next, self, true);
    }
    thread = next;
    thread->fiber = &self;
    thread->state = Thread::State::running;
    current_thread = thread;
  }
}

void Schedule::finish(Thread& thread) {
  Block& block = *thread.block;
  Warp& warp = *thread.warp;
  thread.state = Thread::State::returned;
  --alive_;
  ++block.returned;
  warp.returned |= 1u << thread.lane;
  for (const Gathering& gathering : warp.gatherings)
    if ((gathering.mask >> thread.lane & 1) != 0) {
      const Thread& other = warp.lanes[std::countr_zero(gathering.arrived)];
      fault(
          fmt::format("{} returned, but {} waits for its lane {} in {} of mask {:#010x}",
                      name(thread), name(other), thread.lane, to_string(other.op), gathering.mask),
          other.site);
    }
  if (block.waiting_at_barrier > 0)
    fault(fmt::format("{} returned, but {} threads of its block wait at a barrier", name(thread),
                      block.waiting_at_barrier),
          block.barrier);
}

// Leaves the thread, whose state says in what it waits, and comes back when it may go on.
void Schedule::wait(Thread& thread) {
  Thread* next = pick();
  if (next == nullptr) fault("no thread can go on: " + who_waits(), thread.site);
  if (next == &thread) {
    thread.state = Thread::State::running;
    return;
  }
  resume(*next, *thread.fiber, false);
}

std::uint64_t Schedule::warp_function(Thread& thread) {
  Warp& warp = *thread.warp;
  const unsigned bit = 1u << thread.lane;
  if ((thread.mask & bit) == 0)
    fault(fmt::format("{} (lane {}) is not in the mask {:#010x} it gives to {}", name(thread),
                      thread.lane, thread.mask, to_string(thread.op)),
          thread.site);
  if ((thread.mask & warp.returned) != 0)
    fault(fmt::format("{} gives the mask {:#010x} to {}, but of these the lanes {:#010x} have "
                      "returned",
                      name(thread), thread.mask, to_string(thread.op), thread.mask & warp.returned),
          thread.site);
  Gathering* gathering = nullptr;
  for (Gathering& open : warp.gatherings)
    if (open.mask == thread.mask) gathering = &open;
  if (gathering == nullptr) {
    warp.gatherings.push_back({thread.mask, 0});
    gathering = &warp.gatherings.back();
  } else {
    const Thread& other = warp.lanes[std::countr_zero(gathering->arrived)];
    if (other.op != thread.op || other.site.line != thread.site.line ||
        (other.site.file != thread.site.file &&
         std::strcmp(other.site.file, thread.site.file) != 0))
      fault(fmt::format("{} is in {} while {} of its warp is in {} at {}: the warp has diverged",
                        name(thread), to_string(thread.op), name(other), to_string(other.op),
                        place(other.site)),
            thread.site);
  }
  gathering->arrived |= bit;
  if (gathering->arrived != gathering->mask) {
    thread.state = Thread::State::in_warp_op;
    wait(thread);
    return thread.result;
  }

  // The last lane works for all.
  const unsigned mask = gathering->mask;
  *gathering = warp.gatherings.back();
  warp.gatherings.pop_back();
  Thread* lanes = warp.lanes;
  const auto combine = [&](auto op) {
    std::uint64_t all = lanes[std::countr_zero(mask)].given;
    for (unsigned left = mask & (mask - 1); left != 0; left &= left - 1)
      all = op(all, lanes[std::countr_zero(left)].given);
    for (unsigned left = mask; left != 0; left &= left - 1)
      lanes[std::countr_zero(left)].result = all;
  };
  const auto as_signed = [](std::uint64_t x) { return static_cast<std::int32_t>(x); };
  switch (thread.op) {
    case WarpOp::sync:
      break;
    case WarpOp::vote:
      for (unsigned left = mask; left != 0; left &= left - 1) {
        const int lane = std::countr_zero(left);
        lanes[lane].given = std::uint64_t{lanes[lane].given != 0} << lane;
      }
      combine([](std::uint64_t a, std::uint64_t b) { return a | b; });
      break;
    case WarpOp::shuffle:
      for (unsigned left = mask; left != 0; left &= left - 1) {
        Thread& lane = lanes[std::countr_zero(left)];
        if ((mask >> lane.source_lane & 1) == 0)
          fault(fmt::format("{} (lane {}) reads lane {}, which is not in the mask {:#010x}",
                            name(lane), lane.lane, lane.source_lane, mask),
                thread.site);
        lane.result = lanes[lane.source_lane].given;
      }
      break;
    case WarpOp::add_signed:
      combine([](std::uint64_t a, std::uint64_t b) { return (a + b) & 0xffffffffu; });
      break;
    case WarpOp::min_signed:
      combine(
          [&](std::uint64_t a, std::uint64_t b) { return as_signed(b) < as_signed(a) ? b : a; });
      break;
    case WarpOp::max_signed:
      combine(
          [&](std::uint64_t a, std::uint64_t b) { return as_signed(a) < as_signed(b) ? b : a; });
      break;
    case WarpOp::min_unsigned:
      combine([](std::uint64_t a, std::uint64_t b) { return std::min(a, b); });
      break;
    case WarpOp::max_unsigned:
      combine([](std::uint64_t a, std::uint64_t b) { return std::max(a, b); });
      break;
    case WarpOp::bit_and:
      combine([](std::uint64_t a, std::uint64_t b) { return a & b; });
      break;
    case WarpOp::bit_or:
      combine([](std::uint64_t a, std::uint64_t b) { return a | b; });
      break;
    case WarpOp::bit_xor:
      combine([](std::uint64_t a, std::uint64_t b) { return a ^ b; });
      break;
    case WarpOp::match_any:
      for (unsigned left = mask; left != 0; left &= left - 1) {
        Thread& lane = lanes[std::countr_zero(left)];
        lane.result = 0;
        for (unsigned others = mask; others != 0; others &= others - 1) {
          const int other = std::countr_zero(others);
          if (lanes[other].given == lane.given) lane.result |= std::uint64_t{1} << other;
        }
      }
      break;
  }
  // Downwards, so that the run-ahead order is upwards.
  for (unsigned left = mask & ~bit; left != 0;) {
    const int lane = 31 - std::countl_zero(left);
    left &= ~(1u << lane);
    make_ready(lanes[lane]);
  }
  return thread.result;
}

void Schedule::barrier(Thread& thread) {
  Block& block = *thread.block;
  if (block.returned > 0)
    fault(fmt::format("{} is at a barrier, but {} threads of its block have returned", name(thread),
                      block.returned),
          thread.site);
  if (block.waiting_at_barrier == 0) {
    block.barrier = thread.site;
  } else if (block.barrier.line != thread.site.line ||
             std::strcmp(block.barrier.file, thread.site.file) != 0) {
    fault(fmt::format("{} is at a barrier while others of its block wait at another, at {}",
                      name(thread), place(block.barrier)),
          thread.site);
  }
  ++block.waiting_at_barrier;
  if (block.waiting_at_barrier < block.threads.size()) {
    thread.state = Thread::State::at_barrier;
    wait(thread);
    return;
  }
  block.waiting_at_barrier = 0;
  for (std::size_t i = block.threads.size(); i-- > 0;)
    if (&block.threads[i] != &thread) make_ready(block.threads[i]);
}

void Schedule::perhaps_yield(Thread& thread) {
  if (random_() % kYieldOneIn != 0) return;
  make_ready(thread);
  // Not the run-ahead order, which would take it again.
  std::swap(ready_.back(), ready_[random_.below(ready_.size())]);
  wait(thread);
}

std::string Schedule::who_waits() const {
  std::map<std::string, std::pair<std::string, std::size_t>> waits;  // by what: the first, how many
  for (const Block* block : resident_)
    for (const Thread& thread : block->threads) {
      std::string what;
      if (thread.state == Thread::State::in_warp_op)
        what = fmt::format("in {} of mask {:#010x} at {}", to_string(thread.op), thread.mask,
                           place(thread.site));
      else if (thread.state == Thread::State::at_barrier)
        what = "at the barrier " + place(thread.site);
      else
        continue;
      auto [entry, is_new] = waits.try_emplace(what, name(thread), 0);
      ++entry->second.second;
    }
  std::string text;
  for (const auto& [what, first] : waits)
    text += fmt::format("{}{} and {} others wait {}", text.empty() ? "" : "; ", first.first,
                        first.second - 1, what);
  return text;
}

void Schedule::check_guards([[maybe_unused]] const Block& block) {
#if !defined(__SANITIZE_ADDRESS__)
  const auto intact = [](const std::byte* guard, std::size_t bytes) {
    return std::all_of(guard, guard + bytes,
                       [](std::byte b) { return b == std::byte{kGuardByte}; });
  };
  for (const SharedArray& array : block.shared) {
    if (!intact(array.begin - kGuard, kGuard) || !intact(array.begin + array.bytes, kGuard)) {
      fault_ = fmt::format(
          "{}: block ({}, {}, {}) wrote outside of its shared array {} of {} bytes",
          describe(launch_), block.index.x, block.index.y, block.index.z, array.name, array.bytes);
      return;
    }
  }
#endif
}

void Schedule::fault(const std::string& what, Site site) {
  throw KernelFault(fmt::format("{}: {}{}{} (seed {})", describe(launch_), what,
                                site.file == nullptr ? "" : ", at ",
                                site.file == nullptr ? "" : place(site), seed_));
}

}  // namespace

const char* to_string(WarpOp op) {
  switch (op) {
    case WarpOp::sync:
      return "__syncwarp";
    case WarpOp::vote:
      return "a vote";
    case WarpOp::shuffle:
      return "a shuffle";
    case WarpOp::match_any:
      return "__match_any_sync";
    default:
      return "a reduction";
  }
}

void execute_by_fibers(const Launch& launch) {
  if (schedule != nullptr) throw KernelFault(describe(launch) + ": launched by a kernel");
  const std::uint64_t seed = next_launch_seed();
  Schedule here(launch, seed);
  schedule = &here;
  current_launch = &launch;
  struct Leave {
    ~Leave() {
      schedule = nullptr;
      current_launch = nullptr;
      current_thread = nullptr;
    }
  } leave;
  here.run();
}

std::uint64_t warp_function(WarpOp op, unsigned mask, std::uint64_t given, int source_lane,
                            Site site) {
  Thread& thread = *current_thread;
  thread.op = op;
  thread.mask = mask;
  thread.given = given;
  thread.source_lane = source_lane;
  thread.site = site;
  return schedule->warp_function(thread);
}

void barrier(Site site) {
  current_thread->site = site;
  schedule->barrier(*current_thread);
}

void perhaps_yield() {
  schedule->perhaps_yield(*current_thread);
}

void fault(const std::string& what, Site site) {
  if (schedule == nullptr) throw KernelFault(what);
  schedule->fault(name(*current_thread) + ": " + what, site);
}

void require_aligned(const void* address, std::size_t alignment, const char* what) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) [[unlikely]]
    fault(fmt::format("{} of address {}, which is not a multiple of {}", what, address, alignment));
}

void* shared_array(const void* key, std::size_t bytes, std::size_t alignment, const char* name) {
  Block& block = *current_thread->block;
  for (const SharedArray& array : block.shared)
    if (array.key == key) return array.begin;
  if (block.shared_used == 0) {
    poison(block.shared_memory, kGuard, true);
    block.shared_used = kGuard;
  }
  const std::size_t unit = std::max<std::size_t>(alignment, 16);
  const auto base = reinterpret_cast<std::uintptr_t>(block.shared_memory);
  const std::size_t begin = (base + block.shared_used + unit - 1) / unit * unit - base;
  const std::size_t end = begin + bytes;
  block.shared_bytes += bytes;
  const std::size_t most =
      std::max<std::size_t>(48 << 10, allowed_dynamic_shared(current_launch->kernel));
  if (block.shared_bytes > most || end + kGuard > kSharedArena)
    fault(fmt::format("shared array {} of {} bytes makes {} bytes of shared memory, allowed are {}",
                      name, bytes, block.shared_bytes, most));
  SharedArray array{key, block.shared_memory + begin, bytes, name};
  poison(array.begin - kGuard, kGuard, true);
  poison(array.begin, bytes, false);
  std::memset(array.begin, kPoison, bytes);
  poison(array.begin + bytes, kGuard, true);
  block.shared_used = end + kGuard;
  block.shared.push_back(array);
  return array.begin;
}

void* dynamic_shared() {
  static const char key = 0;
  return shared_array(&key, current_launch->shared_bytes, 16, "(dynamic)");
}

}  // namespace ballot::simt

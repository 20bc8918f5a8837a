#include "stand_ins/device_memory.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "simt/block.h"  // current_thread
#include "stand_ins/failure.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace ballot::stand_in {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 256;
constexpr int kFill = 0xff;
// Addresses, not memory: closed pages and what lies free between allocations.
constexpr std::size_t kAddressBytes = std::size_t{32} << 30;

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Pages {
  std::byte* begin = nullptr;  // open when in use; a closed page lies before and behind
  std::size_t bytes = 0;
  std::byte* end() const { return begin + bytes; }
};

struct Live {
  Allocation allocation;
  Pages pages;
  bool open = false;       // to the operation that runs
  bool unchecked = false;  // was open since its surroundings were looked at
};

struct Memory {
  std::byte* base = nullptr;
  std::byte* fresh = nullptr;       // from here on nothing was ever given out
  std::map<std::byte*, Live> live;  // by the first of its pages
  std::vector<Pages> spare;         // given back
  std::array<std::size_t, kMaxDevices> used{};
  int made = 0;
  int accesses = 0;
  pthread_t owner{};  // the thread whose operation runs
  const char* opened_by = "";
  std::vector<Live*> opened;
  std::mt19937_64 random{20240917};
  struct sigaction before {};
};

Memory& memory();

// The kernel, block and thread that run on this thread; what opened the memory otherwise.
int describe_toucher(char* text, std::size_t bytes) {
  const simt::Launch* launch = simt::current_launch;
  if (launch == nullptr || simt::current_thread == nullptr)
    return std::snprintf(text, bytes, "%s",
                         memory().accesses > 0 ? memory().opened_by : "host code");
  Dl_info info{};
  const bool named = dladdr(launch->kernel, &info) != 0 && info.dli_sname != nullptr;
  const simt::Thread& thread = *simt::current_thread;
  return std::snprintf(text, bytes, "block (%u, %u, %u), thread %u of kernel %s",
                       thread.block->index.x, thread.block->index.y, thread.block->index.z,
                       thread.thread_idx.x, named ? info.dli_sname : "of unknown name");
}

void protect(const Pages& pages, int protection) {
  if (mprotect(pages.begin, pages.bytes, protection) != 0)
    throw std::runtime_error("mprotect of the CUDA stand-in's memory");
}

// The live allocation in whose pages an address lies.
Live* live_at(const void* address) {
  Memory& m = memory();
  auto* wanted = static_cast<std::byte*>(const_cast<void*>(address));
  auto at = m.live.upper_bound(wanted);
  if (at == m.live.begin()) return nullptr;
  --at;
  return wanted < at->second.pages.end() ? &at->second : nullptr;
}

void open(Live& live) {
  if (live.open) return;
  protect(live.pages, PROT_READ | PROT_WRITE);
  live.open = live.unchecked = true;
  memory().opened.push_back(&live);
}

// Opens to the running operation what it touches first. Everybody else's touch is an error: one
// line says whose, and the fault happens again. An operation touches device memory in plain loads
// and stores, never within the allocator, so more may be done here than in most signal handlers.
void on_fault(int, siginfo_t* info, void*) {
  Memory& m = memory();
  const auto* address = static_cast<const std::byte*>(info->si_addr);
  if (m.base <= address && address < m.base + kAddressBytes) {
    if (m.accesses > 0 && pthread_equal(m.owner, pthread_self()) != 0) {
      Live* touched = live_at(address);
      if (touched != nullptr && !touched->open) return open(*touched);
    }
    char who[300], text[600];
    describe_toucher(who, sizeof who);
    const Allocation* near = find(address);
    const int length =
        near != nullptr
            ? std::snprintf(text, sizeof text,
                            "CUDA stand-in: %s touched device memory %p, %zu bytes into allocation "
                            "%d of %zu bytes\n",
                            who, static_cast<const void*>(address),
                            static_cast<std::size_t>(address - near->begin), near->number,
                            near->bytes)
            : std::snprintf(text, sizeof text,
                            "CUDA stand-in: %s touched device memory %p, which is in no live "
                            "allocation\n",
                            who, static_cast<const void*>(address));
    if (length > 0 && write(STDERR_FILENO, text, std::strlen(text)) < 0) _exit(1);
  }
  sigaction(SIGSEGV, &m.before, nullptr);  // the instruction faults again, in its own way
}

Memory* make_memory() {
  auto* made = new Memory;
  void* base =
      mmap(nullptr, kAddressBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw std::runtime_error("no addresses for the CUDA stand-in's memory");
  made->base = made->fresh = static_cast<std::byte*>(base);
  return made;
}

Memory& memory() {
  static Memory* instance = [] {
    Memory* made = make_memory();
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &made->before);
    return made;
  }();
  return *instance;
}

// Pages of exactly that size: given back ones or, every now and then anyway, fresh ones.
Pages take_pages(std::size_t bytes) {
  Memory& m = memory();
  std::vector<std::size_t> fitting;
  for (std::size_t i = 0; i < m.spare.size(); ++i)
    if (m.spare[i].bytes == bytes) fitting.push_back(i);
  if (!fitting.empty() && m.random() % 4 != 0) {
    const std::size_t chosen = fitting[m.random() % fitting.size()];
    const Pages pages = m.spare[chosen];
    m.spare.erase(m.spare.begin() + static_cast<std::ptrdiff_t>(chosen));
    return pages;
  }
  const Pages pages{m.fresh + kPage, bytes};
  if (pages.end() + kPage > m.base + kAddressBytes) return {};
  m.fresh = pages.end();
  return pages;
}

// What lies around an allocation: a NaN in f32 and bf16 that no arithmetic leaves as it is, and in
// each allocation another, so that what was read behind one's end and written behind another's
// shows.
std::byte around(const Live& live, const std::byte* at) {
  const auto low = static_cast<std::byte>(0x81 + 2 * (live.allocation.number % 31));
  return (at - live.pages.begin) % 2 == 0 ? low : std::byte{0xff};
}

void check_around(Live& live) {
  if (!live.unchecked) return;
  const Access access("the check of memory beside allocations");
  open(live);
  const Allocation& a = live.allocation;
  ASAN_UNPOISON_MEMORY_REGION(live.pages.begin, live.pages.bytes);
  const std::byte* wrong = nullptr;
  for (const std::byte* at = live.pages.begin; at < a.begin && wrong == nullptr; ++at)
    if (*at != around(live, at)) wrong = at;
  for (const std::byte* at = a.begin + a.bytes; at < live.pages.end() && wrong == nullptr; ++at)
    if (*at != around(live, at)) wrong = at;
  ASAN_POISON_MEMORY_REGION(live.pages.begin, live.pages.bytes);
  ASAN_UNPOISON_MEMORY_REGION(a.begin, a.bytes);
  if (wrong != nullptr)
    refuse(cudaErrorIllegalAddress, "{} bytes {} allocation {} of {} bytes were written",
           wrong < a.begin ? a.begin - wrong : wrong - (a.begin + a.bytes) + 1,
           wrong < a.begin ? "before" : "behind", a.number, a.bytes);
  live.unchecked = false;
}

void give_back(const Live& live) {
  Memory& m = memory();
  ASAN_UNPOISON_MEMORY_REGION(live.pages.begin, live.pages.bytes);
  protect(live.pages, PROT_READ | PROT_WRITE);
  // Physical pages go back to the system; whoever gets these next fills them.
  madvise(live.pages.begin, live.pages.bytes, MADV_DONTNEED);
  protect(live.pages, PROT_NONE);
  ASAN_POISON_MEMORY_REGION(live.pages.begin, live.pages.bytes);
  m.used[live.allocation.device] -= live.allocation.bytes;
  m.spare.push_back(live.pages);
}

}  // namespace

std::byte* allocate(std::size_t bytes, int device) {
  Memory& m = memory();
  if (bytes > kDeviceBytes - m.used[device]) return nullptr;
  const Pages pages = take_pages(round_up(round_up(bytes, kAlignment), kPage));
  if (pages.begin == nullptr) return nullptr;
  std::byte* begin = pages.end() - round_up(bytes, kAlignment);
  ASAN_UNPOISON_MEMORY_REGION(pages.begin, pages.bytes);
  const Live live{{begin, bytes, device, ++m.made}, pages, false, false};
  protect(pages, PROT_READ | PROT_WRITE);
  for (std::byte* at = pages.begin; at < begin; ++at) *at = around(live, at);
  std::memset(begin, kFill, bytes);
  for (std::byte* at = begin + bytes; at < pages.end(); ++at) *at = around(live, at);
  protect(pages, PROT_NONE);
  ASAN_POISON_MEMORY_REGION(pages.begin, pages.bytes);
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
  m.used[device] += bytes;
  m.live[pages.begin] = live;
  return begin;
}

void release(std::byte* address) {
  Memory& m = memory();
  const Allocation* found = find(address);
  if (found == nullptr || found->begin != address)
    refuse(cudaErrorInvalidValue, "cudaFree of {}: no allocation begins there", describe(address));
  Live& live = *live_at(address);
  check_around(live);
  give_back(live);
  m.live.erase(live.pages.begin);
}

void check_surroundings() {
  for (auto& [begin, live] : memory().live) check_around(live);
}

std::size_t free_bytes(int device) {
  return kDeviceBytes - memory().used[device];
}

const Allocation* find(const void* address) {
  const Live* live = live_at(address);
  if (live == nullptr) return nullptr;
  const auto* wanted = static_cast<const std::byte*>(address);
  const Allocation& a = live->allocation;
  return a.begin <= wanted && wanted < a.begin + a.bytes ? &a : nullptr;
}

void require_inside(const void* address, std::size_t bytes, int device, const std::string& what) {
  const Allocation* found = find(address);
  if (found == nullptr)
    refuse(cudaErrorInvalidValue, "{} is {}, expected device memory", what, describe(address));
  const std::size_t left = static_cast<std::size_t>(found->begin + found->bytes -
                                                    static_cast<const std::byte*>(address));
  if (bytes > left)
    refuse(cudaErrorInvalidValue, "{} is {} bytes at {}: only {} are left there", what, bytes,
           describe(address), left);
  if (found->device != device)
    refuse(cudaErrorInvalidValue, "{} is {} of device {}, used on device {}", what,
           describe(address), found->device, device);
}

bool is_device_address(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  return memory().base <= at && at < memory().base + kAddressBytes;
}

std::string describe(const void* address) {
  if (!is_device_address(address)) return fmt::format("host memory {}", address);
  const Allocation* found = find(address);
  if (found == nullptr)
    return fmt::format("device memory {}, which is in no live allocation", address);
  return fmt::format("device memory {}, {} bytes into allocation {} of {} bytes", address,
                     static_cast<const std::byte*>(address) - found->begin, found->number,
                     found->bytes);
}

Access::Access(const char* who) {
  Memory& m = memory();
  if (m.accesses++ > 0) return;
  m.owner = pthread_self();
  m.opened_by = who;
}

Access::~Access() {
  Memory& m = memory();
  if (--m.accesses > 0) return;
  for (Live* live : m.opened) {
    protect(live->pages, PROT_NONE);
    live->open = false;
  }
  m.opened.clear();
}

void release_all() {
  Memory& m = memory();
  for (const auto& [begin, live] : m.live) give_back(live);
  m.live.clear();
}

}  // namespace ballot::stand_in

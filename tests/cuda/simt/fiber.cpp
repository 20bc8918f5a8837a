// Fibers over mmap'ed stacks with a guard page below.
#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define BALLOT_SIMT_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Leaves one stack, goes on with another. Saves what the System V calling convention has a callee
// save (not MXCSR: kernels do not change it).
extern "C" void ballot_simt_switch(void** save, void* target);
asm(R"(
  .text
  .globl ballot_simt_switch
  .hidden ballot_simt_switch
  .type ballot_simt_switch, @function
ballot_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size ballot_simt_switch, . - ballot_simt_switch
)");
#else
#include <ucontext.h>
#endif

namespace ballot::simt {
namespace {

#ifdef BALLOT_SIMT_ASAN
constexpr std::size_t kStackBytes = 256 << 10;  // red zones make frames several times larger
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif
constexpr std::size_t kStagger = 17 * 64;  // an odd number of cache lines

}  // namespace

struct Fiber::State {
  void (*entry)() = nullptr;
  std::byte* mapping = nullptr;  // guard page, then the stack
  std::size_t mapping_bytes = 0;
  std::byte* top = nullptr;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  const void* bottom = nullptr;  // for AddressSanitizer
  std::size_t size = 0;
  void* fake_stack = nullptr;
};

namespace {
thread_local Fiber* running = nullptr;
thread_local Fiber* left = nullptr;  // whom the running one was switched to from
}  // namespace

// The first code on a new stack.
void fiber_begin() {
  running->begun();
  running->state_->entry();
  std::abort();  // entry() never returns
}

Fiber::Fiber() : state_(std::make_unique<State>()) {}

Fiber::Fiber(std::size_t index, void (*entry)()) : state_(std::make_unique<State>()) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  state_->entry = entry;
  state_->mapping_bytes = kStackBytes + page;
  void* memory = mmap(nullptr, state_->mapping_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  state_->mapping = static_cast<std::byte*>(memory);
  mprotect(state_->mapping, page, PROT_NONE);
  state_->bottom = state_->mapping + page;
  state_->size = kStackBytes;
  const std::size_t stagger = index * kStagger % 4096 / 64 * 64;
  state_->top = state_->mapping + state_->mapping_bytes - stagger;
  restart();
}

Fiber::~Fiber() {
  if (state_->mapping != nullptr) munmap(state_->mapping, state_->mapping_bytes);
}

void Fiber::restart() {
#ifdef BALLOT_SIMT_ASAN
  __asan_unpoison_memory_region(state_->bottom, state_->size);  // frames that were never left
  state_->fake_stack = nullptr;
#endif
#if defined(__x86_64__)
  // What ballot_simt_switch pops: six registers, then the address it returns to. At fiber_begin the
  // stack pointer is 8 below a multiple of 16, as after a call.
  auto** frame = reinterpret_cast<void**>(state_->top) - 8;
  std::memset(static_cast<void*>(frame), 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(&fiber_begin);
  state_->stack_pointer = frame;
#else
  getcontext(&state_->context);
  state_->context.uc_stack.ss_sp = const_cast<void*>(state_->bottom);
  state_->context.uc_stack.ss_size =
      static_cast<std::size_t>(state_->top - static_cast<const std::byte*>(state_->bottom));
  state_->context.uc_link = nullptr;
  makecontext(&state_->context, fiber_begin, 0);
#endif
}

void Fiber::begun() {
#ifdef BALLOT_SIMT_ASAN
  const void* bottom = nullptr;
  std::size_t size = 0;
  __sanitizer_finish_switch_fiber(running->state_->fake_stack, &bottom, &size);
  if (left != nullptr && left->state_->mapping == nullptr) {  // a CPU thread's own stack
    left->state_->bottom = bottom;
    left->state_->size = size;
  }
#endif
}

void Fiber::switch_to(Fiber& target, [[maybe_unused]] bool for_good) {
#ifdef BALLOT_SIMT_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &state_->fake_stack, target.state_->bottom,
                                 target.state_->size);
#endif
  left = this;
  running = &target;
#if defined(__x86_64__)
  ballot_simt_switch(&state_->stack_pointer, target.state_->stack_pointer);
#else
  swapcontext(&state_->context, &target.state_->context);
#endif
  begun();
}

}  // namespace ballot::simt

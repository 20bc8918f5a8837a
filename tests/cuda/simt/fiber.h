// A stack of its own that one CPU thread can run on and leave in the middle of a function.
//
// x86-64 has a switch of 15 instructions; elsewhere ucontext serves, six to nine
// times slower. AddressSanitizer is told of every switch. A fiber belongs to the CPU thread that
// made it.
#pragma once

#include <cstddef>
#include <memory>

namespace ballot::simt {

class Fiber {
 public:
  // Stands for the stack that calls; it can be left and come back to, not started.
  Fiber();
  // `entry` never returns: it leaves by switch_to. `index` staggers the stacks, so that equal
  // frames of many fibers do not fall on the same cache lines.
  Fiber(std::size_t index, void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes `entry` what the fiber runs next, whatever it was in before.
  void restart();

  // Leaves this fiber, which must be the running one, and goes on where `target` was left.
  // `for_good`: this one will only be restarted.
  void switch_to(Fiber& target, bool for_good = false);

 private:
  friend void fiber_begin();
  struct State;
  void begun();
  std::unique_ptr<State> state_;
};

}  // namespace ballot::simt

// SIGINT, SIGTERM and SIGCHLD, and what else is named, as something to read in a poll loop, until
// it is destroyed. Of the main thread, before others are started: a thread that does not block them
// would get them in its stead.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <initializer_list>

#include "launcher/child_process.h"  // Descriptor

namespace ballot {

class Signals {
 public:
  explicit Signals(std::initializer_list<int> more = {});
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  ~Signals();
  int descriptor() const { return source_.number(); }
  int next();  // 0: none

 private:
  void restore();
  sigset_t before_{};
  struct sigaction child_before_ {};
  Descriptor source_;
};

}  // namespace ballot

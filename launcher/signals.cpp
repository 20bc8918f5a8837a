#include "launcher/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include "core/error.h"

namespace ballot {

Signals::Signals(std::initializer_list<int> more) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) ::sigaddset(&set, signal);
  for (const int signal : more) ::sigaddset(&set, signal);
  // Blocked only after the old mask is kept; an ignored SIGINT (nohup, a shell's `&`) stays
  // ignored.
  if (::pthread_sigmask(SIG_BLOCK, &set, &before_) != 0) throw_file_error("block", "signals");
  // A disposition of "ignore" for SIGCHLD would reap children behind our back.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(SIGCHLD, &standard, &child_before_);
  source_ = Descriptor(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!source_.is_open()) {
    restore();
    throw_file_error("open", "signalfd");
  }
}

Signals::~Signals() {
  while (next()) {  // what arrived at the very end must not strike when unblocked
  }
  restore();
}

int Signals::next() {
  signalfd_siginfo info;
  if (::read(source_.number(), &info, sizeof info) != sizeof info) return 0;
  return static_cast<int>(info.ssi_signo);
}

void Signals::restore() {
  ::sigaction(SIGCHLD, &child_before_, nullptr);
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace ballot

// The two families of errors: the world failed (WorldError), or we are wrong (LogicError).
//
// A WorldError may be survived: a peer is lost, a file is damaged, a value in a file a user wrote
// is not what was expected. A LogicError means that the program contradicts itself: stop. Messages
// name the thing, its value and what was expected. Exceptions stop at three doors: main, the gRPC
// handler, a thread's end.
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace ballot {

// What the process tells a scheduler. Documented in the README; never renumbered.
enum class ExitCode : int {
  done = 0,
  internal = 1,       // a bug of ours: do not retry, report it
  configuration = 2,  // the command line or the run file: a retry cannot help
  data = 3,           // a model, data set or checkpoint: a retry cannot help
  retry = 4,      // a peer, the network or a deadline: a retry from the last checkpoint can help
  sent_away = 5,  // of an elastic run, which goes on without: for a person to look at it first
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode exit_code, const std::string& message)
      : std::runtime_error(message), exit_code_(exit_code) {}
  ExitCode exit_code() const { return exit_code_; }

 private:
  ExitCode exit_code_;
};

// The world failed.
class WorldError : public Error {
  using Error::Error;
};

// Each named error takes a format string and its arguments.
#define BALLOT_DEFINE_ERROR(Name, Base, code)                             \
  class Name : public Base {                                              \
   public:                                                                \
    template <class... Args>                                              \
    explicit Name(fmt::format_string<Args...> format, Args&&... args)     \
        : Base(code, fmt::format(format, std::forward<Args>(args)...)) {} \
  }

BALLOT_DEFINE_ERROR(ConfigError, WorldError,
                    ExitCode::configuration);  // command line, run file, environment
BALLOT_DEFINE_ERROR(Unavailable, WorldError,
                    ExitCode::configuration);  // asked for and not there: never a fallback
BALLOT_DEFINE_ERROR(DataError, WorldError, ExitCode::data);    // contents of a well-formed file
BALLOT_DEFINE_ERROR(CorruptFile, WorldError, ExitCode::data);  // a file is not what its format says
BALLOT_DEFINE_ERROR(FileError, WorldError, ExitCode::data);    // open, read, write, rename, fsync
BALLOT_DEFINE_ERROR(TransportError, WorldError, ExitCode::retry);  // treat the transport as broken
BALLOT_DEFINE_ERROR(PeerLost, WorldError, ExitCode::retry);        // names the peer
BALLOT_DEFINE_ERROR(Timeout, WorldError, ExitCode::retry);         // names whom it waited for
BALLOT_DEFINE_ERROR(ReplicasDiffer, WorldError, ExitCode::retry);  // names tensor and workers

BALLOT_DEFINE_ERROR(SentAway, WorldError, ExitCode::sent_away);  // says by whom, and why

#undef BALLOT_DEFINE_ERROR

// We are wrong. Carries file and line.
class LogicError : public Error {
 public:
  explicit LogicError(const std::string& message) : Error(ExitCode::internal, message) {}
};

// A format string that remembers where it was written.
template <class... Args>
struct LocatedFormat {
  template <class String>
  consteval LocatedFormat(const String& text,  // NOLINT: implicit on purpose
                          std::source_location location = std::source_location::current())
      : format(text), where(location) {}
  fmt::format_string<Args...> format;
  std::source_location where;
};

[[noreturn]] void throw_logic_error(const std::source_location& where, const std::string& message);

// require(batch.length() == length, "batch of {} tokens, expected {}", ...): throws LogicError when
// false.
template <class... Args>
void require(bool holds, LocatedFormat<std::type_identity_t<Args>...> what, Args&&... args) {
  if (!holds) [[unlikely]]
    throw_logic_error(what.where, fmt::format(what.format, std::forward<Args>(args)...));
}

// What a door says of an exception and with which code it leaves: our errors as they are, a file
// system's as data's, anything else as an internal error.
struct Failure {
  std::string message;
  ExitCode exit_code;
};
Failure describe_failure(const std::exception& failure);

// FileError with errno's text: throw_file_error("rename", path).
[[noreturn]] void throw_file_error(const char* what, const std::string& path);

}  // namespace ballot

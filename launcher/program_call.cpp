#include "launcher/program_call.h"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "core/clock.h"
#include "core/error.h"
#include "launcher/child_process.h"
#include "launcher/line_output.h"  // write_all

namespace ballot {
namespace {

constexpr std::size_t kMostOutput = std::size_t{64} << 20;
constexpr auto kPatience = std::chrono::seconds(2);  // from SIGTERM to SIGKILL

// Memory with the text, to be read from its beginning: a pipe could fill up.
Descriptor as_file(const std::string& text) {
  Descriptor file(::memfd_create("input", MFD_CLOEXEC));
  if (!file.is_open() || !write_all(file.number(), text) || ::lseek(file.number(), 0, SEEK_SET) < 0)
    throw_file_error("write", "the input of a program");
  return file;
}

// Everything that is there now; false once the other end is closed.
bool read_available(int descriptor, const std::function<void(std::string_view)>& take) {
  std::array<char, 65536> bytes;
  for (;;) {
    const ssize_t count = ::read(descriptor, bytes.data(), bytes.size());
    if (count == 0) return false;
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    take({bytes.data(), static_cast<std::size_t>(count)});
  }
}

}  // namespace

ProgramResult call_program(const ProgramCall& call) {
  const Descriptor input = as_file(call.input);
  Pipe output = make_pipe(), errors = make_pipe();
  ChildProcess process(call.command, output.target.number(), errors.target.number(),
                       input.number());
  output.target.close();
  errors.target.close();
  ProgramResult result{};
  const auto keep = [&](std::string& all, std::string_view bytes) {
    if (all.size() + bytes.size() > kMostOutput)
      throw Unavailable("{} says more than {} bytes", call.command[0], kMostOutput);
    all += bytes;
  };
  const auto read = [&] {
    const bool more = read_available(output.source.number(), [&](std::string_view bytes) {
      call.on_output ? call.on_output(bytes) : keep(result.output, bytes);
    });
    return read_available(errors.source.number(),
                          [&](std::string_view bytes) { keep(result.errors, bytes); }) ||
           more;
  };
  const Deadline limit = call.limit.count() > 0 ? Deadline::in(call.limit) : Deadline{};
  Deadline end;
  while (!process.has_ended()) {
    std::array<pollfd, 2> waits{
        {{output.source.number(), POLLIN, 0}, {errors.source.number(), POLLIN, 0}}};
    ::poll(waits.data(), waits.size(), 50);
    // Both closed and it still runs: poll() would not wait any more.
    if (!read()) ::usleep(20'000);
    const bool asked = !result.stopped && call.stop && call.stop();
    if (limit.passed() || asked) {
      if (limit.passed() && !asked)
        throw Timeout("{} has not ended within {:g} s: waited for {}", call.command[0],
                      seconds(call.limit), call.waiting_for);
      result.stopped = true;
      process.send_group(SIGTERM);
      end = Deadline::in(kPatience);
    }
    if (result.stopped && end.passed()) process.send_group(SIGKILL);
  }
  read();
  result.exit_code = process.exit_code();
  return result;
}

}  // namespace ballot

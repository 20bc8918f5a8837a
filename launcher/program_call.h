// A program run to its end: text in, texts out, within a limit.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

struct ProgramCall {
  std::vector<std::string> command;  // a path and its arguments
  std::string input;
  // Ended, and a Timeout thrown that names what was waited for; 0: no limit.
  std::chrono::milliseconds limit{30'000};
  std::string waiting_for;
  // Looked at some ten times a second; true ends the program. Empty: never.
  std::function<bool()> stop;
  // What comes on its standard output, as it comes; then ProgramResult::output stays empty.
  std::function<void(std::string_view)> on_output;
};

struct ProgramResult {
  int exit_code;  // as a shell would say it
  std::string output, errors;
  bool stopped = false;
};

// Outputs above 64 MiB are an Unavailable: nothing here asks for so much.
ProgramResult call_program(const ProgramCall& call);

}  // namespace ballot

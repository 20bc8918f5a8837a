// One short program here, run to its end: sbatch, squeue, scancel, scontrol.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace ballot {

struct ProgramRun {
  int exit_code = 0;           // 128 + the signal that ended it
  std::string output, errors;  // at most a megabyte of each
};

// Timeout, naming the program, where it has not ended after `patience`; it is killed then.
// FileError where it cannot be started. `words[0]` is a path.
ProgramRun run_program(const std::vector<std::string>& words,
                       std::chrono::milliseconds patience = std::chrono::seconds(60));

// The same, of a program in PATH: Unavailable, naming `package`, where it is not there; ConfigError
// with what it said where it ends with anything but 0.
std::string output_of(const std::string& program, const std::vector<std::string>& arguments,
                      const char* package);

}  // namespace ballot

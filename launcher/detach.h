// A launcher that goes on without its terminal.
#pragma once

#include <string>

namespace ballot {

// Forks: the caller goes on in a session of its own, with its output appended to `log` and its
// input closed, and `true` is what the parent gets, to say so and end. Before any thread was
// started. FileError where the log cannot be opened.
bool detach(const std::string& log);

}  // namespace ballot

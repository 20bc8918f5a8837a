// Words of command lines: taken from what a user gave as one text, and quoted for a shell.
#pragma once

#include <string>
#include <vector>

namespace ballot {

// A word as a POSIX shell reads it back unchanged: ssh hands the far side one line.
std::string shell_quoted(const std::string& word);

// The same, but that a word which needs no quotes stays as it is: for people to read.
std::string shell_word(const std::string& word);
std::string shell_line(const std::vector<std::string>& words);

// The words of a command line that a user gave as one text: blanks part words, '...' and "..." keep
// them together. ConfigError, naming `flag`, where a quote does not end.
std::vector<std::string> split_words(const std::string& flag, const std::string& text);

}  // namespace ballot

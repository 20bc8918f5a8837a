// A file that one process at a time holds, by flock(): the system lets go of it when the process
// ends, however it ends. For folders that two processes must not write to at once.
#pragma once

#include <string>

namespace ballot {

class FileLock {
 public:
  // Makes the file if there is none, and writes this process's id into it. ConfigError naming
  // `what` and the process that holds it; FileError.
  FileLock(const std::string& path, const std::string& what);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int file_ = -1;
};

}  // namespace ballot

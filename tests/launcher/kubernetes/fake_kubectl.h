// A kubectl that a test makes: it notes how it is called and answers what the test lays down.
//
// A call's key is its verb, with what it gets or deletes: "apply", "get-job", "get-pods", "logs",
// "patch", "delete-job". The n-th call of a key is answered by <key>.<n> if there is such a file,
// else by <key>: the words on its standard output. Beside it may lie <key>.code (exit code),
// <key>.errors (standard error) and <key>.sleep (seconds, before it answers). A followed log goes
// on until the file <key>.end is there.
#pragma once

#include <gtest/gtest.h>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/temporary_folder.h"

namespace ballot {

class FakeKubectl {
 public:
  FakeKubectl() : path_(std::getenv("PATH")) {
    std::filesystem::create_directories(folder_.file("bin"));
    std::filesystem::create_directories(folder_.file("calls"));
    std::filesystem::copy_file(BALLOT_FAKE_KUBECTL, folder_.file("bin/kubectl"));
    ::setenv("PATH", (folder_.file("bin") + ":" + path_).c_str(), 1);
  }
  ~FakeKubectl() { ::setenv("PATH", path_.c_str(), 1); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.file(name)) << text;
  }
  std::string read(const std::string& name) const {
    std::ifstream file(folder_.file(name));
    EXPECT_TRUE(file.good()) << name << " of the kubectl that was asked";
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  bool has(const std::string& name) const { return std::filesystem::exists(folder_.file(name)); }
  std::string folder() const { return folder_.path(); }
  // Their words, in the order of the calls.
  std::vector<std::string> calls() const {
    std::vector<std::string> names, lines;
    for (const auto& one : std::filesystem::directory_iterator(folder_.file("calls")))
      names.push_back(one.path().filename());
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      std::string line = read("calls/" + name);
      line.pop_back();
      lines.push_back(line);
    }
    return lines;
  }

 private:
  TemporaryFolder folder_;
  const std::string path_;
};

}  // namespace ballot

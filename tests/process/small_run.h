// A run small enough to take a second: a folder with a model of 130k parameters, two texts and a
// run file.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/process/command.h"
#include "tests/support/temporary_folder.h"

namespace ballot {

class SmallRun : public testing::Test {
 protected:
  void SetUp() override;

  std::string file(const std::string& name) const { return folder_.file(name); }
  // `ballot` with these arguments, in the folder: relative paths are inside it.
  Ended ballot(const std::vector<std::string>& arguments, const Environment& variables = {}) const;
  std::vector<std::string> launch(int workers, const std::string& output,
                                  const std::vector<std::string>& settings = {}) const;
  // Runs the job of launch(...), which is expected to end well, and gives its output.
  std::string train(int workers, const std::string& output,
                    const std::vector<std::string>& settings = {}) const;

  std::string read(const std::string& name) const;  // the test fails where it cannot be read
  void write(const std::string& name, const std::string& bytes) const;
  // The lines of a run's metrics.jsonl, of one type or all. A line that does not parse fails the
  // test.
  std::vector<nlohmann::json> metrics(const std::string& output,
                                      const std::string& type = "") const;
  // The step of the last whole line of its record; 0 where there is none. For runs that still go
  // on.
  std::int64_t last_step(const std::string& output) const;
  // What a resumed run must reproduce: model.safetensors and trainer/*.safetensors of both are
  // equal byte for byte.
  void expect_same_bits(const std::string& checkpoint, const std::string& other) const;
  // Changes one byte in the middle of a file.
  void damage(const std::string& name) const;

 private:
  TemporaryFolder folder_;
};

}  // namespace ballot

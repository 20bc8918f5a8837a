// TensorBoard's view of a run: an event file in RUN/tensorboard for each time somebody began to
// write the run's record, with the numbers of metrics.jsonl under their names.
//
// Beside the record, never in its way: what cannot be written is reported once, and the run goes
// on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace ballot {

class RecordFile;

class TensorBoardLog {
 public:
  // A new file that TensorBoard reads after those that are there, and that voids what they say of
  // `first_step` and later ones. FileError where it cannot be made.
  TensorBoardLog(const std::string& run_folder, std::int64_t first_step);
  ~TensorBoardLog();

  // Floats, as TensorBoard's scalars are. Handed to the system whole: a killed run leaves them.
  void add(std::int64_t step, const std::vector<std::pair<std::string, double>>& values);

 private:
  std::unique_ptr<RecordFile> file_;
  bool reported_ = false;
};

}  // namespace ballot

// A run's data: what it is trained on and what is held out, and how both are cut into samples.
//
// The one way in which the trainer, an elastic replica and the launcher's checks read data, so that
// all of them see the same samples.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "models/tokenizer.h"
#include "runtime/run_config.h"
#include "runtime/sampler.h"

namespace ballot {

class RunData {
 public:
  // Reads what config.train_data and config.validation_data name. ConfigError, DataError,
  // CorruptFile, FileError.
  RunData(const RunConfig& config, const Tokenizer& tokenizer);
  RunData(const RunData&) = delete;
  RunData& operator=(const RunData&) = delete;

  const TokenData& training() const { return training_; }
  const Digest& training_digest() const { return training_digest_; }
  const TokenData& held_out() const { return held_out_; }  // no tokens: none is given
  const SampleSource& samples() const { return *samples_; }
  const EvaluationWindows* windows() const { return windows_.get(); }  // null: none

  // ConfigError if samples are cut from documents and these are not those with digest `before`,
  // which the run was trained on so far: each sample depends on all of them. A stream that was
  // exchanged or has grown is a warning, if `say`.
  void require_same_as(const std::optional<Digest>& before, bool say) const;
  // What must be equal on all workers, as lines of text.
  std::string identity() const;

  // What the data is and the sample of id 0, for the log.
  std::string description(const Tokenizer& tokenizer) const;

 private:
  TokenData training_, held_out_;
  Digest training_digest_;
  std::unique_ptr<SampleSource> samples_;
  std::unique_ptr<EvaluationWindows> windows_;
};

}  // namespace ballot

// Where a training stands after a step: what trainer/state.json of a checkpoint says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/digest.h"
#include "runtime/loss_history.h"
#include "runtime/protocol/ledger.h"

namespace ballot {

// Where a state stands in its run's journal: the history that it belongs to, and the chain so far.
struct JournalPlace {
  Digest run, chain;
  auto operator<=>(const JournalPlace&) const = default;
};

struct TrainingState {
  std::int64_t step = 0;            // steps done
  std::int64_t sample_counter = 0;  // next sample id
  std::int64_t tokens_total = 0;
  // For the record, and to say when bits may differ after a resume:
  std::int64_t workers = 1;
  std::int64_t members = 1;  // of a voter
  std::int64_t threads = 1;
  std::string processor;
  std::string compute;
  std::uint64_t digest = 0;             // of all parameters
  std::optional<JournalPlace> journal;  // none: the run keeps no journal
  // Of a run whose workers come and go: the samples that are not used yet, and the term of the
  // record that ends here.
  std::optional<Ledger> ledger;
  std::optional<std::int64_t> history_term;
  std::optional<LossHistory> losses;  // held out; none: nothing depends on them
  std::optional<Digest> data;         // what was trained on (TokenData::digest); none: not known
  auto operator<=>(const TrainingState&) const = default;
};

std::string training_state_json(const TrainingState& training);
// CorruptFile naming `path` and the field.
TrainingState parse_training_state(const std::string& json, const std::string& path);

// CHECKPOINT/trainer/state.json alone.
TrainingState read_training_state(const std::string& checkpoint);

}  // namespace ballot

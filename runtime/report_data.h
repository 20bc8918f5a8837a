// What a report needs of one run: its metrics.jsonl as numbers. A value that is null or absent is
// NaN.
//
// A run that was started again from a checkpoint repeats steps; the later line replaces the earlier
// one.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/report_chart.h"  // MarkKind

namespace ballot {

inline constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();

inline constexpr std::size_t kStageCount = 8;
struct Stage {
  const char* key;   // in metrics.jsonl
  const char* name;  // on the page
};
extern const std::array<Stage, kStageCount> kStages;  // in the order of a step

struct StepRecord {
  std::int64_t step = 0;
  // Seconds of the run so far, as RunRecord says; never falls.
  double elapsed = 0;
  double loss = kNoValue, tokens = kNoValue, tokens_per_second = kNoValue, seconds = kNoValue;
  double bytes = kNoValue, vote_bytes = kNoValue, mean_bytes = kNoValue, control_bytes = kNoValue;
  double fp32_bytes = kNoValue, ties = kNoValue, unanimous = kNoValue, held = kNoValue;
  double gradient_faults = kNoValue, loss_faults = kNoValue;
  std::array<double, kStageCount> stages;
  std::vector<float> agreement;  // per voter
};

struct EvaluationRecord {
  std::int64_t step = 0;
  double loss = kNoValue, tokens = kNoValue;
  double elapsed = 0;
};

// Something that happened in a run, other than a step.
struct EventRecord {
  MarkKind kind = MarkKind::start;
  std::int64_t step = 0;
  double elapsed = 0;
  std::string text;
};

// Agreement by layer, then voter, over the steps before.
struct LayerRecord {
  std::int64_t step = 0;
  double steps = kNoValue;
  std::vector<std::string> layers;
  std::vector<std::vector<float>> agreement;
};

// Its time is the wall clock's while it ran: from each start's first line on, evaluations and
// checkpoints included, without the pauses between a stop and the next start; of an elastic run
// also the waiting between two terms, unless it had ended. Steps that a start repeats count once.
// Lines without a time (of older versions) count with the seconds of their steps alone.
struct RunRecord {
  std::string name;  // the folder's last part
  std::string folder;
  std::string model, rule, reduce, compute, workers;       // empty: not said
  std::vector<std::pair<std::string, std::string>> facts;  // the run line's plain values
  std::int64_t planned_steps = 0;                          // 0: not said
  bool elastic = false;
  int starts = 0;  // of an elastic run: terms whose record was begun
  std::size_t steps_with_time = 0;
  std::vector<EventRecord> events;  // in order
  std::vector<StepRecord> steps;
  std::vector<EvaluationRecord> evaluations;
  std::optional<LayerRecord> layers;  // the last one
  bool ended = false;
  std::optional<bool> replicas_identical;
};

// Reads <folder>/metrics.jsonl (and run.toml for what its run line leaves unsaid). DataError with
// the number of a damaged line; a last line without its newline that cannot be read is left out.
RunRecord read_run_record(const std::string& folder);

}  // namespace ballot

// What a report and `ballot compare` say of runs beside each other: how long each took to reach a
// loss, what it sent in all.
//
// Losses are of training, as the mean of the last steps (smoothing_window()), since held-out ones
// are too far apart in time. NaN: not known, not reached.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/report_data.h"

namespace ballot {

using StepValue = std::function<double(const StepRecord&)>;

// Over the steps that have a value; NaN where none has.
double mean_of(const RunRecord& run, const StepValue& value);
double median_of(const RunRecord& run, const StepValue& value);
double sum_of(const RunRecord& run, const StepValue& value);  // 0 where none has

double last_elapsed(const RunRecord& run);       // at its last step
double tokens_per_second(const RunRecord& run);  // of all workers, over that time
const char* clock_of(const RunRecord& run);      // "wall clock", or what else was counted
bool averages_gradients(const RunRecord& run);   // it votes on nothing
// "12.3 times less": against what an fp32 all-reduce sends. Empty where nothing was sent.
std::string against_fp32(const RunRecord& run);

// Whom the others are measured by: the first that averages in full precision, else the first.
std::size_t reference_run(const std::vector<RunRecord>& runs);

// So many steps a loss is the mean of: 10, of short runs fewer; the same for all.
std::size_t smoothing_window(const std::vector<RunRecord>& runs);

// A few losses that all runs have passed, the last the lowest of them, descending. Empty: there is
// none that all have passed.
std::vector<double> common_losses(const std::vector<RunRecord>& runs, std::size_t window);

struct Reached {
  double seconds = kNoValue, tokens = kNoValue;
  std::int64_t step = 0;
};
Reached reach(const RunRecord& run, double loss, std::size_t window);

}  // namespace ballot

// Writes metrics.jsonl, the source of truth about a run: one JSON object a line, names in
// metrics_names.h.
//
// One writer (worker 0). Each line is handed to the system whole, so a killed run leaves at most
// one torn line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "collectives/verdict.h"
#include "runtime/layer_agreement.h"  // LayerTable
#include "runtime/memory_plan.h"      // MemoryPlan

namespace ballot {

class TensorBoardLog;

struct RunFacts {
  std::string version, model, processor, compute, backend, config_toml, rule, reduce;
  std::string schedule;  // of votes; empty: nothing is voted on
  bool overlap = true;
  std::int64_t workers = 0, members = 1, threads = 0, seed = 0, steps = 0;
  std::int64_t parameters = 0, voted_parameters = 0;
  std::int64_t first_step = 0;  // > 0: resumed
};

struct StepMetrics {
  double time = 0;        // when it was done, seconds since the epoch; 0: when it is written
  std::int64_t step = 0;  // from 1: steps done
  double loss = 0, rate = 0;
  std::int64_t tokens = 0, tokens_total = 0;  // all workers
  int workers = 1;
  double step_seconds = 0, data_seconds = 0, forward_seconds = 0, backward_seconds = 0,
         direction_seconds = 0, pack_seconds = 0, exposed_seconds = 0, hidden_seconds = 0,
         tally_seconds = 0, apply_seconds = 0, audit_seconds = 0;
  Traffic traffic;  // of this worker in this step
  std::uint64_t member_bytes = 0;
  double fp32_bytes = 0;  // what an fp32 ring all-reduce of all parameters would have sent
  std::string backend;
  const VoteStatistics* votes = nullptr;
  std::int64_t gradient_faults = 0, loss_faults = 0;  // all workers
  int slowest_voter = 0;
  double slowest_seconds = 0;
  struct SlowStage {
    std::string stage;
    int worker = 0;
    double seconds = 0, median_seconds = 0;
  };
  std::vector<SlowStage> slow_stages;
  struct Journal {
    std::uint64_t bytes = 0;
    double seconds = 0, wait_seconds = 0;
    std::int64_t lag_steps = 0;
  };
  std::optional<Journal> journal;  // none: the run keeps none
  double checkpoint_wait_seconds = 0;
};

class MetricsLog {
 public:
  // Appends to FOLDER/metrics.jsonl; lines of steps after `last_step` (a resumed run repeats them)
  // are cut away first. With `tensorboard` the numbers of steps, evaluations and checkpoints go to
  // an event file too, each before its line.
  MetricsLog(const std::string& folder, std::int64_t last_step, bool tensorboard = false);
  ~MetricsLog();
  // The last step that had a line when it was opened; 0: none.
  std::int64_t opened_after() const { return opened_after_; }

  void run(const RunFacts& facts);
  void step(const StepMetrics& record);
  void evaluation(std::int64_t step, double loss, std::int64_t tokens, double seconds);
  void layers(std::int64_t step, const LayerTable& table);
  // used_bytes below 0: not known.
  void memory(std::int64_t step, const MemoryPlan& plan, std::int64_t used_bytes);
  // What somebody should look at: "repair", "alarm".
  void notice(const char* type, std::int64_t step, int worker, const std::string& text);
  void checkpoint(std::int64_t step, const std::string& path, double seconds, double write_seconds,
                  std::uint64_t bytes);
  // Of an elastic run, by whomever it was published.
  void checkpoint(std::int64_t step, const std::string& path);
  // A term of an elastic run began after `step`, with these workers; `reason` empty: not known.
  void term(std::int64_t step, std::int64_t term, const std::vector<std::int32_t>& workers,
            const std::string& reason);
  void end(std::int64_t step, bool replicas_identical, double seconds);

 private:
  void write(const std::string& line);
  std::string path_;
  std::FILE* file_ = nullptr;
  std::int64_t opened_after_ = 0;
  std::unique_ptr<TensorBoardLog> tensorboard_;  // null: nobody asked for it
};

// The progress of a run for a person: a line that rewrites itself on a terminal, else a log line
// now and then.
class ProgressLine {
 public:
  explicit ProgressLine(std::int64_t steps);
  void update(const StepMetrics& record);
  void finish();

 private:
  std::int64_t steps_;
  bool terminal_;
  double started_ = 0, last_shown_ = 0;
  std::int64_t first_step_ = -1;
};

// "1.4 MB", "312 B": for people; files carry whole numbers.
std::string human_bytes(double bytes);

// Seconds since the epoch, as the lines' `time`.
double wall_clock();

}  // namespace ballot

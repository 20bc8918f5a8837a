#include "runtime/elastic/elastic_trainer.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "core/disk.h"
#include "core/error.h"
#include "core/file.h"
#include "core/file_lock.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/version.h"
#include "runtime/elastic/elastic_worker.h"
#include "runtime/journal/shards.h"
#include "runtime/metrics.h"
#include "runtime/run_folder.h"

namespace ballot {
namespace {

// The first worker writes run.toml; the others and all later ones are of the same run. Several may
// be the first at once.
void prepare_folder(const RunConfig& config, std::int32_t worker) {
  std::filesystem::create_directories(config.output_folder + "/checkpoints");
  const std::string path = config.output_folder + "/run.toml",
                    mine = fmt::format("{}.worker-{}", path, worker);
  if (!std::filesystem::exists(path)) {
    write_file_synced(mine, to_toml(config));
    std::filesystem::rename(mine, path);
  }
  require_same_run(config);
}

ElasticJournal::Options journal_options(const RunConfig& config, const ElasticOptions& options,
                                        const Position& genesis, Duration patience) {
  ElasticJournal::Options journal;
  journal.folder = shard_folder(config.output_folder, options.worker);
  journal.run = genesis.digest;
  journal.start = genesis;
  journal.journal.segment_bytes = static_cast<std::uint64_t>(config.journal.segment_mib) << 20;
  journal.writer.sync_every = std::chrono::milliseconds(config.journal.sync_every_ms);
  journal.writer.queue_bytes = static_cast<std::uint64_t>(config.journal.queue_mib) << 20;
  journal.writer.patience = patience;
  return journal;
}

// The run's record: written by the worker that decides chunk 0, for it has seen everybody's loss.
// When another takes over, that one goes on in the same file.
class ElasticRecord {
 public:
  ElasticRecord(const RunConfig& config, const ElasticOptions& options, Replica& replica,
                ElasticWorker& worker, TrainingResult& result)
      : config_(config),
        options_(options),
        replica_(replica),
        worker_(worker),
        result_(result),
        progress_(config.steps) {}

  void entered(const TermRecord& record) {
    const PeersTraffic traffic = worker_.traffic();
    log_info("term {}: {} workers, from step {}", record.term, record.workers.size(),
             record.start.step);
    if (!entered_ && traffic.fetched + traffic.downloaded > 0)
      log_info(
          "joined with {} bytes of records and {} of a checkpoint from peers; the parameters "
          "have {}",
          traffic.fetched, traffic.downloaded, 4 * replica_.arena().count());
    entered_ = true;
    const bool leads = record.workers.front().identity.worker == options_.worker;
    if (!leads) {
      metrics_.reset();
      return;
    }
    if (!metrics_)
      metrics_ = std::make_unique<MetricsLog>(config_.output_folder, replica_.position().step);
    metrics_->run(facts(record));
    if (replica_.position().step == 0 && record.start.step == 0)
      if (const auto loss = evaluate()) result_.first_loss = *loss;
  }

  void applied(const AppliedRecord& applied, const std::optional<DecidedStep>& decided) {
    const bool last = applied.step == config_.steps;
    if (decided && metrics_) {
      StepMetrics line = line_of(applied, *decided);
      metrics_->step(line);
      progress_.update(line);
      if (last || (config_.evaluate_every > 0 && applied.step % config_.evaluate_every == 0))
        if (const auto loss = evaluate()) result_.last_loss = *loss;
    }
    before_ = worker_.traffic();
    watch_ = Stopwatch();
  }

  void end(bool finished) {
    progress_.finish();
    if (metrics_) metrics_->end(replica_.position().step, finished, total_.elapsed());
  }

 private:
  StepMetrics line_of(const AppliedRecord& applied, const DecidedStep& decided) {
    StepMetrics line;
    const Replica::Times& times = replica_.times();
    const PeersTraffic traffic = worker_.traffic();
    line.step = applied.step;
    line.loss =
        decided.loss.tokens > 0 ? decided.loss.mean() : std::numeric_limits<double>::quiet_NaN();
    line.rate = config_.groups[0].rate * config_.schedule.factor(applied.step - 1);
    line.tokens = decided.loss.tokens;
    line.tokens_total = applied.tokens_total;
    line.workers = decided.workers;
    line.step_seconds = watch_.elapsed();
    line.data_seconds = times.data;
    line.forward_seconds = times.forward;
    line.backward_seconds = times.backward;
    line.direction_seconds = times.direction;
    line.pack_seconds = times.pack;
    line.apply_seconds = times.apply;
    line.tally_seconds = decided.seconds;
    line.exposed_seconds =
        std::max(0.0, line.step_seconds - times.data - times.forward - times.backward -
                          times.direction - times.pack - times.apply);
    line.traffic.bytes_sent[static_cast<std::size_t>(Purpose::vote)] = traffic.sent - before_.sent;
    line.traffic.bytes_received[static_cast<std::size_t>(Purpose::vote)] =
        traffic.received - before_.received;
    const double share = 2.0 * (decided.workers - 1) / decided.workers;
    line.fp32_bytes = share * 4.0 * static_cast<double>(replica_.arena().count());
    line.backend = "elastic";
    line.loss_faults = decided.loss_faults;
    return line;
  }

  std::optional<double> evaluate() {
    const Stopwatch watch;
    const std::optional<Loss> loss = replica_.evaluate();
    if (!loss) return std::nullopt;
    const std::int64_t step = replica_.position().step;
    metrics_->evaluation(step, loss->mean(), loss->tokens, watch.elapsed());
    log_info("step {}: held-out loss {:.4f} nats per token over {} tokens", step, loss->mean(),
             loss->tokens);
    return loss->mean();
  }

  RunFacts facts(const TermRecord& record) const {
    const ParameterGroup& hidden = config_.group(ParameterKind::hidden_matrix);
    RunFacts facts;
    facts.version = version();
    facts.model = config_.model_folder;
    facts.processor = processor_features();
    facts.compute = to_string(replica_.compute());
    facts.backend = "elastic";
    facts.config_toml = to_toml(config_);
    facts.rule = to_string(hidden.rule);
    facts.reduce = to_string(hidden.reduce);
    facts.workers = static_cast<std::int64_t>(record.workers.size());
    facts.threads = thread_count();
    facts.seed = config_.seed;
    facts.steps = config_.steps;
    facts.parameters = replica_.arena().count();
    facts.voted_parameters = replica_.layout().voted().count();
    facts.first_step = replica_.position().step;
    facts.schedule = facts.voted_parameters > 0 ? to_string(Schedule::sharded) : "";
    facts.overlap = false;
    return facts;
  }

  const RunConfig& config_;
  const ElasticOptions& options_;
  Replica& replica_;
  ElasticWorker& worker_;
  TrainingResult& result_;
  ProgressLine progress_;
  std::unique_ptr<MetricsLog> metrics_;  // null: another worker writes it
  PeersTraffic before_;
  bool entered_ = false;
  Stopwatch watch_, total_;
};

}  // namespace

TrainingResult train_elastic(const RunConfig& config, const ElasticOptions& options,
                             const TrainingHooks& hooks) {
  if (options.worker < 0)
    throw ConfigError("--worker {}: expected a number from 0 on that is this worker's alone",
                      options.worker);
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  set_log_name(fmt::format("worker {}", options.worker));
  const auto patience =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(config.deadline_seconds));
  Replica replica(config, hooks);
  prepare_folder(config, options.worker);
  const std::string shard = shard_folder(config.output_folder, options.worker);
  std::filesystem::create_directories(shard);
  const FileLock lock(shard + "/in-use", fmt::format("--worker {}: its journal", options.worker));
  ElasticJournal journal(system_disk(),
                         journal_options(config, options, replica.genesis(), patience));
  Recovery recovery(replica, journal, config.output_folder, options.worker);
  Recovered start = recovery.start();
  TrainingResult result;
  result.first_loss = result.last_loss = std::numeric_limits<double>::quiet_NaN();
  const auto finish = [&] {
    result.steps = replica.position().step;
    result.digest = replica.digest();
    log_info("ends after step {}, its parameters have digest {:016x}", result.steps, result.digest);
    return result;
  };
  const auto newest = find_newest_checkpoint(config.output_folder);
  if (replica.position().step >= config.steps && newest && newest->step >= config.steps) {
    log_info("the run has ended after step {}: {}", config.steps, newest->path);
    result.checkpoint = newest->path;
    return finish();
  }
  ElasticWorker worker(config, options, hooks, replica, journal, recovery, std::move(start));
  ElasticRecord record(config, options, replica, worker, result);
  const bool finished =
      worker.run({[&](const TermRecord& entered) { record.entered(entered); },
                  [&](const AppliedRecord& applied, const std::optional<DecidedStep>& decided) {
                    record.applied(applied, decided);
                  }});
  record.end(finished);
  journal.flush();
  result.stopped = !finished;
  result.checkpoint = worker.checkpoint();
  if (!finished)
    log_info("left after step {}; started again with the same number it goes on from there",
             replica.position().step);
  return finish();
}

}  // namespace ballot

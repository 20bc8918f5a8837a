#include "runtime/elastic/elastic_trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/disk.h"
#include "core/error.h"
#include "core/file.h"
#include "core/file_lock.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/version.h"
#include "runtime/agreement_watch.h"
#include "runtime/elastic/elastic_worker.h"
#include "runtime/journal/shards.h"
#include "runtime/layer_agreement.h"
#include "runtime/metrics.h"
#include "runtime/run_folder.h"
#include "runtime/watching/worker_watch.h"

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

constexpr std::size_t kMostNumbers = 1024;  // workers' are below
constexpr std::size_t kLinesKept = 64;      // of steps, for the record that another worker leaves

// The run's record: written by the first worker of the term. All have what it says of a step (the
// owners tell their figures with their verdicts), so that whoever takes over goes on in the same
// file where the other one left it. And what is made of the figures: the watch over the voters.
class ElasticRecord {
 public:
  ElasticRecord(const RunConfig& config, const ElasticOptions& options, Replica& replica,
                ElasticJournal& journal, ElasticWorker& worker, WorkerWatch* shown,
                TrainingResult& result)
      : config_(config),
        options_(options),
        replica_(replica),
        journal_(journal),
        worker_(worker),
        shown_(shown),
        result_(result),
        progress_(config.steps),
        layer_map_(replica.layout().voted()) {}

  void entered(const TermRecord& record, const std::string& reason) {
    const PeersTraffic traffic = worker_.traffic();
    log_info("term {}: {} workers, from step {}", record.term, record.workers.size(),
             record.start.step);
    if (!entered_ && traffic.fetched + traffic.downloaded > 0)
      log_info(
          "joined with {} bytes of records and {} of a checkpoint from peers; the parameters "
          "have {}",
          traffic.fetched, traffic.downloaded, 4 * replica_.arena().count());
    entered_ = true;
    std::vector<std::int32_t> workers;
    for (const TermWorker& worker : record.workers) workers.push_back(worker.identity.worker);
    if (workers != workers_) {  // agreement is with these others
      workers_ = std::move(workers);
      watch_ = AgreementWatch({.window = config_.audit.agreement_window});
      accused_.clear();
      tensors_ = {};
      layer_steps_ = 0;
      last_layers_.reset();
    }
    if (shown_ != nullptr) {
      const auto voters = static_cast<int>(workers_.size());
      shown_->enter(record.term, voters * static_cast<int>(config_.members), voters);
    }
    const bool leads = workers_.front() == options_.worker;
    if (!leads) {
      metrics_.reset();
      return;
    }
    // Another worker may have put another file in its place while this one was away.
    metrics_.reset();
    const std::int64_t step = replica_.position().step;
    std::erase_if(lines_, [step](const Line& line) { return line.metrics.step > step; });
    // Up to the start the lines are those of this history, though this worker may be behind it.
    metrics_ =
        std::make_unique<MetricsLog>(config_.output_folder, record.start.step, config_.tensorboard);
    for (const Line& line : lines_)
      if (line.metrics.step > metrics_->opened_after()) write(line);
    metrics_->run(facts(record));
    metrics_->term(record.start.step, record.term, workers_, reason);
    checkpoint_ = worker_.checkpoint();  // published before: by whom wrote the record then
    if (step == 0 && record.start.step == 0)
      if (const auto loss = evaluate()) result_.first_loss = *loss;
  }

  AppliedAnswer applied(const AppliedRecord& applied, const std::optional<StepFigures>& figures) {
    std::erase_if(lines_, [&](const Line& line) { return line.metrics.step >= applied.step; });
    if (figures) {
      watch(*figures);
      lines_.push_back({line_of(applied, *figures), figures->votes});
      if (lines_.size() > kLinesKept) lines_.pop_front();
      if (shown_ != nullptr) show(lines_.back());
      if (metrics_) {
        note_checkpoint();
        write(lines_.back());
        progress_.update(lines_.back().metrics);
        const bool last = applied.step == config_.steps;
        if (last || (config_.evaluate_every > 0 && applied.step % config_.evaluate_every == 0))
          if (const auto loss = evaluate()) result_.last_loss = *loss;
      }
    }
    if (!figures && shown_ != nullptr) shown_->caught_up(applied.step);
    before_ = worker_.traffic();
    watch_step_ = Stopwatch();
    return {judgement(), recorded()};
  }

  void end(bool finished) {
    progress_.finish();
    note_checkpoint();
    if (metrics_) metrics_->end(replica_.position().step, finished, total_.elapsed());
  }

 private:
  struct Line {
    StepMetrics metrics;
    VoteStatistics votes;
  };

  StepMetrics whole(const Line& line) const {
    StepMetrics metrics = line.metrics;
    if (replica_.layout().voted().count() > 0) metrics.votes = &line.votes;
    return metrics;
  }

  void write(const Line& line) { metrics_->step(whole(line)); }

  void show(const Line& line) {
    // Of the term before, whose voters had other numbers.
    const bool same_voters = line.votes.agreed.size() == workers_.size();
    StepMetrics metrics = whole(line);
    if (!same_voters) metrics.votes = nullptr;
    shown_->step(metrics, workers_);
    if (const std::int64_t step = worker_.checkpoint_step(); step > 0)
      shown_->newest_checkpoint(step);
  }

  // Told by the coordinator, some steps after it.
  void note_checkpoint() {
    const std::string newest = worker_.checkpoint();
    if (!metrics_ || newest == checkpoint_) return;
    checkpoint_ = newest;
    metrics_->checkpoint(worker_.checkpoint_step(), newest);
  }

  // The same on every worker of the term, being made of what all have.
  void watch(const StepFigures& figures) {
    if (figures.votes.agreed.size() != workers_.size()) return;  // of the term before
    const std::optional<AgreementAlarm> alarm = watch_.add(figures.votes);
    for (std::size_t v = 0; v < workers_.size(); ++v)
      if (!watch_.alarming()[v]) accused_.erase(workers_[v]);
    const LayerTable layers = watch_layers(figures);
    if (!alarm) return;
    const std::int32_t worker = workers_[static_cast<std::size_t>(alarm->voter)];
    const bool sends_away = config_.audit.bad_voter == AuditConfig::BadVoter::abstain;
    const std::string text =
        fmt::format("step {}: worker {} is {}{}{}", figures.step, worker,
                    alarm->describe(config_.audit.agreement_window),
                    describe_worst(layers, static_cast<std::size_t>(alarm->voter)),
                    sends_away ? "; it is sent away" : "");
    if (sends_away) accused_[worker] = text;
    if (shown_ != nullptr) shown_->alarmed();
    if (!metrics_) return;
    log_warning("{}", text);
    metrics_->notice("alarm", figures.step, worker, text);
  }

  // Agreement layer by layer, of at least a window where there were as many steps; a line of it
  // goes to the record once in a window.
  LayerTable watch_layers(const StepFigures& figures) {
    if (figures.tensors.voters() != workers_.size()) return {};
    if (layer_steps_ == 0)
      tensors_ = figures.tensors;
    else
      tensors_.add(figures.tensors);
    const std::int64_t window = config_.audit.agreement_window;
    const bool due = ++layer_steps_ == window || figures.step == config_.steps;
    LayerTable layers = layer_map_.table(tensors_, layer_steps_);
    const std::optional<LayerTable> before = last_layers_;
    if (due) {
      layer_steps_ = 0;
      last_layers_ = layers;
      if (metrics_) metrics_->layers(figures.step, layers);
    }
    if (layers.steps < window && before) layers.add(*before);
    return layers;
  }

  VoterJudgement judgement() const {
    VoterJudgement judgement;
    const auto me = std::ranges::find(workers_, options_.worker);
    const std::vector<double> means = watch_.means();
    const auto index = static_cast<std::size_t>(me - workers_.begin());
    if (index < means.size() && !std::isnan(means[index])) judgement.agreement = means[index];
    for (const auto& [worker, reason] : accused_) judgement.accused.push_back({worker, reason});
    return judgement;
  }

  // Of the last line, while this worker writes them.
  std::optional<RecordedStep> recorded() const {
    if (!metrics_ || lines_.empty()) return std::nullopt;
    const auto& [line, votes] = lines_.back();
    RecordedStep recorded;
    recorded.step = line.step;
    if (std::isfinite(line.loss)) recorded.loss = line.loss;
    if (line.step_seconds > 0)
      recorded.tokens_per_second = static_cast<double>(line.tokens) / line.step_seconds;
    recorded.tokens_total = line.tokens_total;
    recorded.bytes_sent = static_cast<std::int64_t>(line.traffic.total_sent());
    recorded.fp32_bytes = static_cast<std::int64_t>(line.fp32_bytes);
    if (votes.elements > 0)
      recorded.ties = static_cast<double>(votes.ties) / static_cast<double>(votes.elements);
    double sum = 0;
    int voters = 0;
    for (std::size_t v = 0; v < votes.agreed.size(); ++v)
      if (votes.compared[v] > 0) {
        sum += static_cast<double>(votes.agreed[v]) / static_cast<double>(votes.compared[v]);
        ++voters;
      }
    if (voters > 1) recorded.agreement = sum / voters;
    return recorded;
  }

  StepMetrics line_of(const AppliedRecord& applied, const StepFigures& decided) {
    StepMetrics line;
    const Replica::Times& times = replica_.times();
    const PeersTraffic traffic = worker_.traffic();
    line.time = wall_clock();
    line.step = applied.step;
    line.loss =
        decided.loss.tokens > 0 ? decided.loss.mean() : std::numeric_limits<double>::quiet_NaN();
    line.rate = config_.groups[0].rate * config_.schedule.factor(applied.step - 1);
    line.tokens = decided.loss.tokens;
    line.tokens_total = applied.tokens_total;
    line.workers = decided.workers * config_.members;
    line.step_seconds = watch_step_.elapsed();
    line.data_seconds = times.data;
    line.forward_seconds = times.forward;
    line.backward_seconds = times.backward;
    line.direction_seconds = times.direction;
    line.pack_seconds = times.pack;
    line.apply_seconds = times.apply;
    line.tally_seconds = worker_.take_tally_seconds();
    line.exposed_seconds =
        std::max(0.0, line.step_seconds - times.data - times.forward - times.backward -
                          times.direction - times.pack - times.apply);
    line.traffic.bytes_sent[static_cast<std::size_t>(Purpose::vote)] = traffic.sent - before_.sent;
    line.traffic.bytes_received[static_cast<std::size_t>(Purpose::vote)] =
        traffic.received - before_.received;
    const auto workers = static_cast<double>(line.workers);
    const double share = 2.0 * (workers - 1) / workers;
    line.fp32_bytes = share * 4.0 * static_cast<double>(replica_.state().trained_count());
    line.backend = "elastic";
    line.member_bytes =
        replica_.member_bytes_sent() - std::exchange(member_bytes_, replica_.member_bytes_sent());
    line.loss_faults = decided.loss_faults;
    const ElasticJournal::Cost cost = journal_.take_cost();
    line.journal = {cost.written_bytes, cost.seconds, cost.waited_seconds, cost.behind_steps};
    line.checkpoint_wait_seconds = worker_.take_checkpoint_wait();
    return line;
  }

  std::optional<double> evaluate() {
    const Stopwatch watch;
    const std::optional<Loss> loss = replica_.evaluate();
    if (!loss) return std::nullopt;
    const std::int64_t step = replica_.position().step;
    metrics_->evaluation(step, loss->mean(), loss->tokens, watch.elapsed());
    if (shown_ != nullptr) shown_->evaluated(loss->mean());
    log_info("step {}: held-out loss {:.4f} nats per token over {} tokens", step, loss->mean(),
             loss->tokens);
    return loss->mean();
  }

  RunFacts facts(const TermRecord& record) const {
    const ParameterGroup& hidden = config_.group(ParameterKind::hidden_matrix);
    RunFacts facts;
    facts.version = version();
    facts.model = config_.model_folder;
    facts.processor = processor_features(replica_.arena().device());
    facts.compute = replica_.products();
    facts.backend = "elastic";
    facts.config_toml = to_toml(config_);
    facts.rule = to_string(hidden.rule);
    facts.reduce = to_string(hidden.reduce);
    facts.members = config_.members;
    facts.workers = static_cast<std::int64_t>(record.workers.size()) * config_.members;
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
  ElasticJournal& journal_;
  ElasticWorker& worker_;
  WorkerWatch* const shown_;  // to Prometheus; null: to nobody
  TrainingResult& result_;
  ProgressLine progress_;
  std::unique_ptr<MetricsLog> metrics_;  // null: another worker writes it
  PeersTraffic before_;
  std::uint64_t member_bytes_ = 0;
  std::string checkpoint_;  // the newest that the record knows of
  bool entered_ = false;
  std::vector<std::int32_t> workers_;  // of the term, by voter
  AgreementWatch watch_;
  std::map<std::int32_t, std::string> accused_;  // by worker, with the reason
  const LayerMap layer_map_;
  SegmentAgreement tensors_;               // of the steps since the last line of layers
  std::int64_t layer_steps_ = 0;           // so many
  std::optional<LayerTable> last_layers_;  // of that line
  std::deque<Line> lines_;                 // of the last steps, ascending
  Stopwatch watch_step_, total_;
};

// A process of this worker that still leaves (its launcher was cut off and started another) is
// waited for a little; then another try may find it gone.
std::unique_ptr<FileLock> take_journal(const std::string& shard, std::int32_t worker) {
  constexpr Duration kPatience = std::chrono::seconds(10);
  for (const Deadline deadline = Deadline::in(kPatience);;) {
    try {
      return std::make_unique<FileLock>(shard + "/in-use",
                                        fmt::format("--worker {}: its journal", worker));
    } catch (const ConfigError& held) {
      if (deadline.passed())
        throw Timeout("{}; waited {:g} s for it to end", held.what(), seconds(kPatience));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace

TrainingResult train_elastic(const RunConfig& config, const ElasticOptions& options,
                             const TrainingHooks& hooks, Transport* members) {
  if (options.worker < 0)
    throw ConfigError("--worker {}: expected a number from 0 on that is this worker's alone",
                      options.worker);
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  const bool first = members == nullptr || members->rank() == 0;
  set_log_name(first ? fmt::format("worker {}", options.worker)
                     : fmt::format("worker {} member {}", options.worker, members->rank()));
  const auto patience =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(config.deadline_seconds));
  std::optional<WorkerWatch> shown;  // before anything takes long: its port may be taken
  if (!config.prometheus.empty())
    shown.emplace(config.prometheus,
                  first ? WorkerWatch::Record::elastic : WorkerWatch::Record::none, kMostNumbers);
  TrainingHooks shown_hooks = hooks;
  if (shown && !first)  // which has no record: all it knows is its steps
    shown_hooks.after_step = [&](std::int64_t step, const ParameterArena& arena) {
      shown->caught_up(step);
      if (hooks.after_step) hooks.after_step(step, arena);
    };
  Replica replica(config, first ? hooks : shown_hooks, members);
  TrainingResult result;
  result.first_loss = result.last_loss = std::numeric_limits<double>::quiet_NaN();
  if (!first) {
    if (shown) {
      shown->announce(config.output_folder,
                      fmt::format("worker-{}-member-{}", options.worker, members->rank()),
                      options.run, fmt::format("{}.{}", options.worker, members->rank()));
      shown->begin(replica.position().step, config.steps, 0, 0);
    }
    result.stopped = !replica.follow();
    result.steps = replica.position().step;
    result.digest = replica.digest();
    return result;
  }
  prepare_folder(config, options.worker);
  const std::string shard = shard_folder(config.output_folder, options.worker);
  std::filesystem::create_directories(shard);
  const std::unique_ptr<FileLock> lock = take_journal(shard, options.worker);
  ElasticJournal journal(system_disk(),
                         journal_options(config, options, replica.genesis(), patience));
  if (config.journal.copies > 1)
    log_info("journal.copies = {}: an elastic run keeps every record on all of its workers",
             config.journal.copies);
  Recovery recovery(replica, journal, config.output_folder, options.worker);
  Recovered start = recovery.start();
  const auto finish = [&] {
    replica.dismiss(!result.stopped);
    result.steps = replica.position().step;
    result.digest = replica.digest();
    log_info("ends after step {}, its parameters have digest {:016x}", result.steps, result.digest);
    return result;
  };
  const auto newest = find_newest_checkpoint(config.output_folder);
  if (newest && newest->step > config.steps)
    throw ConfigError("train.steps = {}: {} is of step {} already", config.steps, newest->path,
                      newest->step);
  if (newest &&
      newest->step == config.steps) {  // published, so committed, whatever is in the journal
    log_info("the run has ended after step {}: {}", newest->step, newest->path);
    replica.load(newest->path, options.worker, true);
    result.checkpoint = newest->path;
    return finish();
  }
  ElasticWorker worker(config, options, hooks, replica, journal, recovery, std::move(start));
  if (shown) {
    shown->announce(config.output_folder, fmt::format("worker-{}", options.worker), options.run,
                    std::to_string(options.worker));
    shown->begin(replica.position().step, config.steps, 0, 0);
  }
  ElasticRecord record(config, options, replica, journal, worker, shown ? &*shown : nullptr,
                       result);
  const bool finished =
      worker.run({[&](const TermRecord& entered, const std::string& reason) {
                    record.entered(entered, reason);
                  },
                  [&](const AppliedRecord& applied, const std::optional<StepFigures>& figures) {
                    return record.applied(applied, figures);
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

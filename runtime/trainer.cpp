#include "runtime/trainer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "core/disk.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/version.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"
#include "runtime/agreement_watch.h"
#include "runtime/checkpoint.h"
#include "runtime/evaluation.h"
#include "runtime/gather_values.h"
#include "runtime/layer_agreement.h"
#include "runtime/memory_plan.h"
#include "runtime/metrics.h"
#include "runtime/momentum_average.h"
#include "runtime/parameter_rules.h"
#include "runtime/replay.h"
#include "runtime/replay_judge.h"
#include "runtime/replica_audit.h"
#include "runtime/run_checkpoints.h"
#include "runtime/run_data.h"
#include "runtime/run_folder.h"
#include "runtime/run_journal.h"
#include "runtime/step_pipeline.h"
#include "runtime/watching/worker_watch.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

// A run folder that holds another run is not written over, and a run is resumed as what it was.
void prepare_folder(const RunConfig& config, bool resume, Transport& transport, Deadline deadline) {
  if (transport.rank() == 0) {
    fs::create_directories(config.output_folder + "/logs");
    if (resume)
      require_same_run(config);
    else
      require_unused_folder(config.output_folder);
    replace_file_atomically(config.output_folder + "/run.toml", to_toml(config));
    // What a run left that was killed while it saved.
    remove_partial_checkpoints(config.output_folder, std::numeric_limits<std::int64_t>::max());
  }
  transport.barrier(deadline);
}

// What must be equal on all workers for replicas to stay identical: what replicas compute
// redundantly includes Newton-Schulz of a mean, whose bits depend on processor and threads.
std::string starting_state(const RunConfig& config, Device device, const std::string& compute,
                           std::int64_t threads, const RunData& data,
                           const TrainingState& training) {
  std::string text =
      fmt::format("step {}\nparameters {:016x}\nhistory {}\n", training.step, training.digest,
                  training.journal ? to_string(training.journal->chain) : "none") +
      data.identity();
  const bool dense_products =
      std::any_of(config.groups.begin(), config.groups.end(), [](const ParameterGroup& group) {
        return group.newton_schulz && group.reduce != Reduce::vote;
      });
  if (dense_products)
    text += fmt::format("processor {}\ncompute {}\nthreads {}\n", processor_features(device),
                        compute, threads);
  return text;
}

// Before anything is set up together: workers with other configurations would set up other things.
bool require_same_configuration(const RunConfig& config, const Architecture& architecture,
                                Transport& transport, Duration deadline) {
  RunConfig shared = config;
  shared.threads = 0;  // resolved per machine; voters may differ in it
  shared.device = "";  // and in this: ballots are their own
  shared.prometheus = "";
  require_same_everywhere(
      fmt::format("version {}\n{}model {}\n", version(), to_toml(shared), architecture.to_json()),
      transport, Deadline::in(deadline));
  return true;
}

// Whether the run keeps a journal; the reason why not is logged, or thrown where one is asked for.
bool keeps_journal(const RunConfig& config, const StepLayout& layout, bool say) {
  if (config.journal.enabled == JournalConfig::Enabled::off) return false;
  const std::string reason = why_not_journaled(config, layout);
  if (reason.empty()) return true;
  if (config.journal.enabled == JournalConfig::Enabled::on)
    throw ConfigError(
        "journal.enabled = \"on\": this run can only recover from checkpoints, not from a journal: "
        "{}",
        reason);
  if (say) log_info("no journal, this run recovers from checkpoints only: {}", reason);
  return false;
}

// Null: nobody asked for it.
std::unique_ptr<WorkerWatch> make_watch(const RunConfig& config, const Transport& transport) {
  if (config.prometheus.empty()) return nullptr;
  const auto voters = static_cast<std::size_t>(transport.size() / config.members);
  return std::make_unique<WorkerWatch>(config.prometheus, WorkerWatch::Record::fixed, voters);
}

int members_of(const RunConfig& config, const Transport& transport) {
  if (transport.size() % config.members != 0)
    throw ConfigError("vote.members = {}: {} workers cannot be cut into voters of {}",
                      config.members, transport.size(), config.members);
  return static_cast<int>(config.members);
}

StepOptions step_options(const RunConfig& config, const MemberPlan& plan, Duration deadline) {
  StepOptions options;
  options.vote.members = plan.members;
  if (plan.members > 1) options.plan = &plan;
  options.vote.seed = static_cast<std::uint64_t>(config.seed);
  options.vote.ties = config.ties;
  options.choose_schedule = !config.vote_schedule;
  options.vote.schedule = config.vote_schedule.value_or(Schedule::sharded);
  options.vote.estimator = config.estimator;
  options.vote.node_size = static_cast<int>(config.node_size);
  options.vote.piece_elements = config.piece_elements;
  options.overlap = config.overlap;
  options.deadline = deadline;
  return options;
}

class Trainer {
 public:
  Trainer(const RunConfig& config, Transport& transport, const TrainingHooks& hooks)
      : config_(config),
        transport_(transport),
        hooks_(hooks),
        deadline_(std::chrono::duration_cast<Duration>(
            std::chrono::duration<double>(config.deadline_seconds))),
        architecture_(read_architecture(config.model_folder)),
        same_configuration_(
            require_same_configuration(config, *architecture_, transport, deadline_)),
        shown_(make_watch(config, transport)),
        memory_before_(process_memory()),
        device_(find_device(config, *architecture_, hooks.local_rank, &device_reason_)),
        compute_(resolve_compute(config.compute, device_)),
        tokenizer_(read_tokenizer(config.model_folder)),
        arena_(with_rules(shapes_to_load(config, *architecture_, hooks.resume), config), compute_,
               device_),
        plan_(plan_members(arena_, config_.groups, members_of(config, transport), config.cut)),
        state_(arena_, config_.groups, plan_, static_cast<int>(transport.rank() % config.members)),
        memory_before_data_(process_memory()),
        data_(config, *tokenizer_),
        memory_after_data_(process_memory()),
        pipeline_(arena_, state_, transport, step_options(config, plan_, deadline_)),
        audit_(arena_, state_, transport, config.audit.repairs),
        watch_({.window = config.audit.agreement_window}),
        layers_(pipeline_.layout().voted(),
                pipeline_.vote() ? static_cast<std::size_t>(pipeline_.vote()->voters()) : 0,
                transport),
        journaled_(keeps_journal(config, pipeline_.layout(), transport.rank() == 0)) {
    check_data(config_, *architecture_, data_);
    model_ = architecture_->make_model(arena_, device_);
    model_->recompute_layers(config.recompute == RunConfig::Recompute::layer);
    model_->stream().set_float32_products(float32_products(config.compute));
    memory_plan_ = foretell_memory();
    if (hooks.wrap_model) model_ = hooks.wrap_model(std::move(model_), arena_);
    load();
    micro_batches_.resize(config.micro_batches);
  }

  ~Trainer() { pipeline_.leave(); }

  TrainingResult run() {
    Stopwatch total;
    TrainingResult result;
    result.first_loss = result.last_loss = std::numeric_limits<double>::quiet_NaN();
    start_record();
    if (data_.windows() && training_.step == 0)
      result.first_loss = result.last_loss = evaluate_now();
    if (training_.losses && training_.losses->says_stop(config_.early_stop_evaluations))
      result.stopped_early = true;                           // it had, before it was resumed
    if (replayed_ > 0 && training_.step >= config_.steps) {  // what is left is to save it
      if (data_.windows()) result.last_loss = evaluate_now();
      save();
      finish_saving();
    }
    ProgressLine progress(config_.steps);
    while (training_.step < config_.steps && !result.stopped && !result.stopped_early) {
      try {
        result.stopped = step(progress) && training_.step < config_.steps;
      } catch (const ReplicasDiffer&) {
        if (leads()) metrics_->end(training_.step, false, total.elapsed());
        throw;
      }
      if (hooks_.after_step) hooks_.after_step(training_.step, arena_);
      const bool last = training_.step == config_.steps;
      const auto due = [this](std::int64_t every) {
        return every > 0 && training_.step % every == 0;
      };
      bool best = false;
      if (data_.windows() && (last || due(config_.evaluate_every))) {
        result.last_loss = evaluate_now();
        best = training_.losses->best_step == training_.step;
        result.stopped_early = !last && training_.losses->says_stop(config_.early_stop_evaluations);
      }
      const bool ends = last || result.stopped || result.stopped_early;
      if (ends || due(config_.checkpoint_every) || (best && config_.keep_best)) save();
      if (ends) finish_saving();
    }
    if (journal_) journal_->flush();
    if (leads()) {
      progress.finish();
      check_memory();
      note_losses(result);
      metrics_->end(training_.step, true, total.elapsed());  // the audit of every step has passed
      if (result.stopped)
        log_info("stopped after step {} as asked; --resume goes on from there", training_.step);
    }
    if (training_.losses) {
      result.best_step = training_.losses->best_step;
      result.best_loss = training_.losses->best;
    }
    result.steps = training_.step;
    result.digest = training_.digest;
    result.checkpoint = checkpoint_;
    return result;
  }

 private:
  Traffic sent() const { return transport_.traffic() + pipeline_.split_traffic(); }
  bool leads() const { return transport_.rank() == 0; }
  Deadline deadline() const { return Deadline::in(deadline_); }

  void load() {
    std::optional<std::string> found;
    if (hooks_.resume) found = find_checkpoint(config_.output_folder, transport_, deadline_);
    if (found) {
      require_same_architecture(*architecture_, config_.model_folder, *found);
      training_ = load_checkpoint(*found, arena_, state_,
                                  static_cast<int>(transport_.rank() / config_.members));
      checkpoint_ = *found;
      if (leads()) note_resume(*found);
    } else {
      load_parameters(config_.model_folder, arena_);
    }
    digests_ = parameter_digests(arena_);
    if (found && fold(digests_) != training_.digest)
      throw CorruptFile("{}: parameters have digest {:016x}, its state says {:016x}", *found,
                        fold(digests_), training_.digest);
    training_.digest = fold(digests_);
    if (!journaled_) {
      training_.journal.reset();
    } else if (!training_.journal) {  // a history begins here
      const Digest origin = history_origin(config_, arena_, training_.digest, training_.step);
      training_.journal = JournalPlace{origin, origin};
    }
    std::optional<JournalShards> shards;
    if (hooks_.resume && journaled_) {
      shards.emplace(system_disk(), config_.output_folder);
      if (hooks_.resume_from == ResumeFrom::journal) replay_journal(*shards);
    }
    if (hooks_.resume && !found && replayed_ == 0)
      throw ConfigError("--resume: {} holds no whole checkpoint",
                        config_.output_folder + "/checkpoints");
    training_.workers = transport_.size();
    training_.members = config_.members;
    training_.threads = thread_count();
    training_.processor = processor_features(device_);
    training_.compute = products();
    require_same_everywhere(
        starting_state(config_, device_, products(), thread_count(), data_, training_), transport_,
        deadline());
    data_.require_same_as(training_.data, leads());
    training_.data = data_.training_digest();
    prepare_folder(config_, hooks_.resume, transport_, deadline());
    check_losses();
    if (journaled_) {
      journal_ = std::make_unique<RunJournal>(config_, pipeline_.layout(), training_,
                                              shards ? &*shards : nullptr, transport_, deadline_);
      pipeline_.on_held(
          [this](const StepDecision& decision, std::span<const TensorFactors> factors) {
            journal_->held(training_.step + 1, decision, factors);
          });
      judge_ = std::make_unique<ReplayJudge>(config_, *journal_, transport_, deadline_);
      audit_.judge_by(
          [this](std::int64_t step) { return judge_->judge(step, arena_.parameters().size()); });
    }
    checkpoints_ =
        std::make_unique<RunCheckpoints>(config_, arena_, state_, journal_.get(), transport_,
                                         deadline_, hooks_.disk ? *hooks_.disk : system_disk());
    pipeline_.before_change(checkpoints_->hook());
    audit_.before_change(checkpoints_->hook());
    if (config_.average_momentum_every > 0 && transport_.size() > 1) {
      average_.emplace(state_, transport_);
      average_->before_change(checkpoints_->hook());
    }
  }

  // The steps after the checkpoint that all shards together hold.
  void replay_journal(const JournalShards& shards) {
    const JournalShards::History history =
        shards.history({training_.step, training_.journal->chain});
    struct End {
      std::int64_t step;
      Digest digest;
    };
    const End mine{history.end.step, history.end.digest};
    const std::vector<End> ends =
        gather_values(mine, transport_, Deadline::in(deadline_ + std::chrono::hours(1)));
    if (ends[0].step != mine.step || ends[0].digest != mine.digest)
      throw DataError(
          "worker {} finds a journal up to step {}, worker 0 one up to step {}: all workers must "
          "see the same run folder",
          transport_.rank(), mine.step, ends[0].step);
    const std::string advice = fmt::format(
        "--resume=checkpoint goes on from step {} without what follows it", training_.step);
    for (const JournalShards::Shard& shard : shards.shards()) {
      const JournalReader& reader = shard.reader;
      if (reader.damage().empty()) continue;
      const bool others_have_it = history.end.step > history.base.step &&
                                  history.end.step > reader.end().step && history.gap.empty();
      if (!others_have_it) throw CorruptFile("{}; {}", reader.damage(), advice);
      if (leads()) log_warning("{}; other shards hold what it held", reader.damage());
    }
    if (!history.gap.empty() && leads())
      log_warning("the journal ends after step {}: {}", history.end.step, history.gap);
    const std::int64_t to_step = std::min(history.end.step, config_.steps);
    if (to_step <= training_.step) return;
    Stopwatch watch;
    Replay again(arena_, state_, pipeline_.layout(), static_cast<std::uint64_t>(config_.seed),
                 config_.ties);
    const ReplayReport report =
        replay(shards, history, to_step, arena_, again, config_.sequence_length, training_);
    replayed_ = report.steps;
    digests_ = parameter_digests(arena_);  // proved, or the newest that nobody can prove
    if (leads())
      log_info(
          "replayed steps {} to {} from the journal ({} of {} proved by digest, {:.2f} s); "
          "momentum "
          "is that of step {}, so what follows differs from an uninterrupted run; "
          "--resume=checkpoint repeats the steps instead, to the same bits",
          history.base.step + 1, to_step, report.proved, report.steps, watch.elapsed(),
          history.base.step);
  }

  void note_resume(const std::string& path) const {
    log_info("resuming after step {} from {}", training_.step, path);
    const std::int64_t before = training_.workers / training_.members;
    if (before != transport_.size() / config_.members)
      log_warning(
          "it was saved by {} voters, these are {}: voter i takes the momentum of voter i mod {}",
          before, transport_.size() / config_.members, before);
    if (training_.threads != thread_count() || training_.processor != processor_features(device_) ||
        training_.compute != products())
      log_warning(
          "it was computed with {} threads on {} in {}, now {} on {} in {}: from here on the bits "
          "may differ "
          "from those of an uninterrupted run",
          training_.threads, training_.processor, training_.compute, thread_count(),
          processor_features(device_), products());
  }

  void show() {
    if (shown_ == nullptr) return;
    const int workers = transport_.size(), rank = transport_.rank();
    if (leads()) remove_scrape_targets_from(config_.output_folder, workers);
    const std::string run = fs::weakly_canonical(config_.output_folder).filename().string();
    shown_->announce(config_.output_folder, fmt::format("worker-{}", rank), run,
                     std::to_string(rank));
    shown_->begin(training_.step, config_.steps, workers,
                  static_cast<int>(workers / config_.members));
    if (leads()) shown_->follows_checkpoints();
  }

  void start_record() {
    show();
    if (!leads()) return;
    metrics_ =
        std::make_unique<MetricsLog>(config_.output_folder, training_.step, config_.tensorboard);
    const ParameterGroup& hidden = config_.group(ParameterKind::hidden_matrix);
    RunFacts facts;
    facts.version = version();
    facts.model = config_.model_folder;
    facts.processor = processor_features(device_);
    facts.compute = products();
    facts.backend = transport_.name();
    facts.config_toml = to_toml(config_);
    facts.rule = to_string(hidden.rule);
    facts.reduce = to_string(hidden.reduce);
    facts.workers = transport_.size();
    facts.members = config_.members;
    facts.threads = thread_count();
    facts.seed = config_.seed;
    facts.steps = config_.steps;
    facts.parameters = arena_.count();
    facts.voted_parameters = pipeline_.voted_count();
    facts.first_step = training_.step;
    facts.schedule = pipeline_.voted_count() > 0 ? to_string(pipeline_.schedule()) : "";
    facts.overlap = config_.overlap;
    metrics_->run(facts);
    log_info(
        "{} worker{} over {}, {} parameters ({} voted), {} by {}, compute {} on {}, {} threads "
        "each",
        facts.workers, facts.workers == 1 ? "" : "s", facts.backend, facts.parameters,
        facts.voted_parameters, facts.rule, facts.reduce, facts.compute, facts.processor,
        facts.threads);
    log_info("{}", data_.description(*tokenizer_));
    if (plan_.members > 1)
      log_info(
          "voters of {} members; who works on what (the others' work at once: {:.2f}x as "
          "fast as one member alone):\n{}",
          plan_.members, plan_.work.speed_up(), plan_.description);
    metrics_->memory(training_.step, memory_plan_, -1);
    log_info("memory of a worker, as planned{}:\n{}",
             model_->training_memory(1, 1) ? "" : " but for its activations, which nobody knows",
             memory_plan_.describe());
    const auto frozen = std::ranges::count_if(arena_.parameters(),
                                              [](const Parameter& p) { return p.shape.frozen; });
    if (frozen > 0) log_info("{} of {} tensors are frozen", frozen, arena_.parameters().size());
    if (!device_reason_.empty()) log_info("train.device = auto: {}", device_reason_);
    if (!pipeline_.schedule_reason().empty())
      log_info("vote.schedule = auto: {}", pipeline_.schedule_reason());
    if (journal_)
      log_info("journal: every verdict in {}/journal, durable every {} ms, {}",
               config_.output_folder, config_.journal.sync_every_ms,
               config_.journal.copies == 0
                   ? std::string("each chunk by all workers")
                   : fmt::format("each chunk by {} worker{}", config_.journal.copies,
                                 config_.journal.copies == 1 ? "" : "s"));
    if (compute_ == DType::bf16 && !has_native_bf16(device_))
      log_warning(
          "compute = bf16 is emulated on this processor ({}): expect it to be slower than f32",
          processor_features(device_));
    if (transport_.size() == 2 && pipeline_.voted_count() > 0 && config_.ties == Ties::coin)
      log_warning(
          "two voters tie wherever they disagree, and a coin decides: expect a noisier run than "
          "with three");
  }

  MemoryPlan foretell_memory() const {
    std::vector<ParameterShape> shapes;
    for (const Parameter& p : arena_.parameters()) shapes.push_back(p.shape);
    MemoryFacts facts;
    facts.shapes = shapes;
    facts.groups = config_.groups;
    facts.compute = compute_;
    facts.voters = transport_.size() / config_.members;
    facts.members = config_.members;
    facts.plan = &plan_;
    facts.member = static_cast<int>(transport_.rank() % config_.members);
    facts.activations = model_->training_memory(config_.batch, config_.sequence_length);
    facts.checkpoint_staging_bytes = config_.checkpoint.staging_mib << 20;
    return plan_memory(facts);
  }

  // What this process took since the run began, but for the data; below 0: not known. On a GPU its
  // memory is not the process's, and where workers are threads it is not one worker's.
  std::int64_t memory_used() const {
    const bool alone = transport_.size() == 1 || std::string(transport_.name()) != "loopback";
    if (!alone || device_ != Device{}) return -1;
    ProcessMemory before = memory_after_data_;
    before.resident_bytes -= memory_before_data_.resident_bytes - memory_before_.resident_bytes;
    return memory_taken(before, process_memory());
  }

  void check_memory() {
    const std::int64_t used = memory_used();
    metrics_->memory(training_.step, memory_plan_, used);
    if (used < 0) return;
    const auto mebibytes = [](std::int64_t bytes) { return static_cast<double>(bytes) / 0x1p20; };
    log_info("memory: at most {:.0f} MiB were used of {:.0f} MiB planned ({:+.1f} %)",
             mebibytes(used), mebibytes(memory_plan_.total()),
             100.0 * (static_cast<double>(used) / static_cast<double>(memory_plan_.total()) - 1));
  }

  void note_losses(const TrainingResult& result) {
    if (!training_.losses) return;
    const LossHistory& losses = *training_.losses;
    if (result.stopped_early)
      log_info(
          "stopped after step {}: {} evaluations in a row without a held-out loss lower by more "
          "than {}; the lowest was {:.4f}, at step {}",
          training_.step, losses.since, config_.early_stop_min_delta, losses.best,
          losses.best_step);
    if (!config_.keep_best) return;
    if (losses.best_step < 0) return;  // none was finite
    if (losses.best_step > 0 && best_checkpoint(config_.output_folder) == losses.best_step)
      log_info("the lowest held-out loss was {:.4f}, at step {}: {}/checkpoints/best", losses.best,
               losses.best_step, config_.output_folder);
    else if (losses.best_step > 0)
      log_warning("the lowest held-out loss was {:.4f}, at step {}: its checkpoint was not saved",
                  losses.best, losses.best_step);
    else
      log_info(
          "no held-out loss was lower than the {:.4f} before the first step: no checkpoint is the "
          "best",
          losses.best);
  }

  // One step, as a sentence. Returns whether to stop.
  bool step(ProgressLine& progress) {
    Stopwatch whole, stage;
    const Traffic before = sent();
    const std::uint64_t members_before = pipeline_.member_bytes_sent();
    draw_batches();
    const double data_seconds = stage.lap();
    pipeline_.begin(training_.step, config_.schedule.factor(training_.step));
    const Loss loss =
        model_->differentiate(micro_batches_, pipeline_);  // batch -> gradients -> ballot
    const double compute_seconds = stage.lap();
    const StepOutcome outcome = pipeline_.finish();  // ballot -> verdict -> parameters
    ++training_.step;
    if (average_ && training_.step % config_.average_momentum_every == 0)
      average_->average(training_.step, deadline());
    stage.lap();

    WorkerReport mine;
    mine.step = training_.step;
    mine.loss_sum = loss.sum;
    mine.tokens = loss.tokens;
    mine.gradient_faults = static_cast<std::int32_t>(outcome.gradient_faults);
    mine.loss_fault = outcome.loss_fault;
    mine.stop = hooks_.should_stop && hooks_.should_stop();
    mine.compute_seconds = data_seconds + compute_seconds + outcome.awaited_seconds;
    mine.stage_seconds = {static_cast<float>(data_seconds),
                          static_cast<float>(model_->times().forward),
                          static_cast<float>(model_->times().backward),
                          static_cast<float>(outcome.direction_seconds),
                          static_cast<float>(outcome.pack_seconds),
                          static_cast<float>(outcome.apply_seconds)};
    if (journal_) mine.record = journal_->place().chain.low;
    digests_ = pipeline_.digests();
    checkpoints_->report(mine);
    const std::vector<WorkerReport>& reports = audit_.exchange(mine, digests_, deadline());
    training_.digest = reports[0].digest;
    checkpoints_->heard(reports);
    note_repairs();
    note_checkpoints();
    if (outcome.votes != nullptr) watch_voters(*outcome.votes);

    StepMetrics record;
    record.audit_seconds = stage.lap();
    bool stop = false;
    Loss all;
    for (std::size_t r = 0; r < reports.size(); ++r) {
      const WorkerReport& report = reports[r];
      stop |= report.stop != 0;
      record.gradient_faults += report.gradient_faults;
      record.loss_faults += report.loss_fault;
      record.tokens += report.tokens;
      if (report.loss_fault == 0) all.sum += report.loss_sum, all.tokens += report.tokens;
      if (report.compute_seconds > record.slowest_seconds)
        record.slowest_seconds = report.compute_seconds, record.slowest_voter = static_cast<int>(r);
    }
    training_.tokens_total += record.tokens;
    if (journal_) {
      training_.journal = journal_->place();
      journal_->applied(training_, digests_);
    }
    // One worker's fault passes; everybody's is the model's own, and would only overwrite the good
    // checkpoints.
    if (record.loss_faults == transport_.size()) {
      keep_what_is_saved();
      throw DataError(
          "step {}: no worker has a finite loss: the parameters or the data are bad; the "
          "checkpoints from "
          "before are kept",
          training_.step);
    }
    const double checkpoint_seconds = checkpoints_->take_wait_seconds();
    if (!leads() && shown_ == nullptr) return stop;

    const double share = 2.0 * (transport_.size() - 1) / transport_.size();
    record.step = training_.step;
    record.loss = all.tokens > 0 ? all.mean() : std::numeric_limits<double>::quiet_NaN();
    record.rate = config_.groups[0].rate * config_.schedule.factor(training_.step - 1);
    record.tokens_total = training_.tokens_total;
    record.workers = transport_.size();
    record.data_seconds = data_seconds;
    record.forward_seconds = model_->times().forward;
    record.backward_seconds = model_->times().backward;
    record.direction_seconds = outcome.direction_seconds;
    record.pack_seconds = outcome.pack_seconds;
    record.exposed_seconds = outcome.exposed_seconds;
    record.hidden_seconds = outcome.hidden_seconds;
    record.tally_seconds = outcome.tally_seconds;
    record.apply_seconds = outcome.apply_seconds;
    record.traffic = sent() - before;
    record.member_bytes = pipeline_.member_bytes_sent() - members_before;
    record.fp32_bytes = share * 4.0 * static_cast<double>(state_.trained_count());
    record.backend = transport_.name();
    record.votes = outcome.votes;
    if (journal_) {
      const RunJournal::Cost cost = journal_->take_cost();
      record.journal = {cost.written_bytes, cost.seconds, cost.waited_seconds, cost.behind_steps};
    }
    record.checkpoint_wait_seconds = checkpoint_seconds;
    record.slow_stages = slow_stages(reports);
    record.step_seconds = whole.elapsed();
    if (shown_ != nullptr) shown_->step(record);
    if (!leads()) return stop;
    metrics_->step(record);
    progress.update(record);
    return stop;
  }

  void note_repairs() {
    if (!audit_.repaired().empty()) pipeline_.parameters_changed();
    for (const ReplicaDifference& difference : audit_.repaired()) {
      const std::string text =
          fmt::format("step {}: {}; it takes that from worker {}", training_.step,
                      audit_.describe(difference), difference.most.front());
      if (shown_ != nullptr) shown_->repaired();
      if (!leads()) continue;
      log_warning("{}", text);
      metrics_->notice("repair", training_.step, difference.others.front(), text);
    }
  }

  // The same on every worker, being made of what all have.
  void watch_voters(const VoteStatistics& votes) {
    const std::optional<AgreementAlarm> alarm = watch_.add(votes);
    const LayerTable layers = watch_layers(alarm.has_value());
    if (!alarm) return;
    const bool silences = config_.audit.bad_voter == AuditConfig::BadVoter::abstain;
    if (silences && alarm->voter == transport_.rank() / plan_.members)
      pipeline_.abstain_from_now(true);
    if (shown_ != nullptr) shown_->alarmed();
    if (!leads()) return;
    const std::string text = fmt::format(
        "step {}: {}{}{}", training_.step, alarm->describe(config_.audit.agreement_window),
        describe_worst(layers, static_cast<std::size_t>(alarm->voter)),
        silences ? "; it abstains until the job is started again" : "");
    log_warning("{}", text);
    metrics_->notice("alarm", training_.step, alarm->voter, text);
  }

  // Workers tell each other what they have counted layer by layer, once in a window, and when it is
  // asked for: then with the window before.
  LayerTable watch_layers(bool asked) {
    Vote& vote = *pipeline_.vote();
    const std::int64_t window = config_.audit.agreement_window;
    const bool due = ++layer_steps_ == window || training_.step == config_.steps;
    if ((!due && !asked) || vote.voters() < 2) return {};
    LayerTable layers = layers_.gather(vote.counted(), layer_steps_, deadline());
    std::optional<LayerTable> before = last_layers_;
    if (due) {
      vote.forget_counted();
      layer_steps_ = 0;
      last_layers_ = layers;
      if (leads()) metrics_->layers(training_.step, layers);
    }
    if (layers.steps < window && before) layers.add(*before);
    return layers;
  }

  static std::vector<StepMetrics::SlowStage> slow_stages(const std::vector<WorkerReport>& reports) {
    std::vector<StepMetrics::SlowStage> slow;
    for (std::size_t stage = 0; stage < kOwnStages.size(); ++stage) {
      std::vector<std::pair<double, int>> times;
      for (std::size_t r = 0; r < reports.size(); ++r)
        times.emplace_back(reports[r].stage_seconds[stage], static_cast<int>(r));
      std::ranges::sort(times);
      slow.push_back({kOwnStages[stage], times.back().second, times.back().first,
                      times[times.size() / 2].first});
    }
    return slow;
  }

  // Voter v takes ids counter + v * n ..; the counter then passes all of them, so no id is used
  // twice.
  void draw_batches() {
    const std::int64_t per_worker = config_.batch * config_.micro_batches;
    if (journal_) journal_->drawn(training_.sample_counter, per_worker);
    std::int64_t id = training_.sample_counter + transport_.rank() * per_worker;
    for (TokenBatch& batch : micro_batches_) {
      data_.samples().draw(id, config_.batch, batch);
      id += config_.batch;
    }
    training_.sample_counter += transport_.size() * per_worker;
  }

  std::string held_out_windows() const {
    return fmt::format("{} windows of {} tokens of {}", data_.windows()->count(),
                       config_.sequence_length, to_string(data_.held_out().digest()));
  }

  // Of a resumed run: losses of other windows, or a checkpoint that is no longer there, say nothing
  // about those to come.
  void check_losses() {
    if (!training_.losses || !data_.windows()) return;
    if (const std::string now = held_out_windows(); training_.losses->of != now) {
      if (leads())
        log_warning(
            "the held-out losses until step {} were of {}, this run evaluates {}: they are "
            "forgotten",
            training_.step, training_.losses->of, now);
      training_.losses.reset();
      return;
    }
    const std::int64_t best = training_.losses->best_step;
    if (!config_.keep_best || best <= 0) return;
    bool is_there = false;
    if (leads())
      is_there = std::ranges::count(checkpoint_names(config_.output_folder), best,
                                    &CheckpointName::step) > 0;
    if (gather_values(static_cast<std::int32_t>(is_there), transport_, deadline())[0] != 0) return;
    if (leads())
      log_warning(
          "the checkpoint of step {}, with the lowest held-out loss so far ({:.4f}), is no longer "
          "there: the lowest from here on is the best",
          best, training_.losses->best);
    training_.losses->best = std::numeric_limits<double>::infinity();
    training_.losses->best_step = -1;
  }

  double evaluate_now() {
    Stopwatch watch;
    const Loss loss = evaluate(*model_, *data_.windows(), config_.batch, transport_, deadline_);
    if (shown_ != nullptr) shown_->evaluated(loss.mean());
    if (leads()) {
      metrics_->evaluation(training_.step, loss.mean(), loss.tokens, watch.elapsed());
      log_info("step {}: held-out loss {:.4f} nats per token over {} tokens", training_.step,
               loss.mean(), loss.tokens);
    }
    if (!training_.losses) {
      training_.losses.emplace();
      training_.losses->of = held_out_windows();
    }
    training_.losses->add(training_.step, loss.mean(), config_.early_stop_min_delta);
    return loss.mean();
  }

  // Goes on while the steps do.
  void save() {
    checkpoints_->begin(training_, digests_);
    if (!config_.checkpoint.overlap) checkpoints_->finish(false);
  }

  void finish_saving() {
    checkpoints_->finish(true);
    checkpoint_ = checkpoints_->newest_path();
    note_checkpoints();
  }

  // The run ends for another reason, which is the one to be told.
  void keep_what_is_saved() {
    try {
      checkpoints_->finish(false);
    } catch (const WorldError& error) {
      log_error("{}", error.what());
    }
    note_checkpoints();
  }

  void note_checkpoints() {
    for (const RunCheckpoints::Event& event : checkpoints_->take_events()) {
      if (shown_ != nullptr && event.error.empty())
        shown_->checkpoint(event.step, event.seconds, event.bytes);
      else if (shown_ != nullptr)
        shown_->checkpoint_failed();
      if (event.error.empty())
        metrics_->checkpoint(event.step, event.path, event.seconds, event.write_seconds,
                             event.bytes);
      else
        metrics_->notice("checkpoint_failed", event.step, event.worker, event.error);
    }
  }

  const RunConfig& config_;
  Transport& transport_;
  const TrainingHooks& hooks_;
  Duration deadline_;
  std::unique_ptr<Architecture> architecture_;
  bool same_configuration_;
  std::unique_ptr<WorkerWatch> shown_;  // to Prometheus; null: to nobody
  ProcessMemory memory_before_;
  std::string device_reason_;  // empty: as configured
  Device device_;
  DType compute_;
  std::string products() const { return name_of_products(config_.compute, compute_); }
  std::unique_ptr<Tokenizer> tokenizer_;
  ParameterArena arena_;
  MemberPlan plan_;
  OptimizerState state_;
  ProcessMemory memory_before_data_;
  RunData data_;
  ProcessMemory memory_after_data_;
  StepPipeline pipeline_;
  ReplicaAudit audit_;
  AgreementWatch watch_;
  LayerAgreement layers_;
  std::int64_t layer_steps_ = 0;            // counted since the last line of layers
  std::optional<LayerTable> last_layers_;   // of that line
  std::optional<MomentumAverage> average_;  // none: never
  std::vector<std::uint64_t> digests_;      // of the last step, by parameter
  bool journaled_;
  std::unique_ptr<RunJournal> journal_;
  std::unique_ptr<ReplayJudge> judge_;           // of what no majority says
  std::unique_ptr<RunCheckpoints> checkpoints_;  // reads what is above
  std::int64_t replayed_ = 0;                    // steps, when it was resumed
  std::unique_ptr<Model> model_;
  MemoryPlan memory_plan_;
  std::unique_ptr<MetricsLog> metrics_;
  std::vector<TokenBatch> micro_batches_;
  TrainingState training_;
  std::string checkpoint_;
};

}  // namespace

TrainingResult train(const RunConfig& config, Transport& transport, const TrainingHooks& hooks) {
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  Trainer trainer(config, transport, hooks);
  return trainer.run();
}

}  // namespace ballot

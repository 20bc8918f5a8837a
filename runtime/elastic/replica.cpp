#include "runtime/elastic/replica.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/host_bytes.h"
#include "core/log.h"
#include "core/version.h"
#include "models/llama/llama_model.h"
#include "models/model_folder.h"
#include "runtime/evaluation.h"
#include "runtime/replica_audit.h"  // parameter_digests
#include "runtime/run_folder.h"

namespace ballot {
namespace {

const RunConfig& elastic(const RunConfig& config) {
  if (config.members != 1)
    throw ConfigError(
        "vote.members = {}: an elastic run has voters of one worker (a term changes whole voters)",
        config.members);
  if (config.vote_schedule && *config.vote_schedule != Schedule::sharded)
    throw ConfigError(
        "vote.schedule = \"{}\": an elastic run votes by \"sharded\", in which each chunk has an "
        "owner",
        to_string(*config.vote_schedule));
  if (config.estimator != Estimator::majority)
    throw ConfigError("vote.estimator: an elastic run takes the majority only");
  return config;
}

// Where files lie and how a machine is used may differ between workers, and what is recorded. The
// number of steps is the coordinator's to compare: it may change while the run is not under way,
// and no history depends on it (records hold the rates that were used).
RunConfig shared_part(RunConfig config) {
  config.model_folder = config.output_folder = config.device = "";
  config.train_data.path = config.validation_data.path = "";
  config.threads = 0;
  config.steps = 0;
  config.evaluate_every = config.validation_windows = 0;
  config.deadline_seconds = 0;
  config.journal = {};
  config.checkpoint = {};
  config.audit = {};
  return config;
}

Digest digest_of_config(const RunConfig& config, const Position& genesis,
                        std::span<const std::int32_t> tokens) {
  const std::string text = fmt::format("version {}\n", version()) + to_toml(shared_part(config));
  DigestStream stream;
  stream.add(std::as_bytes(std::span(text)));
  stream.add(genesis.digest);
  stream.add(std::as_bytes(tokens));
  return stream.digest();
}

}  // namespace

Replica::Replica(const RunConfig& config, const TrainingHooks& hooks)
    : config_(elastic(config)),
      hooks_(hooks),
      device_(find_device(config, hooks.local_rank, &device_reason_)),
      compute_(resolve_compute(config.compute, device_)),
      llama_(read_model_config(config.model_folder)),
      tokenizer_(read_tokenizer(config.model_folder)),
      arena_(llama_parameter_shapes(llama_), compute_, device_),
      state_(arena_, config.groups),
      layout_(state_),
      training_tokens_(read_tokens(config.train_data, *tokenizer_)),
      sampler_(training_tokens_, config.sequence_length, config.seed, "data.train"),
      maker_(state_, layout_, static_cast<std::uint64_t>(config.seed)),
      replay_(arena_, state_, layout_, static_cast<std::uint64_t>(config.seed), config.ties),
      batches_(static_cast<std::size_t>(config.micro_batches)),
      counts_(state_.states().size()) {
  if (const std::string reason = why_not_journaled(config, layout_); !reason.empty())
    throw ConfigError("an elastic run needs a journal, and this one can keep none: {}", reason);
  if (!config.validation_data.path.empty()) {
    held_out_tokens_ = read_tokens(config.validation_data, *tokenizer_);
    windows_ = std::make_unique<EvaluationWindows>(held_out_tokens_, config.sequence_length,
                                                   config.validation_windows, "data.validation");
  }
  check_data(config_, llama_, training_tokens_, held_out_tokens_);
  model_ = make_llama(llama_, arena_, device_);
  if (hooks.wrap_model) model_ = hooks.wrap_model(std::move(model_), arena_);
  if (!device_reason_.empty()) log_info("train.device = auto: {}", device_reason_);
  load_start(false);
  config_digest_ = digest_of_config(config, genesis_, training_tokens_);
}

const std::vector<std::int64_t>& Replica::counts() const {
  for (const ParameterState& s : state_.states())
    counts_[static_cast<std::size_t>(s.parameter->index)] = s.count;
  return counts_;
}

std::shared_ptr<const VoterBallot> Replica::cast(const SampleRange& samples, int voter) {
  Stopwatch watch;
  // Whoever sends parts of an earlier one may still have it.
  auto ballot = std::make_shared<VoterBallot>(layout_);
  std::size_t used = 0;
  for (std::int64_t id = samples.begin; id < samples.end; id += config_.batch) {
    if (used == batches_.size()) batches_.emplace_back();
    sampler_.draw(id, std::min(config_.batch, samples.end - id), batches_[used++]);
  }
  require(used > 0, "a ballot of samples [{}, {})", samples.begin, samples.end);
  times_ = {};
  times_.data = watch.lap();
  maker_.begin(position_.step, voter, *ballot);
  maker_.finish(model_->differentiate(std::span(batches_).first(used), maker_));
  times_.forward = model_->times().forward;
  times_.backward = model_->times().backward;
  times_.direction = maker_.times().direction;
  times_.pack = maker_.times().pack;
  return ballot;
}

AppliedRecord Replica::apply(const Record& record) {
  const Stopwatch watch;
  require(record.step == position_.step + 1 && record.previous == position_.digest,
          "step {} after {} is applied at step {} with {}", record.step, to_string(record.previous),
          position_.step, to_string(position_.digest));
  const std::vector<std::uint64_t>& digests = replay_.apply(record);
  std::int64_t samples = 0;
  Ledger after = ledger_after(ledger_, record);
  for (const VoterRange& range : record.ranges)
    if (!is_unused(after, range.samples)) samples += range.samples.count();
  stand_at(record.position(), record.term, std::move(after));
  training_.digest = fold(digests);
  training_.tokens_total += samples * config_.sequence_length;
  times_.apply = watch.elapsed();
  return {record.step, training_.digest, training_.tokens_total, digests};
}

void Replica::stand_at(const Position& position, std::int64_t term, Ledger ledger) {
  position_ = position;
  term_ = term;
  ledger_ = std::move(ledger);
  training_.step = position.step;
  training_.sample_counter = ledger_.next;
  training_.ledger = ledger_;
  training_.history_term = term;
  training_.journal = JournalPlace{genesis_.digest, position.digest};
}

void Replica::load_start(bool keep_momentum) {
  load_parameters(config_.model_folder, arena_);
  for (ParameterState& s : state_.states()) {
    if (keep_momentum && s.is_private) continue;
    for (OwnedTensor* owned : {&s.momentum, &s.second})
      if (owned->view().data != nullptr) fill_zero(*owned);
    s.count = 0;
  }
  const std::uint64_t digest = fold(parameter_digests(arena_));
  training_ = {};
  training_.digest = digest;
  genesis_ = {0, history_origin(config_, arena_, digest, 0)};
  stand_at(genesis_, 0, {});
}

void Replica::load(const std::string& checkpoint, int voter, bool keep_momentum) {
  std::vector<OwnedTensor> kept(state_.states().size());
  for (std::size_t i = 0; keep_momentum && i < kept.size(); ++i)
    if (state_.states()[i].is_private) std::swap(kept[i], state_.states()[i].momentum);
  const auto give_back = [&] {
    for (std::size_t i = 0; keep_momentum && i < kept.size(); ++i)
      if (state_.states()[i].is_private) std::swap(kept[i], state_.states()[i].momentum);
  };
  TrainingState loaded;
  try {
    loaded = load_checkpoint(checkpoint, arena_, state_, voter);
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
  if (!loaded.journal || loaded.journal->run != genesis_.digest || !loaded.ledger)
    throw DataError("{} is of another run: its history began at {}, this run's at {}", checkpoint,
                    loaded.journal ? to_string(loaded.journal->run) : "none",
                    to_string(genesis_.digest));
  const std::uint64_t digest = fold(parameter_digests(arena_));
  if (digest != loaded.digest)
    throw CorruptFile("{}: parameters have digest {:016x}, its state says {:016x}", checkpoint,
                      digest, loaded.digest);
  training_ = loaded;
  const Ledger ledger = *loaded.ledger;
  stand_at({loaded.step, loaded.journal->chain}, loaded.history_term.value_or(0), ledger);
}

std::optional<Loss> Replica::evaluate() {
  if (!windows_) return std::nullopt;
  return ballot::evaluate(*model_, *windows_, config_.batch);
}

}  // namespace ballot

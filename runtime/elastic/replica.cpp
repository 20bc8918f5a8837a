#include "runtime/elastic/replica.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/host_bytes.h"
#include "core/log.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "core/version.h"
#include "models/model_folder.h"
#include "runtime/elastic/member_ballot.h"
#include "runtime/evaluation.h"
#include "runtime/gather_values.h"
#include "runtime/parameter_rules.h"
#include "runtime/replica_audit.h"    // parameter_digests
#include "runtime/run_checkpoints.h"  // checkpoint_options
#include "runtime/run_folder.h"

namespace ballot {
namespace {

const RunConfig& elastic(const RunConfig& config, const Transport* members) {
  const int started = members == nullptr ? 1 : members->size();
  if (config.members != started)
    throw ConfigError(
        "vote.members = {}: this voter was started with {} members; expected {} processes that "
        "reach "
        "each other (mpirun -n {} ballot train ... --coordinator, or RANK, WORLD_SIZE and "
        "MASTER_ADDR)",
        config.members, started, config.members, config.members);
  if (config.vote_schedule && *config.vote_schedule != Schedule::sharded)
    throw ConfigError(
        "vote.schedule = \"{}\": an elastic run votes by \"sharded\", in which each chunk has an "
        "owner",
        to_string(*config.vote_schedule));
  if (config.estimator != Estimator::majority)
    throw ConfigError("vote.estimator: an elastic run takes the majority only");
  if (config.average_momentum_every > 0)
    throw ConfigError(
        "vote.average_momentum_every = {}: an elastic run cannot, its voters meet only in records; "
        "expected 0",
        config.average_momentum_every);
  if (config.keep_best)
    throw ConfigError(
        "train.keep_best = true: an elastic run's workers do not agree on held-out losses, "
        "expected "
        "false");
  if (config.early_stop_evaluations > 0)
    throw ConfigError(
        "train.early_stop_evaluations = {}: an elastic run's workers do not agree on held-out "
        "losses, expected 0",
        config.early_stop_evaluations);
  return config;
}

// Where files lie and how a machine is used may differ between workers, and what is recorded. The
// number of steps is the coordinator's to compare: it may change while the run is not under way,
// and no history depends on it (records hold the rates that were used).
RunConfig shared_part(RunConfig config) {
  config.model_folder = config.output_folder = config.device = config.prometheus = "";
  config.tensorboard = false;
  config.train_data.path = config.validation_data.path = "";
  config.threads = 0;
  config.recompute = RunConfig::Recompute::none;  // the same bits by either
  config.steps = 0;
  config.evaluate_every = config.validation_windows = 0;
  config.deadline_seconds = 0;
  config.journal = {};
  config.checkpoint = {};
  config.audit = {};
  return config;
}

constexpr std::size_t kMostWritten = 16;  // shares of checkpoints that a member remembers

// What a member says of its part of a ballot, and of what it stands on. Travels as it is.
struct MemberReport {
  std::int64_t step = 0;
  std::uint64_t digest = 0;  // of its parameters
  double loss_sum = 0;
  std::int64_t tokens = 0;
  std::int64_t gradient_faults = 0;
  std::int16_t loss_fault = 0;
  std::int16_t counts = 1;  // it had samples
  std::int32_t asked_to_leave = 0;
  Replica::Times times;
};

// A part of a voter's samples: as many as the other members have, or one more or less.
SampleRange part_of_samples(const SampleRange& samples, int member, int members) {
  const std::int64_t count = samples.count();
  return {samples.begin + count * member / members, samples.begin + count * (member + 1) / members};
}

// What may follow an order: a record, whose bits and means are no more than two copies of all
// parameters.
std::uint64_t most_order_bytes(const ParameterArena& arena) {
  return 8 * static_cast<std::uint64_t>(arena.count()) + (std::uint64_t{64} << 20);
}

Digest digest_of_config(const RunConfig& config, const Architecture& model, const Position& genesis,
                        const Digest& data) {
  const std::string text = fmt::format("version {}\n{}model {}\n", version(),
                                       to_toml(shared_part(config)), model.to_json());
  DigestStream stream;
  stream.add(std::as_bytes(std::span(text)));
  stream.add(genesis.digest);
  stream.add(data);
  return stream.digest();
}

}  // namespace

Replica::Replica(const RunConfig& config, const TrainingHooks& hooks, Transport* members)
    : config_(elastic(config, members)),
      hooks_(hooks),
      members_(members != nullptr && members->size() > 1 ? members : nullptr),
      patience_(std::chrono::duration_cast<Duration>(
          std::chrono::duration<double>(config.deadline_seconds))),
      architecture_(read_architecture(config.model_folder)),
      device_(find_device(config, *architecture_, hooks.local_rank, &device_reason_)),
      compute_(resolve_compute(config.compute, device_)),
      tokenizer_(read_tokenizer(config.model_folder)),
      arena_(with_rules(shapes_to_load(config, *architecture_, false), config), compute_, device_),
      plan_(plan_members(arena_, config_.groups, static_cast<int>(config_.members), config_.cut)),
      state_(arena_, config_.groups, plan_, member()),
      layout_(state_),
      data_(config, *tokenizer_),
      replay_(arena_, state_, layout_, static_cast<std::uint64_t>(config.seed), config.ties),
      batches_(static_cast<std::size_t>(config.micro_batches)),
      counts_(state_.parameter_count()) {
  if (const std::string reason = why_not_journaled(config, layout_); !reason.empty())
    throw ConfigError("an elastic run needs a journal, and this one can keep none: {}", reason);
  check_data(config_, *architecture_, data_);
  model_ = architecture_->make_model(arena_, device_);
  model_->stream().set_float32_products(float32_products(config.compute));
  model_->recompute_layers(config.recompute == RunConfig::Recompute::layer);
  if (hooks.wrap_model) model_ = hooks.wrap_model(std::move(model_), arena_);
  if (is_first_member() && hooks.local_rank == 0) log_info("{}", data_.description(*tokenizer_));
  if (!device_reason_.empty()) log_info("train.device = auto: {}", device_reason_);
  load_start_here(false);
  config_digest_ = digest_of_config(config, *architecture_, genesis_, data_.training().digest());
  const auto seed = static_cast<std::uint64_t>(config_.seed);
  if (members_ == nullptr) {
    maker_ = std::make_unique<BallotMaker>(state_, layout_, seed);
    return;
  }
  require_same_everywhere(  // the members evaluate together
      fmt::format("version {}\n{}run {}\nheld-out data {} in {} windows\n", version(),
                  to_toml(shared_part(config_)), to_string(config_digest_),
                  to_string(data_.held_out().digest()),
                  data_.windows() != nullptr ? data_.windows()->count() : 0),
      *members_, Deadline::in(patience_));
  maker_ = std::make_unique<MemberBallotMaker>(state_, layout_, seed, plan_, *members_, patience_);
  // An order may come late: while the first member reads its journal, or waits for a checkpoint.
  orders_.emplace(*members_, most_order_bytes(arena_), 3 * patience_);
  if (is_first_member())
    log_info(
        "a voter of {} members; who works on what (the others' work at once: {:.2f}x as fast):\n{}",
        plan_.members, plan_.work.speed_up(), plan_.description);
}

void Replica::tell(MemberOrder order, ConstBytes what_follows) {
  if (orders_) orders_->tell(order, what_follows);
}

const std::vector<std::int64_t>& Replica::counts() const {
  for (const ParameterState& s : state_.states())
    counts_[static_cast<std::size_t>(s.parameter->index)] = s.count;
  return counts_;
}

std::shared_ptr<const VoterBallot> Replica::cast(const SampleRange& samples, int voter) {
  tell({.kind = MemberOrder::Kind::cast,
        .voter = voter,
        .step = position_.step,
        .samples = samples});
  return make_ballot(samples, voter);
}

std::shared_ptr<const VoterBallot> Replica::make_ballot(const SampleRange& samples, int voter) {
  Stopwatch watch;
  // Whoever sends parts of an earlier one may still have it.
  auto ballot = std::make_shared<VoterBallot>(layout_);
  SampleRange mine = part_of_samples(samples, member(), plan_.members);
  const bool counts = mine.count() > 0;  // else: the step's work, with a sample that says nothing
  if (!counts) mine = {samples.begin, samples.begin + 1};
  std::size_t used = 0;
  for (std::int64_t id = mine.begin; id < mine.end; id += config_.batch) {
    if (used == batches_.size()) batches_.emplace_back();
    data_.samples().draw(id, std::min(config_.batch, mine.end - id), batches_[used++]);
  }
  require(samples.count() > 0, "a ballot of samples [{}, {})", samples.begin, samples.end);
  times_ = {};
  times_.data = watch.lap();
  maker_->begin(position_.step, voter, *ballot, counts);
  maker_->finish(model_->differentiate(std::span(batches_).first(used), *maker_));
  times_.forward = model_->times().forward;
  times_.backward = model_->times().backward;
  times_.direction = maker_->times().direction;
  times_.pack = maker_->times().pack;
  if (!counts) ballot->loss = {};
  if (members_ != nullptr) join_reports(*ballot);
  return ballot;
}

// The members' losses and faults become the voter's, and their replicas are proved equal.
void Replica::join_reports(VoterBallot& ballot) {
  MemberReport mine;
  mine.step = position_.step;
  mine.digest = training_.digest;
  mine.loss_sum = ballot.loss.sum;
  mine.tokens = ballot.loss.tokens;
  mine.gradient_faults = ballot.gradient_faults;
  mine.loss_fault = ballot.loss_fault;
  mine.counts = ballot.loss.tokens > 0 || ballot.loss_fault;
  mine.asked_to_leave = hooks_.should_stop && hooks_.should_stop();
  mine.times = times_;
  const std::vector<MemberReport> all = gather_values(mine, *members_, Deadline::in(patience_));
  ballot.loss = {};
  ballot.gradient_faults = 0;
  std::int64_t good = 0;
  for (std::size_t m = 0; m < all.size(); ++m) {
    const MemberReport& report = all[m];
    if (report.step != mine.step || report.digest != mine.digest)
      throw ReplicasDiffer(
          "member {} of this voter stands at step {} with digest {:016x}, member {} at step {} "
          "with "
          "{:016x}: the voter has to start again from its checkpoint",
          m, report.step, report.digest, member(), mine.step, mine.digest);
    ballot.gradient_faults += report.gradient_faults;
    if (report.asked_to_leave != 0) asked_to_leave_ = true;
    for (double Replica::Times::*const stage :
         {&Times::data, &Times::forward, &Times::backward, &Times::direction, &Times::pack})
      times_.*stage = std::max(times_.*stage, report.times.*stage);
    if (report.loss_fault != 0 || report.counts == 0) continue;
    ++good;
    ballot.loss.sum += report.loss_sum;
    ballot.loss.tokens += report.tokens;
  }
  ballot.loss_fault = good == 0;
}

AppliedRecord Replica::apply(const Record& record, bool live) {
  if (orders_)
    tell({.kind = MemberOrder::Kind::apply, .live = live, .step = record.step}, encode(record));
  return apply_here(record);
}

AppliedRecord Replica::apply_here(const Record& record) {
  const Stopwatch watch;
  require(record.step == position_.step + 1 && record.previous == position_.digest,
          "step {} after {} is applied at step {} with {}", record.step, to_string(record.previous),
          position_.step, to_string(position_.digest));
  digests_ = replay_.apply(record);
  std::int64_t samples = 0;
  Ledger after = ledger_after(ledger_, record);
  for (const VoterRange& range : record.ranges)
    if (!is_unused(after, range.samples)) samples += range.samples.count();
  stand_at(record.position(), record.term, std::move(after));
  training_.digest = fold(digests_);
  training_.tokens_total += samples * config_.sequence_length;
  times_.apply = watch.elapsed();
  return {record.step, training_.digest, training_.tokens_total, digests_};
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
  tell({.kind = MemberOrder::Kind::load_start, .keep_momentum = keep_momentum});
  load_start_here(keep_momentum);
  require_all_loaded(true, config_.model_folder);
}

void Replica::load_start_here(bool keep_momentum) {
  load_parameters(config_.model_folder, arena_);
  for (ParameterState& s : state_.states()) {
    if (keep_momentum && s.is_private) continue;
    for (OwnedTensor* owned : {&s.momentum, &s.second})
      if (owned->view().data != nullptr) fill_zero(*owned);
    s.count = 0;
  }
  digests_ = parameter_digests(arena_);
  replay_.parameters_changed();
  const std::uint64_t digest = fold(digests_);
  training_ = {};
  training_.digest = digest;
  genesis_ = {0, history_origin(config_, arena_, digest, 0)};
  stand_at(genesis_, 0, {});
}

void Replica::load(const std::string& checkpoint, int voter, bool keep_momentum) {
  tell({.kind = MemberOrder::Kind::load, .voter = voter, .keep_momentum = keep_momentum},
       std::as_bytes(std::span(checkpoint)));
  try {
    load_here(checkpoint, voter, keep_momentum);
  } catch (const WorldError&) {
    try {
      require_all_loaded(false, checkpoint);
    } catch (const DataError&) {  // this member's own reason is the one to be told
    }
    throw;
  }
  require_all_loaded(true, checkpoint);
}

// After every order to load: this member may have read what another could not.
void Replica::require_all_loaded(bool loaded, const std::string& what) {
  if (members_ == nullptr) return;
  const std::vector<std::int32_t> all =
      gather_values<std::int32_t>(loaded, *members_, Deadline::in(3 * patience_));
  for (std::size_t m = 0; m < all.size(); ++m)
    if (all[m] == 0)
      throw DataError("member {} of this voter could not load {}, its log says why", m, what);
}

void Replica::load_here(const std::string& checkpoint, int voter, bool keep_momentum) {
  std::vector<OwnedTensor> kept(state_.states().size());
  for (std::size_t i = 0; keep_momentum && i < kept.size(); ++i)
    if (state_.states()[i].is_private) std::swap(kept[i], state_.states()[i].momentum);
  const auto give_back = [&] {
    for (std::size_t i = 0; keep_momentum && i < kept.size(); ++i)
      if (state_.states()[i].is_private) std::swap(kept[i], state_.states()[i].momentum);
  };
  TrainingState loaded;
  try {
    require_same_architecture(*architecture_, config_.model_folder, checkpoint);
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
  digests_ = parameter_digests(arena_);
  replay_.parameters_changed();
  const std::uint64_t digest = fold(digests_);
  if (digest != loaded.digest)
    throw CorruptFile("{}: parameters have digest {:016x}, its state says {:016x}", checkpoint,
                      digest, loaded.digest);
  training_ = loaded;
  const Ledger ledger = *loaded.ledger;
  stand_at({loaded.step, loaded.journal->chain}, loaded.history_term.value_or(0), ledger);
}

void Replica::begin_checkpoint(CheckpointShare share, CheckpointWriter& writer) {
  share.number = ++checkpoints_begun_;
  tell({.kind = MemberOrder::Kind::begin_checkpoint,
        .voter = share.voter,
        .share = share.index,
        .shares = share.count,
        .number = share.number,
        .step = position_.step});
  begin_checkpoint_here(share, writer);
}

// Every member writes as many files as a worker of a fixed job: they are numbered through.
void Replica::begin_checkpoint_here(const CheckpointShare& voter, CheckpointWriter& writer) {
  CheckpointShare share = voter;
  share.index = voter.index * plan_.members + member();
  share.count = voter.count * plan_.members;
  share.member = member();
  share.members = plan_.members;
  TrainingState training = training_;
  training.workers = share.count;
  training.members = plan_.members;
  training.threads = thread_count();
  training.processor = processor_features(arena_.device());
  training.compute = products();
  writer.begin(share, training, digests_, arena_, state_,
               {config_.output_folder, config_.model_folder});
}

Replica::OthersShare Replica::look_at_checkpoint(std::int64_t number) {
  if (members_ == nullptr) return OthersShare::written;
  tell({.kind = MemberOrder::Kind::look_at_checkpoint, .number = number});
  const auto all = gather_values(OthersShare::written, *members_, Deadline::in(patience_));
  return *std::ranges::max_element(all, {}, [](OthersShare s) {
    return s == OthersShare::failed ? 2 : s == OthersShare::writing ? 1 : 0;
  });
}

std::optional<Loss> Replica::evaluate() {
  tell({.kind = MemberOrder::Kind::evaluate});
  return evaluate_here();
}

std::optional<Loss> Replica::evaluate_here() {
  if (data_.windows() == nullptr) return std::nullopt;
  if (members_ != nullptr)
    return ballot::evaluate(*model_, *data_.windows(), config_.batch, *members_, patience_);
  return ballot::evaluate(*model_, *data_.windows(), config_.batch);
}

void Replica::keep_members() {
  if (orders_ && orders_->since_last() > std::min<Duration>(patience_ / 2, std::chrono::seconds(5)))
    tell({});
}

void Replica::dismiss(bool ended) {
  tell({.kind = MemberOrder::Kind::end, .ended = ended});
  orders_.reset();
}

bool Replica::follow() {
  require(!is_first_member(), "the first member of a voter follows nobody");
  // With less patience than the others have with this member.
  CheckpointWriter writer(checkpoint_options(config_, patience_ / 2));
  before_change(writer.hook());
  std::map<std::int64_t, bool> written;  // by number of the checkpoint, the last few
  const auto load = [&](const std::string& what, const auto& body) {
    writer.give_up("this voter goes back");
    bool loaded = true;
    try {
      body();
    } catch (const WorldError& error) {
      log_error("{}", error.what());
      loaded = false;
    }
    try {
      require_all_loaded(loaded, what);
    } catch (const DataError&) {  // the first member decides what to do about it
    }
  };
  while (true) {
    MemberOrders::Received received = orders_->take();
    const MemberOrder& order = received.order;
    switch (order.kind) {
      case MemberOrder::Kind::idle:
        break;
      case MemberOrder::Kind::cast:
        if (order.step != position_.step)
          throw TransportError(
              "the first member of this voter casts at step {}, member {} stands at {}", order.step,
              member(), position_.step);
        make_ballot(order.samples, order.voter);
        break;
      case MemberOrder::Kind::apply: {
        apply_here(decode_record(received.bytes, "the first member's record"));
        if (order.live != 0 && hooks_.after_step) hooks_.after_step(position_.step, arena_);
        break;
      }
      case MemberOrder::Kind::load_start:
        load(config_.model_folder, [&] { load_start_here(order.keep_momentum != 0); });
        break;
      case MemberOrder::Kind::load: {
        const std::string path(reinterpret_cast<const char*>(received.bytes.data()),
                               received.bytes.size());
        load(path, [&] { load_here(path, order.voter, order.keep_momentum != 0); });
        break;
      }
      case MemberOrder::Kind::begin_checkpoint:
        begin_checkpoint_here({.index = order.share,
                               .count = order.shares,
                               .voter = order.voter,
                               .number = order.number},
                              writer);
        break;
      case MemberOrder::Kind::look_at_checkpoint: {
        const bool busy = writer.busy();  // asked first: what ends meanwhile is seen below
        while (const std::optional<ShareOutcome> finished = writer.finished()) {
          if (!finished->written)
            log_warning("member {}'s share of the checkpoint of step {} is given up: {}", member(),
                        finished->training.step, finished->error);
          written[finished->share.number] = finished->written.has_value();
          if (written.size() > kMostWritten) written.erase(written.begin());
        }
        const auto found = written.find(order.number);
        const OthersShare state = found != written.end()
                                      ? found->second ? OthersShare::written : OthersShare::failed
                                  : busy ? OthersShare::writing
                                         : OthersShare::failed;
        gather_values(state, *members_, Deadline::in(patience_));
        break;
      }
      case MemberOrder::Kind::evaluate:
        evaluate_here();
        break;
      case MemberOrder::Kind::end:
        before_change({});
        return order.ended != 0;
      default:
        throw TransportError("the first member of this voter orders {}, expected 0 to {}",
                             static_cast<std::int32_t>(order.kind),
                             static_cast<std::int32_t>(MemberOrder::Kind::end));
    }
  }
}

}  // namespace ballot

#include "runtime/coordinator/coordinator_desk.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/version.h"
#include "runtime/coordinator/convert.h"

namespace ballot {
namespace {

// A store that fails again and again is asked no more often.
constexpr Duration kRetry = std::chrono::seconds(1);
constexpr int kFailuresInARow = 2;
// A stream on which nothing has come for so many heartbeat timeouts is ended.
constexpr int kSilentTimeouts = 3;
constexpr std::size_t kMostChanges = 8;  // shown
constexpr std::size_t kMostJoins = 2 * static_cast<std::size_t>(kMostWorkers);
constexpr std::size_t kMostStreams = 2 * static_cast<std::size_t>(kMostWorkers);

std::string name_workers(const TermRecord& record) {
  std::vector<std::int32_t> workers;
  for (const TermWorker& worker : record.workers) workers.push_back(worker.identity.worker);
  return fmt::format("{}", fmt::join(workers, ", "));
}

}  // namespace

CoordinatorDesk::CoordinatorDesk(DeskOptions options, std::unique_ptr<RowStore> store,
                                 Refusals& refusals, const Clock& clock)
    : options_(std::move(options)), refusals_(refusals), clock_(clock), began_(clock.now()) {
  const Row row = store->load();
  if (row.term && options_.config && row.term->config != *options_.config)
    throw ConfigError("{}: the run's configuration has digest {}, this one {}", store->name(),
                      to_string(row.term->config), to_string(*options_.config));
  config_ = row.term ? row.term->config : options_.config;
  make_core(row);
  if (row.term)
    log_info("{}: term {} of {} workers ({}) goes on, step {} is committed", store->name(),
             row.term->term, row.term->workers.size(), name_workers(*row.term), row.commit.step);
  else
    log_info("{}: no term yet", store->name());
  said_term_ = row.term ? row.term->term : 0;
  rows_ = std::make_unique<RowThread>(
      std::move(store),
      [this](RowOutcome outcome) {
        post([this, outcome = std::move(outcome)] { finish_request(outcome); });
      },
      options_.longest_write);
  thread_ = std::thread([this] { run(); });
}

CoordinatorDesk::~CoordinatorDesk() {
  stop("the coordinator ends");
  thread_.join();
  rows_.reset();
}

void CoordinatorDesk::make_core(const Row& row) {
  CoordinatorOptions options = options_.coordinator;
  options.config = config_.value_or(Digest{});
  const TimePoint now = clock_.now();
  core_ = std::make_unique<CoordinatorCore>(std::move(options), row, now);
  core_->lead(may_lead(), now);
  pushed_ = 0;
}

bool CoordinatorDesk::may_lead() const {
  return options_.leadership == nullptr || options_.leadership->leads();
}

CallEnd CoordinatorDesk::not_leading() const {
  return {CallEnd::Kind::unavailable,
          fmt::format("this coordinator {}", options_.leadership->standing())};
}

void CoordinatorDesk::follow_leadership() {
  const bool leads = may_lead();
  if (leads == core_->leading()) return;
  core_->lead(leads, clock_.now());
  if (!leads) end_all(not_leading());
}

// Another coordinator may have begun the run, with the configuration of its own first worker. True:
// the core has been made anew.
bool CoordinatorDesk::follow_config(const Row& row) {
  if (!row.term || row.term->config == config_) return false;
  if (options_.config)
    throw ConfigError("{}: the run's configuration has digest {}, this one {}", rows_->store_name(),
                      to_string(row.term->config), to_string(*options_.config));
  config_ = row.term->config;
  make_core(row);
  return true;
}

bool CoordinatorDesk::post(Task task) {
  const std::lock_guard lock(mutex_);
  if (ended_) return false;
  tasks_.push_back(std::move(task));
  changed_.notify_all();
  return true;
}

void CoordinatorDesk::run() {
  std::exception_ptr failure;
  std::string why;
  try {
    work();
  } catch (const std::exception& error) {
    failure = std::current_exception();
    why = describe_failure(error).message;
    log_error("the coordinator has to end: {}", why);
  }
  std::deque<Task> left;
  {
    const std::lock_guard lock(mutex_);
    if (why.empty()) why = stop_reason_;
    ended_ = true;
    serving_ = false;
    failure_ = failure;
    stop_reason_ = why;
    left.swap(tasks_);
  }
  try {
    // Calls that have not been looked at: they find the desk ended.
    for (const Task& task : left) task();
  } catch (const std::exception& error) {
    log_error("at the end of the coordinator: {}", describe_failure(error).message);
  }
  end_all({CallEnd::Kind::unavailable, why});
  const std::lock_guard lock(mutex_);
  over_ = true;
  changed_.notify_all();
}

void CoordinatorDesk::work() {
  auto next_beat = std::chrono::steady_clock::now();
  while (true) {
    std::deque<Task> tasks;
    {
      std::unique_lock lock(mutex_);
      if (!core_->wants_beat() || !may_ask(clock_.now()))
        changed_.wait_until(lock, next_beat, [&] { return stopping_ || !tasks_.empty(); });
      if (stopping_) break;
      tasks.swap(tasks_);
    }
    follow_leadership();
    for (const Task& task : tasks) task();
    const auto real = std::chrono::steady_clock::now();
    if (real >= next_beat || (core_->wants_beat() && may_ask(clock_.now()))) {
      beat();
      if (real >= next_beat) next_beat = real + options_.beat;
    }
    const std::lock_guard lock(mutex_);
    serving_ = core_->leading() && !core_->must_read();
  }
}

// Whether the row may be read or written now.
bool CoordinatorDesk::may_ask(TimePoint now) const {
  return request_ == Request::none && now >= retry_at_ && core_->leading();
}

void CoordinatorDesk::beat() {
  const TimePoint now = clock_.now();
  if (may_ask(now)) {
    if (core_->wants_read()) {
      request_ = Request::read;
      rows_->read();
    } else if (std::optional<Row> row = core_->beat(now)) {
      request_ = Request::write;
      change_reason_ = core_->status(now).reason;
      rows_->write(std::move(*row));
    }
  }
  end_late_joins();
  end_silent_streams(now);
  say_what_changed(now);
  push_orders(now);
}

// What should not wait for a worker's next pulse.
void CoordinatorDesk::push_orders(TimePoint now) {
  if (pushed_ == core_->news() || core_->must_read()) return;
  pushed_ = core_->news();
  for (auto& [key, stream] : streams_) {
    if (!stream.identity) continue;
    std::optional<Order> order = core_->order_again(now, *stream.identity);
    if (!order || !is_urgent(*order, stream.told, stream.state)) continue;
    add_reason(*order);
    stream.told = *order;
    stream.call->answer(*order);
  }
}

// The core does not keep why a term began.
void CoordinatorDesk::add_reason(Order& order) const {
  if (!order.record) return;
  for (const Change& change : changes_)
    if (change.term == order.record->term) order.reason = change.reason;
}

// Whoever wrote the record in an earlier term may still tell of it.
void CoordinatorDesk::keep_recorded(const Pulse& pulse) {
  if (!pulse.recorded || pulse.term < recorded_term_ ||
      (pulse.term == recorded_term_ && recorded_ && pulse.recorded->step < recorded_->step))
    return;
  recorded_ = pulse.recorded;
  recorded_term_ = pulse.term;
}

void CoordinatorDesk::finish_request(const RowOutcome& outcome) {
  const Request request = std::exchange(request_, Request::none);
  if (outcome.hopeless) std::rethrow_exception(outcome.hopeless);
  const TimePoint now = clock_.now();
  if (outcome.why != trouble_) {
    trouble_ = outcome.why;
    if (!trouble_.empty()) log_warning("{}", trouble_);
  }
  // Refused because somebody else wrote is no failure.
  const bool failed =
      !outcome.written && (!outcome.row || (request == Request::write &&
                                            outcome.row->revision == core_->row().revision));
  failures_ = outcome.written ? 0 : failures_ + (failed ? 1 : 0);
  if (failed && failures_ > kFailuresInARow) retry_at_ = now + kRetry;
  if (outcome.row && follow_config(*outcome.row)) {
    // It reads the row once more.
  } else if (request == Request::write) {
    if (!outcome.written) change_reason_ = "another coordinator wrote it";
    if (outcome.written)
      core_->wrote(now);
    else if (outcome.row)
      core_->refused(now, *outcome.row);
    else
      core_->unclear();
  } else if (outcome.row) {
    core_->loaded(now, *outcome.row);
  }
  commit_rate_.add(now, core_->row().commit.step);
  retry_joins();
  beat();  // before pulses of a later term than the row's have it read again
}

void CoordinatorDesk::join(Join join, std::string who, Deadline deadline, Reply reply) {
  auto parked = std::make_shared<ParkedJoin>(
      ParkedJoin{std::move(join), std::move(who), deadline, std::move(reply), false});
  const bool there = post([this, parked] {
    if (joins_.size() >= kMostJoins) {
      refusals_.add(Refusal::too_many, parked->who, "joins under way");
      parked->reply(CallEnd{CallEnd::Kind::too_many, "too many joins are under way"});
    } else if (!try_join(*parked)) {
      joins_.push_back(std::move(*parked));
    }
  });
  if (!there) parked->reply(CallEnd{CallEnd::Kind::unavailable, why_ended()});
}

bool CoordinatorDesk::try_join(ParkedJoin& parked) {
  const TimePoint now = clock_.now();
  if (ended() || !core_->leading()) {
    parked.reply(ended() ? CallEnd{CallEnd::Kind::unavailable, why_ended()} : not_leading());
    return true;
  }
  if (!config_ && request_ != Request::write && parked.join.run == options_.coordinator.run) {
    config_ = parked.join.config;  // of a run that has no term yet: the first worker's
    log_info("the run's configuration is that of worker {} from {}: {}", parked.join.worker,
             parked.who, to_string(*config_));
    make_core(core_->row());
  }
  if (!parked.asked && parked.join.worker == -1 &&
      core_->row().incarnations.size() + joins_.size() >= static_cast<std::size_t>(kMostWorkers)) {
    const std::string why = fmt::format("all {} worker numbers have been given", kMostWorkers);
    refusals_.add(Refusal::too_many, parked.who, why);
    parked.reply(CallEnd{CallEnd::Kind::refused, why});
    return true;
  }
  parked.asked = true;
  const JoinAnswer answer = core_->join(now, parked.join);
  if (const auto* identity = std::get_if<Identity>(&answer)) {
    log_info("worker {} joined from {} as incarnation {}, peers reach it at {}", identity->worker,
             parked.who, identity->incarnation, parked.join.address);
    parked.reply(*identity);
    return true;
  }
  if (const auto* refused = std::get_if<JoinRefused>(&answer)) {
    refusals_.add(Refusal::join, parked.who, refused->reason);
    parked.reply(CallEnd{refused->sent_away ? CallEnd::Kind::sent_away : CallEnd::Kind::refused,
                         refused->reason});
    return true;
  }
  return false;
}

// After each outcome, not more often: what is under way would be asked for anew.
void CoordinatorDesk::retry_joins() {
  std::erase_if(joins_, [&](ParkedJoin& parked) { return try_join(parked); });
}

void CoordinatorDesk::end_late_joins() {
  std::erase_if(joins_, [&](const ParkedJoin& parked) {
    if (!parked.deadline.passed()) return false;
    parked.reply(CallEnd{CallEnd::Kind::unavailable,
                         trouble_.empty() ? "the coordinator's row is not written yet" : trouble_});
    return true;
  });
}

void CoordinatorDesk::pulse(std::shared_ptr<PulseCall> call, Pulse pulse, std::string who) {
  const bool there = post([this, call, pulse = std::move(pulse), who = std::move(who)] {
    if (ended())
      call->end({CallEnd::Kind::unavailable, why_ended()});
    else
      hear(call, pulse, who);
  });
  if (!there) call->end({CallEnd::Kind::unavailable, why_ended()});
}

void CoordinatorDesk::opened(std::shared_ptr<PulseCall> call, std::string who) {
  const bool there = post([this, call, who = std::move(who)] {
    if (ended())
      call->end({CallEnd::Kind::unavailable, why_ended()});
    else
      find_stream(call, who);
  });
  if (!there) call->end({CallEnd::Kind::unavailable, why_ended()});
}

// Nothing, and it is ended, where there are too many.
CoordinatorDesk::Stream* CoordinatorDesk::find_stream(const std::shared_ptr<PulseCall>& call,
                                                      const std::string& who) {
  const auto found = streams_.find(call.get());
  if (found != streams_.end()) return &found->second;
  if (streams_.size() >= kMostStreams) {
    refusals_.add(Refusal::too_many, who, "streams");
    call->end({CallEnd::Kind::too_many, fmt::format("{} streams are open", streams_.size())});
    return nullptr;
  }
  return &streams_.emplace(call.get(), Stream{call, who, clock_.now(), {}}).first->second;
}

void CoordinatorDesk::hear(const std::shared_ptr<PulseCall>& call, const Pulse& pulse,
                           const std::string& who) {
  const TimePoint now = clock_.now();
  Stream* const mine = find_stream(call, who);
  if (mine == nullptr) return;
  Stream& stream = *mine;
  if (!core_->leading()) {
    call->end(not_leading());
    streams_.erase(call.get());
    return;
  }
  if (!stream.identity) {
    // A worker that dials again has lost its old stream, whether we know it or not.
    for (auto& [key, other] : streams_)
      if (other.identity == pulse.identity) {
        other.call->end({CallEnd::Kind::replaced, "this worker has opened another stream"});
        streams_.erase(key);
        break;
      }
    stream.identity = pulse.identity;
  }
  if (pulse.identity != *stream.identity) {
    const std::string why = fmt::format(
        "a pulse of worker {}, incarnation {} on the stream of worker {}, incarnation {}",
        pulse.identity.worker, pulse.identity.incarnation, stream.identity->worker,
        stream.identity->incarnation);
    refusals_.add(Refusal::malformed, who, why);
    call->end({CallEnd::Kind::malformed, why});
    streams_.erase(call.get());
    return;
  }
  stream.heard = now;
  const std::int64_t term = core_->row().term ? core_->row().term->term : 0;
  const bool speaks = core_->leading() && !core_->must_read();
  std::optional<Order> order = core_->pulse(now, pulse);
  if (order) {
    add_reason(*order);
    if (order->rejoin)
      refusals_.add(Refusal::fenced, who,
                    fmt::format("worker {}, incarnation {} has to join (again)",
                                pulse.identity.worker, pulse.identity.incarnation));
    else {
      rates_[pulse.identity.worker].add(now, pulse.held.step);
      keep_recorded(pulse);
    }
    stream.told = *order;
    stream.state = pulse.state;
    call->answer(*order);
  } else if (speaks && pulse.term > term) {
    const std::string why = fmt::format(
        "worker {} is in term {}, the row ends with term {}: the coordinator's store "
        "is older than the run (restore it, or start the coordinator with --recover)",
        pulse.identity.worker, pulse.term, term);
    refusals_.add(Refusal::ahead, who, why);
  }
  call->take_next();
}

void CoordinatorDesk::closed(const PulseCall* call) {
  post([this, call] {
    const auto found = streams_.find(call);
    if (found == streams_.end()) return;  // ended from here
    const std::optional<Identity> identity = found->second.identity;
    streams_.erase(found);
    if (identity && !ended()) core_->stream_broken(clock_.now(), *identity);
  });
}

void CoordinatorDesk::expel(std::int32_t worker, std::string reason,
                            std::function<void(const CallEnd*)> done) {
  const auto ended_already = [this] { return CallEnd{CallEnd::Kind::unavailable, why_ended()}; };
  const bool there = post([this, worker, reason = std::move(reason), done, ended_already] {
    if (ended()) {
      const CallEnd why = ended_already();
      return done(&why);
    }
    if (!core_->leading()) {
      const CallEnd why = not_leading();
      return done(&why);
    }
    const std::string why_not = core_->expel(worker, reason);
    if (!why_not.empty()) {
      const CallEnd why{core_->must_read() ? CallEnd::Kind::unavailable : CallEnd::Kind::refused,
                        why_not};
      return done(&why);
    }
    log_info("worker {} is sent away by an operator: {}", worker, reason);
    done(nullptr);
  });
  if (there) return;
  const CallEnd why = ended_already();
  done(&why);
}

void CoordinatorDesk::status(std::function<void(const ServiceStatus*)> reply) {
  const bool there = post([this, reply] {
    const ServiceStatus status = make_status();
    reply(&status);
  });
  if (!there) reply(nullptr);
}

ServiceStatus CoordinatorDesk::make_status() const {
  const TimePoint now = clock_.now();
  ServiceStatus status;
  status.coordinator = core_->status(now);
  std::string& reason = status.coordinator.reason;
  if (!core_->leading()) reason = "this coordinator " + options_.leadership->standing();
  if (!trouble_.empty()) reason += (reason.empty() ? "" : "; ") + trouble_;
  status.run = options_.coordinator.run;
  status.version = version();
  status.store = rows_->store_name();
  status.seconds_up = seconds(now - began_);
  status.recorded = recorded_;
  status.commit_rate = commit_rate_.steps_per_second(now);
  for (const auto& [worker, rate] : rates_) status.rates[worker] = rate.steps_per_second(now);
  for (const Change& change : changes_)
    status.changes.push_back({change.term, change.reason, seconds(now - change.at)});
  status.refusals = refusals_.counts();
  return status;
}

void CoordinatorDesk::end_silent_streams(TimePoint now) {
  const Duration longest = kSilentTimeouts * options_.coordinator.membership.heartbeat_timeout;
  std::erase_if(streams_, [&](const auto& entry) {
    const Stream& stream = entry.second;
    if (now - stream.heard <= longest) return false;
    const std::string why =
        fmt::format("no pulse for {:.1f} s{}", seconds(now - stream.heard),
                    stream.identity ? fmt::format(" of worker {}", stream.identity->worker) : "");
    log_warning("the stream from {} is ended: {}", stream.who, why);
    stream.call->end({CallEnd::Kind::unavailable, why});
    return true;
  });
}

void CoordinatorDesk::end_all(const CallEnd& why) {
  for (const auto& [key, stream] : streams_) stream.call->end(why);
  streams_.clear();
  for (const ParkedJoin& parked : joins_) parked.reply(why);
  joins_.clear();
}

// The log speaks when the term or the reason changes.
void CoordinatorDesk::say_what_changed(TimePoint now) {
  const Row& row = core_->row();
  if (row.term && row.term->term != said_term_) {
    said_term_ = row.term->term;
    log_info("term {} of {} workers ({}) begins after step {}: {}", said_term_,
             row.term->workers.size(), name_workers(*row.term), row.term->start.step,
             printable(change_reason_, 1000));
    changes_.push_back({now, said_term_, change_reason_});
    if (changes_.size() > kMostChanges) changes_.pop_front();
  }
  if (core_->must_read() || !core_->leading())
    return;  // for a moment; what is amiss with the store is said there
  const CoordinatorStatus status = core_->status(now);
  if (status.decision == to_string(Decision::Kind::term)) return;  // said once it is written
  std::string said = status.decision + (status.reason.empty() ? "" : ": " + status.reason);
  if (said == said_) return;
  said_ = std::move(said);
  log_info("{}", printable(said_, 2000));
}

bool CoordinatorDesk::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

std::string CoordinatorDesk::why_ended() const {
  const std::lock_guard lock(mutex_);
  return stop_reason_;
}

bool CoordinatorDesk::serving() const {
  const std::lock_guard lock(mutex_);
  return serving_;
}

void CoordinatorDesk::stop(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  stopping_ = true;
  stop_reason_ = why;
  changed_.notify_all();
}

bool CoordinatorDesk::wait(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_until(lock, deadline.at, [&] { return over_; })) return false;
  if (failure_) std::rethrow_exception(failure_);
  return true;
}

}  // namespace ballot

#include "runtime/coordinator/convert.h"

#include "runtime/coordinator/wire_values.h"
#include "runtime/protocol/publication.h"  // kMostPublishedFiles

namespace ballot {
namespace {

// The newest shares that fit, the oldest of them first.
std::size_t first_share(const Pulse& pulse) {
  std::size_t bytes = 0, first = pulse.checkpoints.size();
  while (first > 0 && pulse.checkpoints.size() - first < kMostCheckpoints) {
    bytes += 100;
    for (const std::string& file : pulse.checkpoints[first - 1].files) bytes += file.size() + 5;
    if (bytes > kMostRequestBytes / 2 && first < pulse.checkpoints.size()) break;
    --first;
  }
  return first;
}

}  // namespace

std::string encode(const Join& join) {
  wire::JoinRequest message;
  message.set_run(join.run);
  message.set_worker(join.worker);
  message.set_address(join.address);
  write(join.config, *message.mutable_config());
  message.set_version(join.version);
  message.set_nonce(join.nonce);
  message.set_steps(join.steps);
  message.set_again(join.again);
  return serialize(message, kMostRequestBytes);
}

Join decode_join(ConstBytes bytes) {
  const auto message = parse<wire::JoinRequest>(bytes, "join", kMostRequestBytes);
  const Field field{nullptr, "join"};
  Join join;
  join.run = read_text(message.run(), 1, kMostRunBytes, {&field, "run"});
  join.worker = message.worker();
  if (join.worker != -1) read_worker(join.worker, {&field, "worker"});
  join.address = read_address(message.address(), {&field, "address"});
  join.config = read(given(message.has_config(), message.config(), {&field, "config"}));
  join.version = read_text(message.version(), 1, kMostVersionBytes, {&field, "version"});
  join.nonce = message.nonce();
  join.steps = read_count(message.steps(), {&field, "steps"});
  join.again = message.again();
  return join;
}

std::string encode(const Identity& answer) {
  wire::JoinAnswer message;
  write(answer, *message.mutable_identity());
  return serialize(message, kMostAnswerBytes);
}

Identity decode_join_answer(ConstBytes bytes) {
  const auto message = parse<wire::JoinAnswer>(bytes, "join answer", kMostAnswerBytes);
  const Field field{nullptr, "join answer"};
  const Field identity{&field, "identity"};
  return read(given(message.has_identity(), message.identity(), identity), identity);
}

std::string encode(const Pulse& pulse) {
  wire::Pulse message;
  write(pulse.identity, *message.mutable_identity());
  message.set_sequence(pulse.sequence);
  message.set_state(wire_state(pulse.state));
  message.set_address(pulse.address);
  message.set_term(pulse.term);
  message.set_applied(pulse.applied);
  write(pulse.told, *message.mutable_told());
  message.set_has_start(pulse.has_start);
  write(pulse.held, *message.mutable_held());
  write(pulse.durable, *message.mutable_durable());
  message.set_held_term(pulse.held_term);
  if (pulse.pending) {
    write(pulse.pending->base, *message.mutable_pending()->mutable_base());
    write(pulse.pending->samples, *message.mutable_pending()->mutable_samples());
  }
  message.set_has_commit(pulse.has_commit);
  message.set_ready(pulse.ready);
  message.set_leaving(pulse.leaving);
  for (const Suspicion& suspicion : pulse.suspects) {
    if (message.suspects_size() == static_cast<int>(kMostSuspects)) break;
    wire::Suspicion& one = *message.add_suspects();
    one.set_worker(suspicion.worker);
    one.set_reason(printable(suspicion.reason));
  }
  message.set_stage(printable(pulse.stage));
  for (std::size_t i = first_share(pulse); i < pulse.checkpoints.size(); ++i)
    write(pulse.checkpoints[i], *message.add_checkpoints());
  write(pulse.published, *message.mutable_published());
  for (const ParametersAt& at : pulse.parameters) {
    wire::ParametersAt& one = *message.add_parameters();
    write(at.position, *one.mutable_position());
    write(at.digest, *one.mutable_digest());
  }
  if (pulse.judgement.agreement >= 0) message.set_agreement(pulse.judgement.agreement);
  for (const Suspicion& accused : pulse.judgement.accused) {
    if (message.accused_size() == static_cast<int>(kMostSuspects)) break;
    wire::Suspicion& one = *message.add_accused();
    one.set_worker(accused.worker);
    one.set_reason(printable(accused.reason));
  }
  if (pulse.recorded) write(*pulse.recorded, *message.mutable_recorded());
  if (pulse.rebuilt) {
    write(pulse.rebuilt->at, *message.mutable_rebuilt()->mutable_at());
    message.mutable_rebuilt()->set_wrong_from(pulse.rebuilt->wrong_from);
  }
  return serialize(message, kMostRequestBytes);
}

Pulse decode_pulse(ConstBytes bytes) {
  const auto message = parse<wire::Pulse>(bytes, "pulse", kMostRequestBytes);
  const Field field{nullptr, "pulse"};
  Pulse pulse;
  const Field identity{&field, "identity"}, held{&field, "held"}, durable{&field, "durable"};
  pulse.identity = read(given(message.has_identity(), message.identity(), identity), identity);
  pulse.sequence = read_count(message.sequence(), {&field, "sequence"});
  pulse.state = read_state(message.state(), {&field, "state"});
  pulse.address = read_address(message.address(), {&field, "address"});
  pulse.term = read_count(message.term(), {&field, "term"});
  pulse.applied = read_count(message.applied(), {&field, "applied"});
  pulse.told = read(message.told(), {&field, "told"});
  pulse.has_start = message.has_start();
  pulse.held = read(given(message.has_held(), message.held(), held), held);
  pulse.durable = read(given(message.has_durable(), message.durable(), durable), durable);
  pulse.held_term = read_count(message.held_term(), {&field, "held_term"});
  if (message.has_pending()) {
    const Field at{&field, "pending"};
    const wire::PendingBallot& pending = message.pending();
    const Field base{&at, "base"}, samples{&at, "samples"};
    pulse.pending = {read(given(pending.has_base(), pending.base(), base), base),
                     read(given(pending.has_samples(), pending.samples(), samples), samples)};
  }
  pulse.has_commit = message.has_commit();
  pulse.ready = message.ready();
  pulse.leaving = message.leaving();
  const int suspects = read_size(message.suspects_size(), kMostSuspects, {&field, "suspects"});
  for (int i = 0; i < suspects; ++i) {
    const Field at{&field, "suspects", i};
    pulse.suspects.push_back(
        {read_worker(message.suspects(i).worker(), {&at, "worker"}),
         read_text(message.suspects(i).reason(), 0, kMostTextBytes, {&at, "reason"})});
  }
  pulse.stage = read_text(message.stage(), 0, kMostTextBytes, {&field, "stage"});
  const int checkpoints =
      read_size(message.checkpoints_size(), kMostCheckpoints, {&field, "checkpoints"});
  for (int i = 0; i < checkpoints; ++i)
    pulse.checkpoints.push_back(
        read(message.checkpoints(i), {&field, "checkpoints", i}, kMostFiles));
  pulse.published = read(message.published(), {&field, "published"});
  const int parameters =
      read_size(message.parameters_size(), kMostParameters, {&field, "parameters"});
  for (int i = 0; i < parameters; ++i) {
    const Field at{&field, "parameters", i}, position{&at, "position"};
    const wire::ParametersAt& one = message.parameters(i);
    pulse.parameters.push_back(
        {read(given(one.has_position(), one.position(), position), position), read(one.digest())});
  }
  if (message.has_agreement())
    pulse.judgement.agreement = read_share(message.agreement(), {&field, "agreement"});
  const int accused = read_size(message.accused_size(), kMostSuspects, {&field, "accused"});
  for (int i = 0; i < accused; ++i) {
    const Field at{&field, "accused", i};
    pulse.judgement.accused.push_back(
        {read_worker(message.accused(i).worker(), {&at, "worker"}),
         read_text(message.accused(i).reason(), 0, kMostTextBytes, {&at, "reason"})});
  }
  if (message.has_recorded()) pulse.recorded = read(message.recorded(), {&field, "recorded"});
  if (message.has_rebuilt()) {
    const Field rebuilt{&field, "rebuilt"}, at{&rebuilt, "at"}, from{&rebuilt, "wrong_from"};
    const wire::Rebuilt& one = message.rebuilt();
    expect(one.wrong_from() >= -1, from, one.wrong_from(), "-1 or more");
    pulse.rebuilt = Rebuilt{read(given(one.has_at(), one.at(), at), at), one.wrong_from()};
  }
  return pulse;
}

std::string encode(const Order& order) {
  wire::Order message;
  message.set_term(order.term);
  if (order.record) write(*order.record, *message.mutable_record());
  if (order.seal_at) message.set_seal_at(*order.seal_at);
  write(order.commit, *message.mutable_commit());
  if (order.publish) write(*order.publish, *message.mutable_publish());
  message.set_rejoin(order.rejoin);
  message.set_incarnation(order.incarnation);
  message.set_head(order.head);
  for (const Source& source : order.sources) {
    wire::Source& one = *message.add_sources();
    write(source.identity, *one.mutable_identity());
    one.set_address(source.address);
    one.set_step(source.step);
  }
  message.set_dismissed(order.dismissed);
  for (const Position& checkpoint : order.checkpoints)
    write(checkpoint, *message.add_checkpoints());
  message.set_rewind(order.rewind);
  message.set_steps(order.steps);
  message.set_reason(printable(order.reason));
  return serialize(message, kMostAnswerBytes);
}

Order decode_order(ConstBytes bytes) {
  const auto message = parse<wire::Order>(bytes, "order", kMostAnswerBytes);
  const Field field{nullptr, "order"};
  Order order;
  order.term = read_count(message.term(), {&field, "term"});
  if (message.has_record()) order.record = read(message.record(), {&field, "record"});
  if (message.has_seal_at()) order.seal_at = read_count(message.seal_at(), {&field, "seal_at"});
  const Field commit{&field, "commit"};
  order.commit = read(given(message.has_commit(), message.commit(), commit), commit);
  if (message.has_publish())
    order.publish = read(message.publish(), {&field, "publish"}, kMostPublishedFiles);
  order.rejoin = message.rejoin();
  order.incarnation = read_count(message.incarnation(), {&field, "incarnation"});
  order.head = read_count(message.head(), {&field, "head"});
  const int sources = read_size(message.sources_size(), kMostWorkers, {&field, "sources"});
  for (int i = 0; i < sources; ++i) {
    const Field at{&field, "sources", i};
    const wire::Source& one = message.sources(i);
    order.sources.push_back(
        {read(given(one.has_identity(), one.identity(), {&at, "identity"}), {&at, "identity"}),
         read_address(one.address(), {&at, "address"}), read_count(one.step(), {&at, "step"})});
  }
  order.dismissed = message.dismissed();
  const int checkpoints =
      read_size(message.checkpoints_size(), kMostCheckpoints, {&field, "checkpoints"});
  for (int i = 0; i < checkpoints; ++i)
    order.checkpoints.push_back(read(message.checkpoints(i), {&field, "checkpoints", i}));
  order.rewind = message.rewind();
  order.steps = read_count(message.steps(), {&field, "steps"});
  order.reason = read_text(message.reason(), 0, kMostTextBytes, {&field, "reason"});
  return order;
}

std::string encode(const Expulsion& expulsion) {
  wire::ExpelRequest message;
  message.set_worker(expulsion.worker);
  message.set_reason(printable(expulsion.reason));
  return serialize(message, kMostRequestBytes);
}

Expulsion decode_expel(ConstBytes bytes) {
  const auto message = parse<wire::ExpelRequest>(bytes, "expel", kMostRequestBytes);
  const Field field{nullptr, "expel"};
  return {read_worker(message.worker(), {&field, "worker"}),
          read_text(message.reason(), 1, kMostTextBytes, {&field, "reason"})};
}

}  // namespace ballot

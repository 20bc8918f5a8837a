#include "runtime/coordinator/wire_values.h"

#include <cmath>

#include <google/protobuf/stubs/logging.h>

#include <algorithm>

#include "collectives/transport/network_address.h"

namespace ballot {

void quiet_protobuf() {
  static const bool done = (google::protobuf::SetLogHandler(nullptr), true);
  (void)done;
}

std::int64_t read_count(std::int64_t value, const Field& field) {
  expect(value >= 0, field, value, "0 or more");
  return value;
}

std::int32_t read_worker(std::int32_t value, const Field& field) {
  expect(value >= 0 && value < kMostWorkers, field, value,
         fmt::format("0 to {}", kMostWorkers - 1));
  return value;
}

double read_measure(double value, const Field& field) {
  expect(std::isfinite(value) && value >= 0, field, value, "0 or more");
  return value;
}

double read_share(double value, const Field& field) {
  expect(value >= 0 && value <= 1, field, value, "0 to 1");
  return value;
}

int read_size(int size, std::size_t most, const Field& field) {
  if (static_cast<std::size_t>(size) > most)
    throw TransportError("{} has {} entries, expected at most {}", field.text(), size, most);
  return size;
}

std::string read_text(const std::string& text, std::size_t least, std::size_t most,
                      const Field& field) {
  if (text.size() < least || text.size() > most)
    throw TransportError("{} has {} bytes, expected {} to {}", field.text(), text.size(), least,
                         most);
  expect(printable(text, text.size()) == text, field, '"' + printable(text) + '"',
         "printable ASCII");
  return text;
}

std::string read_address(const std::string& text, const Field& field) {
  const std::string address = read_text(text, 1, kMostAddressBytes, field);
  try {
    parse_host_port(address, "");
  } catch (const ConfigError&) {
    throw TransportError("{} = \"{}\": expected host:port", field.text(), address);
  }
  return address;
}

std::string read_file_name(const std::string& text, const Field& field) {
  if (text.empty() || text.size() > kMostFileNameBytes)
    throw TransportError("{} has {} bytes, expected 1 to {}", field.text(), text.size(),
                         kMostFileNameBytes);
  bool inside = text.front() != '/' && text.find('\0') == std::string::npos;
  for (std::size_t begin = 0; inside && begin <= text.size();) {
    const std::size_t end = std::min(text.find('/', begin), text.size());
    const std::string_view part = std::string_view(text).substr(begin, end - begin);
    inside = !part.empty() && part != "." && part != "..";
    begin = end + 1;
  }
  expect(inside, field, '"' + printable(text) + '"', "a path inside the checkpoint's folder");
  return text;
}

void write(const Digest& from, wire::Digest& to) {
  to.set_high(from.high);
  to.set_low(from.low);
}
Digest read(const wire::Digest& from) {
  return {from.high(), from.low()};
}

void write(const Position& from, wire::Position& to) {
  to.set_step(from.step);
  write(from.digest, *to.mutable_digest());
}
Position read(const wire::Position& from, const Field& field) {
  return {read_count(from.step(), {&field, "step"}), read(from.digest())};
}

void write(const Identity& from, wire::Identity& to) {
  to.set_worker(from.worker);
  to.set_incarnation(from.incarnation);
}
Identity read(const wire::Identity& from, const Field& field) {
  return {read_worker(from.worker(), {&field, "worker"}),
          read_count(from.incarnation(), {&field, "incarnation"})};
}

void write(const SampleRange& from, wire::SampleRange& to) {
  to.set_begin(from.begin);
  to.set_end(from.end);
}
SampleRange read(const wire::SampleRange& from, const Field& field) {
  const SampleRange range{read_count(from.begin(), {&field, "begin"}), from.end()};
  expect(range.end >= range.begin, {&field, "end"}, range.end,
         fmt::format("{} or more", range.begin));
  return range;
}

void write(const CheckpointFact& from, wire::CheckpointFact& to) {
  write(from.position, *to.mutable_position());
  write(from.parameters, *to.mutable_parameters());
  for (const std::string& file : from.files) to.add_files(file);
  to.set_share(from.share);
  to.set_shares(from.shares);
}
CheckpointFact read(const wire::CheckpointFact& from, const Field& field, std::size_t most_files) {
  CheckpointFact fact{
      read(given(from.has_position(), from.position(), {&field, "position"}), {&field, "position"}),
      read(from.parameters()),
      {}};
  const int count = read_size(from.files_size(), most_files, {&field, "files"});
  for (int i = 0; i < count; ++i)
    fact.files.push_back(read_file_name(from.files(i), {&field, "files", i}));
  fact.shares = from.shares();
  expect(fact.shares >= 1 && fact.shares <= kMostWorkers, {&field, "shares"}, fact.shares,
         fmt::format("1 to {}", kMostWorkers));
  fact.share = from.share();
  expect(fact.share >= 0 && fact.share < fact.shares, {&field, "share"}, fact.share,
         fmt::format("0 to {}", fact.shares - 1));
  return fact;
}

void write(const TermRecord& from, wire::TermRecord& to) {
  to.set_term(from.term);
  for (const TermWorker& worker : from.workers) {
    wire::TermWorker& one = *to.add_workers();
    write(worker.identity, *one.mutable_identity());
    one.set_address(worker.address);
    one.set_voter(worker.voter);
  }
  write(from.start, *to.mutable_start());
  for (const std::int32_t source : from.sources) to.add_sources(source);
  for (const VoterRange& range : from.kept) {
    wire::KeptRange& one = *to.add_kept();
    one.set_voter(range.voter);
    write(range.samples, *one.mutable_samples());
  }
  to.set_copies(from.copies);
  to.set_quorum(from.quorum);
  write(from.config, *to.mutable_config());
}
TermRecord read(const wire::TermRecord& from, const Field& field) {
  TermRecord record;
  record.term = read_count(from.term(), {&field, "term"});
  const int workers = read_size(from.workers_size(), kMostWorkers, {&field, "workers"});
  for (int i = 0; i < workers; ++i) {
    const Field at{&field, "workers", i};
    const wire::TermWorker& one = from.workers(i);
    const Identity identity =
        read(given(one.has_identity(), one.identity(), {&at, "identity"}), {&at, "identity"});
    const std::int32_t voter = read_worker(one.voter(), {&at, "voter"});
    const TermWorker* before = record.workers.empty() ? nullptr : &record.workers.back();
    expect(before == nullptr || identity.worker > before->identity.worker, {&at, "identity"},
           identity.worker, "ascending numbers");
    const std::int32_t least = before == nullptr ? 0 : before->voter;
    const std::int32_t most = before == nullptr ? 0 : before->voter + 1;
    expect(voter >= least && voter <= most, {&at, "voter"}, voter,
           fmt::format("{} to {}", least, most));
    record.workers.push_back({identity, read_address(one.address(), {&at, "address"}), voter});
  }
  record.start = read(given(from.has_start(), from.start(), {&field, "start"}), {&field, "start"});
  const int sources = read_size(from.sources_size(), kMostWorkers, {&field, "sources"});
  for (int i = 0; i < sources; ++i)
    record.sources.push_back(read_worker(from.sources(i), {&field, "sources", i}));
  const int kept = read_size(from.kept_size(), kMostWorkers, {&field, "kept"});
  for (int i = 0; i < kept; ++i) {
    const Field at{&field, "kept", i};
    record.kept.push_back(
        {read_worker(from.kept(i).voter(), {&at, "voter"}),
         read(given(from.kept(i).has_samples(), from.kept(i).samples(), {&at, "samples"}),
              {&at, "samples"})});
  }
  const auto small = [&](std::int32_t value, const char* name) {
    expect(value >= 0 && value <= kMostWorkers, {&field, name}, value,
           fmt::format("0 to {}", kMostWorkers));
    return value;
  };
  record.copies = small(from.copies(), "copies");
  record.quorum = small(from.quorum(), "quorum");
  record.config = read(from.config());
  return record;
}

void write(const RecordedStep& from, wire::RecordedStep& to) {
  to.set_step(from.step);
  if (from.loss) to.set_loss(*from.loss);
  to.set_tokens_per_second(from.tokens_per_second);
  to.set_tokens_total(from.tokens_total);
  to.set_bytes_sent(from.bytes_sent);
  to.set_fp32_bytes(from.fp32_bytes);
  if (from.ties) to.set_ties(*from.ties);
  if (from.agreement) to.set_agreement(*from.agreement);
}

RecordedStep read(const wire::RecordedStep& from, const Field& field) {
  RecordedStep step;
  step.step = read_count(from.step(), {&field, "step"});
  if (from.has_loss()) {
    expect(std::isfinite(from.loss()), {&field, "loss"}, from.loss(), "a finite number");
    step.loss = from.loss();
  }
  step.tokens_per_second = read_measure(from.tokens_per_second(), {&field, "tokens_per_second"});
  step.tokens_total = read_count(from.tokens_total(), {&field, "tokens_total"});
  step.bytes_sent = read_count(from.bytes_sent(), {&field, "bytes_sent"});
  step.fp32_bytes = read_count(from.fp32_bytes(), {&field, "fp32_bytes"});
  if (from.has_ties()) step.ties = read_share(from.ties(), {&field, "ties"});
  if (from.has_agreement()) step.agreement = read_share(from.agreement(), {&field, "agreement"});
  return step;
}

wire::WorkerState wire_state(WorkerState state) {
  switch (state) {
    case WorkerState::joining:
      return wire::WORKER_STATE_JOINING;
    case WorkerState::voting:
      return wire::WORKER_STATE_VOTING;
    case WorkerState::sealed:
      return wire::WORKER_STATE_SEALED;
  }
  throw LogicError(fmt::format("worker state {}", static_cast<int>(state)));
}
WorkerState read_state(wire::WorkerState state, const Field& field) {
  switch (state) {
    case wire::WORKER_STATE_JOINING:
      return WorkerState::joining;
    case wire::WORKER_STATE_VOTING:
      return WorkerState::voting;
    case wire::WORKER_STATE_SEALED:
      return WorkerState::sealed;
    default:
      throw TransportError("{} = {}: expected 1 (joining), 2 (voting) or 3 (sealed)", field.text(),
                           static_cast<int>(state));
  }
}

std::string printable(std::string_view text, std::size_t most) {
  std::string result(text.substr(0, most));
  std::ranges::replace_if(
      result, [](char c) { return c < ' ' || c > '~'; }, '?');
  return result;
}

}  // namespace ballot

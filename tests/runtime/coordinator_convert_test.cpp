// The coordinator's messages as bytes: what comes back is what went in, and what is outside the
// limits is refused by field and value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "proto/coordinator.pb.h"
#include "tests/runtime/coordinator_messages.h"

namespace ballot {
namespace {

using testing::HasSubstr;

ConstBytes bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string why(const std::function<void()>& body) {
  try {
    body();
  } catch (const TransportError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(CoordinatorMessages, ComeBackAsTheyWent) {
  const auto join = decode_join(bytes_of(encode(test::full_join())));
  EXPECT_EQ(join.run, "a run");
  EXPECT_EQ(join.worker, 4);
  EXPECT_EQ(join.nonce, 0xfedcba9876543210u);
  EXPECT_EQ(join.config, (Digest{7, 8}));
  EXPECT_EQ(join.steps, 500);
  EXPECT_TRUE(join.again);
  EXPECT_EQ(decode_join_answer(bytes_of(encode(Identity{4, 2}))), (Identity{4, 2}));

  const Pulse sent = test::full_pulse(), pulse = decode_pulse(bytes_of(encode(sent)));
  EXPECT_EQ(pulse.identity, sent.identity);
  EXPECT_EQ(pulse.sequence, sent.sequence);
  EXPECT_EQ(pulse.state, sent.state);
  EXPECT_EQ(pulse.address, sent.address);
  EXPECT_EQ(pulse.term, sent.term);
  EXPECT_EQ(pulse.held, sent.held);
  EXPECT_EQ(pulse.durable, sent.durable);
  EXPECT_EQ(pulse.held_term, sent.held_term);
  EXPECT_EQ(pulse.applied, sent.applied);
  EXPECT_EQ(pulse.pending, sent.pending);
  EXPECT_EQ(pulse.told, sent.told);
  EXPECT_TRUE(pulse.has_commit && pulse.has_start && pulse.ready && pulse.leaving);
  EXPECT_EQ(pulse.suspects, sent.suspects);
  EXPECT_EQ(pulse.stage, sent.stage);
  EXPECT_EQ(pulse.checkpoints, sent.checkpoints);
  EXPECT_EQ(pulse.published, sent.published);
  EXPECT_EQ(pulse.parameters, sent.parameters);
  EXPECT_EQ(pulse.judgement, sent.judgement);
  EXPECT_EQ(pulse.rebuilt, sent.rebuilt);
  EXPECT_EQ(pulse.recorded, test::full_recorded());

  const Order order = decode_order(bytes_of(encode(test::full_order())));
  EXPECT_EQ(order.incarnation, 2);
  EXPECT_EQ(order.term, 7);
  EXPECT_EQ(order.record, test::full_record());
  EXPECT_EQ(order.seal_at, 0);
  EXPECT_EQ(order.head, 42);
  EXPECT_EQ(order.sources, test::full_order().sources);
  EXPECT_EQ(order.commit, test::full_order().commit);
  EXPECT_EQ(order.publish, test::full_checkpoint());
  EXPECT_EQ(order.checkpoints, test::full_order().checkpoints);
  EXPECT_TRUE(order.rejoin && order.rewind && order.dismissed);
  EXPECT_EQ(order.steps, 500);
  EXPECT_EQ(order.reason, "worker 2 is silent");

  const Row row = decode_row(bytes_of(encode(test::full_row())));
  EXPECT_EQ(row.term, test::full_record());
  EXPECT_EQ(row.commit, test::full_row().commit);
  EXPECT_EQ(row.checkpoints, test::full_row().checkpoints);
  EXPECT_EQ(row.incarnations, test::full_row().incarnations);
  EXPECT_EQ(row.steps, 500);
  EXPECT_EQ(row.sent_away, test::full_row().sent_away);

  const ServiceStatus status = decode_status(bytes_of(encode(test::full_status())));
  EXPECT_EQ(encode(status), encode(test::full_status()));
  EXPECT_EQ(status.coordinator.workers.at(0).since_pulse, std::chrono::milliseconds(1500));
  EXPECT_EQ(status.coordinator.workers.at(0).agreement, 0.75);
  EXPECT_EQ(status.coordinator.steps, 500);
  EXPECT_EQ(status.recorded, test::full_recorded());
}

TEST(CoordinatorMessages, NothingIsNotTheSameAsZero) {
  Order order = test::full_order();
  order.record.reset();
  order.seal_at.reset();
  order.publish.reset();
  const Order back = decode_order(bytes_of(encode(order)));
  EXPECT_FALSE(back.record.has_value());
  EXPECT_FALSE(back.seal_at.has_value());
  EXPECT_FALSE(back.publish.has_value());
  Pulse pulse = test::full_pulse();
  pulse.pending.reset();
  pulse.checkpoints.clear();
  pulse.parameters.clear();
  pulse.judgement = {};
  pulse.rebuilt.reset();
  pulse.recorded = RecordedStep{};
  EXPECT_EQ(decode_pulse(bytes_of(encode(pulse))).recorded, RecordedStep{});
  pulse.recorded.reset();
  EXPECT_FALSE(decode_pulse(bytes_of(encode(pulse))).recorded.has_value());
  EXPECT_FALSE(decode_pulse(bytes_of(encode(pulse))).rebuilt.has_value());
  EXPECT_EQ(decode_pulse(bytes_of(encode(pulse))).judgement, VoterJudgement{});
  EXPECT_FALSE(decode_pulse(bytes_of(encode(pulse))).pending.has_value());
  EXPECT_TRUE(decode_pulse(bytes_of(encode(pulse))).checkpoints.empty());
  EXPECT_TRUE(decode_pulse(bytes_of(encode(pulse))).parameters.empty());
  EXPECT_FALSE(decode_row(bytes_of(encode(Row{}))).term.has_value());
}

TEST(CoordinatorMessages, ARowFromBeforeWorkersWereSentAwayIsRead) {
  wire::Row message;
  ASSERT_TRUE(message.ParseFromString(encode(test::full_row())));
  message.clear_sent_away();
  const Row row = decode_row(bytes_of(message.SerializeAsString()));
  EXPECT_EQ(row.incarnations, test::full_row().incarnations);
  EXPECT_TRUE(row.sent_away.empty());
  ASSERT_TRUE(message.ParseFromString(encode(test::full_row())));
  message.mutable_sent_away(1)->set_worker(2);
  EXPECT_THAT(why([&] { decode_row(bytes_of(message.SerializeAsString())); }),
              HasSubstr("row.sent_away[1].worker = 2: expected ascending numbers"));
}

// Changes one field of a full pulse and gives what is said of it.
std::string pulse_with(const std::function<void(wire::Pulse&)>& change) {
  wire::Pulse message;
  EXPECT_TRUE(message.ParseFromString(encode(test::full_pulse())));
  change(message);
  return why([&] { decode_pulse(bytes_of(message.SerializeAsString())); });
}

TEST(CoordinatorMessages, WhatIsOutsideItsLimitsIsRefusedByFieldAndValue) {
  EXPECT_EQ(pulse_with([](wire::Pulse&) {}), "accepted");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_identity()->set_worker(4096); }),
            "pulse.identity.worker = 4096: expected 0 to 4095");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_identity()->set_incarnation(-1); }),
            "pulse.identity.incarnation = -1: expected 0 or more");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.clear_identity(); }), "pulse.identity is missing");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.clear_held(); }), "pulse.held is missing");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.clear_durable(); }), "pulse.durable is missing");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_pending()->clear_base(); }),
            "pulse.pending.base is missing");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.set_state(static_cast<wire::WorkerState>(17)); }),
            "pulse.state = 17: expected 1 (joining), 2 (voting) or 3 (sealed)");
  EXPECT_THAT(pulse_with([](wire::Pulse& p) { p.clear_state(); }), HasSubstr("pulse.state = 0"));
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.set_term(-7); }),
            "pulse.term = -7: expected 0 or more");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_held()->set_step(-1); }),
            "pulse.held.step = -1: expected 0 or more");
  EXPECT_EQ(
      pulse_with([](wire::Pulse& p) { p.mutable_pending()->mutable_samples()->set_end(191); }),
      "pulse.pending.samples.end = 191: expected 192 or more");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.set_address(std::string(301, 'a')); }),
            "pulse.address has 301 bytes, expected 1 to 300");
  for (const char* const address : {"nowhere", "a:0", "a:65536", ":1", "a b", "::1:5"})
    EXPECT_THAT(pulse_with([&](wire::Pulse& p) { p.set_address(address); }),
                HasSubstr(fmt::format("pulse.address = \"{}\": expected host:port", address)));
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.set_stage("a\x1b[2J"); }),
            "pulse.stage = \"a?[2J\": expected printable ASCII");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) {
              for (int i = 0; i < 300; ++i) p.add_suspects();
            }),
            "pulse.suspects has 302 entries, expected at most 256");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.set_agreement(1.5); }),
            "pulse.agreement = 1.5: expected 0 to 1");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_accused(0)->set_worker(4096); }),
            "pulse.accused[0].worker = 4096: expected 0 to 4095");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) {
              for (int i = 0; i < 300; ++i) p.add_accused();
            }),
            "pulse.accused has 301 entries, expected at most 256");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_suspects(1)->set_worker(-3); }),
            "pulse.suspects[1].worker = -3: expected 0 to 4095");
  EXPECT_THAT(why([] { decode_pulse(bytes_of(std::string(kMostRequestBytes + 1, 'x'))); }),
              HasSubstr("pulse of 1048577 bytes, expected at most 1048576"));
  EXPECT_THAT(why([] { decode_pulse(bytes_of("\xff\xff\xff")); }), HasSubstr("no well-formed"));
}

TEST(CoordinatorMessages, AFileOfACheckpointStaysInItsFolder) {
  for (const std::string name :
       {"/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "", "a/.", ".."})
    EXPECT_THAT(pulse_with([&](wire::Pulse& p) { p.mutable_checkpoints(1)->set_files(0, name); }),
                HasSubstr("pulse.checkpoints[1].files[0]"))
        << name;
  for (const std::string name : {"a", "a/b.c", "..a", "a..", "trainer/...x"})
    EXPECT_EQ(pulse_with([&](wire::Pulse& p) { p.mutable_checkpoints(1)->set_files(0, name); }),
              "accepted")
        << name;
}

TEST(CoordinatorMessages, ASharesNumberIsOneOfItsCheckpoints) {
  const auto with = [](int share, int shares) {
    return pulse_with([&](wire::Pulse& p) {
      p.mutable_checkpoints(0)->set_share(share);
      p.mutable_checkpoints(0)->set_shares(shares);
    });
  };
  EXPECT_EQ(with(0, 1), "accepted");
  EXPECT_EQ(with(4095, 4096), "accepted");
  EXPECT_EQ(with(0, 0), "pulse.checkpoints[0].shares = 0: expected 1 to 4096");
  EXPECT_EQ(with(0, 4097), "pulse.checkpoints[0].shares = 4097: expected 1 to 4096");
  EXPECT_EQ(with(3, 3), "pulse.checkpoints[0].share = 3: expected 0 to 2");
  EXPECT_EQ(with(-1, 3), "pulse.checkpoints[0].share = -1: expected 0 to 2");
}

TEST(CoordinatorMessages, ChecksTheSizeOfEveryListOfAPulse) {
  EXPECT_EQ(pulse_with([](wire::Pulse& p) {
              for (int i = 0; i < 20; ++i) *p.add_checkpoints() = p.checkpoints(0);
            }),
            "pulse.checkpoints has 22 entries, expected at most 16");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) {
              for (int i = 0; i < 40; ++i) *p.add_parameters() = p.parameters(0);
            }),
            "pulse.parameters has 42 entries, expected at most 32");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_parameters(1)->clear_position(); }),
            "pulse.parameters[1].position is missing");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) { p.mutable_published()->set_step(-1); }),
            "pulse.published.step = -1: expected 0 or more");
  EXPECT_EQ(pulse_with([](wire::Pulse& p) {
              const std::string file = p.checkpoints(0).files(0);
              for (int i = 0; i < 1025; ++i) p.mutable_checkpoints(0)->add_files(file);
            }),
            "pulse.checkpoints[0].files has 1027 entries, expected at most 1024");
}

// What is shown to whoever looks at the run.
TEST(CoordinatorMessages, TheFiguresOfAStepAreNumbersWithinTheirLimits) {
  const double infinite = std::numeric_limits<double>::infinity(), none = std::nan("");
  const auto with = [](const std::function<void(wire::RecordedStep&)>& change) {
    const std::string said = pulse_with([&](wire::Pulse& p) { change(*p.mutable_recorded()); });
    wire::StatusAnswer answer;
    EXPECT_TRUE(answer.ParseFromString(encode(test::full_status())));
    change(*answer.mutable_recorded());
    const std::string of_status = why([&] { decode_status(bytes_of(answer.SerializeAsString())); });
    EXPECT_EQ(said.substr(std::min(said.size(), said.find('.'))),
              of_status.substr(std::min(of_status.size(), of_status.find('.'))));
    return said;
  };
  using wire::RecordedStep;
  EXPECT_EQ(with([](RecordedStep&) {}), "accepted");
  EXPECT_EQ(with([](RecordedStep& r) { r.set_loss(-1e300); }), "accepted");
  EXPECT_EQ(with([&](RecordedStep& r) { r.set_loss(none); }),
            "pulse.recorded.loss = nan: expected a finite number");
  EXPECT_EQ(with([&](RecordedStep& r) { r.set_loss(infinite); }),
            "pulse.recorded.loss = inf: expected a finite number");
  EXPECT_EQ(with([](RecordedStep& r) { r.set_step(-1); }),
            "pulse.recorded.step = -1: expected 0 or more");
  EXPECT_EQ(with([](RecordedStep& r) { r.set_tokens_total(-1); }),
            "pulse.recorded.tokens_total = -1: expected 0 or more");
  EXPECT_EQ(with([](RecordedStep& r) { r.set_bytes_sent(-2); }),
            "pulse.recorded.bytes_sent = -2: expected 0 or more");
  EXPECT_EQ(with([](RecordedStep& r) { r.set_fp32_bytes(-3); }),
            "pulse.recorded.fp32_bytes = -3: expected 0 or more");
  EXPECT_EQ(with([&](RecordedStep& r) { r.set_tokens_per_second(infinite); }),
            "pulse.recorded.tokens_per_second = inf: expected 0 or more");
  EXPECT_EQ(with([](RecordedStep& r) { r.set_ties(1.01); }),
            "pulse.recorded.ties = 1.01: expected 0 to 1");
  EXPECT_EQ(with([&](RecordedStep& r) { r.set_agreement(none); }),
            "pulse.recorded.agreement = nan: expected 0 to 1");
}

// The whole checkpoint of many workers.
TEST(CoordinatorMessages, AnOrderToPublishNamesTheFilesOfAllShares) {
  Order order = test::full_order();
  const std::string name = "share/of/a/checkpoint";
  order.publish->files = std::vector<std::string>(4096, name);
  EXPECT_EQ(decode_order(bytes_of(encode(order))).publish, order.publish);
  order.publish->files.push_back(name);
  EXPECT_EQ(why([&] { decode_order(bytes_of(encode(order))); }),
            "order.publish.files has 4097 entries, expected at most 4096");
}

// Its oldest shares stay away from a pulse that would grow too large; the newest is always told.
TEST(CoordinatorMessages, APulseFitsWhateverItsCheckpointsHold) {
  Pulse pulse = test::full_pulse();
  CheckpointFact large = test::full_checkpoint();
  const std::string name(200, 'f');
  large.files = std::vector<std::string>(1024, name);
  pulse.checkpoints.clear();
  for (large.position.step = 0; large.position.step < 8; ++large.position.step)
    pulse.checkpoints.push_back(large);
  const Pulse back = decode_pulse(bytes_of(encode(pulse)));
  ASSERT_EQ(back.checkpoints.size(), 2u);
  EXPECT_EQ(back.checkpoints[0].position.step, 6);
  EXPECT_EQ(back.checkpoints[1].position.step, 7);
}

std::string record_with(const std::function<void(wire::TermRecord&)>& change) {
  wire::Order message;
  EXPECT_TRUE(message.ParseFromString(encode(test::full_order())));
  change(*message.mutable_record());
  return why([&] { decode_order(bytes_of(message.SerializeAsString())); });
}

TEST(CoordinatorMessages, ARecordsWorkersAscendAndItsVotersHaveNoHoles) {
  EXPECT_EQ(record_with([](wire::TermRecord&) {}), "accepted");
  EXPECT_EQ(record_with([](wire::TermRecord& r) {
              r.mutable_workers(1)->mutable_identity()->set_worker(0);
            }),
            "order.record.workers[1].identity = 0: expected ascending numbers");
  EXPECT_EQ(record_with([](wire::TermRecord& r) { r.mutable_workers(2)->set_voter(2); }),
            "order.record.workers[2].voter = 2: expected 0 to 1");
  EXPECT_EQ(record_with([](wire::TermRecord& r) { r.mutable_workers(0)->set_voter(1); }),
            "order.record.workers[0].voter = 1: expected 0 to 0");
  EXPECT_EQ(record_with([](wire::TermRecord& r) { r.clear_start(); }),
            "order.record.start is missing");
}

TEST(CoordinatorMessages, AJoinNamesItsRunAndItsAddress) {
  const auto with = [](const std::function<void(wire::JoinRequest&)>& change) {
    wire::JoinRequest message;
    EXPECT_TRUE(message.ParseFromString(encode(test::full_join())));
    change(message);
    return why([&] { decode_join(bytes_of(message.SerializeAsString())); });
  };
  EXPECT_EQ(with([](wire::JoinRequest& j) { j.set_worker(-1); }), "accepted");
  EXPECT_THAT(with([](wire::JoinRequest& j) { j.set_worker(-2); }), HasSubstr("join.worker = -2"));
  EXPECT_THAT(with([](wire::JoinRequest& j) { j.clear_run(); }), HasSubstr("join.run has 0 bytes"));
  EXPECT_THAT(with([](wire::JoinRequest& j) { j.clear_address(); }), HasSubstr("join.address"));
  EXPECT_EQ(with([](wire::JoinRequest& j) { j.clear_config(); }), "join.config is missing");
  EXPECT_THAT(with([](wire::JoinRequest& j) { j.set_steps(-1); }), HasSubstr("join.steps = -1"));
}

TEST(CoordinatorMessages, TextFromElsewhereIsCutAndMadePrintable) {
  Pulse pulse = test::full_pulse();
  pulse.stage = std::string(1000, 's') + "\n";
  pulse.suspects = {{1, "caf\xc3\xa9\n"}};
  pulse.suspects.resize(1000, {2, "x"});
  const Pulse back = decode_pulse(bytes_of(encode(pulse)));
  EXPECT_EQ(back.stage, std::string(kMostTextBytes, 's'));
  EXPECT_EQ(back.suspects.size(), kMostSuspects);
  EXPECT_EQ(back.suspects[0].reason, "caf???");
}

}  // namespace
}  // namespace ballot

// Who and what is turned away: named, counted, without secrets, and the run untouched.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/grpc_ends.h"
#include "tests/collectives/certificates.h"
#include "tests/runtime/coordinator_calls.h"
#include "tests/runtime/coordinator_messages.h"
#include "tests/support/pulsing_worker.h"

namespace ballot {
namespace {

using test::PulsingWorker;
using test::RawStream;
using test::within;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

const char* const kSecret = "correct horse battery staple";

// What a client that joins is told.
template <class Error>
std::string refusal_of(const CoordinatorClientOptions& options, Duration patience = 10s) {
  CoordinatorClient client(options);
  Join join;
  join.worker = 50;
  join.address = "127.0.0.1:1";
  join.config = test::run_config_digest();
  join.version = "0";
  try {
    client.join(join, Deadline::in(patience));
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(options.address));
    EXPECT_THAT(error.what(), Not(HasSubstr(kSecret)));
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error: " << error.what();
  }
  return "let in";
}

// Two workers are in a term meanwhile, and stay in it.
class Access : public test::CoordinatorTest {
 protected:
  void start_run() {
    options.desk.coordinator.membership.start_workers = 2;
    start();
    for (int i = 0; i < 2; ++i)
      workers.push_back(std::make_unique<PulsingWorker>(client_options(), i));
    ASSERT_TRUE(within(20s, [&] { return all_vote(); })) << workers[0]->failure();
  }
  void TearDown() override {
    if (workers.empty()) return;
    // They go on as if nothing had been.
    EXPECT_TRUE(all_vote());
    for (const auto& worker : workers) worker->hold(9);
    EXPECT_TRUE(within(20s, [&] { return workers[0]->commit() == 9; }));
    EXPECT_EQ(workers[0]->joins() + workers[1]->joins(), 2);
    EXPECT_EQ(stored().term->term, 1);
  }
  bool all_vote() const { return workers[0]->voting_in(1) && workers[1]->voting_in(1); }
  std::int64_t refusals(const std::string& why) const { return status().refusals[why]; }
  std::string member() const { return member_token(options.access.secret, "run"); }
  // A stream that has sent this ends so.
  grpc::Status end_after(const std::string& message) {
    RawStream stream(server->address(), member());
    stream.open();
    stream.send(message);
    return stream.end();
  }

  std::vector<std::unique_ptr<PulsingWorker>> workers;
};

TEST_F(Access, NoTokenAndAWrongOneAndAnotherRunsAreRefused) {
  options.access.secret = kSecret;
  start_run();
  CoordinatorClientOptions client = client_options();
  client.access.secret = "";
  EXPECT_THAT(refusal_of<ConfigError>(client), HasSubstr("no token is shown"));
  client.access.secret = "wrong horse battery staple";
  EXPECT_THAT(refusal_of<ConfigError>(client), HasSubstr("not the one of this run"));
  client.access.secret = kSecret;
  client.run = "another run";
  EXPECT_THAT(refusal_of<ConfigError>(client), HasSubstr("not the one of this run"));
  EXPECT_EQ(refusals("token"), 3);
  EXPECT_FALSE(stored().incarnations.contains(50));

  RawStream stream(server->address(), "");
  stream.open();
  EXPECT_EQ(stream.end().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THROW(fetch_status(server->address(), {}, 10s), ConfigError);
  EXPECT_THROW(expel_worker(server->address(), "run", {}, 0, "nonsense", 10s), ConfigError);
  EXPECT_EQ(refusals("token"), 6);
}

TEST(CallToken, IsNotTheSecretAndOpensOneDoor) {
  EXPECT_EQ(member_token(kSecret, "run").size(), 32u);
  EXPECT_EQ(member_token(kSecret, "run"), member_token(kSecret, "run"));
  EXPECT_NE(member_token(kSecret, "run"), member_token(kSecret, "run2"));
  EXPECT_NE(member_token(kSecret, ""), reader_token(kSecret));
  EXPECT_NE(member_token(kSecret, "run"), member_token("another", "run"));
  EXPECT_EQ(member_token("", "run"), "");
}

// HMAC-SHA-256 as Python's hmac gives it: both sides of a rolling upgrade must derive the same.
TEST(CallToken, IsTheHmacOfPurposeAndRun) {
  std::string hex;
  for (const char c : member_token("key", "run"))
    hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  EXPECT_EQ(hex, "124ada4ed7bf74289e6109078952c38d0063f615c109e4c6da84ef28e8593ce8");
}

TEST_F(Access, OnlyCertificatesOfTheAuthorityAreLetIn) {
  const test::Certificates certificates;
  options.access.tls = certificates.tls("worker");
  start_run();
  CoordinatorClientOptions client = client_options();
  client.access.tls = certificates.tls("foreign", "other_ca");  // trusts another authority
  EXPECT_THAT(refusal_of<TransportError>(client), HasSubstr("TLS"));
  client.access.tls = {certificates.path("ca.pem"), certificates.path("foreign.pem"),
                       certificates.path("foreign.key"), ""};
  EXPECT_THAT(refusal_of<WorldError>(client, 300ms), Not(HasSubstr("let in")));
  client.access.tls = certificates.tls("expired");
  EXPECT_THAT(refusal_of<WorldError>(client, 300ms), Not(HasSubstr("let in")));
  client.access.tls = {};
  EXPECT_THAT(refusal_of<Timeout>(client, 500ms), Not(HasSubstr("let in")));
  EXPECT_GE(refusals("tls"), 3);
  EXPECT_FALSE(stored().incarnations.contains(50));
}

TEST_F(Access, CertificatesAndATokenTogetherAreBothAskedFor) {
  const test::Certificates certificates;
  options.access.tls = certificates.tls("worker");
  options.access.secret = kSecret;
  start_run();
  CoordinatorClientOptions client = client_options();
  client.access.secret = "";
  EXPECT_THAT(refusal_of<ConfigError>(client), HasSubstr("no token is shown"));
}

TEST_F(Access, WhatIsNoMessageIsRefusedAndCounted) {
  start_run();
  std::mt19937_64 random(5);
  for (int i = 0; i < 20; ++i) {
    std::string noise(1 + random() % 200, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    const grpc::Status status = end_after(noise);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  }
  EXPECT_EQ(refusals("malformed"), 20);
  const auto join = [&](const std::string& bytes) {
    return call_unary(test::plain_channel(server->address()), "/ballot.wire.Coordinator/Join",
                      member(), bytes, Deadline::in(10s))
        .status;
  };
  EXPECT_EQ(join("\xff\xff").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(join("").error_message(), HasSubstr("join.run has 0 bytes"));
  Pulse pulse = test::full_pulse();
  pulse.identity.worker = 4096;
  EXPECT_THAT(end_after(encode(pulse)).error_message(),
              HasSubstr("pulse.identity.worker = 4096: expected 0 to 4095"));
  EXPECT_EQ(refusals("malformed"), 23);
}

TEST_F(Access, WhatIsTooLargeIsRefusedByNameOrByGrpcItself) {
  start_run();
  const grpc::Status large = end_after(std::string(kMostRequestBytes + 1, 'x'));
  EXPECT_EQ(large.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(large.error_message(), HasSubstr("1048577 bytes, expected at most 1048576"));
  EXPECT_EQ(refusals("too_large"), 1);
  const grpc::Status huge = end_after(std::string(kMostGrpcBytes + 1, 'x'));
  EXPECT_FALSE(huge.ok());
}

TEST_F(Access, ACompressedMessageIsRefused) {
  start_run();
  RawStream stream(server->address(), member());
  stream.context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  stream.open();
  stream.send(encode(test::full_pulse()) + std::string(100'000, '\0'));
  EXPECT_EQ(stream.end().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(Access, AnOldIncarnationIsTurnedAwayWhateverItSays) {
  start_run();
  Join join;
  join.run = "run";
  join.worker = 30;
  join.address = "127.0.0.1:1";
  join.config = test::run_config_digest();
  join.version = "0";
  CoordinatorClient first(client_options()), second(client_options());
  EXPECT_EQ(first.join(join, Deadline::in(10s)), (Identity{30, 1}));
  EXPECT_EQ(second.join(join, Deadline::in(10s)), (Identity{30, 2}));
  Pulse pulse = test::full_pulse();
  pulse.identity = {30, 1};
  pulse.suspects = {{0, "nonsense"}};
  RawStream stream(server->address(), member());
  stream.open();
  for (std::int64_t term = 0; term < 3; ++term) {
    pulse.term = term;
    pulse.sequence = term;
    EXPECT_TRUE(stream.send(encode(pulse)));
    const auto answer = stream.read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_TRUE(decode_order(std::as_bytes(std::span(*answer))).rejoin);
  }
  EXPECT_EQ(refusals("fenced"), 3);
}

TEST_F(Access, AStreamThatSaysNothingAndOneThatBreaksOffHurtNobody) {
  start_run();
  RawStream silent(server->address(), member());
  silent.open();
  Pulse pulse = test::full_pulse();
  pulse.term = 0;
  for (int i = 0; i < 10; ++i) {
    RawStream broken(server->address(), member());
    broken.open();
    broken.send(encode(pulse));
    broken.context.TryCancel();
    EXPECT_FALSE(broken.end().ok());
  }
  EXPECT_TRUE(all_vote());
  silent.context.TryCancel();
  EXPECT_FALSE(silent.end().ok());
}

TEST(Listening, BeyondLoopbackNeedsTlsOrATokenOrTheFlag) {
  CoordinatorServerOptions options;
  options.listen = "0.0.0.0:0";
  try {
    CoordinatorServer server(options, open_memory_store(make_memory_row()));
    FAIL() << "listens at " << server.address();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("BALLOT_TOKEN"));
    EXPECT_THAT(error.what(), HasSubstr("--insecure"));
  }
  options.listen = "127.0.0.1";
  EXPECT_THROW(CoordinatorServer(options, open_memory_store(make_memory_row())), ConfigError);
  options.listen = "127.0.0.1:0";
  options.access.tls.ca = "ca.pem";
  EXPECT_THROW(CoordinatorServer(options, open_memory_store(make_memory_row())), ConfigError);
}

}  // namespace
}  // namespace ballot

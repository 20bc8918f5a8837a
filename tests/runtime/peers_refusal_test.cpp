// What no peer of ours would send: refused by name, counted, without secrets, and another link goes
// on meanwhile.
#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/sync_stream.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/elastic/peer_frames_requests.h"
#include "tests/runtime/peers_frames_support.h"
#include "tests/runtime/peers_support.h"

namespace ballot {
namespace {

using test::ballot_frame;
using test::make_ballot;
using test::make_verdict;
using test::messages_of;
using test::record_of;
using test::reseal;
using test::TestPeer;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

const char* const kSecret = "correct horse battery staple";

grpc::ByteBuffer buffer_of(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

std::shared_ptr<grpc::Channel> channel_to(const TestPeer& peer) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(peer.peers->address(), grpc::InsecureChannelCredentials(),
                                   arguments);
}

void show(grpc::ClientContext& context, const std::string& token) {
  if (!token.empty()) context.AddMetadata(kTokenKey, token);
  context.set_deadline(std::chrono::system_clock::now() + 20s);
}

// A link, or another call, on which anything may be sent.
class RawLink {
 public:
  RawLink(const TestPeer& to, const std::string& token, const std::string& hello,
          const char* name = "/ballot.wire.ElasticPeers/Link")
      : channel_(channel_to(to)) {
    show(context_, token);
    if (!hello.empty()) context_.AddMetadata("ballot-hello-bin", hello);
    const grpc::internal::RpcMethod method(name, grpc::internal::RpcMethod::BIDI_STREAMING);
    stream_.reset(
        grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
            channel_.get(), method, &context_));
  }
  bool send(const std::string& bytes) { return stream_->Write(buffer_of(bytes)); }
  void half_close() { stream_->WritesDone(); }
  bool read() {
    grpc::ByteBuffer message;
    return stream_->Read(&message);
  }
  grpc::Status end() {
    while (read()) {
    }
    return stream_->Finish();
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream_;
};

grpc::Status call(const TestPeer& to, const char* method, const std::string& token,
                  const std::string& request) {
  const auto channel = channel_to(to);
  grpc::ClientContext context;
  show(context, token);
  const grpc::internal::RpcMethod rpc(method, grpc::internal::RpcMethod::SERVER_STREAMING);
  const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> stream(
      grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(channel.get(), rpc, &context,
                                                                    buffer_of(request)));
  grpc::ByteBuffer message;
  while (stream->Read(&message)) {
  }
  return stream->Finish();
}

// Two workers with a link between them; somebody else calls the second.
class PeerRefusals : public testing::Test {
 protected:
  void SetUp() override {
    a.peers->open_links(record_of(1, {&a, &b}), a.identity);
    ASSERT_TRUE(a.wait_opened());
  }
  void TearDown() override {
    // The link goes on as if nothing had been.
    const std::size_t before = b.ballots.size();
    a.peers->send(b.identity, 1, ballot_frame(99), make_ballot(100'000));
    EXPECT_TRUE(b.wait([&] { return b.ballots.size() == before + 1; }));
    EXPECT_EQ(a.opened.size(), 1u);
    EXPECT_EQ(a.lost.size(), 0u);
  }
  static void set_secret(PeersOptions& options) {
    options.access.secret = kSecret;
    options.most_frame_bytes = 4u << 20;
  }
  std::string token() const { return member_token(kSecret, "run"); }
  std::string hello(std::int32_t worker = 5) const { return encode_hello({"run", 1, {worker, 1}}); }
  std::uint64_t refused_calls() const { return b.peers->traffic().refused_calls; }
  std::uint64_t refused_frames() const { return b.peers->traffic().refused_frames; }
  // What a link is told that has sent this.
  std::string told(const std::vector<std::string>& messages) {
    RawLink link(b, token(), hello());
    EXPECT_TRUE(link.read());
    for (const std::string& message : messages) link.send(message);
    const grpc::Status status = link.end();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return status.error_message();
  }

  TestPeer a{0, set_secret}, b{1, set_secret};
};

TEST_F(PeerRefusals, NoTokenAndAWrongOneAndAnotherRunsAreRefusedOnEveryCall) {
  const std::string fetch = encode_fetch({"run", {}});
  const std::string copy = encode_checkpoint_request("run");
  std::uint64_t refused = 0;
  for (const std::string& shown :
       {std::string(), std::string("wrong"), member_token(kSecret, "another run")}) {
    RawLink link(b, shown, hello());
    EXPECT_EQ(link.end().error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(call(b, "/ballot.wire.ElasticPeers/Fetch", shown, fetch).error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(call(b, "/ballot.wire.ElasticPeers/Checkpoint", shown, copy).error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
    refused += 3;
    EXPECT_EQ(refused_calls(), refused);
  }
  EXPECT_EQ(b.hellos.size(), 1u);
}

TEST_F(PeerRefusals, AWorkerWithAnotherSecretLosesItsPeerAndIsToldWhyWithoutSecrets) {
  TestPeer c(2, [](PeersOptions& options) {
    options.access.secret = "something else";
    options.link_patience = 200ms;
  });
  c.peers->open_links(record_of(1, {&b, &c}), c.identity);
  ASSERT_TRUE(c.wait([&] { return !c.lost.empty(); }));
  EXPECT_THAT(c.lost[0].why, HasSubstr("the token shown is not the one of this run"));
  EXPECT_THAT(c.lost[0].why, Not(HasSubstr(kSecret)));
  c.peers->fetch(b.source(), {}, Deadline::in(10s));
  ASSERT_TRUE(c.wait([&] { return !c.failures.empty(); }));
  EXPECT_THAT(c.failures[0], HasSubstr("the token shown"));
}

TEST_F(PeerRefusals, AnotherRunIsRefusedByNameOnEveryCall) {
  RawLink link(b, token(), encode_hello({"other", 1, {5, 1}}));
  const grpc::Status status = link.end();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("run \"other\", expected \"run\""));
  EXPECT_EQ(
      call(b, "/ballot.wire.ElasticPeers/Fetch", token(), encode_fetch({"other", {}})).error_code(),
      grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(
      call(b, "/ballot.wire.ElasticPeers/Checkpoint", token(), encode_checkpoint_request("other"))
          .error_code(),
      grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(refused_calls(), 3u);
}

TEST_F(PeerRefusals, WhatIsNoRequestIsRefused) {
  for (const std::string& bytes : {std::string(), std::string("\xff\xff"), std::string(600, 'x'),
                                   encode_checkpoint_request("run")}) {
    RawLink link(b, token(), bytes);
    EXPECT_EQ(link.end().error_code(), grpc::StatusCode::INVALID_ARGUMENT) << bytes.size();
    EXPECT_EQ(call(b, "/ballot.wire.ElasticPeers/Fetch", token(), bytes).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT)
        << bytes.size();
  }
  EXPECT_EQ(call(b, "/ballot.wire.ElasticPeers/Fetch", token(), std::string(100'000, 'x'))
                .error_message(),
            "a request of 100000 bytes, expected at most 1024");
  EXPECT_EQ(refused_calls(), 9u);
}

TEST_F(PeerRefusals, ACallWithoutARequestIsRefused) {
  for (const char* name :
       {"/ballot.wire.ElasticPeers/Fetch", "/ballot.wire.ElasticPeers/Checkpoint"}) {
    RawLink silent(b, token(), "", name);
    silent.half_close();
    const grpc::Status status = silent.end();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(status.error_message(), "a call without a request");
  }
  EXPECT_EQ(refused_calls(), 2u);
}

TEST_F(PeerRefusals, WhatIsNoFrameEndsItsLinkAlone) {
  EXPECT_THAT(told({"nonsense"}), HasSubstr("a piece of 8 bytes"));
  EXPECT_THAT(told({std::string(100, 'x')}), HasSubstr("a piece begins with 0x78787878"));
  auto frame = messages_of({make_frame(ballot_frame(1), make_ballot(10))});
  frame[1][40] = static_cast<char>(frame[1][40] ^ 1);
  EXPECT_THAT(told(frame), HasSubstr("checksum"));
  EXPECT_THAT(told({frame[0], frame[0]}), HasSubstr("expected byte"));
  auto verdict = std::make_shared<VerdictFrame>(*make_verdict(1, 2));
  verdict->data.verdict.bits[0] ^= 1;
  EXPECT_THAT(told(messages_of({make_frame(verdict)})), HasSubstr("a verdict with digest"));
  EXPECT_THAT(told(messages_of({make_frame(make_record(kTestStart, 1))})),
              HasSubstr("kind 8, expected one of 3"));
  EXPECT_EQ(refused_frames(), 6u);
  EXPECT_EQ(b.ballots.size() + b.verdicts.size(), 0u);
}

TEST_F(PeerRefusals, WhatIsAnnouncedTooLargeIsRefusedBeforeItComes) {
  const auto frame = messages_of({make_frame(ballot_frame(1), make_ballot(600'000))});
  EXPECT_THAT(told({frame[0]}), HasSubstr("expected 0 to 4194304"));
  EXPECT_EQ(refused_frames(), 1u);
}

TEST_F(PeerRefusals, AStreamThatEndsWithinAFrameIsCounted) {
  const auto frame = messages_of({make_frame(ballot_frame(1), make_ballot(10))});
  RawLink link(b, token(), hello());
  EXPECT_TRUE(link.read());
  link.send(frame[0]);
  link.half_close();
  EXPECT_TRUE(link.end().ok());
  EXPECT_EQ(refused_frames(), 1u);
  EXPECT_EQ(b.ballots.size(), 0u);
}

TEST_F(PeerRefusals, ANewerLinkOfAWorkerTakesThePlaceOfItsOlder) {
  RawLink older(b, token(), hello());
  EXPECT_TRUE(older.read());
  RawLink newer(b, token(), hello());
  EXPECT_TRUE(newer.read());
  EXPECT_EQ(older.end().error_code(), grpc::StatusCode::ABORTED);
  for (const std::string& message : messages_of({make_frame(ballot_frame(1), make_ballot(10))}))
    newer.send(message);
  EXPECT_TRUE(b.wait([&] { return b.ballots.size() == 1; }));
  newer.half_close();
  EXPECT_TRUE(newer.end().ok());
}

TEST_F(PeerRefusals, MoreCallsThanAreServedAtOnceAreTurnedAway) {
  std::mutex gate;
  std::atomic<int> serving{0};
  b.serve = [&](const Fetch& fetch) {
    ++serving;
    const std::lock_guard pass(gate);
    FetchReply reply;
    reply.from = fetch.from;
    return reply;
  };
  std::vector<std::unique_ptr<TestPeer>> askers;
  {
    const std::lock_guard closed(gate);
    for (int i = 0; i < 8; ++i) {
      askers.push_back(std::make_unique<TestPeer>(10 + i, set_secret));
      askers.back()->peers->fetch(b.source(), {}, Deadline::in(20s));
    }
    const Deadline deadline = Deadline::in(20s);
    while (serving < 8 && !deadline.passed()) std::this_thread::yield();
    EXPECT_EQ(
        call(b, "/ballot.wire.ElasticPeers/Fetch", token(), encode_fetch({"run", {}})).error_code(),
        grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  for (const auto& asker : askers)
    EXPECT_TRUE(asker->wait([&] { return asker->replies.size() == 1; }));
  EXPECT_EQ(refused_calls(), 1u);
}

}  // namespace
}  // namespace ballot

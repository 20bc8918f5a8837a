// The grpc transport among workers that are wrong, foreign, silent or dead: an error that names
// them, in time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "certificates.h"
#include "collectives/transport/grpc_join.h"
#include "grpc_ranks.h"
#include "rank_suite.h"
#include "raw_peer.h"

namespace ballot {
namespace {

using std::chrono::milliseconds;
using test::free_rendezvous;
using test::grpc_options;
using test::message_of;
using test::run_grpc;
using test::run_ranks;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

// Ranks 0 and 1 of two, each with options of its own: what each throws.
template <class Exception0, class Exception1>
std::vector<std::string> connect_two(const std::function<void(GrpcOptions&)>& change0,
                                     const std::function<void(GrpcOptions&)>& change1) {
  std::vector<std::string> messages(2);
  const std::string rendezvous = free_rendezvous();
  run_ranks(2, [&](int rank) {
    GrpcOptions options = grpc_options(rank, 2, rendezvous);
    options.connect = milliseconds(800);
    (rank == 0 ? change0 : change1)(options);
    const auto connect = [&] { make_grpc_transport(options); };
    messages[static_cast<std::size_t>(rank)] =
        rank == 0 ? message_of<Exception0>(connect) : message_of<Exception1>(connect);
  });
  return messages;
}

const auto kAsItIs = [](GrpcOptions&) {};

TEST(GrpcJoin, AnotherSizeIsRefusedWithBothValues) {
  const auto messages =
      connect_two<Timeout, ConfigError>(kAsItIs, [](GrpcOptions& o) { o.size = 8; });
  EXPECT_THAT(messages[1], AllOf(HasSubstr("rank 1 was refused by rank 0 at 127.0.0.1:"),
                                 HasSubstr("it is configured for 8 workers, expected 2")));
  EXPECT_THAT(messages[0], AllOf(HasSubstr("waited for rank 1 at 127.0.0.1:"),
                                 HasSubstr("rank 1 from ipv4:127.0.0.1:"),
                                 HasSubstr("was refused: it is configured for 8 workers")));
}

TEST(GrpcJoin, AnotherTokenIsRefusedByNameAndNotShown) {
  const auto messages = connect_two<Timeout, ConfigError>(
      kAsItIs, [](GrpcOptions& o) { o.token = "another secret"; });
  EXPECT_THAT(messages[1], HasSubstr("it shows another job token than this job's"));
  for (const std::string& message : messages) EXPECT_THAT(message, Not(HasSubstr("secret")));
}

TEST(GrpcJoin, AnotherVersionIsRefusedWithBothValues) {
  wire::Hello hello = make_hello(grpc_options(1, 2, ""));
  hello.set_version(99);
  EXPECT_THAT(why_refused(grpc_options(0, 2, ""), hello),
              HasSubstr("version 99 of the peer protocol, expected 1"));
}

TEST(GrpcJoin, TwoWorkersWithOneRankAreToldOfEachOther) {
  const std::string rendezvous = free_rendezvous();
  std::atomic<int> refused = 0;
  run_ranks(4, [&](int thread) {
    GrpcOptions options = grpc_options(thread == 3 ? 1 : thread, 3, rendezvous);
    try {
      const auto transport = make_grpc_transport(options);
      transport->barrier(test::soon());
      while (refused == 0) std::this_thread::sleep_for(milliseconds(5));
    } catch (const ConfigError& error) {
      ++refused;
      EXPECT_THAT(error.what(), AnyOf(HasSubstr("has joined as rank 1, this one is at 127.0.0.1:"),
                                      HasSubstr("all 3 workers have joined")));
    }
  });
  EXPECT_EQ(refused, 1);
}

TEST(GrpcJoin, MissingRanksAreNamedToAll) {
  const std::string rendezvous = free_rendezvous();
  run_ranks(2, [&](int rank) {
    GrpcOptions options = grpc_options(rank, 4, rendezvous);
    options.connect = milliseconds(900);
    EXPECT_THAT(message_of<Timeout>([&] { make_grpc_transport(options); }),
                HasSubstr("waited for ranks 2, 3 at " + rendezvous));
  });
}

TEST(GrpcJoin, ARendezvousThatNobodyKeepsIsNamed) {
  const std::string rendezvous = free_rendezvous();
  GrpcOptions options = grpc_options(1, 2, rendezvous);
  options.connect = milliseconds(400);
  EXPECT_THAT(message_of<Timeout>([&] { make_grpc_transport(options); }),
              AllOf(HasSubstr("rank 1 (without TLS) waited for rank 0 at " + rendezvous),
                    HasSubstr("onnect")));
}

TEST(GrpcJoin, APortThatIsTakenIsNamed) {
  const std::string rendezvous = free_rendezvous();
  run_ranks(2, [&](int rank) {
    const auto transport = make_grpc_transport(grpc_options(rank, 2, rendezvous));
    if (rank == 0) {
      EXPECT_THAT(
          message_of<TransportError>([&] { make_grpc_transport(grpc_options(0, 2, rendezvous)); }),
          AllOf(HasSubstr("rank 0 cannot listen at " + rendezvous), HasSubstr("in use")));
    }
    transport->barrier(test::soon());
  });
}

TEST(GrpcOptions, WhatCannotWorkIsRefusedByName) {
  const auto refused = [](const std::function<void(GrpcOptions&)>& change) {
    GrpcOptions options = grpc_options(0, 2, "127.0.0.1:1");
    change(options);
    return message_of<ConfigError>([&] { make_grpc_transport(options); });
  };
  EXPECT_THAT(refused([](GrpcOptions& o) { o.rendezvous = "here"; }),
              HasSubstr("rendezvous \"here\": expected host:port"));
  EXPECT_THAT(refused([](GrpcOptions& o) { o.rendezvous = "::1:99"; }), HasSubstr("[::1]:29400"));
  EXPECT_THAT(refused([](GrpcOptions& o) { o.rendezvous = "a:70000"; }), HasSubstr("a:70000"));
  EXPECT_THAT(refused([](GrpcOptions& o) { o.rank = 2; }), HasSubstr("rank = 2"));
  EXPECT_THAT(refused([](GrpcOptions& o) { o.frame_bytes = 5 << 20; }), HasSubstr("frame_bytes"));
  EXPECT_THAT(refused([](GrpcOptions& o) { o.tls.ca = "ca.pem"; }),
              HasSubstr("expected all three"));
  // 192.0.2.0/24 is nobody's (RFC 5737).
  EXPECT_THAT(refused([](GrpcOptions& o) { o.rendezvous = "192.0.2.1:29400"; }),
              AllOf(HasSubstr("192.0.2.1:29400 without TLS"), HasSubstr("insecure = true")));
}

struct GrpcTlsTest : testing::Test {
  static void SetUpTestSuite() { certificates = new test::Certificates; }
  static void TearDownTestSuite() {
    delete certificates;
    certificates = nullptr;
  }
  static std::function<void(GrpcOptions&)> with(const std::string& name,
                                                const std::string& ca = "ca") {
    return [=](GrpcOptions& options) { options.tls = certificates->tls(name, ca); };
  }
  static test::Certificates* certificates;
};
test::Certificates* GrpcTlsTest::certificates = nullptr;

TEST_F(GrpcTlsTest, TheSuitePassesOverTls) {
  for (const int size : {2, 4}) {
    run_grpc(size, test::exchange_moves_every_byte, with("worker"));
    run_grpc(size, test::vote_equals_reference, with("worker"));
    run_grpc(size, test::split_makes_transports_of_their_own, with("worker"));
    run_grpc(
        size, [](Transport& t) { test::mean_equals_reference(t, DType::bf16); }, with("worker"));
  }
}
TEST_F(GrpcTlsTest, ANameStandsForTheAddress) {
  run_grpc(3, test::barrier_waits_for_the_last, [&](GrpcOptions& options) {
    options.tls = certificates->tls("worker");
    options.tls.name = "ballot-worker";
  });
}
TEST_F(GrpcTlsTest, ACertificateForAnotherNameIsRefused) {
  const auto messages =
      connect_two<Timeout, TransportError>(with("worker"), [&](GrpcOptions& options) {
        options.tls = certificates->tls("worker");
        options.tls.name = "somebody-else";
      });
  EXPECT_THAT(messages[1],
              AllOf(HasSubstr("do not trust each other's TLS"), HasSubstr("somebody-else")));
}
TEST_F(GrpcTlsTest, AnExpiredCertificateOfTheListenerIsRefused) {
  const auto messages = connect_two<Timeout, TransportError>(with("expired"), with("worker"));
  EXPECT_THAT(messages[1], AllOf(HasSubstr("rank 1 and rank 0 at 127.0.0.1:"),
                                 HasSubstr("do not trust each other's TLS"),
                                 HasSubstr("certificate verify failed")));
}
TEST_F(GrpcTlsTest, AnExpiredCertificateOfTheDialerIsRefused) {
  const auto messages = connect_two<Timeout, Timeout>(with("worker"), with("expired"));
  EXPECT_THAT(messages[1], HasSubstr("rank 1 (with TLS) waited for rank 0 at"));
  EXPECT_THAT(messages[0], HasSubstr("waited for rank 1"));
}
TEST_F(GrpcTlsTest, ACertificateOfAnotherAuthorityIsRefused) {
  const auto messages = connect_two<Timeout, TransportError>(with("foreign"), with("worker"));
  EXPECT_THAT(messages[1], HasSubstr("certificate verify failed"));
}
TEST_F(GrpcTlsTest, APlainWorkerIsRefusedByATlsListener) {
  const auto messages = connect_two<Timeout, Timeout>(with("worker"), kAsItIs);
  EXPECT_THAT(messages[1], HasSubstr("rank 1 (without TLS) waited for rank 0 at"));
}
TEST_F(GrpcTlsTest, ATlsWorkerRefusesAPlainListener) {
  const auto messages = connect_two<Timeout, TransportError>(kAsItIs, with("worker"));
  EXPECT_THAT(messages[1],
              AllOf(HasSubstr("do not trust each other's TLS"), HasSubstr("wrong version number")));
}
TEST_F(GrpcTlsTest, FilesThatAreMissingOrNoPemAreNamed) {
  GrpcOptions options = grpc_options(0, 2, "127.0.0.1:1");
  options.tls = certificates->tls("worker");
  options.tls.key = certificates->path("none.key");
  EXPECT_THAT(message_of<FileError>([&] { make_grpc_transport(options); }), HasSubstr("none.key"));
  options.tls = certificates->tls("worker");
  options.tls.ca = certificates->path("openssl.log");
  EXPECT_THAT(message_of<ConfigError>([&] { make_grpc_transport(options); }),
              HasSubstr("openssl.log"));
}

TEST(GrpcFailures, ADestroyedPeerIsLostToThoseWhoWait) {
  run_grpc(3, [](Transport& transport) {
    if (transport.rank() == 2) {
      std::this_thread::sleep_for(milliseconds(50));
      return;
    }
    EXPECT_THAT(message_of<PeerLost>([&] { transport.barrier(Deadline{}); }),
                AllOf(HasSubstr("rank 2 at 127.0.0.1:"), HasSubstr("it left")));
  });
}

TEST(GrpcFailures, WhatAPeerSentBeforeItLeftStillArrives) {
  run_grpc(2, [](Transport& transport) {
    std::vector<std::byte> out(3'000'000, std::byte{7}), in(out.size());
    // Rank 0 sends and is gone before rank 1 has even opened its side.
    const bool sends = transport.rank() == 0;
    if (!sends) std::this_thread::sleep_for(milliseconds(300));
    std::vector<SendParts> to(2);
    std::vector<ReceiveParts> from(2);
    if (sends)
      to[1] = {out};
    else
      from[0] = {in};
    transport.start_exchange(Purpose::vote, to, from)->wait(test::soon());
    if (!sends) {
      EXPECT_EQ(in, out);
    }
  });
}

TEST(GrpcFailures, ATransferThatIsGivenUpEndsItsTransport) {
  run_grpc(2, [](Transport& transport) {
    if (transport.rank() == 0) {
      EXPECT_THAT(message_of<Timeout>([&] { transport.barrier(Deadline::in(milliseconds(5))); }),
                  HasSubstr("rank 1"));
      EXPECT_THROW(transport.barrier(test::soon()), TransportError);
    } else {
      std::this_thread::sleep_for(milliseconds(100));
      EXPECT_THROW(
          {
            transport.barrier(test::soon());  // rank 0's part had been sent
            transport.barrier(test::soon());
          },
          PeerLost);
    }
  });
}

// Two ranks and a raw peer as rank 2; body(transport, rejected frames) runs on the two.
void with_raw_peer(const std::function<void(test::RawPeer&)>& misbehave,
                   const std::function<void(GrpcTransport&)>& body) {
  const std::string rendezvous = free_rendezvous();
  std::atomic<int> connected = 0, finished = 0;
  run_ranks(3, [&](int rank) {
    if (rank < 2) {
      const std::shared_ptr<void> at_the_end(nullptr, [&](void*) { ++finished; });
      GrpcOptions options = grpc_options(rank, 3, rendezvous);
      options.linger = milliseconds(100);  // a raw peer does not answer a farewell
      const auto transport = make_grpc_transport(options);
      ++connected;
      body(*transport);
      return;
    }
    test::RawPeer peer(rendezvous, make_hello(grpc_options(2, 3, rendezvous)));
    ASSERT_TRUE(peer.joined.ok()) << peer.joined.error_message();
    while (connected + finished < 2) std::this_thread::sleep_for(milliseconds(2));
    misbehave(peer);
    while (finished < 2) std::this_thread::sleep_for(milliseconds(10));
    peer.cancel();
  });
}

struct BadFrame {
  const char* name;
  std::function<void(test::RawPeer&)> send;  // to rank 0
  const char* reason;
};

class GrpcBadFrames : public testing::TestWithParam<BadFrame> {};

// Rank 0 refuses the frame, counts it and ends the stream; rank 1 is not affected, and the two can
// go on with each other.
TEST_P(GrpcBadFrames, AreRefusedCountedAndTheStreamEnded) {
  std::atomic<bool> sent = false;
  with_raw_peer(
      [&](test::RawPeer& peer) {
        GetParam().send(peer);
        EXPECT_FALSE(peer.end_of(0).ok());
        sent = true;
      },
      [&](GrpcTransport& transport) {
        while (!sent) std::this_thread::sleep_for(milliseconds(5));
        EXPECT_EQ(transport.rejected_frames(), transport.rank() == 0 ? 1u : 0u);
        // With each other.
        std::vector<std::byte> out(100'000, std::byte{3}), in(out.size());
        std::vector<SendParts> to(3);
        std::vector<ReceiveParts> from(3);
        to[static_cast<std::size_t>(1 - transport.rank())] = {out};
        from[static_cast<std::size_t>(1 - transport.rank())] = {in};
        const auto transfer = transport.open_exchange(Purpose::vote, to, from);
        transfer->start();
        transfer->wait(test::soon());
        EXPECT_EQ(in, out);
        if (transport.rank() == 0) {
          EXPECT_THAT(message_of<TransportError>([&] { transport.barrier(test::soon()); }),
                      AllOf(HasSubstr("rank 2 at "), HasSubstr(GetParam().reason)));
        }
      });
}

FrameHeader changed(const test::RawPeer& peer, const std::function<void(FrameHeader&)>& change) {
  FrameHeader header = peer.header();
  header.number = 77;  // of a transfer that is not opened
  header.total = header.length = 10;
  change(header);
  return header;
}

std::function<void(test::RawPeer&)> frame(const std::function<void(FrameHeader&)>& change,
                                          std::size_t payload = 10) {
  return [=](test::RawPeer& peer) { peer.send(0, changed(peer, change), payload); };
}

INSTANTIATE_TEST_SUITE_P(
    Frames, GrpcBadFrames,
    testing::Values(
        BadFrame{"Noise", [](test::RawPeer& p) { p.send(0, std::string(500, '?')); },
                 "a frame starts with 0x3f3f3f3f"},
        BadFrame{"TooShort", [](test::RawPeer& p) { p.send(0, "short"); }, "a frame of 5 bytes"},
        BadFrame{"Empty", [](test::RawPeer& p) { p.send(0, ""); }, "a frame of 0 bytes"},
        BadFrame{"FlippedBit",
                 [](test::RawPeer& p) {
                   FrameHeader header = p.header();
                   seal_frame_header(header);
                   header.offset ^= 4;
                   p.send(0, std::string(reinterpret_cast<const char*>(&header), sizeof header));
                 },
                 "with checksum"},
        BadFrame{"AnotherTerm", frame([](FrameHeader& h) { h.term ^= 1; }), "a frame of term"},
        BadFrame{"AnotherSender", frame([](FrameHeader& h) { h.sender = 1; }),
                 "says that rank 1 sent it, expected rank 2"},
        BadFrame{"TooFewBytes", frame([](FrameHeader&) {}, 4), "a frame of 84 bytes"},
        BadFrame{"TooManyBytes", frame([](FrameHeader&) {}, 14), "a frame of 4 bytes"},
        BadFrame{"TooLarge", frame([](FrameHeader& h) { h.total = h.length = 3 << 20; }, 3 << 20),
                 "a payload of 3145728 bytes, expected at most 2097152"},
        BadFrame{"BeyondTheEnd", frame([](FrameHeader& h) { h.offset = 5; }), "bytes 5 to 5 + 10"},
        BadFrame{"BeyondAllBounds",
                 frame([](FrameHeader& h) { h.offset = h.total = ~std::uint64_t{0} - 3; }),
                 "of a message of"},
        BadFrame{"NotTheNext", frame([](FrameHeader& h) { h.total = 20, h.offset = 10; }),
                 "expected start 0 and byte 0"},
        BadFrame{"FarAwayStart", frame([](FrameHeader& h) { h.start = 7; }),
                 "expected start 0 and byte 0"},
        BadFrame{"UnknownKind", frame([](FrameHeader& h) { h.kind = static_cast<FrameKind>(9); }),
                 "of kind 9"},
        BadFrame{"TooMuchThatNobodyAskedFor",
                 [](test::RawPeer& p) {
                   for (int i = 0; i < 5; ++i)
                     p.send(0,
                            changed(p,
                                    [&](FrameHeader& h) {
                                      h.number = static_cast<std::uint64_t>(1000 + i);
                                      h.total = h.length = 1 << 20;
                                    }),
                            1 << 20);
                 },
                 "which has not been announced as ready"},
        BadFrame{"NoticeOfAStartThatCannotBe",
                 [](test::RawPeer& p) {
                   FrameHeader header = p.header();
                   header.kind = FrameKind::notice;
                   header.notices = 1;
                   seal_frame_header(header);
                   const ReadyNotice notice{0, 3, 5};
                   p.send(0,
                          std::string(reinterpret_cast<const char*>(&header), sizeof header) +
                              std::string(reinterpret_cast<const char*>(&notice), sizeof notice));
                 },
                 "a notice that start 5 of transfer 3 is ready"}),
    [](const auto& instance) { return std::string(instance.param.name); });

// Larger than gRPC itself lets in: the stream ends, whoever needs the peer is told.
TEST(GrpcFailures, AMessageBeyondGrpcsOwnLimitEndsTheStream) {
  std::atomic<bool> sent = false;
  with_raw_peer(
      [&](test::RawPeer& peer) {
        peer.send(0, std::string(6 << 20, 'x'));
        EXPECT_FALSE(peer.end_of(0).ok());
        sent = true;
      },
      [&](GrpcTransport& transport) {
        while (!sent) std::this_thread::sleep_for(milliseconds(5));
        if (transport.rank() == 0) {
          EXPECT_THAT(message_of<PeerLost>([&] { transport.barrier(test::soon()); }),
                      HasSubstr("rank 2 at "));
        }
      });
}

TEST(GrpcFailures, AStreamOfAStrangerIsRefused) {
  const std::string rendezvous = free_rendezvous();
  std::atomic<bool> asked = false;
  run_ranks(3, [&](int rank) {
    if (rank < 2) {
      const auto transport = make_grpc_transport(grpc_options(rank, 2, rendezvous));
      while (!asked) std::this_thread::sleep_for(milliseconds(5));
      transport->barrier(test::soon());
      return;
    }
    std::this_thread::sleep_for(milliseconds(200));
    wire::Hello hello = make_hello(grpc_options(1, 2, rendezvous));
    hello.set_token("guess");
    test::RawPeer peer(rendezvous, hello);
    EXPECT_THAT(peer.joined.error_message(), HasSubstr("another job token"));
    asked = true;
  });
}

// A process of its own: this binary again, as a rank that exchanges until it is stopped.
class OtherProcess {
 public:
  OtherProcess(int rank, int size, const std::string& rendezvous) {
    const std::string r = std::to_string(rank), s = std::to_string(size);
    pid_ = fork();
    if (pid_ == 0) {
      execl("/proc/self/exe", "grpc_test", "--exchange-as", r.c_str(), s.c_str(),
            rendezvous.c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
  }
  ~OtherProcess() {
    send(SIGCONT);
    send(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  void send(int signal) const { kill(pid_, signal); }

 private:
  pid_t pid_;
};

// What the other process does: exchanges of 8 MB with all, for ever.
struct Exchanges {
  explicit Exchanges(Transport& transport)
      : out(8'000'000),
        in(static_cast<std::size_t>(transport.size()), std::vector<std::byte>(out.size())) {
    std::vector<SendParts> to(in.size(), SendParts{out});
    std::vector<ReceiveParts> from;
    for (auto& bytes : in) from.push_back({bytes});
    transfer = transport.open_exchange(Purpose::vote, to, from);
  }
  void once(Duration within) {
    transfer->start();
    transfer->wait(Deadline::in(within));
  }
  std::vector<std::byte> out;
  std::vector<std::vector<std::byte>> in;
  std::unique_ptr<Transfer> transfer;
};

TEST(GrpcProcesses, AKilledWorkerIsLostAtOnce) {
  const std::string rendezvous = free_rendezvous();
  const OtherProcess other(2, 3, rendezvous);
  run_ranks(2, [&](int rank) {
    const auto transport = make_grpc_transport(grpc_options(rank, 3, rendezvous));
    Exchanges exchanges(*transport);
    if (rank == 0) {
      exchanges.once(std::chrono::seconds(30));
      other.send(SIGKILL);
    }
    const Stopwatch watch;
    EXPECT_THAT(message_of<PeerLost>([&] {
                  for (;;) exchanges.once(std::chrono::seconds(60));
                }),
                HasSubstr("rank 2 at 127.0.0.1:"));
    EXPECT_LT(watch.elapsed(), 20);
  });
}

TEST(GrpcProcesses, AFrozenWorkerIsTheCallersTimeoutAndHoldsNobody) {
  const std::string rendezvous = free_rendezvous();
  const OtherProcess other(2, 3, rendezvous);
  std::atomic<int> exchanged = 0;
  run_ranks(2, [&](int rank) {
    auto transport = make_grpc_transport(grpc_options(rank, 3, rendezvous));
    auto exchanges = std::make_unique<Exchanges>(*transport);
    exchanges->once(std::chrono::seconds(30));
    if (++exchanged == 2) other.send(SIGSTOP);
    EXPECT_THAT(
        message_of<WorldError>([&] {
          for (;;) exchanges->once(milliseconds(1000));
        }),
        AnyOf(HasSubstr("waited for rank 2 (vote) past its deadline"),
              // the other of the two gave up first
              HasSubstr(rank == 0 ? "rank 1 at" : "rank 0 at"), HasSubstr("waited for ranks")));
    const Stopwatch watch;
    exchanges.reset();
    transport.reset();
    EXPECT_LT(watch.elapsed(), 15) << "destroying does not wait for the frozen";
  });
}

TEST(GrpcProcesses, AVanishedWorkerIsLostByKeepalive) {
  const std::string rendezvous = free_rendezvous();
  const OtherProcess other(1, 2, rendezvous);
  GrpcOptions options = grpc_options(0, 2, rendezvous);
  options.keepalive = std::chrono::seconds(1);
  options.linger = milliseconds(100);
  const auto transport = make_grpc_transport(options);
  Exchanges exchanges(*transport);
  exchanges.once(std::chrono::seconds(30));
  other.send(SIGSTOP);
  EXPECT_THAT(message_of<PeerLost>([&] {
                for (;;) exchanges.once(std::chrono::seconds(60));
              }),
              HasSubstr("rank 1 at 127.0.0.1:"));
}

}  // namespace

int exchange_as(int rank, int size, const std::string& rendezvous) {
  const auto transport = make_grpc_transport(test::grpc_options(rank, size, rendezvous));
  Exchanges exchanges(*transport);
  for (;;) exchanges.once(std::chrono::seconds(60));
}

}  // namespace ballot

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--exchange-as") {
    try {
      return ballot::exchange_as(std::stoi(argv[2]), std::stoi(argv[3]), argv[4]);
    } catch (const ballot::WorldError&) {
      return 4;
    }
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

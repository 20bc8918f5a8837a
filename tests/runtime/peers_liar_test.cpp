// A peer that answers fetches and requests for checkpoints with whatever it likes.
#include <gmock/gmock.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "tests/runtime/peers_frames_support.h"
#include "tests/runtime/peers_support.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using test::messages_of;
using test::TestPeer;
using testing::HasSubstr;
using namespace std::chrono_literals;

// Answers every call with these messages.
class Liar final : public grpc::CallbackGenericService {
 public:
  Liar() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterCallbackGenericService(this);
    server_ = builder.BuildAndStart();
    address_ = fmt::format("127.0.0.1:{}", port);
  }
  ~Liar() override { server_->Shutdown(std::chrono::system_clock::now()); }
  Source source() const { return {{1, 1}, address_, 0}; }

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Call(messages);
  }
  std::vector<std::string> messages;

 private:
  class Call final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Call(std::vector<std::string> messages) : messages_(std::move(messages)) { next(); }
    void OnWriteDone(bool ok) override {
      if (ok) return next();
      Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }

   private:
    void next() {
      if (at_ == messages_.size()) return Finish(grpc::Status::OK);
      const grpc::Slice slice(messages_[at_++]);
      message_ = grpc::ByteBuffer(&slice, 1);
      StartWrite(&message_);
    }
    const std::vector<std::string> messages_;
    std::size_t at_ = 0;
    grpc::ByteBuffer message_;
  };
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

ReplyFrame reply_of(std::uint32_t records) {
  ReplyFrame reply;
  reply.reply.from = kTestStart;
  reply.records = records;
  return reply;
}

class PeerLies : public testing::Test {
 protected:
  std::string fetched(const std::vector<std::string>& messages) {
    liar.messages = messages;
    const std::size_t before = a.failures.size();
    a.peers->fetch(liar.source(), {kTestStart, 0, {}}, Deadline::in(20s));
    EXPECT_TRUE(a.wait([&] { return a.failures.size() + a.replies.size() > before; }));
    EXPECT_EQ(a.replies.size(), 0u);
    return a.failures.size() > before ? a.failures.back() : "taken";
  }
  std::string downloaded(const std::vector<std::string>& messages) {
    liar.messages = messages;
    std::string why = "taken";
    try {
      a.peers->download(liar.source(), folder.file("copy"), Deadline::in(20s));
    } catch (const TransportError& error) {
      why = error.what();
    }
    EXPECT_TRUE(fs::is_empty(folder.path())) << why;
    return why;
  }
  TemporaryFolder folder;
  Liar liar;
  TestPeer a{0, [](PeersOptions& options) { options.most_reply_bytes = 1u << 20; }};
};

TEST_F(PeerLies, AboutRecordsAreSeenThrough) {
  const std::vector<Record> records = make_records(2);
  const auto whole =
      messages_of({make_frame(reply_of(2)), make_frame(records[0]), make_frame(records[1])});
  EXPECT_THAT(fetched({}), HasSubstr("does not begin with a reply"));
  EXPECT_THAT(fetched({"nonsense"}), HasSubstr("a piece of 8 bytes"));
  EXPECT_THAT(fetched({whole[0]}), HasSubstr("0 of 2 records"));
  EXPECT_THAT(fetched({whole[0], whole[1]}), HasSubstr("ends within a frame"));
  EXPECT_THAT(fetched({whole[0], whole[1], whole[2]}), HasSubstr("1 of 2 records"));
  EXPECT_THAT(fetched(messages_of(
                  {make_frame(reply_of(1)), make_frame(records[0]), make_frame(records[1])})),
              HasSubstr("something else than the 1 records"));
  EXPECT_THAT(fetched(messages_of({make_frame(records[0])})),
              HasSubstr("does not begin with a reply"));
  EXPECT_THAT(fetched(messages_of({make_frame(reply_of(1)), make_frame(reply_of(1))})),
              HasSubstr("something else"));
  EXPECT_THAT(fetched(messages_of({make_frame(reply_of(1)), make_frame(records[1])})),
              HasSubstr("does not follow"));
  ReplyFrame elsewhere = reply_of(0);
  elsewhere.reply.from.step = 4;
  EXPECT_THAT(fetched(messages_of({make_frame(elsewhere)})), HasSubstr("after step 4"));
  EXPECT_THAT(fetched(messages_of({make_frame(test::ballot_frame(1), test::make_ballot(1))})),
              HasSubstr("expected one of 12"));
  EXPECT_EQ(a.peers->traffic().refused_frames, 11u);
}

TEST_F(PeerLies, AboutSizesTakeNoMemory) {
  std::string record = messages_of({make_frame(make_record(kTestStart, 1))})[0];
  const std::uint64_t huge = std::uint64_t{1} << 45;
  std::memcpy(record.data() + kPieceHeaderBytes + 8, &huge, sizeof huge);
  std::memcpy(record.data() + kPieceHeaderBytes + kPrefixBytes, &huge, sizeof huge);
  const std::uint64_t second = 1;  // of the stream
  std::memcpy(record.data() + 8, &second, sizeof second);
  EXPECT_THAT(fetched({messages_of({make_frame(reply_of(1))})[0], test::reseal(record)}),
              HasSubstr("bytes of the sections = 35184372088832, expected 0 to 1048576"));
}

TEST_F(PeerLies, AboutCheckpointsLeaveNothingBehind) {
  const auto manifest = [](const std::string& path, int size) {
    return make_frame(ManifestFrame{
        "step-00000001",
        fmt::format(R"({{"files":[{{"path":"{}","size":{},"xxh3":"0"}}]}})", path, size)});
  };
  const auto part = [](std::uint32_t file, std::uint64_t offset, std::size_t bytes) {
    return make_frame(FilePartFrame{file, offset, std::vector<std::byte>(bytes)});
  };
  EXPECT_THAT(downloaded({}), HasSubstr("does not begin with its manifest"));
  EXPECT_THAT(downloaded(messages_of({part(0, 0, 4)})), HasSubstr("does not begin"));
  EXPECT_THAT(downloaded(messages_of({manifest("../../elsewhere", 4), part(0, 0, 4)})),
              HasSubstr("leads out of its folder"));
  EXPECT_THAT(downloaded(messages_of({manifest("file", 4)})), HasSubstr("it ends"));
  EXPECT_THAT(downloaded(messages_of({manifest("file", 4), part(1, 0, 4)})),
              HasSubstr("expected byte 0 of file 0"));
  EXPECT_THAT(downloaded(messages_of({manifest("file", 4), part(0, 1, 3)})),
              HasSubstr("expected byte 0 of file 0"));
  EXPECT_THAT(downloaded(messages_of({manifest("file", 4), part(0, 0, 5)})),
              HasSubstr("expected byte 0 of file 0"));
  EXPECT_THAT(downloaded(messages_of({manifest("file", 4), part(0, 0, 2), part(0, 0, 2)})),
              HasSubstr("expected byte 2 of file 0"));
  EXPECT_THAT(downloaded(messages_of({manifest("file", 4), part(0, 0, 4)})),
              HasSubstr("its manifest says 0"));
  EXPECT_THAT(downloaded(messages_of({manifest("file", 0), part(0, 0, 1)})),
              HasSubstr("its manifest says 0"));
}

}  // namespace
}  // namespace ballot

// Records fetched and checkpoints copied from a peer, whole or not at all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "runtime/checkpoint_manifest.h"
#include "runtime/elastic/grpc_peers_checkpoint.h"
#include "tests/runtime/peers_support.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using test::TestPeer;
using testing::HasSubstr;
using namespace std::chrono_literals;

FetchReply reply_with(const Fetch& fetch, const std::vector<Record>& records) {
  FetchReply reply;
  reply.from = fetch.from;
  reply.vouched = records.empty() ? fetch.from : records.back().position();
  for (const Record& record : records)
    reply.records.push_back(std::make_shared<const Record>(record));
  return reply;
}

class PeerFetch : public testing::Test {
 protected:
  void fetch(Duration patience = 20s) {
    a.peers->fetch(b.source(), {kTestStart, 0, {}}, Deadline::in(patience));
  }
  // Of a fetch whose source answers with these.
  std::string failure_of(const std::vector<Record>& records) {
    b.serve = [&](const Fetch& asked) { return reply_with(asked, records); };
    fetch();
    EXPECT_TRUE(a.wait([&] { return !a.failures.empty(); }));
    return a.failures.empty() ? "none" : a.failures.back();
  }
  static void limit(PeersOptions& options) { options.most_reply_bytes = 256u << 20; }
  std::mutex gate;  // outlives the handlers that wait for it
  TestPeer a{0, limit}, b{1};
};

TEST_F(PeerFetch, BringsRecordsWithThePositionsTheyHadAtTheSource) {
  const std::vector<Record> records = make_records(5);
  b.serve = [&](const Fetch& asked) {
    EXPECT_EQ(asked.term, 4);
    EXPECT_EQ(asked.start, (Position{1, {1, 2}}));
    FetchReply reply = reply_with(asked, records);
    reply.term = 4;
    reply.start = {1, {1, 2}};
    reply.landmarks = {{3, {5, 6}}, {1, {7, 8}}};
    return reply;
  };
  a.peers->fetch(b.source(), {kTestStart, 4, {1, {1, 2}}}, Deadline::in(20s));
  ASSERT_TRUE(a.wait([&] { return a.replies.size() + a.failures.size() == 1; }));
  ASSERT_EQ(a.failures, std::vector<std::string>{});
  const FetchReply& reply = a.replies[0];
  EXPECT_EQ(reply.from, kTestStart);
  EXPECT_EQ(reply.term, 4);
  EXPECT_EQ(reply.start, (Position{1, {1, 2}}));
  EXPECT_EQ(reply.vouched, records.back().position());
  EXPECT_EQ(reply.landmarks, (std::vector<Position>{{3, {5, 6}}, {1, {7, 8}}}));
  ASSERT_EQ(reply.records.size(), records.size());
  for (std::size_t i = 0; i < records.size(); ++i) EXPECT_EQ(*reply.records[i], records[i]);
  EXPECT_GT(a.peers->traffic().fetched, 0u);
}

TEST_F(PeerFetch, BringsRecordsOf64Mebibytes) {
  RecordShape shape;
  shape.chunks = 1;
  Record large = make_record(kTestStart, 1, shape);
  ChunkVerdictRecord& chunk = large.chunks[0];
  chunk.begin = 0;
  chunk.end = std::int64_t{512} << 20;
  chunk.bits.assign(std::size_t{8} << 20, 0x0123456789abcdef);
  chunk.held_blocks.clear();
  large.seal();
  const std::vector<Record> records = {large, make_record(large.position(), 2, shape)};
  b.serve = [&](const Fetch& asked) { return reply_with(asked, records); };
  fetch();
  ASSERT_TRUE(a.wait([&] { return a.replies.size() + a.failures.size() == 1; }));
  ASSERT_EQ(a.failures, std::vector<std::string>{});
  ASSERT_EQ(a.replies[0].records.size(), 2u);
  EXPECT_TRUE(*a.replies[0].records[0] == large);
  EXPECT_EQ(a.replies[0].records[1]->position(), records[1].position());
  EXPECT_GT(a.peers->traffic().fetched, 64u << 20);
}

TEST_F(PeerFetch, EndsAtItsDeadlineAndNamesTheSource) {
  std::unique_lock closed(gate);
  b.serve = [&](const Fetch& asked) {
    const std::lock_guard pass(gate);
    return reply_with(asked, {});
  };
  fetch(100ms);
  ASSERT_TRUE(a.wait([&] { return !a.failures.empty(); }));
  EXPECT_THAT(a.failures[0], HasSubstr(b.peers->address()));
  EXPECT_THAT(a.failures[0], HasSubstr("in time"));
}

TEST_F(PeerFetch, IsReplacedByANewerOneOfWhichAloneIsTold) {
  std::atomic<int> asked_for{0};
  b.serve = [&](const Fetch& asked) {
    if (++asked_for == 1) const std::lock_guard pass(gate);
    return reply_with(asked, {});
  };
  {
    const std::lock_guard closed(gate);
    fetch();
    const Deadline deadline = Deadline::in(20s);
    while (asked_for < 1 && !deadline.passed()) std::this_thread::yield();
    a.peers->fetch(b.source(), {{7, {1, 2}}, 0, {}}, Deadline::in(20s));
    ASSERT_TRUE(a.wait([&] { return !a.replies.empty(); }));
  }
  EXPECT_EQ(a.replies[0].from.step, 7);
  EXPECT_FALSE(a.wait([&] { return a.replies.size() + a.failures.size() > 1; }, 100ms));
  b.peers.reset();
}

TEST_F(PeerFetch, FailsWhereNobodyListensAndWhereTheSourceCannotServe) {
  b.serve = [](const Fetch&) -> FetchReply { throw CorruptFile("the journal is damaged"); };
  fetch();
  ASSERT_TRUE(a.wait([&] { return a.failures.size() == 1; }));
  EXPECT_THAT(a.failures[0], HasSubstr("see the log of this worker"));
  const Source gone = b.source();
  b.peers.reset();
  a.peers->fetch(gone, {kTestStart, 0, {}}, Deadline::in(20s));
  ASSERT_TRUE(a.wait([&] { return a.failures.size() == 2; }));
  EXPECT_THAT(a.failures[1], HasSubstr("Connection refused"));
}

TEST_F(PeerFetch, TakesNoRecordsThatDoNotFollowEachOther) {
  std::vector<Record> records = make_records(3);
  std::swap(records[1], records[2]);
  EXPECT_THAT(failure_of(records), HasSubstr("does not follow step 1"));
  EXPECT_EQ(a.peers->traffic().refused_frames, 1u);
  EXPECT_EQ(a.replies.size(), 0u);
}

TEST_F(PeerFetch, TakesNoMoreThanItsLimit) {
  TestPeer small(2, [](PeersOptions& options) { options.most_reply_bytes = 4096; });
  const std::vector<Record> records = make_records(20);
  b.serve = [&](const Fetch& asked) { return reply_with(asked, records); };
  small.peers->fetch(b.source(), {kTestStart, 0, {}}, Deadline::in(20s));
  ASSERT_TRUE(small.wait([&] { return !small.failures.empty(); }));
  EXPECT_THAT(small.failures[0], HasSubstr("more than 4096 bytes"));
}

class PeerCheckpoint : public testing::Test {
 protected:
  PeerCheckpoint() {
    source = folder.file("at_the_source/step-00000007");
    target = folder.file("copies/step-00000007");
    fs::create_directories(source + "/trainer");
    fs::create_directories(folder.file("copies"));
    write("config.json", "{}");
    write("model.safetensors", std::string((std::size_t{3} << 20) + 5, 'm'));
    write("empty", "");
    write("trainer/state.json", "{\"step\": 7}");
    write_manifest();
    b.checkpoint = source;
  }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(source + "/" + name, std::ios::binary) << text;
  }
  void write_manifest() {
    std::vector<FileFact> files;
    for (const char* name : {"config.json", "model.safetensors", "empty", "trainer/state.json"})
      files.push_back(fact_of(source, name, system_disk()));
    write("trainer/manifest.json", manifest_json(files));
  }
  template <class Error>
  std::string why_not(Duration patience = 20s) {
    try {
      a.peers->download(b.source(), target, Deadline::in(patience));
    } catch (const Error& error) {
      EXPECT_FALSE(fs::exists(target));
      EXPECT_FALSE(fs::exists(target + ".partial"));
      return error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << "another error: " << error.what();
    }
    return "copied";
  }

  TemporaryFolder folder;
  std::string source, target;
  std::mutex gate;  // outlives the handlers that wait for it
  std::atomic<bool> asked{false};
  TestPeer a{0}, b{1};
};

TEST_F(PeerCheckpoint, IsCopiedByteForByteUnderTheNameThatIsAskedFor) {
  EXPECT_EQ(a.peers->download(b.source(), target, Deadline::in(20s)), "step-00000007");
  verify_checkpoint(target);
  for (const char* name :
       {"config.json", "model.safetensors", "empty", "trainer/state.json", "trainer/manifest.json"})
    EXPECT_TRUE(read_file(target + "/" + name) == read_file(source + "/" + name)) << name;
  EXPECT_FALSE(fs::exists(target + ".partial"));
  EXPECT_GT(a.peers->traffic().downloaded, 3u << 20);
}

TEST_F(PeerCheckpoint, ADamagedFileAtTheSourceIsNamedAndNothingIsLeft) {
  std::string model = read_file(source + "/model.safetensors");
  model[model.size() / 2] = 'x';
  write("model.safetensors", model);
  const std::string why = why_not<TransportError>();
  EXPECT_THAT(why, HasSubstr("model.safetensors has digest"));
  EXPECT_THAT(why, HasSubstr(b.peers->address()));
}

TEST_F(PeerCheckpoint, AShortOrMissingFileAtTheSourceIsNoCheckpoint) {
  write("model.safetensors", "short");
  EXPECT_THAT(why_not<TransportError>(), HasSubstr("cannot be read"));
  fs::remove(source + "/model.safetensors");
  EXPECT_THAT(why_not<TransportError>(), HasSubstr("cannot be read"));
  b.checkpoint = "";
  EXPECT_THAT(why_not<TransportError>(), HasSubstr("there is no checkpoint here"));
}

TEST_F(PeerCheckpoint, ALinkOutOfTheFolderIsNotFollowed) {
  fs::rename(source + "/config.json", folder.file("secret"));
  fs::create_symlink(folder.file("secret"), source + "/config.json");
  EXPECT_THAT(why_not<TransportError>(), HasSubstr("cannot be read"));
}

TEST_F(PeerCheckpoint, DoesNotTouchWhatIsThereAlready) {
  fs::create_directories(target);
  EXPECT_THROW(a.peers->download(b.source(), target, Deadline::in(20s)), FileError);
  EXPECT_TRUE(fs::is_empty(target));
}

TEST_F(PeerCheckpoint, WaitsForItsDeadlineAndNoLonger) {
  b.peers->close_links();  // harmless to it
  b.checkpoint = source;
  std::unique_lock closed(gate);
  PeerHandlers handlers;
  handlers.checkpoint = [&] {
    const std::lock_guard pass(gate);
    return source;
  };
  b.peers = make_peers(b.options, std::move(handlers));
  EXPECT_THAT(why_not<Timeout>(100ms), HasSubstr(b.peers->address()));
  closed.unlock();
}

TEST_F(PeerCheckpoint, ADestroyedPeerEndsADownload) {
  std::unique_lock closed(gate);
  PeerHandlers handlers;
  handlers.checkpoint = [&] {
    asked = true;
    const std::lock_guard pass(gate);
    return source;
  };
  b.peers = make_peers(b.options, std::move(handlers));
  std::thread waiting([&] {
    EXPECT_THROW(a.peers->download(b.source(), target, Deadline::in(1h)), TransportError);
  });
  const Deadline deadline = Deadline::in(20s);
  while (!asked && !deadline.passed()) std::this_thread::yield();
  std::thread ending([&] { a.peers.reset(); });
  waiting.join();
  ending.join();
  closed.unlock();
}

TEST(PeerManifest, PathsThatLeadElsewhereAreRefused) {
  for (const char* path : {"", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "./a", "a/.", "a/",
                           "trainer/manifest.json", "a\\u0000b"})
    EXPECT_THROW(
        parse_manifest(fmt::format(R"({{"files":[{{"path":"{}","size":1,"xxh3":"0"}}]}})", path)),
        CorruptFile)
        << path;
  const char* twice =
      R"({"files":[{"path":"a","size":1,"xxh3":"0"},{"path":"a","size":1,"xxh3":"0"}]})";
  EXPECT_THROW(parse_manifest(twice), CorruptFile);
  for (const char* text :
       {"", "[]", "{}", R"({"files":1})", R"({"files":[1]})",
        R"({"files":[{"path":"a","size":-1,"xxh3":"0"}]})", R"({"files":[{"path":"a","size":1}]})"})
    EXPECT_THROW(parse_manifest(text), CorruptFile) << text;
  EXPECT_EQ(parse_manifest(R"({"files":[{"path":"a/b.c","size":1,"xxh3":"0"}]})").size(), 1u);
}

}  // namespace
}  // namespace ballot

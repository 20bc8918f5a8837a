// Frames between workers as bytes: what is written is read again, and whatever else comes is
// refused before memory is taken for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "core/error.h"
#include "runtime/elastic/peer_frames_pieces.h"
#include "runtime/elastic/peer_frames_requests.h"
#include "tests/runtime/peers_frames_support.h"
#include "tests/runtime/peers_values.h"

namespace ballot {
namespace {

using test::ballot_frame;
using test::equal;
using test::make_ballot;
using test::make_verdict;
using test::messages_of;
using test::reseal;
using testing::HasSubstr;

constexpr std::uint64_t kMost = std::uint64_t{1} << 40;
constexpr std::uint32_t kAllKinds = kLinkKinds | kFetchKinds | kCheckpointKinds;

// The frames of a stream, each message cut into parts of `part` bytes.
std::vector<PeerFrame> assemble(const std::vector<std::string>& messages, std::size_t part = 1000,
                                std::uint32_t kinds = kAllKinds, std::uint64_t most = kMost) {
  FrameAssembler assembler(kinds, most);
  std::vector<PeerFrame> frames;
  for (const std::string& message : messages) {
    const ConstBytes bytes = std::as_bytes(std::span(message));
    std::vector<ConstBytes> parts;
    for (std::size_t at = 0; at < bytes.size(); at += part)
      parts.push_back(bytes.subspan(at, std::min(part, bytes.size() - at)));
    if (auto frame = assembler.add(parts)) frames.push_back(std::move(*frame));
  }
  EXPECT_TRUE(assembler.between_frames());
  return frames;
}

std::string why_refused(const std::vector<std::string>& messages, std::uint64_t most = kMost,
                        std::uint32_t kinds = kAllKinds) {
  try {
    assemble(messages, 1000, kinds, most);
  } catch (const TransportError& error) {
    return error.what();
  }
  return "taken";
}

RC_GTEST_PROP(PeerFrames, ABallotComesBackHoweverItIsCut, ()) {
  auto data = std::make_shared<BallotData>(
      *make_ballot(*rc::gen::inRange<std::size_t>(0, 3000), *rc::gen::arbitrary<std::uint64_t>()));
  data->gradients = *rc::gen::container<std::vector<std::vector<float>>>(
      rc::gen::container<std::vector<float>>(rc::gen::element(0.0f, -1.5f, 3e38f)));
  if (data->gradients.size() > kMostMeans) data->gradients.resize(kMostMeans);
  data->contributes = {{0, 1, 1}, {}, {1}};
  const BallotFrame frame = ballot_frame(*rc::gen::inRange<std::int64_t>(1, 1'000'000), 3, 4);
  const auto frames =
      assemble(messages_of({make_frame(frame, data)}), *rc::gen::inRange<std::size_t>(1, 5000));
  RC_ASSERT(frames.size() == 1u);
  const auto& back = std::get<BallotFrame>(frames[0]);
  RC_ASSERT(equal(back, frame));
  RC_ASSERT(equal(*back.data, *data));
}

TEST(PeerFrames, EveryKindComesBack) {
  const auto verdict = make_verdict(5, 16);
  ReplyFrame reply;
  reply.reply.from = {3, {1, 2}};
  reply.reply.landmarks = {{2, {3, 4}}};
  reply.records = 9;
  const Record record = make_record(kTestStart, 3);
  const ManifestFrame manifest{"step-00000150", "{\"files\":[]}x"};
  const FilePartFrame part{7, 1u << 20, std::vector<std::byte>(4097, std::byte{9})};
  const auto frames =
      assemble(messages_of({make_frame(verdict), make_frame(reply), make_frame(record),
                            make_frame(manifest), make_frame(part)}));
  ASSERT_EQ(frames.size(), 5u);
  EXPECT_TRUE(equal(std::get<VerdictFrame>(frames[0]), *verdict));
  EXPECT_EQ(std::get<ReplyFrame>(frames[1]).reply.landmarks, reply.reply.landmarks);
  EXPECT_EQ(std::get<ReplyFrame>(frames[1]).records, 9u);
  EXPECT_EQ(*std::get<RecordFrame>(frames[2]).record, record);
  EXPECT_EQ(std::get<RecordFrame>(frames[2]).record->position(), record.position());
  EXPECT_EQ(std::get<ManifestFrame>(frames[3]).text, manifest.text);
  EXPECT_EQ(std::get<ManifestFrame>(frames[3]).name, manifest.name);
  EXPECT_EQ(std::get<FilePartFrame>(frames[4]).bytes, part.bytes);
  EXPECT_EQ(std::get<FilePartFrame>(frames[4]).offset, part.offset);
}

TEST(PeerFrames, APieceIsAtMostAMebibyteAndTheFirstHoldsTheHeadAlone) {
  const auto messages = messages_of({make_frame(ballot_frame(1), make_ballot(400'000))});
  ASSERT_EQ(messages.size(), 5u);  // 3.2 MB and abstentions of 0.4 MB
  EXPECT_LT(messages[0].size(), 1000u);
  EXPECT_EQ(messages[1].size(), kPieceBytes + kPieceHeaderBytes);
  EXPECT_EQ(assemble(messages).size(), 1u);
}

TEST(PeerFrames, ADamagedBitAnywhereIsSeen) {
  const auto messages = messages_of({make_frame(make_verdict(1, 1))});
  ASSERT_EQ(messages.size(), 2u);
  for (std::size_t m = 0; m < messages.size(); ++m)
    for (std::size_t at = 0; at < messages[m].size(); ++at) {
      auto damaged = messages;
      damaged[m][at] = static_cast<char>(damaged[m][at] ^ (1 << at % 8));
      EXPECT_NE(why_refused(damaged), "taken") << m << " " << at;
    }
}

TEST(PeerFrames, ALostADoubledAndASwappedPieceAreSeen) {
  const auto messages = messages_of({make_frame(ballot_frame(1), make_ballot(400'000)),
                                     make_frame(ballot_frame(2), make_ballot(1))});
  auto lost = messages, doubled = messages, swapped = messages;
  lost.erase(lost.begin() + 2);
  doubled.insert(doubled.begin() + 2, doubled[2]);
  std::swap(swapped[2], swapped[3]);
  EXPECT_THAT(why_refused(lost), HasSubstr("expected byte"));
  EXPECT_THAT(why_refused(doubled), HasSubstr("expected byte"));
  EXPECT_THAT(why_refused(swapped), HasSubstr("expected byte"));
  EXPECT_EQ(why_refused(messages), "taken");
}

TEST(PeerFrames, WhatIsAnnouncedBeyondTheLimitIsRefusedBeforeItComes) {
  const auto messages = messages_of({make_frame(ballot_frame(1), make_ballot(400'000))});
  EXPECT_THAT(why_refused({messages[0]}, 3'599'992),
              HasSubstr("bytes of the sections = 3600000, expected 0 to 3599992"));
  EXPECT_EQ(why_refused(messages, 3'600'000), "taken");
}

TEST(PeerFrames, ALieAboutSizesIsRefusedOrTakesNoMemory) {
  auto messages = messages_of({make_frame(ballot_frame(1), make_ballot(1))});
  std::string first = messages[0];
  const std::uint64_t huge = std::uint64_t{1} << 39;
  // The words of bits, in a head whose sections do not say so.
  const std::size_t words = kPieceHeaderBytes + kPrefixBytes + 72;
  std::memcpy(first.data() + words, &huge, 8);
  EXPECT_THAT(why_refused({reseal(first)}), HasSubstr("a section of"));
  // Both agree: nothing is there but the head, and no memory is taken for the rest.
  const std::uint64_t sections = 8 * huge + 8;
  std::memcpy(first.data() + kPieceHeaderBytes + 8, &sections, 8);
  FrameAssembler assembler(kAllKinds, UINT64_MAX - 7);
  const std::string sealed = reseal(first);
  const ConstBytes parts[] = {std::as_bytes(std::span(sealed))};
  EXPECT_EQ(assembler.add(parts), std::nullopt);
  EXPECT_FALSE(assembler.between_frames());
}

TEST(PeerFrames, AVerdictWhoseDigestIsNotItsBitsIsRefused) {
  auto verdict = std::make_shared<VerdictFrame>(*make_verdict(1, 2));
  verdict->data.verdict.bits[3] ^= 4;
  EXPECT_THAT(why_refused(messages_of({make_frame(verdict)})), HasSubstr("a verdict with digest"));
  verdict = std::make_shared<VerdictFrame>(*make_verdict(1, 2));
  verdict->data.means[0].digest.low ^= 1;
  EXPECT_THAT(why_refused(messages_of({make_frame(verdict)})), HasSubstr("a mean with digest"));
  const auto with_figures = [&](const auto& change) {
    verdict = std::make_shared<VerdictFrame>(*make_verdict(1, 2));
    change(verdict->data.figures);
    return why_refused(messages_of({make_frame(verdict)}));
  };
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.votes.elements = 1025; }),
              HasSubstr("elements = 1025, expected 0 to 1024"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.votes.ties = 1001; }), HasSubstr("ties"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.votes.held_blocks = 3; }),
              HasSubstr("held blocks = 3, expected 0 to 2"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.votes.agreed.push_back(0); }),
              HasSubstr("were counted"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.votes.agreed[0] = 8; }),
              HasSubstr("agreed on 8 of 7 compared"));
  EXPECT_EQ(with_figures([](ChunkFigures&) {}), "taken");
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.first_tensor = 2; }),
              HasSubstr("first tensor = 2, expected 0 to 1"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.tensor_agreed.push_back(0); }),
              HasSubstr("agreement by tensor of"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) {
                f.tensor_agreed.push_back(0);
                f.tensor_compared.push_back(0);
              }),
              HasSubstr("expected as many for"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) {
                f.tensor_agreed.resize(3 * f.votes.agreed.size());
                f.tensor_compared.resize(3 * f.votes.agreed.size());
              }),
              HasSubstr("in 2 tensors at most"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.tensor_agreed[0] = 8; }),
              HasSubstr("agreed on 8 of 6 compared elements of a tensor"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.tensor_compared[0] = INT64_MAX; }),
              HasSubstr("1024 are left of the chunk"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { --f.tensor_compared[0]; }),
              HasSubstr("does not add up"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.tensor_agreed = f.tensor_compared = {}; }),
              HasSubstr("does not add up"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.loss_sum = NAN; }), HasSubstr("a loss of nan"));
  EXPECT_THAT(with_figures([](ChunkFigures& f) { f.loss_faults = 100; }),
              HasSubstr("losses that are no number = 100"));
}

TEST(PeerFrames, ARecordWithoutAllItsBitsIsRefused) {
  Record record = make_record(kTestStart, 3);
  ChunkVerdictRecord& chunk = record.chunks[1];
  chunk.present = false;
  chunk.bits = chunk.held_blocks = chunk.held_elements = {};
  EXPECT_THAT(why_refused(messages_of({make_frame(record)})), HasSubstr("without all its bits"));
}

TEST(PeerFrames, AKindThatTheStreamDoesNotCarryIsRefused) {
  EXPECT_THAT(why_refused(messages_of({make_frame(make_record(kTestStart, 3))}), kMost, kLinkKinds),
              HasSubstr("kind 8, expected one of 3"));
}

TEST(PeerFrames, NamesOfFoldersThatLeadElsewhereAreRefused) {
  for (const char* name : {"", "..", ".hidden", "a/b", "a b", "\n"})
    EXPECT_THAT(why_refused(messages_of({make_frame(ManifestFrame{name, ""})})),
                HasSubstr("expected that of a folder"))
        << name;
}

TEST(PeerRequests, ComeBackAndAreRefusedWhenTheyAreSomethingElse) {
  const Hello hello{"a run", 7, {12, 34}};
  const auto as_bytes = [](const std::string& text) { return std::as_bytes(std::span(text)); };
  const std::string bytes = encode_hello(hello);
  const Hello back = decode_hello(as_bytes(bytes));
  EXPECT_EQ(back.run, hello.run);
  EXPECT_EQ(back.term, 7);
  EXPECT_EQ(back.identity, hello.identity);
  const std::string fetch = encode_fetch({"run", {{3, {1, 2}}, 5, {2, {3, 4}}}});
  EXPECT_EQ(decode_fetch(as_bytes(fetch)).fetch.start, (Position{2, {3, 4}}));
  EXPECT_EQ(decode_checkpoint_request(as_bytes(encode_checkpoint_request("x"))), "x");
  EXPECT_THROW(decode_hello(as_bytes(fetch)), TransportError);
  EXPECT_THROW(decode_fetch(as_bytes(bytes)), TransportError);
  EXPECT_THROW(decode_hello(as_bytes(bytes + std::string(8, '\0'))), TransportError);
  EXPECT_THROW(decode_hello(as_bytes(encode_hello({"run", 1, {4096, 1}}))), TransportError);
  EXPECT_THROW(decode_hello(as_bytes(encode_hello({"run", -1, {1, 1}}))), TransportError);
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_THROW(decode_hello(as_bytes(bytes.substr(0, length))), TransportError) << length;
}

}  // namespace
}  // namespace ballot

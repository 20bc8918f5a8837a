// Records as bytes: what is written comes back, what is damaged is named, the format stays.
#include "runtime/journal/record.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "core/error.h"
#include "runtime/journal/applied.h"
#include "tests/runtime/journal_support.h"

namespace ballot {
namespace {

using testing::HasSubstr;

RecordShape any_shape() {
  RecordShape shape;
  shape.chunks = *rc::gen::inRange(0, 6);
  shape.means = *rc::gen::inRange(0, 3);
  shape.voters = *rc::gen::inRange(0, 5);
  shape.tensors = *rc::gen::inRange(0, 5);
  shape.units = *rc::gen::inRange(0, 4);
  shape.holds_elements = *rc::gen::arbitrary<bool>();
  return shape;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const CorruptFile& error) {
    return error.what();
  }
  return "accepted";
}

RC_GTEST_PROP(JournalRecord, ComesBackAsItWasWritten, (std::uint64_t seed)) {
  const Record record = make_record(kTestStart, seed, any_shape());
  const std::vector<std::byte> bytes = encode(record);
  RC_ASSERT(bytes.size() % 8 == 0u);
  RC_ASSERT(decode_record(bytes, "test") == record);
}

RC_GTEST_PROP(JournalRecord, HasOnePositionWhateverIsPresent, (std::uint64_t seed)) {
  const Record record = make_record(kTestStart, seed, any_shape());
  const int workers = *rc::gen::inRange(1, 5), copies = *rc::gen::inRange(0, 5);
  std::optional<Record> merged;
  for (int w = 0; w < workers; ++w) {
    const std::vector<std::byte> shard = encode(record, ShardPlan{w, workers, copies});
    Record part = decode_record(shard, "test");
    RC_ASSERT(part.position() == record.position());
    RC_ASSERT(decode_record(shard, "test", 0, Depth::header).position() == record.position());
    const Record flags = decode_record(shard, "test", 0, Depth::flags);
    for (std::size_t i = 0; i < part.chunks.size(); ++i)
      RC_ASSERT(flags.chunks[i].present == part.chunks[i].present);
    for (std::size_t i = 0; i < part.means.size(); ++i)
      RC_ASSERT(flags.means[i].present == part.means[i].present);
    // And a shard's shard is itself.
    RC_ASSERT(encode(part) == shard);
    if (!merged)
      merged = std::move(part);
    else
      merge_bodies(*merged, std::move(part));
  }
  RC_ASSERT(*merged == record);
}

RC_GTEST_PROP(ShardPlan, KeepsEachItemAsOftenAsAsked, (std::uint32_t item)) {
  const int workers = *rc::gen::inRange(1, 20), copies = *rc::gen::inRange(0, 25);
  int kept = 0;
  for (int w = 0; w < workers; ++w) kept += ShardPlan{w, workers, copies}.keeps(item);
  RC_ASSERT(kept == (copies == 0 ? workers : std::min(copies, workers)));
}

// Whatever a record holds decides its digest.
TEST(JournalRecord, EveryFieldChangesThePosition) {
  const Record record = make_record(kTestStart, 5);
  std::vector<std::function<void(Record&)>> changes = {
      [](Record& r) { ++r.step; },
      [](Record& r) { ++r.term; },
      [](Record& r) { ++r.previous.low; },
      [](Record& r) { r.factors[1].decay += 1; },
      [](Record& r) { r.factors[1].step += 1; },
      [](Record& r) { r.factors[1].first += 1; },
      [](Record& r) { r.factors[1].second += 1; },
      [](Record& r) { r.factors.pop_back(); },
      [](Record& r) { ++r.ranges[2].voter; },
      [](Record& r) { ++r.ranges[2].samples.begin; },
      [](Record& r) { ++r.ranges[2].samples.end; },
      [](Record& r) { r.chunks.back().end += 512; },
      [](Record& r) { r.chunks[0].counted[0] ^= 1; },
      [](Record& r) { r.chunks[0].counted.push_back(0); },
      [](Record& r) { r.chunks[1].digest.high ^= 1; },
      [](Record& r) { r.means[0].wire = DType::bf16; },
      [](Record& r) { ++r.means[0].contributors[0]; },
      [](Record& r) { r.means[0].digest.low ^= 1; },
      [](Record& r) { r.means.pop_back(); }};
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Record changed = record;
    changes[i](changed);
    EXPECT_NE(changed.position().digest, record.position().digest) << "change " << i;
  }
  Record bits = record;
  bits.chunks[1].bits.at(3) ^= 1;
  bits.seal();
  EXPECT_NE(bits.position().digest, record.position().digest);
  bits = record;
  bits.means[0].values = {1, 2};
  bits.seal();
  EXPECT_NE(bits.position().digest, record.position().digest);
}

// A bit may not move between the lists of a chunk.
TEST(JournalRecord, TheDigestOfAChunkSeparatesItsLists) {
  ChunkVerdictRecord a, b;
  a.bits = {1, 2};
  a.held_blocks = {3};
  b.bits = {1};
  b.held_blocks = {2, 3};
  EXPECT_NE(a.body_digest(), b.body_digest());
}

TEST(JournalRecord, EveryTruncationIsNamed) {
  const std::vector<std::byte> bytes = encode(make_record(kTestStart, 3));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<long>(size));
    EXPECT_THAT(message_of([&] { decode_record(cut, "FILE", 1000); }), HasSubstr("FILE at byte "))
        << size;
  }
  std::vector<std::byte> longer = bytes;
  longer.resize(bytes.size() + 8);
  EXPECT_THAT(message_of([&] { decode_record(longer, "FILE"); }), HasSubstr("8 bytes after"));
}

// One bit in what the digests cover, or in what describes it.
TEST(JournalRecord, AFlippedBitIsFoundOrChangesThePosition) {
  const Record record = make_record(kTestStart, 4);
  std::vector<std::byte> bytes = encode(record);
  int found = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    try {
      const Record changed = decode_record(bytes, "test");
      EXPECT_NE(changed.position(), record.position()) << "bit " << bit;
    } catch (const CorruptFile&) {
      ++found;
    }
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
  EXPECT_GT(found, 1000);
}

// A number of anything that cannot follow is refused before memory is taken for it: with memory for
// 2^32 chunks this would not end well.
TEST(JournalRecord, CountsAreCheckedBeforeMemoryIsTaken) {
  const std::vector<std::byte> bytes = encode(make_record(kTestStart, 3));
  for (std::size_t at = 32; at < 48; at += 4) {  // factors, ranges, chunks, means
    std::vector<std::byte> changed = bytes;
    std::memset(changed.data() + at, 0xff, 4);
    EXPECT_THAT(message_of([&] { decode_record(changed, "FILE"); }), HasSubstr("are left")) << at;
  }
  for (std::size_t at = 48; at + 8 <= bytes.size(); at += 8)
    for (const std::uint64_t huge :
         {~std::uint64_t{0}, std::uint64_t{1} << 61, std::uint64_t{1} << 40}) {
      std::vector<std::byte> changed = bytes;
      std::memcpy(changed.data() + at, &huge, 8);
      try {
        decode_record(changed, "FILE");
      } catch (const CorruptFile&) {
      }
    }
}

TEST(JournalRecord, ChunksThatOverlapOrAreNoUnitsAreRefused) {
  const auto wrong = [](std::int64_t begin, std::int64_t end) {
    Record record;
    record.step = 1;
    record.chunks.resize(2);
    record.chunks[0].end = 512;
    record.chunks[0].bits.resize(8);
    record.chunks[1].begin = begin;
    record.chunks[1].end = end;
    record.chunks[1].present = false;
    EXPECT_THROW(encode(record), LogicError);
    record.chunks[1].begin = 512;
    record.chunks[1].end = 1024;
    record.seal();
    std::vector<std::byte> bytes = encode(record);
    std::memcpy(bytes.data() + 48 + 40, &begin, 8);
    std::memcpy(bytes.data() + 48 + 48, &end, 8);
    EXPECT_THAT(message_of([&] { decode_record(bytes, "FILE"); }), HasSubstr("multiples of 512"));
  };
  wrong(0, 512);
  wrong(1024, 512);
  wrong(513, 1024);
  wrong(512, 1000);
  wrong(-512, 1024);
}

// Bytes on disks and the digests that name histories must not change with the program.
TEST(JournalRecord, TheFormatIsTheOneOfTheDocument) {
  Record record;
  record.step = 7;
  record.term = 2;
  record.previous = {0x0102030405060708, 0x1112131415161718};
  record.factors = {{0.5f, 0.25f, 2.0f, 1.0f}};
  record.ranges = {{1, {40, 44}}};
  record.chunks.resize(1);
  record.chunks[0].end = 512;
  record.chunks[0].counted = {5};
  record.chunks[0].bits = {1, 2, 3, 4, 5, 6, 7, 8};
  record.chunks[0].held_blocks = {1};
  record.means.resize(1);
  record.means[0].contributors = {3};
  record.means[0].values = {-1.5f};
  record.seal();
  const std::vector<std::byte> bytes = encode(record);
  std::string hex;
  for (std::size_t i = 0; i < 96; ++i) hex += fmt::format("{:02x}", std::to_integer<int>(bytes[i]));
  EXPECT_EQ(hex.substr(0, 64),
            "07000000000000000200000000000000"
            "08070605040302011817161514131211");
  EXPECT_EQ(hex.substr(64, 64),
            "01000000010000000100000001000000"
            "0000003f0000803e000000400000803f");
  EXPECT_EQ(hex.substr(128, 48), "010000000000000028000000000000002c00000000000000" /* range */);
  EXPECT_EQ(bytes.size(), 48u + 16 + 24 + 48 + 32 + 8 + (24 + 72) + 16);
  EXPECT_EQ(to_string(record.position().digest), "de0dbbf689999ee701379652db55c5f0");
}

TEST(JournalApplied, ComesBackAsItWasWritten) {
  const AppliedRecord applied{9, 0x1234, 77, {1, 2, 3}};
  const std::vector<std::byte> bytes = encode(applied);
  EXPECT_EQ(decode_applied(bytes, "test"), applied);
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THAT(message_of([&] { decode_applied(std::span(bytes).first(size), "FILE"); }),
                HasSubstr("FILE at byte"));
}

}  // namespace
}  // namespace ballot

// Records to bytes and back: docs/journal-format.md, section "Record".
#include "runtime/journal/record.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "runtime/journal/byte_io.h"

namespace ballot {
namespace {

constexpr std::int64_t kChunkUnit = 512;  // elements: chunks begin and end on multiples of it

std::uint32_t wire_number(DType wire) {
  return wire == DType::f32 ? 0 : 1;
}

void put_body(ByteWriter& out, const ChunkVerdictRecord& chunk) {
  out.put(static_cast<std::uint64_t>(chunk.bits.size()));
  out.put(static_cast<std::uint64_t>(chunk.held_blocks.size()));
  out.put(static_cast<std::uint64_t>(chunk.held_elements.size()));
  out.put_all(chunk.bits);
  out.put_all(chunk.held_blocks);
  out.put_all(chunk.held_elements);
}

void put_body(ByteWriter& out, const MeanRecord& mean) {
  out.put(static_cast<std::uint64_t>(mean.values.size()));
  out.put_all(mean.values);
  out.pad();
}

std::size_t body_bytes(const ChunkVerdictRecord& chunk) {
  return 24 + 8 * (chunk.bits.size() + chunk.held_blocks.size() + chunk.held_elements.size());
}

std::size_t body_bytes(const MeanRecord& mean) {
  return 16 + 4 * mean.values.size();
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void put_header(ByteWriter& out, const Record& record) {
  out.put(record.step);
  out.put(record.term);
  out.put(record.previous);
  out.put(static_cast<std::uint32_t>(record.factors.size()));
  out.put(static_cast<std::uint32_t>(record.ranges.size()));
  out.put(static_cast<std::uint32_t>(record.chunks.size()));
  out.put(static_cast<std::uint32_t>(record.means.size()));
  for (const TensorFactors& factors : record.factors) {
    out.put(factors.decay);
    out.put(factors.step);
    out.put(factors.first);
    out.put(factors.second);
  }
  for (const VoterRange& range : record.ranges) {
    out.put(static_cast<std::int64_t>(range.voter));
    out.put(range.samples.begin);
    out.put(range.samples.end);
  }
  for (const ChunkVerdictRecord& chunk : record.chunks) {
    out.put(chunk.begin);
    out.put(chunk.end);
    out.put(chunk.digest);
    out.put(static_cast<std::uint64_t>(chunk.counted.size()));
    out.put_all(chunk.counted);
  }
  for (const MeanRecord& mean : record.means) {
    out.put(wire_number(mean.wire));
    out.put(static_cast<std::uint32_t>(mean.contributors.size()));
    out.put(mean.digest);
    out.put_all(mean.contributors);
    out.pad();
  }
}

void get_header(ByteReader& in, Record& record) {
  record.step = in.get<std::int64_t>("step");
  if (record.step < 1) in.fail("step {}, expected 1 or more", record.step);
  record.term = in.get<std::int64_t>("term");
  if (record.term < 0) in.fail("term {}, expected 0 or more", record.term);
  record.previous = in.get_digest("the previous digest");
  const auto factors = in.get<std::uint32_t>("number of factors");
  const auto ranges = in.get<std::uint32_t>("number of ranges");
  const auto chunks = in.get<std::uint32_t>("number of chunks");
  const auto means = in.get<std::uint32_t>("number of means");
  in.expect(factors, 16, "factors");
  record.factors.resize(factors);
  for (TensorFactors& one : record.factors) {
    one.decay = in.get<float>("decay");
    one.step = in.get<float>("step factor");
    one.first = in.get<float>("first factor");
    one.second = in.get<float>("second factor");
  }
  in.expect(ranges, 24, "sample ranges");
  record.ranges.resize(ranges);
  for (VoterRange& range : record.ranges) {
    const auto voter = in.get<std::int64_t>("voter");
    range.samples.begin = in.get<std::int64_t>("first sample");
    range.samples.end = in.get<std::int64_t>("sample end");
    if (voter < 0 || voter > INT32_MAX) in.fail("voter {}", voter);
    range.voter = static_cast<std::int32_t>(voter);
    if (range.samples.begin < 0 || range.samples.begin > range.samples.end)
      in.fail("samples [{}, {})", range.samples.begin, range.samples.end);
  }
  in.expect(chunks, 40, "chunks");
  record.chunks.resize(chunks);
  std::int64_t end = 0;
  for (ChunkVerdictRecord& chunk : record.chunks) {
    chunk.begin = in.get<std::int64_t>("chunk begin");
    chunk.end = in.get<std::int64_t>("chunk end");
    if (chunk.begin < end || chunk.end < chunk.begin || chunk.begin % kChunkUnit != 0 ||
        chunk.end % kChunkUnit != 0)
      in.fail("a chunk of elements [{}, {}) after {}, expected ascending multiples of {}",
              chunk.begin, chunk.end, end, kChunkUnit);
    end = chunk.end;
    chunk.digest = in.get_digest("chunk digest");
    const auto words = in.get<std::uint64_t>("words of counted voters");
    chunk.counted = in.get_all<std::uint64_t>(words, "counted voters");
    chunk.present = false;
  }
  in.expect(means, 24, "means");
  record.means.resize(means);
  for (MeanRecord& mean : record.means) {
    const auto wire = in.get<std::uint32_t>("wire type");
    if (wire > 1) in.fail("wire type {}, expected 0 (f32) or 1 (bf16)", wire);
    mean.wire = wire == 0 ? DType::f32 : DType::bf16;
    const auto tensors = in.get<std::uint32_t>("tensors of a mean");
    mean.digest = in.get_digest("mean digest");
    mean.contributors = in.get_all<std::int32_t>(tensors, "contributors");
    for (const std::int32_t count : mean.contributors)
      if (count < 0) in.fail("{} contributors", count);
    in.skip_padding();
    mean.present = false;
  }
}

void get_body(ByteReader& in, ChunkVerdictRecord& chunk) {
  const auto words = static_cast<std::uint64_t>(chunk.end - chunk.begin) / 64;
  const auto bits = in.get<std::uint64_t>("words of bits");
  const auto blocks = in.get<std::uint64_t>("words of held blocks");
  const auto elements = in.get<std::uint64_t>("words of held elements");
  if (bits != words || blocks > words || (elements != 0 && elements != words))
    in.fail("{} words of bits, {} of held blocks, {} of held elements in a chunk of {} words", bits,
            blocks, elements, words);
  chunk.bits = in.get_all<std::uint64_t>(bits, "bits");
  chunk.held_blocks = in.get_all<std::uint64_t>(blocks, "held blocks");
  chunk.held_elements = in.get_all<std::uint64_t>(elements, "held elements");
}

void get_body(ByteReader& in, MeanRecord& mean) {
  const auto values = in.get<std::uint64_t>("values of a mean");
  mean.values = in.get_all<float>(values, "mean");
  in.skip_padding();
}

template <class Item>
void get_checked_body(ByteReader& in, Item& item, const char* what) {
  const std::size_t begin = in.at();
  get_body(in, item);
  const Digest digest = digest_of(in.between(begin, in.at()));
  if (digest != item.digest)
    in.fail("a {} with digest {}, its header says {}", what, to_string(digest),
            to_string(item.digest));
  item.present = true;
}

void require_consistent(const Record& record) {
  require(record.step >= 1 && record.term >= 0, "record of step {}, term {}", record.step,
          record.term);
  std::int64_t end = 0;
  for (const ChunkVerdictRecord& chunk : record.chunks) {
    require(chunk.begin >= end && chunk.end >= chunk.begin && chunk.begin % kChunkUnit == 0 &&
                chunk.end % kChunkUnit == 0,
            "step {}: a chunk of elements [{}, {}) after {}", record.step, chunk.begin, chunk.end,
            end);
    end = chunk.end;
    const auto words = static_cast<std::size_t>((chunk.end - chunk.begin) / 64);
    const bool fits =
        chunk.present
            ? chunk.bits.size() == words && chunk.held_blocks.size() <= words &&
                  (chunk.held_elements.empty() || chunk.held_elements.size() == words)
            : chunk.bits.empty() && chunk.held_blocks.empty() && chunk.held_elements.empty();
    require(fits, "step {}: a chunk of {} words with {}, {}, {} words", record.step, words,
            chunk.bits.size(), chunk.held_blocks.size(), chunk.held_elements.size());
  }
  for (const MeanRecord& mean : record.means)
    require(mean.present || mean.values.empty(), "step {}: an absent mean with values",
            record.step);
}

template <class Keeps>
std::vector<std::byte> encode_kept(const Record& record, const Keeps& keeps) {
  require_consistent(record);
  const std::size_t items = record.chunks.size() + record.means.size();
  std::size_t bytes = 64 + 16 * record.factors.size() + 24 * record.ranges.size() + items + 8;
  for (const ChunkVerdictRecord& chunk : record.chunks)
    bytes += 40 + 8 * chunk.counted.size() + body_bytes(chunk);
  for (const MeanRecord& mean : record.means)
    bytes += 32 + 4 * mean.contributors.size() + body_bytes(mean);
  ByteWriter out(bytes);
  put_header(out, record);
  const auto here = [&](std::size_t item) {
    const bool present = item < record.chunks.size()
                             ? record.chunks[item].present
                             : record.means[item - record.chunks.size()].present;
    return present && keeps(item);
  };
  for (std::size_t item = 0; item < items; ++item)
    out.put(static_cast<std::uint8_t>(here(item) ? 1 : 0));
  out.pad();
  for (std::size_t i = 0; i < record.chunks.size(); ++i)
    if (here(i)) put_body(out, record.chunks[i]);
  for (std::size_t i = 0; i < record.means.size(); ++i)
    if (here(record.chunks.size() + i)) put_body(out, record.means[i]);
  return out.take();
}

}  // namespace

// The digest of what put_body() writes, without writing it.
Digest ChunkVerdictRecord::body_digest() const {
  DigestStream stream;
  for (const auto* words : {&bits, &held_blocks, &held_elements})
    stream.add(static_cast<std::uint64_t>(words->size()));
  for (const auto* words : {&bits, &held_blocks, &held_elements}) stream.add(bytes_of(*words));
  return stream.digest();
}

Digest MeanRecord::body_digest() const {
  DigestStream stream;
  stream.add(static_cast<std::uint64_t>(values.size()));
  stream.add(bytes_of(values));
  constexpr std::array<std::byte, 4> kPadding{};
  if (values.size() % 2 != 0) stream.add(kPadding);
  return stream.digest();
}

Position Record::position() const {
  ByteWriter out;
  put_header(out, *this);
  return {step, digest_of(out.from(0))};
}

void Record::seal() {
  for (ChunkVerdictRecord& chunk : chunks)
    if (chunk.present) chunk.digest = chunk.body_digest();
  for (MeanRecord& mean : means)
    if (mean.present) mean.digest = mean.body_digest();
}

bool Record::whole() const {
  return std::ranges::all_of(chunks, &ChunkVerdictRecord::present) &&
         std::ranges::all_of(means, &MeanRecord::present);
}

bool ShardPlan::keeps(std::size_t item) const {
  require(workers >= 1 && worker >= 0 && worker < workers && copies >= 0,
          "worker {} of {} keeps {} copies", worker, workers, copies);
  if (copies == 0 || copies >= workers) return true;
  const auto first = static_cast<int>(item % static_cast<std::size_t>(workers));
  return (worker - first + workers) % workers < copies;
}

std::vector<std::byte> encode(const Record& record) {
  return encode_kept(record, [](std::size_t) { return true; });
}

std::vector<std::byte> encode(const Record& record, const ShardPlan& plan) {
  return encode_kept(record, [&plan](std::size_t item) { return plan.keeps(item); });
}

Record decode_record(std::span<const std::byte> bytes, std::string_view source,
                     std::uint64_t offset, Depth depth) {
  ByteReader in(bytes, source, offset);
  Record record;
  get_header(in, record);
  if (depth == Depth::header) return record;
  const std::size_t items = record.chunks.size() + record.means.size();
  const auto present = in.get_all<std::uint8_t>(items, "flags of what is present");
  for (const std::uint8_t flag : present)
    if (flag > 1) in.fail("a flag of {}, expected 0 or 1", flag);
  in.skip_padding();
  if (depth == Depth::flags) {
    for (std::size_t i = 0; i < items; ++i)
      (i < record.chunks.size() ? record.chunks[i].present
                                : record.means[i - record.chunks.size()].present) = present[i] != 0;
    return record;
  }
  for (std::size_t i = 0; i < items; ++i) {
    if (present[i] == 0) continue;
    if (i < record.chunks.size())
      get_checked_body(in, record.chunks[i], "chunk");
    else
      get_checked_body(in, record.means[i - record.chunks.size()], "mean");
  }
  if (in.left() != 0) in.fail("{} bytes after the record", in.left());
  return record;
}

void merge_bodies(Record& record, Record&& other) {
  require(record.position() == other.position(), "merging step {} of two histories", record.step);
  for (std::size_t i = 0; i < record.chunks.size(); ++i)
    if (!record.chunks[i].present && other.chunks[i].present)
      record.chunks[i] = std::move(other.chunks[i]);
  for (std::size_t i = 0; i < record.means.size(); ++i)
    if (!record.means[i].present && other.means[i].present)
      record.means[i] = std::move(other.means[i]);
}

}  // namespace ballot

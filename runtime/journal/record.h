// One step of the journal: everything that, with the state before it, gives the state after it.
//
// Shards: a record's elements are cut into chunks, each decided by one owner; a disk may hold the
// bits of some of them only, but always the header and every chunk's digest, so that the chain can
// be checked without the others. Only replicated things are in a record: verdicts and means, not
// updates (AdamW's moments must be rebuilt too), never momentum, which is a voter's own.
//
// Bytes and digests are fixed by docs/journal-format.md: little-endian, no padding that is not
// zero, so that equal records are equal bytes on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/tensor.h"  // DType
#include "runtime/protocol/position.h"
#include "runtime/protocol/sample_range.h"

namespace ballot {

// What the update of one tensor multiplies by, computed once per step by one worker: replaying it
// on another machine must not depend on that machine's pow or cos.
struct TensorFactors {
  float decay = 0, step = 0;
  // AdamW: step / (1 - b1^t) and sqrt(1 - b2^t), as its update uses them; 0 for other rules and
  // where nobody contributed.
  float first = 0, second = 0;
  auto operator<=>(const TensorFactors&) const = default;
};

// The verdict of elements [begin, end) of the ballot layout, multiples of 512.
struct ChunkVerdictRecord {
  std::int64_t begin = 0, end = 0;
  std::vector<std::uint64_t> counted;  // bit v: voter v's ballot was counted
  Digest digest;                       // of the bits and what is held: body_digest()
  bool present = true;                 // false: the bits are on other disks, the three are empty
  std::vector<std::uint64_t> bits;     // (end - begin) / 64 words
  std::vector<std::uint64_t> held_blocks;    // bit i: block first + i of the chunk's blocks
  std::vector<std::uint64_t> held_elements;  // empty with ties = coin
  Digest body_digest() const;                // what `digest` must be where the bits are present
  bool operator==(const ChunkVerdictRecord&) const = default;
};

// The mean gradients of what is averaged, all tensors of one wire type one after the other.
struct MeanRecord {
  DType wire = DType::f32;
  std::vector<std::int32_t> contributors;  // by tensor; 0: nobody, no update
  Digest digest;                           // of the values: body_digest()
  bool present = true;
  std::vector<float> values;  // as all replicas have them, after any rounding for the wire
  Digest body_digest() const;
  bool operator==(const MeanRecord&) const = default;  // NaN values differ
};

struct Record {
  std::int64_t step = 0;  // steps done with it: the first record has 1
  std::int64_t term = 0;
  Digest previous;                     // the chain before it
  std::vector<TensorFactors> factors;  // by tensor, in the order of the arena
  std::vector<VoterRange> ranges;      // drawn in this step, by voter
  std::vector<ChunkVerdictRecord> chunks;
  std::vector<MeanRecord> means;

  // The chain with it: H(previous, header, digests of chunks and means). Present or not, the same.
  Position position() const;
  // Fills in the digest of every chunk and mean that is present.
  void seal();
  // Whether the bits of every chunk and mean are here.
  bool whole() const;
  bool operator==(const Record&) const = default;
};

// Which bits one worker keeps: a record's chunks and then its means are numbered from 0, and item
// n is kept by worker n mod `workers` and the next copies - 1 (0: by all).
struct ShardPlan {
  int worker = 0, workers = 1, copies = 0;
  bool keeps(std::size_t item) const;
};

// A record with every bit that is present, or with those of them that the plan keeps. LogicError
// where sizes contradict each other.
std::vector<std::byte> encode(const Record& record);
std::vector<std::byte> encode(const Record& record, const ShardPlan& plan);

// How much of a record is wanted: its header (enough for position()), also what is present (the
// flags, with empty vectors), or all.
enum class Depth { header, flags, bodies };

// The other way. Never reads or allocates beyond `bytes`; CorruptFile names the place as `source`
// and the byte counted from `offset`. Digests of the bodies that are read are checked.
Record decode_record(std::span<const std::byte> bytes, std::string_view source,
                     std::uint64_t offset = 0, Depth depth = Depth::bodies);

// Adds what `other` has and `record` lacks; both must be of one position.
void merge_bodies(Record& record, Record&& other);

}  // namespace ballot

// What each of several workers writes of a checkpoint: a pure function of shapes, groups and the
// number of shares, so that nobody has to agree on it.
//
// Every share holds its own voter's (or member's) private momentum. Parameters go to as many shards
// as are worth a file of their own, the largest tensor first to the emptiest shard; shard k is
// share k's. What is replicated beside them (momentum and AdamW's state of averaged groups) is cut
// the same way and given out from the last share on.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "models/safetensors.h"
#include "runtime/before_change.h"
#include "runtime/optimizer_state.h"

namespace ballot {

// Worker `index` of `count` that write together; it is member `member` of voter `voter`.
struct CheckpointShare {
  int index = 0, count = 1;
  int voter = 0, member = 0, members = 1;  // of an elastic run: the worker's number
  std::int64_t number = 0;                 // the caller's own, to know it again
};

// A matrix that goes into a file without the padding of its rows, so that a checkpoint does not
// depend on the arena's layout. `source` is read later, until it changes.
struct CheckpointTensor {
  TensorLayout layout;
  const Parameter* parameter = nullptr;
  Changing kind = Changing::value;
  Tensor source;
};

struct CheckpointFile {
  std::string path;  // in the checkpoint's folder
  std::vector<CheckpointTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// The files of one share, in the order in which a step changes what is in them. What `arena` and
// `state` own must outlive the use of the sources. A file of parameters of its own is worth at
// least `shard_bytes`; 0: every share has one. Counts of updates are read now.
std::vector<CheckpointFile> files_of(const CheckpointShare& share, const ParameterArena& arena,
                                     const OptimizerState& state, std::uint64_t shard_bytes);

// model.safetensors.index.json, which says in which file a parameter is; empty where one file holds
// all.
std::string shard_index_json(int shares, const ParameterArena& arena, std::uint64_t shard_bytes);

// The bin of each size, largest first to the emptiest bin. With at least as many sizes as bins none
// stays empty.
std::vector<int> spread(std::span<const std::uint64_t> sizes, int bins);

// "trainer/voter-3.safetensors": the momentum of a voter, or of what one of its members works on
// (a part of a tensor: runtime/part_text.h).
std::string voter_file(std::int64_t voter, std::int64_t member, std::int64_t members);

// "NAME.safetensors", or "NAME-00002-of-00004.safetensors" for shard 1 of 4.
std::string shard_file(const std::string& name, int shard, int shards);

}  // namespace ballot

// The tokens of words seen before: texts repeat their words. Safe from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ballot {

class WordCache {
 public:
  static constexpr std::size_t kLongestWord = 256;  // longer ones do not come again

  // Appends the word's tokens; false where they are not known.
  bool append(std::string_view word, std::vector<std::int32_t>& tokens) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    const auto found = shard.tokens_of.find(word);
    if (found == shard.tokens_of.end()) return false;
    tokens.insert(tokens.end(), found->second.begin(), found->second.end());
    return true;
  }

  void keep(std::string_view word, const std::int32_t* tokens, std::size_t count) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    if (shard.tokens_of.size() < kWordsPerShard)
      shard.tokens_of.try_emplace(std::string(word), tokens, tokens + count);
  }

 private:
  static constexpr std::size_t kShards = 64, kWordsPerShard = 2048;
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<std::int32_t>, Hash, std::equal_to<>> tokens_of;
  };
  Shard& shard_of(std::string_view word) { return shards_[Hash{}(word) / 61 % kShards]; }

  std::array<Shard, kShards> shards_;
};

}  // namespace ballot

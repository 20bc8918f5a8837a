#include "models/tokenizer/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>

#include "core/error.h"
#include "models/tokenizer/byte_alphabet.h"
#include "models/tokenizer/utf8.h"

namespace ballot {
namespace {

using nlohmann::json;

constexpr std::size_t kMostMerges = std::size_t{1} << 26;

// A symbol of a word that is being merged; one that was joined to its left is `gone`.
struct Symbol {
  std::int32_t token, previous, next;  // -1: none
  bool gone = false;
};

struct Candidate {
  std::uint32_t rank;
  std::int32_t position, token;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

// A priority queue that keeps its memory.
class Queue : public std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> {
 public:
  void clear() { c.clear(); }
};

// "a b" or ["a", "b"].
std::optional<std::pair<std::string, std::string>> pair_of(const json& value) {
  if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string())
    return std::pair(value[0].get<std::string>(), value[1].get<std::string>());
  if (!value.is_string()) return std::nullopt;
  const std::string& text = value.get_ref<const std::string&>();
  const std::size_t space = text.find(' ');
  if (space == text.npos || text.find(' ', space + 1) != text.npos) return std::nullopt;
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

}  // namespace

void Bpe::check_kind(const json& model, bool byte_level, Refusals& refusals) {
  if (member(model, "type") != "BPE")
    refusals.add("model.type {} is not supported, expected \"BPE\"", shown(member(model, "type")));
  if (!member(model, "dropout").is_null())
    refusals.add("model.dropout is {}: not supported, expected null",
                 shown(member(model, "dropout")));
  if (const json& unknown = member(model, "unk_token"); !unknown.is_null() && !unknown.is_string())
    refusals.add("model.unk_token is {}, expected a text or null", shown(unknown));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!is_empty_or_absent(member(model, key)))
      refusals.add("model.{} is {}: not supported, expected null", key, shown(member(model, key)));
  if (read_flag(model, "byte_fallback", false, "model", refusals) == byte_level)
    refusals.add(
        "model.byte_fallback is {} and the pre_tokenizer is {}ByteLevel: not supported, "
        "expected one of the two",
        byte_level, byte_level ? "" : "not ");
}

std::unique_ptr<Bpe> Bpe::read(const json& model, bool byte_level, Refusals& refusals) {
  std::unique_ptr<Bpe> bpe(new Bpe);
  bpe->byte_level_ = byte_level;
  bpe->ignore_merges_ = read_flag(model, "ignore_merges", false, "model", refusals);
  read_flag(model, "fuse_unk", false, "model",
            refusals);  // nothing is unknown: all bytes are there
  bpe->read_vocabulary(member(model, "vocab"), byte_level, refusals);
  bpe->read_merges(member(model, "merges"), refusals);
  return bpe;
}

void Bpe::read_vocabulary(const json& value, bool byte_level, Refusals& refusals) {
  if (!value.is_object())
    return refusals.add("model.vocab is {}, expected an object", shown(value));
  vocabulary_.reserve(value.size());
  token_of_text_.reserve(value.size());
  for (const auto& [symbol, given] : value.items()) {
    const std::optional<std::int32_t> id = as_token(given);
    if (!id) {
      refusals.add("model.vocab {} is {}, expected an id in [0, {})", shown(symbol), shown(given),
                   kMaxVocabulary);
      continue;
    }
    vocabulary_.emplace(symbol, *id);
    if (!byte_level)
      token_of_text_.emplace(symbol, *id);
    else if (std::optional<std::string> bytes = bytes_of_symbols(symbol))
      token_of_text_.emplace(std::move(*bytes), *id);
  }
  int found = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const auto symbol =
        vocabulary_.find(byte_level ? byte_alphabet()[byte] : fmt::format("<0x{:02X}>", byte));
    if (symbol == vocabulary_.end()) continue;
    token_of_byte_[byte] = symbol->second;
    ++found;
  }
  if (found != 256) refusals.add("model.vocab has {} of the 256 bytes, expected all", found);
}

void Bpe::read_merges(const json& value, Refusals& refusals) {
  if (value.is_null()) return;
  if (!value.is_array() || value.size() > kMostMerges)
    return refusals.add("model.merges is {}, expected an array of at most {}", shown(value),
                        kMostMerges);
  merges_ = MergeTable(value.size());
  std::uint32_t rank = 0;
  for (const json& entry : value) {
    if (entry.is_string() && entry.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto pair = pair_of(entry);
    if (!pair) {
      refusals.add("model.merges has {}, expected \"a b\" or [\"a\", \"b\"]", shown(entry));
      continue;
    }
    const auto left = vocabulary_.find(pair->first), right = vocabulary_.find(pair->second),
               joined = vocabulary_.find(pair->first + pair->second), none = vocabulary_.end();
    if (left == none || right == none || joined == none) {
      const std::string& missing = left == none    ? pair->first
                                   : right == none ? pair->second
                                                   : pair->first + pair->second;
      refusals.add("model.merges has {}, but model.vocab has no {}", shown(entry), shown(missing));
      continue;
    }
    merges_.set(left->second, right->second, {rank++, joined->second});
    const auto made = static_cast<std::size_t>(joined->second);
    if (made >= made_by_merges_.size()) made_by_merges_.resize(made + 1);
    made_by_merges_[made] = true;
  }
}

bool Bpe::can_make(std::int32_t token) const {
  const auto index = static_cast<std::size_t>(token);
  return ignore_merges_ || (index < made_by_merges_.size() && made_by_merges_[index]) ||
         std::find(token_of_byte_.begin(), token_of_byte_.end(), token) != token_of_byte_.end();
}

void Bpe::encode(std::string_view word, std::vector<std::int32_t>& tokens) const {
  if (word.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw DataError("a word of {} bytes without a place to cut it, expected at most {}",
                    word.size(), std::numeric_limits<std::int32_t>::max());
  if (ignore_merges_) {
    if (const auto whole = token_of_text_.find(word); whole != token_of_text_.end()) {
      tokens.push_back(whole->second);
      return;
    }
  }
  if (word.size() > WordCache::kLongestWord) return merge(word, tokens);
  if (cache_.append(word, tokens)) return;
  const std::size_t before = tokens.size();
  merge(word, tokens);
  cache_.keep(word, tokens.data() + before, tokens.size() - before);
}

void Bpe::merge(std::string_view word, std::vector<std::int32_t>& tokens) const {
  thread_local std::vector<Symbol> symbols;
  thread_local Queue queue;
  symbols.clear();
  queue.clear();
  const auto add = [&](std::int32_t token) {
    const auto here = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({token, here - 1, here + 1});
  };
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t length =
        byte_level_ ? 1 : std::max<std::size_t>(utf8_length(word.substr(i)), 1);
    const auto symbol =
        byte_level_ ? token_of_text_.end() : token_of_text_.find(word.substr(i, length));
    if (symbol != token_of_text_.end()) {
      add(symbol->second);
    } else {
      for (std::size_t j = i; j < i + length; ++j)
        add(token_of_byte_[static_cast<unsigned char>(word[j])]);
    }
    i += length;
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  const auto offer = [&](std::int32_t left, std::int32_t right) {
    if (left < 0 || right < 0) return;
    if (const Merge* const merge = merges_.find(symbols[left].token, symbols[right].token))
      queue.push({merge->rank, left, merge->token});
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
    offer(static_cast<std::int32_t>(i), static_cast<std::int32_t>(i + 1));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.gone || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // One that was offered before a neighbour changed is stale, unless it makes the same token.
    const Merge* const now = merges_.find(left.token, right.token);
    if (now == nullptr || now->token != best.token) continue;
    left.token = best.token;
    left.next = right.next;
    right.gone = true;
    if (right.next >= 0) symbols[right.next].previous = best.position;
    offer(left.previous, best.position);
    offer(best.position, left.next);
  }
  for (const Symbol& symbol : symbols)
    if (!symbol.gone) tokens.push_back(symbol.token);
}

}  // namespace ballot

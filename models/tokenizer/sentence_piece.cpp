#include "models/tokenizer/sentence_piece.h"

#include <algorithm>
#include <cmath>
#include <queue>

#include "core/error.h"
#include "models/tokenizer/utf8.h"
#include "models/tokenizer/wire_reader.h"

namespace ballot {
namespace {

constexpr std::string_view kSpace = "\u2581";

const char* name_of_model(std::int64_t type) {
  static constexpr std::array kNames = {"", "unigram", "bpe", "word", "char"};
  return type >= 1 && type <= 4 ? kNames[static_cast<std::size_t>(type)] : "unknown";
}

// Of "<0x0A>" 10; -1: it is no byte.
int byte_of(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  const std::size_t high = kDigits.find(piece[3]), low = kDigits.find(piece[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(high * 16 + low);
}

// A place of the tree of user-defined pieces and the byte that leads on from it.
std::uint64_t branch(std::uint32_t place, char byte) {
  return std::uint64_t{place} << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

SentencePiece::SentencePiece(std::string_view model, const std::string& path,
                             std::vector<AddedToken> added)
    : added_(std::move(added)) {
  Refusals refusals(path);
  read(model, path, refusals);
  check_pieces(refusals);
  refusals.throw_if_any();
  size_ = pieces();
  std::vector<bool> known(pieces_.size());
  for (const AddedToken& token : added_) {
    size_ = std::max(size_, std::int64_t{token.id} + 1);
    if (token.id >= pieces()) continue;
    Piece& piece = pieces_[static_cast<std::size_t>(token.id)];
    known[static_cast<std::size_t>(token.id)] = true;
    if (piece.text != token.text)
      refusals.add("{} is piece {}, and token {} in tokenizer_config.json", shown(piece.text),
                   token.id, shown(token.text));
    // A special token is no part of a text, whatever its piece is: nobody's text may hold one.
    if (token.special && (piece.type == Type::normal || piece.type == Type::user_defined)) {
      id_of_.erase(piece.text);
      piece.type = Type::control;
    }
  }
  list_user_defined();
  // Controls are found like special tokens that were added.
  for (std::size_t id = 0; id < pieces_.size(); ++id) {
    if (pieces_[id].type != Type::control || known[id]) continue;
    AddedToken token;
    token.text = pieces_[id].text;
    token.id = static_cast<std::int32_t>(id);
    token.special = true;
    added_.push_back(token);
  }
  for (AddedToken& token : added_) token.normalized = false;  // found before anything else
  find_added_ = std::make_unique<AddedTokenFinder>(added_, false, Normalizer{}, refusals);
  refusals.throw_if_any();
}

void SentencePiece::read(std::string_view model, const std::string& path, Refusals& refusals) {
  std::int64_t model_type = 1, bos = 1, eos = 2;
  bool byte_fallback = false, has_trainer = false, has_normalizer = false;
  std::string normalizer;
  for (WireReader file(model, path); file.next();) {
    if (file.field() == 1) {
      Piece piece;
      std::int64_t type = 1;
      for (WireReader field = file.message(); field.next();) {
        if (field.field() == 1) piece.text = field.bytes();
        if (field.field() == 2) piece.score = field.real();
        if (field.field() == 3) type = field.integer();
      }
      if (type < 1 || type > 6)
        throw CorruptFile("{}: piece {} is of type {}, expected 1 to 6", path, pieces_.size(),
                          type);
      piece.type = static_cast<Type>(type);
      if (static_cast<std::int64_t>(pieces_.size()) >= kMaxVocabulary)
        throw DataError("{} has more than {} pieces", path, kMaxVocabulary);
      pieces_.push_back(std::move(piece));
    } else if (file.field() == 2) {
      has_trainer = true;
      for (WireReader field = file.message(); field.next();) {
        if (field.field() == 3) model_type = field.integer();
        if (field.field() == 24 && field.flag())
          refusals.add("treat_whitespace_as_suffix is true, supported is false");
        if (field.field() == 35) byte_fallback = field.flag();
        if (field.field() == 41) bos = field.integer();
        if (field.field() == 42) eos = field.integer();
      }
    } else if (file.field() == 3 || file.field() == 5) {
      const bool back = file.field() == 5;
      has_normalizer = has_normalizer || !back;
      for (WireReader field = file.message(); field.next();) {
        if (field.field() == 1) normalizer = field.bytes();
        if (field.field() == 2 && !field.bytes().empty())
          refusals.add(
              "the {} {} has a character map of {} bytes (precompiled_charsmap), supported is "
              "identity, which has none",
              back ? "denormalizer" : "normalizer", shown(normalizer), field.bytes().size());
        if (back) continue;
        if (field.field() == 3) add_dummy_prefix_ = field.flag();
        if (field.field() == 4) remove_extra_spaces_ = field.flag();
        if (field.field() == 5 && !field.flag())
          refusals.add("escape_whitespaces is false, supported is true");
      }
    }
  }
  if (!has_trainer || !has_normalizer)
    throw CorruptFile("{} has no {}, as every tokenizer.model of SentencePiece has", path,
                      has_trainer ? "normalizer_spec" : "trainer_spec");
  if (model_type != 2)
    refusals.add("model_type is {} ({}), supported is 2 (bpe)", model_type,
                 name_of_model(model_type));
  if (!byte_fallback)
    refusals.add("byte_fallback is false: some texts would be unknown, supported is true");
  const auto in_range = [&](std::int64_t id) {
    return id >= 0 && id < pieces() ? static_cast<std::int32_t>(id) : -1;
  };
  bos_ = in_range(bos);
  eos_ = in_range(eos);
}

void SentencePiece::check_pieces(Refusals& refusals) {
  if (pieces_.empty()) refusals.add("it has no pieces");
  id_of_byte_.fill(-1);
  byte_of_id_.assign(pieces_.size(), -1);
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    const auto id = static_cast<std::int32_t>(i);
    if (piece.text.empty()) refusals.add("piece {} is empty", id);
    if (!std::isfinite(piece.score)) refusals.add("piece {} has no finite score", id);
    switch (piece.type) {
      case Type::normal:
      case Type::user_defined:
        if (!id_of_.emplace(piece.text, id).second)
          refusals.add("piece {} is {}, as one before it", id, shown(piece.text));
        break;
      case Type::byte: {
        const int byte = byte_of(piece.text);
        if (byte < 0) {
          refusals.add("piece {} is {}, a byte is <0x00> to <0xFF>", id, shown(piece.text));
        } else if (std::int32_t& of_byte = id_of_byte_[static_cast<std::size_t>(byte)];
                   of_byte >= 0) {
          refusals.add("piece {} is {}, as piece {}", id, shown(piece.text), of_byte);
        } else {
          of_byte = id;
          byte_of_id_[i] = static_cast<std::int16_t>(byte);
        }
        break;
      }
      case Type::unused:
        refusals.add("piece {} ({}) is of type unused, which is not supported", id,
                     shown(piece.text));
        break;
      case Type::unknown:
      case Type::control:
        break;
    }
    if (piece.type == Type::normal || piece.type == Type::user_defined) {
      const std::size_t word = piece.text.find_first_not_of(kSpace);
      if (word != std::string::npos && piece.text.find(kSpace, word) != std::string::npos)
        words_apart_ = false;
      if (piece.type == Type::user_defined && piece.text.find(' ') != std::string::npos)
        words_apart_ = false;
    }
  }
  for (unsigned byte = 0; byte < 256; ++byte)
    if (id_of_byte_[byte] < 0) refusals.add("it has no piece <0x{:02X}>", byte);
}

void SentencePiece::list_user_defined() {
  for (const Piece& piece : pieces_) {
    if (piece.type != Type::user_defined) continue;
    std::uint32_t place = 0;
    for (const char c : piece.text) {
      const auto next = static_cast<std::uint32_t>(user_defined_ends_.size());
      const auto [found, is_new] = user_defined_.emplace(branch(place, c), next);
      if (is_new) user_defined_ends_.push_back(false);
      place = found->second;
    }
    user_defined_ends_[place] = true;
  }
}

std::size_t SentencePiece::user_defined_at(std::string_view text) const {
  std::size_t longest = 0;
  if (user_defined_.empty()) return longest;
  std::uint32_t place = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto next = user_defined_.find(branch(place, text[i]));
    if (next == user_defined_.end()) break;
    place = next->second;
    if (user_defined_ends_[place]) longest = i + 1;
  }
  return longest;
}

std::string SentencePiece::normalize(std::string_view text, bool prefix) const {
  std::string result;
  const auto next = [&](std::string_view rest) {
    const std::size_t found = user_defined_at(rest);
    return found > 0 ? found : std::max<std::size_t>(1, utf8_length(rest));
  };
  if (remove_extra_spaces_)
    while (!text.empty() && text[0] == ' ' && next(text) == 1) text.remove_prefix(1);
  if (text.empty()) return result;
  result.reserve(text.size() + text.size() / 2 + kSpace.size());
  if (prefix) result += kSpace;
  bool after_space = remove_extra_spaces_;
  while (!text.empty()) {
    const std::size_t length = next(text);
    std::string_view part = text.substr(0, length);
    text.remove_prefix(length);
    while (after_space && part.starts_with(' ')) part.remove_prefix(1);
    if (part.empty()) continue;
    after_space = remove_extra_spaces_ && part.ends_with(' ');
    for (const char c : part) {
      if (c == ' ')
        result += kSpace;
      else
        result += c;
    }
  }
  if (remove_extra_spaces_)
    while (std::string_view(result).ends_with(kSpace)) result.resize(result.size() - kSpace.size());
  return result;
}

std::vector<std::int32_t> SentencePiece::encode(std::string_view text, bool specials,
                                                bool at_start) const {
  std::vector<std::int32_t> tokens;
  tokens.reserve(text.size() / 3 + 1);
  find_added_->find(text, specials, [&](const AddedToken* token, std::string_view piece) {
    if (token != nullptr) return tokens.push_back(token->id);
    const bool first = at_start && piece.data() == text.data();
    encode_text(piece, add_dummy_prefix_ && (legacy_ || first), tokens);
  });
  return tokens;
}

void SentencePiece::encode_text(std::string_view text, bool prefix,
                                std::vector<std::int32_t>& tokens) const {
  const std::string normalized = normalize(text, prefix);
  if (!words_apart_) return merge(normalized, tokens);
  // A word ends where a space follows something else.
  std::string_view rest = normalized;
  while (!rest.empty()) {
    std::size_t begin = 0;
    while (rest.substr(begin).starts_with(kSpace)) begin += kSpace.size();
    const std::size_t end = std::min(rest.find(kSpace, begin), rest.size());
    encode_word(rest.substr(0, end), tokens);
    rest.remove_prefix(end);
  }
}

void SentencePiece::encode_word(std::string_view word, std::vector<std::int32_t>& tokens) const {
  if (word.size() > WordCache::kLongestWord) return merge(word, tokens);
  if (cache_.append(word, tokens)) return;
  const std::size_t before = tokens.size();
  merge(word, tokens);
  cache_.keep(word, tokens.data() + before, tokens.size() - before);
}

void SentencePiece::merge(std::string_view word, std::vector<std::int32_t>& tokens) const {
  struct Symbol {
    std::size_t begin = 0, size = 0;  // size 0: joined to the one before
    std::ptrdiff_t before = -1, after = -1;
    bool frozen = false;  // a user-defined piece is joined to nothing
  };
  struct Pair {
    float score = 0;
    std::ptrdiff_t left = 0, right = 0;
    std::size_t size = 0;
    bool operator<(const Pair& other) const {  // the top of the queue comes first
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  for (std::size_t at = 0; at < word.size();) {
    Symbol symbol;
    symbol.begin = at;
    symbol.size = user_defined_at(word.substr(at));
    symbol.frozen = symbol.size > 0;
    if (!symbol.frozen) symbol.size = std::max<std::size_t>(1, utf8_length(word.substr(at)));
    at += symbol.size;
    const auto number = static_cast<std::ptrdiff_t>(symbols.size());
    symbol.before = number - 1;
    symbol.after = at < word.size() ? number + 1 : -1;
    symbols.push_back(symbol);
  }
  const auto symbol = [&](std::ptrdiff_t i) -> Symbol& {
    return symbols[static_cast<std::size_t>(i)];
  };
  std::priority_queue<Pair> queue;
  const auto consider = [&](std::ptrdiff_t left, std::ptrdiff_t right) {
    if (left < 0 || right < 0 || symbol(left).frozen || symbol(right).frozen) return;
    const std::size_t size = symbol(left).size + symbol(right).size;
    const auto found = id_of_.find(word.substr(symbol(left).begin, size));
    if (found != id_of_.end())
      queue.push({pieces_[static_cast<std::size_t>(found->second)].score, left, right, size});
  };
  for (std::size_t i = 1; i < symbols.size(); ++i)
    consider(static_cast<std::ptrdiff_t>(i) - 1, static_cast<std::ptrdiff_t>(i));
  while (!queue.empty()) {
    const Pair pair = queue.top();
    queue.pop();
    Symbol &left = symbol(pair.left), &right = symbol(pair.right);
    if (left.size == 0 || right.size == 0 || left.size + right.size != pair.size) continue;
    left.size = pair.size;
    right.size = 0;
    left.after = right.after;
    if (right.after >= 0) symbol(right.after).before = pair.left;
    consider(left.before, pair.left);
    consider(pair.left, left.after);
  }
  for (std::ptrdiff_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbol(i).after) {
    const std::string_view text = word.substr(symbol(i).begin, symbol(i).size);
    const auto found = id_of_.find(text);
    if (found != id_of_.end()) {
      tokens.push_back(found->second);
    } else {
      for (const char byte : text) tokens.push_back(id_of_byte_[static_cast<unsigned char>(byte)]);
    }
  }
}

std::string SentencePiece::decode(const std::vector<std::int32_t>& tokens) const {
  std::string text;
  bool space_taken = false;
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= size_)
      throw DataError("token {} is not in the vocabulary of {}", token, size_);
    if (token >= pieces()) {
      for (const AddedToken& added : added_)
        if (added.id == token && !added.special) text += added.text;
      continue;
    }
    const auto id = static_cast<std::size_t>(token);
    const Piece& piece = pieces_[id];
    if (byte_of_id_[id] >= 0) {
      text += static_cast<char>(byte_of_id_[id]);
      continue;
    }
    if (piece.type == Type::control) continue;
    if (piece.type == Type::unknown) {
      text += " \u2047 ";  // SentencePiece's default for it
      continue;
    }
    std::string_view rest = piece.text;
    const bool at_start = !space_taken && text.empty();
    if (at_start && (add_dummy_prefix_ || remove_extra_spaces_) && rest.starts_with(kSpace)) {
      rest.remove_prefix(kSpace.size());
      space_taken = !remove_extra_spaces_;  // else all spaces at the start go
    }
    for (std::size_t at = 0; at < rest.size();) {
      if (rest.substr(at).starts_with(kSpace)) {
        text += ' ';
        at += kSpace.size();
      } else {
        text += rest[at++];
      }
    }
  }
  return text;
}

std::vector<std::int32_t> SentencePiece::with_template(std::vector<std::int32_t> tokens) const {
  if (adds_bos_ && bos_ >= 0) tokens.insert(tokens.begin(), bos_);
  if (adds_eos_ && eos_ >= 0) tokens.push_back(eos_);
  return tokens;
}

std::int32_t SentencePiece::find_special(std::string_view text) const {
  for (const AddedToken& token : added_)
    if (token.special && token.text == text) return token.id;
  return -1;
}

std::string SentencePiece::special_text(std::int32_t token) const {
  for (const AddedToken& added : added_)
    if (added.special && added.id == token) return added.text;
  return "";
}

}  // namespace ballot

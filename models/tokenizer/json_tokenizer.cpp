#include "models/tokenizer/json_tokenizer.h"

#include <algorithm>
#include <deque>

#include "core/error.h"

namespace ballot {

using nlohmann::json;

JsonTokenizer::JsonTokenizer(const json& root, const std::string& path) {
  if (!root.is_object()) throw DataError("{} is {}, expected a JSON object", path, shown(root));
  Refusals refusals(path);
  normalizer_ = Normalizer::read(member(root, "normalizer"), refusals);
  pre_tokenizer_ = PreTokenizer::read(member(root, "pre_tokenizer"), refusals);
  const bool byte_level = pre_tokenizer_.byte_level();
  decoder_ = Decoder::read(member(root, "decoder"), byte_level, refusals);
  post_processor_ = PostProcessor::read(member(root, "post_processor"), refusals);
  Bpe::check_kind(member(root, "model"), byte_level, refusals);
  refusals.throw_if_any();  // of another kind, the vocabulary's problems would only be noise
  bpe_ = Bpe::read(member(root, "model"), byte_level, refusals);
  added_ = read_added_tokens(member(root, "added_tokens"), refusals);
  find_plain_ = std::make_unique<AddedTokenFinder>(added_, false, normalizer_, refusals);
  find_normalized_ = std::make_unique<AddedTokenFinder>(added_, true, normalizer_, refusals);
  list_tokens(refusals);
  refusals.throw_if_any();
  lossless_ = find_whether_lossless();
}

void JsonTokenizer::list_tokens(Refusals& refusals) {
  const auto take = [&](std::int32_t id, std::string bytes, const std::string& symbol) {
    if (!bytes_of_token_.emplace(id, std::move(bytes)).second)
      refusals.add("id {} is given twice, the second time to {}", id, shown(symbol));
    size_ = std::max(size_, std::int64_t{id} + 1);
  };
  bytes_of_token_.reserve(bpe_->vocabulary().size() + added_.size());
  for (const auto& [symbol, id] : bpe_->vocabulary()) take(id, decoder_.bytes_of(symbol), symbol);
  for (const AddedToken& token : added_) {
    const std::string symbol = token.normalized ? normalizer_.apply(token.text) : token.text;
    std::string bytes = token.special ? "" : decoder_.bytes_of(symbol);
    const auto same = bpe_->vocabulary().find(token.text);
    if (same == bpe_->vocabulary().end())
      take(token.id, std::move(bytes), token.text);
    else if (same->second != token.id)
      refusals.add("{} is {} in model.vocab and {} in added_tokens", shown(token.text),
                   same->second, token.id);
    else
      bytes_of_token_[token.id] = std::move(bytes);
  }
  for (const auto* const list : {&post_processor_.before(), &post_processor_.after()})
    for (const std::int32_t token : *list)
      if (!has(token))
        refusals.add("post_processor adds the token {}, which is not in the vocabulary", token);
}

bool JsonTokenizer::find_whether_lossless() const {
  return normalizer_.changes_nothing() && pre_tokenizer_.byte_level() &&
         pre_tokenizer_.keeps_all() && decoder_.byte_level_alone() &&
         std::all_of(added_.begin(), added_.end(), [&](const AddedToken& token) {
           if (token.special) return !bpe_->can_make(token.id);  // else decode would leave out text
           return !token.lstrip && !token.rstrip && bytes_of_token_.at(token.id) == token.text;
         });
}

const AddedToken* JsonTokenizer::find_added(std::string_view text) const {
  for (const AddedToken& token : added_)
    if (token.text == text) return &token;
  return nullptr;
}

std::int32_t JsonTokenizer::find_special(std::string_view text) const {
  const AddedToken* const token = find_added(text);
  return token != nullptr && token->special ? token->id : -1;
}

std::string JsonTokenizer::special_text(std::int32_t token) const {
  for (const AddedToken& added : added_)
    if (added.id == token && added.special) return added.text;
  return "";
}

std::vector<std::int32_t> JsonTokenizer::encode(std::string_view text, bool specials,
                                                bool at_start) const {
  std::vector<std::int32_t> tokens;
  tokens.reserve(text.size() / 3 + 1);
  std::deque<std::string> prefixed;
  std::vector<std::string_view> words;
  const char* first = nullptr;  // where the text begins, in the pieces given to take_normalized
  const auto take_normalized = [&](const AddedToken* token, std::string_view piece) {
    if (token != nullptr) return tokens.push_back(token->id);
    prefixed.clear();
    pre_tokenizer_.split(piece, at_start && piece.data() == first, prefixed, words);
    for (const std::string_view word : words) bpe_->encode(word, tokens);
  };
  find_plain_->find(text, specials, [&](const AddedToken* token, std::string_view piece) {
    if (token != nullptr) return tokens.push_back(token->id);
    const bool is_first = piece.data() == text.data();
    if (normalizer_.changes_nothing()) {
      first = is_first ? piece.data() : nullptr;
      return find_normalized_->find(piece, specials, take_normalized);
    }
    const std::string normalized = normalizer_.apply(piece);
    first = is_first ? normalized.data() : nullptr;
    find_normalized_->find(normalized, specials, take_normalized);
  });
  return tokens;
}

std::string JsonTokenizer::decode(const std::vector<std::int32_t>& tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    const auto found = bytes_of_token_.find(token);
    if (found == bytes_of_token_.end())
      throw DataError("token {} is not in the vocabulary of {}", token, size_);
    text += found->second;
  }
  return decoder_.finish(std::move(text));
}

std::vector<std::int32_t> JsonTokenizer::with_template(std::vector<std::int32_t> tokens) const {
  tokens.insert(tokens.begin(), post_processor_.before().begin(), post_processor_.before().end());
  tokens.insert(tokens.end(), post_processor_.after().begin(), post_processor_.after().end());
  return tokens;
}

}  // namespace ballot

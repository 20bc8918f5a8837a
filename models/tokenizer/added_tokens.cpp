#include "models/tokenizer/added_tokens.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "models/tokenizer/utf8.h"

namespace ballot {
namespace {

using nlohmann::json;

// Whether a character is of a word: letters, marks, digits, joiners.
bool is_of_word(std::string_view character) {
  static const Pattern pattern = [] {
    Refusals refusals("added tokens");
    return *Pattern::regex(
        // The last ranges are letters in circles and squares: symbols that Unicode calls
        // alphabetic.
        R"([\p{L}\p{M}\p{Nl}\p{Nd}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9})"
        R"(\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}])",
        "single_word", refusals);
  }();
  std::vector<Stretch> stretches;
  pattern.cut(character, stretches);
  return !stretches.empty() && stretches.front().matched;
}

bool begins_with_word(std::string_view text) {
  return is_of_word(text.substr(0, utf8_length(text)));
}
bool ends_with_word(std::string_view text) {
  return is_of_word(text.substr(text.size() - utf8_length_at_end(text)));
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const json& value, Refusals& refusals) {
  std::vector<AddedToken> tokens;
  if (!value.is_null() && !value.is_array()) {
    refusals.add("added_tokens is {}, expected an array", shown(value));
    return tokens;
  }
  std::set<std::string> texts;
  for (const json& entry : value) {
    const json& content = member(entry, "content");
    const std::optional<std::int32_t> id = as_token(member(entry, "id"));
    if (!content.is_string() || content == "" || !id) {
      refusals.add("added_tokens has {} with id {}, expected a text and an id in [0, {})",
                   shown(content), shown(member(entry, "id")), kMaxVocabulary);
      continue;
    }
    AddedToken token;
    token.text = content.get<std::string>();
    token.id = *id;
    const std::string where = fmt::format("added token {}", shown(token.text));
    token.special = read_flag(entry, "special", false, where, refusals);
    token.single_word = read_flag(entry, "single_word", false, where, refusals);
    token.lstrip = read_flag(entry, "lstrip", false, where, refusals);
    token.rstrip = read_flag(entry, "rstrip", false, where, refusals);
    token.normalized = read_flag(entry, "normalized", false, where, refusals);
    if (!texts.insert(token.text).second) refusals.add("{} stands twice", where);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                                   const Normalizer& normalizer, Refusals& refusals) {
  // Of texts that become equal when normalized, a special token's wins, then the first.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : tokens) {
      if (token.normalized != normalized || token.special != special) continue;
      std::string text = normalized ? normalizer.apply(token.text) : token.text;
      if (text.empty()) {
        refusals.add("added token {} is nothing when normalized", shown(token.text));
        continue;
      }
      std::vector<std::size_t>& lengths = lengths_[static_cast<unsigned char>(text[0])];
      if (std::find(lengths.begin(), lengths.end(), text.size()) == lengths.end())
        lengths.push_back(text.size());
      token_of_text_.emplace(std::move(text), token);
    }
  }
  for (std::vector<std::size_t>& lengths : lengths_)
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text, std::size_t& length) const {
  for (const std::size_t tried : lengths_[static_cast<unsigned char>(text[0])]) {
    if (tried > text.size()) continue;
    const auto found = token_of_text_.find(text.substr(0, tried));
    if (found == token_of_text_.end()) continue;
    length = tried;
    return &found->second;
  }
  return nullptr;
}

void AddedTokenFinder::find(std::string_view text, bool specials, const Take& take) const {
  std::size_t taken = 0;  // up to here all pieces are out
  for (std::size_t i = 0; i < text.size();) {
    std::size_t length = 0;
    const AddedToken* const token = longest_at(text.substr(i), length);
    if (token == nullptr) {
      ++i;
      continue;
    }
    std::size_t begin = i, end = i + length;
    i = end;  // also where it does not count: no token is looked for inside it
    if (token->special && !specials) continue;
    if (token->single_word &&
        (ends_with_word(text.substr(0, begin)) || begins_with_word(text.substr(end))))
      continue;
    if (token->lstrip) begin = std::max(taken, begin - trailing_space(text.substr(0, begin)));
    if (token->rstrip) end += leading_space(text.substr(end));
    if (taken < begin) take(nullptr, text.substr(taken, begin - taken));
    take(token, text.substr(begin, end - begin));
    taken = end;
  }
  if (taken < text.size()) take(nullptr, text.substr(taken));
}

}  // namespace ballot

#include "models/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "models/tokenizer/utf8.h"

namespace ballot {
namespace {

using nlohmann::json;

// GPT-2's: what ByteLevel with use_regex cuts by.
constexpr const char* kByteLevelWords =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Rust's idea of a digit, which is of Unicode 17: two scripts more than \p{N} has.
constexpr const char* kDigits = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";

std::optional<SplitBehavior> behavior_of(const json& name) {
  static const std::array<const char*, 5> kNames = {"Removed", "Isolated", "MergedWithPrevious",
                                                    "MergedWithNext", "Contiguous"};
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) return static_cast<SplitBehavior>(i);
  return std::nullopt;
}

}  // namespace

void apply_behavior(SplitBehavior behavior, std::vector<Stretch>& stretches) {
  if (behavior == SplitBehavior::isolated) return;
  if (behavior == SplitBehavior::removed) {
    std::erase_if(stretches, [](const Stretch& stretch) { return stretch.matched; });
    return;
  }
  const bool backwards = behavior == SplitBehavior::merged_with_next;
  if (backwards) std::reverse(stretches.begin(), stretches.end());
  std::vector<Stretch> words;
  bool previous = false;
  for (const Stretch& stretch : stretches) {
    const bool joins = behavior == SplitBehavior::contiguous ? stretch.matched == previous
                                                             : stretch.matched && !previous;
    previous = stretch.matched;
    if (!joins || words.empty()) {
      words.push_back(stretch);
    } else if (backwards) {
      words.back().begin = stretch.begin;
    } else {
      words.back().end = stretch.end;
    }
  }
  if (backwards) std::reverse(words.begin(), words.end());
  stretches = std::move(words);
}

PreTokenizer PreTokenizer::read(const json& value, Refusals& refusals) {
  PreTokenizer pre_tokenizer;
  const std::vector<const json*> steps =
      steps_of(value, "pretokenizers", "pre_tokenizer", refusals);
  for (const json* const step : steps) {
    if (member(*step, "type") == "Metaspace" && steps.size() > 1)
      refusals.add(
          "pre_tokenizer Metaspace stands beside others: not supported, expected it alone");
    if (pre_tokenizer.byte_level_)
      refusals.add("pre_tokenizer {} follows ByteLevel: not supported, expected ByteLevel last",
                   shown(member(*step, "type")));
    pre_tokenizer.read_step(*step, refusals);
  }
  return pre_tokenizer;
}

void PreTokenizer::read_step(const json& value, Refusals& refusals) {
  const json& type = member(value, "type");
  Step step;
  if (type == "ByteLevel") {
    byte_level_ = true;
    add_prefix_space_ = read_flag(value, "add_prefix_space", false, "pre_tokenizer", refusals);
    if (!read_flag(value, "use_regex", true, "pre_tokenizer", refusals)) return;
    step.pattern = *Pattern::regex(kByteLevelWords, "pre_tokenizer", refusals);
    byte_level_words_ = std::move(step);
    return;
  }
  if (type == "Metaspace") return read_metaspace(value, refusals);
  std::optional<Pattern> pattern;
  if (type == "Digits") {
    pattern = Pattern::regex(kDigits, "pre_tokenizer", refusals);
    if (!read_flag(value, "individual_digits", false, "pre_tokenizer", refusals))
      step.behavior = SplitBehavior::contiguous;
  } else if (type == "Split") {
    const std::optional<SplitBehavior> behavior = behavior_of(member(value, "behavior"));
    if (!behavior)
      refusals.add(
          "pre_tokenizer.behavior is {}, expected Removed, Isolated, MergedWithPrevious, "
          "MergedWithNext or Contiguous",
          shown(member(value, "behavior")));
    pattern = Pattern::read(member(value, "pattern"), "pre_tokenizer", refusals);
    step.behavior = behavior.value_or(SplitBehavior::isolated);
    step.invert = read_flag(value, "invert", false, "pre_tokenizer", refusals);
  } else {
    refusals.add(
        "pre_tokenizer {} is not supported, expected ByteLevel, Split, Digits, a Sequence of them, "
        "Metaspace or null",
        shown(type));
  }
  if (!pattern) return;
  step.pattern = std::move(*pattern);
  steps_.push_back(std::move(step));
}

void PreTokenizer::read_metaspace(const json& value, Refusals& refusals) {
  Metaspace made;
  const json& symbol = member(value, "replacement");
  if (!symbol.is_string() || symbol == "" ||
      utf8_length(symbol.get_ref<const std::string&>()) !=
          symbol.get_ref<const std::string&>().size()) {
    refusals.add("pre_tokenizer.replacement is {}, expected a character", shown(symbol));
    return;
  }
  made.symbol = symbol.get<std::string>();
  const json& scheme = member(value, "prepend_scheme");
  using Prepend = Metaspace::Prepend;
  if (scheme == "never" || scheme == "first")
    made.prepend = scheme == "never" ? Prepend::never : Prepend::first;
  else if (!scheme.is_null() && scheme != "always")
    refusals.add("pre_tokenizer.prepend_scheme is {}, expected always, first or never",
                 shown(scheme));
  // An older file says it so.
  if (!read_flag(value, "add_prefix_space", true, "pre_tokenizer", refusals)) {
    if (scheme.is_null())
      made.prepend = Prepend::never;
    else if (scheme != "never")
      refusals.add("pre_tokenizer.add_prefix_space is false and prepend_scheme {}", shown(scheme));
  }
  if (read_flag(value, "split", true, "pre_tokenizer", refusals))
    made.split = Step{Pattern::literal(made.symbol), SplitBehavior::merged_with_next, false};
  metaspace_ = std::move(made);
}

bool PreTokenizer::keeps_all() const {
  return !metaspace_ && !add_prefix_space_ &&
         std::none_of(steps_.begin(), steps_.end(),
                      [](const Step& step) { return step.behavior == SplitBehavior::removed; });
}

void PreTokenizer::split_once(const Step& step, std::vector<std::string_view>& words) {
  thread_local std::vector<Stretch> stretches;
  std::vector<std::string_view> cut;
  for (const std::string_view word : words) {
    step.pattern.cut(word, stretches);
    if (step.invert)
      for (Stretch& stretch : stretches) stretch.matched = !stretch.matched;
    apply_behavior(step.behavior, stretches);
    for (const Stretch& stretch : stretches)
      if (stretch.end > stretch.begin)
        cut.push_back(word.substr(stretch.begin, stretch.end - stretch.begin));
  }
  words = std::move(cut);
}

void PreTokenizer::split(std::string_view text, bool first, std::deque<std::string>& prefixed,
                         std::vector<std::string_view>& words) const {
  words.clear();
  if (text.empty()) return;
  if (metaspace_) {
    std::string& word = prefixed.emplace_back();
    const bool prepends = metaspace_->prepend == Metaspace::Prepend::always ||
                          (metaspace_->prepend == Metaspace::Prepend::first && first);
    if (prepends && text[0] != ' ' && !text.starts_with(metaspace_->symbol))
      word = metaspace_->symbol;
    for (const char c : text) {
      if (c == ' ')
        word += metaspace_->symbol;
      else
        word += c;
    }
    words.push_back(word);
    if (metaspace_->split) split_once(*metaspace_->split, words);
    return;
  }
  words.push_back(text);
  for (const Step& step : steps_) split_once(step, words);
  if (add_prefix_space_) {
    for (std::string_view& word : words) {
      if (word.starts_with(' ')) continue;
      std::string& with_space = prefixed.emplace_back(1, ' ');
      word = with_space.append(word);
    }
  }
  if (byte_level_words_) split_once(*byte_level_words_, words);
}

}  // namespace ballot

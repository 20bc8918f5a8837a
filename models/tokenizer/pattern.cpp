#include "models/tokenizer/pattern.h"

#include "core/error.h"
#include "models/tokenizer/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace ballot {
namespace {

constexpr std::uint32_t kMatchLimit = 10'000'000;  // steps at one place of a text
constexpr std::uint32_t kHeapLimitKiB = 256 << 10;
constexpr std::size_t kMaxExpression = 16 << 10;

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// One a thread: a match needs some memory of its own.
pcre2_match_data* match_data() {
  thread_local const std::unique_ptr<pcre2_match_data, FreeMatchData> data(
      pcre2_match_data_create(1, nullptr));
  if (!data) throw std::bad_alloc();
  return data.get();
}

}  // namespace

struct Pattern::Compiled {
  std::string expression;
  std::unique_ptr<pcre2_code, FreeCode> code;
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context;
};

Pattern Pattern::literal(std::string text) {
  require(!text.empty(), "an empty literal pattern");
  Pattern pattern;
  pattern.text_ = std::move(text);
  return pattern;
}

std::optional<Pattern> Pattern::regex(const std::string& expression, std::string_view where,
                                      Refusals& refusals) {
  std::string problem;
  const std::string translated =
      expression.size() > kMaxExpression
          ? (problem = fmt::format("it has {} bytes, expected at most {}", expression.size(),
                                   kMaxExpression))
          : translate_regex(expression, problem);
  auto compiled = std::make_shared<Compiled>();
  if (problem.empty()) {
    int code = 0;
    PCRE2_SIZE at = 0;
    compiled->code.reset(pcre2_compile(
        reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, nullptr));
    if (!compiled->code) problem = fmt::format("{} (near byte {})", pcre2_message(code), at);
  }
  if (!problem.empty()) {
    refusals.add("{} has the regular expression {}: {}", where, shown(expression), problem);
    return std::nullopt;
  }
  pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);  // where it can: else interpreted
  compiled->context.reset(pcre2_match_context_create(nullptr));
  if (!compiled->context) throw std::bad_alloc();
  pcre2_set_match_limit(compiled->context.get(), kMatchLimit);
  pcre2_set_heap_limit(compiled->context.get(), kHeapLimitKiB);
  compiled->expression = expression;
  Pattern pattern;
  pattern.compiled_ = std::move(compiled);
  return pattern;
}

std::optional<Pattern> Pattern::read(const nlohmann::json& value, std::string_view where,
                                     Refusals& refusals) {
  const nlohmann::json& text = member(value, "String");
  const nlohmann::json& expression = member(value, "Regex");
  if (text.is_string() && text != "" && expression.is_null())
    return literal(text.get<std::string>());
  if (expression.is_string() && text.is_null())
    return regex(expression.get_ref<const std::string&>(), where, refusals);
  refusals.add("{}.pattern is {}, expected {{\"String\": text}} or {{\"Regex\": text}}", where,
               shown(value));
  return std::nullopt;
}

// The matches in one well-formed text, which stands at `offset` of a larger one.
void Pattern::match(std::string_view text, std::size_t offset, std::vector<Stretch>& found) const {
  pcre2_match_data* const data = match_data();
  const PCRE2_SIZE* const span = pcre2_get_ovector_pointer(data);
  constexpr PCRE2_SIZE kNone = ~PCRE2_SIZE{0};
  PCRE2_SIZE last_end = kNone;
  for (PCRE2_SIZE from = 0; from <= text.size();) {
    const auto try_once = [&](std::uint32_t options) {
      return pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                         text.size(), from, PCRE2_NO_UTF_CHECK | options, data,
                         compiled_->context.get());
    };
    int result = try_once(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = try_once(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0)
      throw DataError("the regular expression {} gives up on a text of {} bytes: {}",
                      shown(compiled_->expression), text.size(), pcre2_message(result));
    if (span[0] == span[1] && span[1] == last_end) {  // an empty match at the end of the last one
      if (from == text.size()) return;
      from += utf8_length(text.substr(from));
      continue;
    }
    from = last_end = span[1];
    found.push_back({offset + span[0], offset + span[1], true});
  }
}

void Pattern::cut(std::string_view text, std::vector<Stretch>& stretches) const {
  stretches.clear();
  thread_local std::vector<Stretch> found;
  found.clear();
  if (compiled_ == nullptr) {
    for (std::size_t at = 0; (at = text.find(text_, at)) != text.npos; at += text_.size())
      found.push_back({at, at + text_.size(), true});
  } else {
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t begin = i;
      while (const std::size_t length = utf8_length(text.substr(i))) i += length;
      if (i > begin) match(text.substr(begin, i - begin), begin, found);
      if (i < text.size()) ++i;
    }
  }
  std::size_t end = 0;
  for (const Stretch& match : found) {
    if (match.begin > end) stretches.push_back({end, match.begin, false});
    stretches.push_back(match);
    end = match.end;
  }
  if (end < text.size()) stretches.push_back({end, text.size(), false});
}

}  // namespace ballot

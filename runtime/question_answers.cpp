#include "runtime/question_answers.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

constexpr std::string_view kMark = "####";
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 32;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Takes one of these texts off the end of `line`.
bool take_end(std::string_view& line, std::initializer_list<std::string_view> ends) {
  for (const std::string_view end : ends) {
    if (!line.ends_with(end)) continue;
    line.remove_suffix(end.size());
    return true;
  }
  return false;
}

// A digit at its end; "10" of "10-12".
bool ends_in_digit(std::string_view line) {
  return !line.empty() && is_digit(line.back());
}

// The number that ends at the last digit of `line`; empty: there is none, or that digit belongs to
// what is no plain number.
std::string last_number(std::string_view line) {
  while (!line.empty() && !is_digit(line.back())) line.remove_suffix(1);
  std::size_t begin = line.size();
  for (bool whole = false; begin > 0; --begin) {
    const char c = line[begin - 1];
    if (c == '.' ? whole : !is_digit(c) && c != ',') break;
    whole = whole || c == '.';
  }
  std::string number(line.substr(begin));
  std::erase(number, ',');
  std::string_view before = line.substr(0, begin);
  // "-$5" and "$-5".
  take_end(before, {"$", "\u20ac", "\u00a3", "\u00a5"});
  const bool minus = take_end(before, {"-", "\u2212"});
  if (minus && ends_in_digit(before)) return number;  // "10-12": a range, or a difference
  // "- 5", with nothing before it.
  if (!minus) {
    std::string_view start = before;
    while (take_end(start, {" "})) continue;
    if (take_end(start, {"-", "\u2212"}) && start.find_first_not_of(' ') == std::string_view::npos)
      return fmt::format("-{}", number);
  }
  std::string_view rest = before;
  if (take_end(rest, {"e", "E", "/", "^", "*", ":", "."}) && ends_in_digit(rest)) return "";
  return minus ? fmt::format("-{}", number) : number;
}

// "18.00" and "18." are "18", ".5" is "0.5", "-0" is "0".
std::string normalized(std::string_view number) {
  const bool negative = number.starts_with('-');
  if (negative) number.remove_prefix(1);
  if (number.find('.') != std::string_view::npos) {
    while (number.ends_with('0')) number.remove_suffix(1);
    if (number.ends_with('.')) number.remove_suffix(1);
  }
  number.remove_prefix(std::min(number.find_first_not_of('0'), number.size()));
  const bool zero = number.empty();
  return fmt::format("{}{}{}", negative && !zero ? "-" : "",
                     zero || number.front() == '.' ? "0" : "", number);
}

std::string field_of(const nlohmann::json& row, const char* name, const std::string& where) {
  const auto found = row.find(name);
  if (found == row.end() || !found->is_string())
    throw DataError("{}: expected a string \"{}\", with question and answer in each row", where,
                    name);
  return found->get<std::string>();
}

}  // namespace

std::optional<std::string> final_answer(std::string_view text) {
  const std::size_t mark = text.find(kMark);
  if (mark == std::string_view::npos) return std::nullopt;
  std::string_view line = text.substr(mark + kMark.size());
  line = line.substr(0, line.find('\n'));
  const std::string number = last_number(line);
  if (number.empty()) return std::nullopt;
  return normalized(number);
}

std::vector<QuestionAnswer> parse_questions(std::string_view text, const std::string& path,
                                            std::int64_t first, std::int64_t last) {
  std::vector<QuestionAnswer> questions;
  std::int64_t row = 0;
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view one = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (one.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::int64_t index = row++;
    if (index < first || (last >= 0 && index >= last)) continue;
    const std::string where = fmt::format("{}:{}", path, line);
    const nlohmann::json object = parse_strict_json(one, where);
    if (!object.is_object())
      throw DataError("{}: the row is {}, expected an object", where, shown(object));
    QuestionAnswer read{field_of(object, "question", where), field_of(object, "answer", where)};
    if (!final_answer(read.answer))
      throw DataError("{}: the answer {} has no number after ####", where, shown(read.answer));
    questions.push_back(std::move(read));
  }
  if (questions.empty())
    throw DataError("{} has no rows from {} to {}", path, first,
                    last < 0 ? std::string("its end") : std::to_string(last));
  return questions;
}

std::vector<QuestionAnswer> read_questions(const std::string& path, std::int64_t first,
                                           std::int64_t last) {
  return parse_questions(read_file(path, kMostBytes), path, first, last);
}

std::string question_prompt(std::span<const QuestionAnswer> shots, const std::string& question) {
  std::string text;
  for (const QuestionAnswer& shot : shots)
    text += fmt::format("Question: {}\nAnswer: {}\n\n", shot.question, shot.answer);
  return text + fmt::format("Question: {}\nAnswer:", question);
}

}  // namespace ballot

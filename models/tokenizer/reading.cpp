#include "models/tokenizer/reading.h"

#include "core/error.h"

namespace ballot {

using nlohmann::json;

namespace {
constexpr std::size_t kMostProblems = 20;  // a damaged vocabulary may have a hundred thousand
}

void Refusals::add_text(std::string problem) {
  if (problems_.size() < kMostProblems)
    problems_.push_back(std::move(problem));
  else
    ++left_out_;
}

void Refusals::throw_if_any() const {
  if (problems_.empty()) return;
  std::string more;
  if (left_out_ > 0) more = fmt::format("\n{}: and {} more", path_, left_out_);
  throw DataError("{}: {}{}", path_, fmt::join(problems_, fmt::format("\n{}: ", path_)), more);
}

const json& member(const json& object, const char* key) {
  static const json null;
  if (!object.is_object()) return null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

bool is_false_or_absent(const json& value) {
  return value.is_null() || value == false;
}

bool is_empty_or_absent(const json& value) {
  return value.is_null() || (value.is_string() && value == "");
}

std::optional<std::int32_t> as_token(const json& value) {
  if (!value.is_number_unsigned() ||
      value.get<std::uint64_t>() >= static_cast<std::uint64_t>(kMaxVocabulary))
    return std::nullopt;
  return static_cast<std::int32_t>(value.get<std::uint64_t>());
}

bool read_flag(const json& object, const char* key, bool otherwise, std::string_view where,
               Refusals& refusals) {
  const json& value = member(object, key);
  if (value.is_boolean()) return value.get<bool>();
  if (!value.is_null())
    refusals.add("{}.{} is {}, expected true or false", where, key, shown(value));
  return otherwise;
}

std::vector<const json*> steps_of(const json& value, const char* list, std::string_view where,
                                  Refusals& refusals) {
  if (value.is_null()) return {};
  if (member(value, "type") != "Sequence") return {&value};
  const json& members = member(value, list);
  std::vector<const json*> steps;
  if (!members.is_array()) {
    refusals.add("{}.{} is {}, expected an array", where, list, shown(members));
    return steps;
  }
  for (const json& step : members) {
    if (member(step, "type") == "Sequence")
      refusals.add("{} has a Sequence in a Sequence: not supported", where);
    else
      steps.push_back(&step);
  }
  return steps;
}

}  // namespace ballot

#include "models/tokenizer/normalizer.h"

#include "core/error.h"

namespace ballot {

using nlohmann::json;

Normalizer Normalizer::read(const json& value, Refusals& refusals) {
  Normalizer normalizer;
  for (const json* const step : steps_of(value, "normalizers", "normalizer", refusals)) {
    const json& type = member(*step, "type");
    const char* const key = type == "Prepend" ? "prepend" : "content";
    if (type != "Prepend" && type != "Replace") {
      refusals.add(
          "normalizer {} is not supported, expected Prepend, Replace, a Sequence of them or null",
          shown(type));
      continue;
    }
    const json& text = member(*step, key);
    if (!text.is_string()) {
      refusals.add("normalizer.{} is {}, expected a text", key, shown(text));
      continue;
    }
    Step made;
    made.text = text.get<std::string>();
    if (type == "Replace") {
      made.replaced = Pattern::read(member(*step, "pattern"), "normalizer", refusals);
      if (!made.replaced) continue;
    }
    normalizer.steps_.push_back(std::move(made));
  }
  return normalizer;
}

std::string Normalizer::apply(std::string_view text) const {
  std::string result(text);
  std::vector<Stretch> stretches;
  for (const Step& step : steps_) {
    if (!step.replaced) {
      if (!result.empty()) result.insert(0, step.text);
      continue;
    }
    step.replaced->cut(result, stretches);
    std::string replaced;
    for (const Stretch& stretch : stretches)
      replaced += stretch.matched
                      ? std::string_view(step.text)
                      : std::string_view(result).substr(stretch.begin, stretch.end - stretch.begin);
    result = std::move(replaced);
  }
  return result;
}

}  // namespace ballot

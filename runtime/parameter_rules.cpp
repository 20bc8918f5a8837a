#include "runtime/parameter_rules.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace ballot {
namespace {

// Marks what `patterns` of the run's `key` fit.
template <class Mark>
void mark(std::vector<ParameterShape>& shapes, const std::vector<std::string>& patterns,
          const char* key, const Mark& set) {
  for (const std::string& pattern : patterns) {
    bool fits = false;
    for (ParameterShape& shape : shapes) {
      if (!fits_pattern(shape.name, pattern)) continue;
      fits = true;
      set(shape);
    }
    if (!fits)
      throw ConfigError(
          "{} = \"{}\" fits no parameter of the model; it has {} of them, from \"{}\" to \"{}\"",
          key, pattern, shapes.size(), shapes.front().name, shapes.back().name);
  }
}

}  // namespace

bool fits_pattern(std::string_view name, std::string_view pattern) {
  std::size_t n = 0, p = 0;
  std::size_t star = std::string_view::npos, from = 0;  // the last *, and where its text may end
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++from;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<ParameterShape> with_rules(std::vector<ParameterShape> shapes,
                                       const RunConfig& config) {
  mark(shapes, config.freeze, "train.freeze", [](ParameterShape& shape) { shape.frozen = true; });
  mark(shapes, config.no_decay, "train.no_decay",
       [](ParameterShape& shape) { shape.decays = false; });
  if (std::ranges::all_of(shapes, &ParameterShape::frozen))
    throw ConfigError("train.freeze fits all {} parameters of the model: nothing is trained",
                      shapes.size());
  return shapes;
}

}  // namespace ballot

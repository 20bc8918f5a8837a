// What a text becomes before it is cut: "normalizer" of a tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/pattern.h"

namespace ballot {

class Normalizer {
 public:
  // Of Prepend, Replace and Sequences of them; null is a normalizer that changes nothing.
  static Normalizer read(const nlohmann::json& value, Refusals& refusals);

  bool changes_nothing() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;

 private:
  struct Step {
    std::optional<Pattern> replaced;  // none: `text` is put in front of a text that is not empty
    std::string text;
  };
  std::vector<Step> steps_;
};

}  // namespace ballot

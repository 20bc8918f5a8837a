// The tokens that a tokenizer.json puts around every text: "post_processor".
#pragma once

#include <cstdint>
#include <vector>

#include "models/tokenizer/reading.h"

namespace ballot {

class PostProcessor {
 public:
  // Of TemplateProcessing and ByteLevel (which only moves offsets), and Sequences of them; null
  // adds nothing. Templates of pairs of texts are not read.
  static PostProcessor read(const nlohmann::json& value, Refusals& refusals);

  const std::vector<std::int32_t>& before() const { return before_; }
  const std::vector<std::int32_t>& after() const { return after_; }

 private:
  void read_template(const nlohmann::json& value, Refusals& refusals);

  std::vector<std::int32_t> before_, after_;
};

}  // namespace ballot

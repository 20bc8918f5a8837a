// From a model's logits to texts: which token comes next, and several prompts continued at once.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "models/model.h"

namespace ballot {

// temperature 0: the most likely token, the first of equals. Else a token drawn from
// softmax(logits / temperature), of the fewest tokens that together have probability top_p
// (Holtzman et al. 2020, arXiv:1904.09751).
struct Sampling {
  double temperature = 0;
  double top_p = 1;
  std::uint64_t seed = 1;
};

// `u` in [0, 1) decides. DataError where a logit is no number.
std::int32_t choose_token(std::span<const float> logits, const Sampling& sampling, double u);

struct DecodingLimits {
  std::int64_t max_tokens = 0;            // of each continuation
  std::int64_t max_length = 0;            // of a prompt and its continuation: the model's positions
  std::vector<std::int64_t> stop_tokens;  // any of them ends a text and is not part of it
};

enum class Ended { stop_token, max_tokens, max_length };

struct Continuation {
  std::vector<std::int32_t> tokens;
  Ended ended = Ended::max_tokens;
};

// Continues all prompts at once, each with at least one token. `on_token` hears of each token of
// text i as it is chosen; none may be given. What is drawn depends on the seed, `first_text` + the
// text's place and its length, not on what it is beside. DataError for prompts that leave no room.
using OnToken = std::function<void(std::size_t text, std::int32_t token)>;
std::vector<Continuation> continue_texts(Model& model,
                                         std::span<const std::vector<std::int32_t>> prompts,
                                         const DecodingLimits& limits, const Sampling& sampling,
                                         const OnToken& on_token = {}, std::int64_t first_text = 0);

}  // namespace ballot

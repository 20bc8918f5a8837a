#include "runtime/decoding.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/hash.h"

namespace ballot {
namespace {

constexpr std::uint64_t kDecodingStream = 0x6465636f6465;  // "decode"

std::int32_t most_likely(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
}

// In [0, 1).
double uniform(std::uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace

std::int32_t choose_token(std::span<const float> logits, const Sampling& sampling, double u) {
  require(!logits.empty(), "a token of none");
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (std::isnan(logits[i])) throw DataError("the model's logit of token {} is no number", i);
  if (sampling.temperature == 0) return most_likely(logits);
  const double maximum = logits[static_cast<std::size_t>(most_likely(logits))];
  std::vector<double> weight(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i)
    weight[i] = std::exp((static_cast<double>(logits[i]) - maximum) / sampling.temperature);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  if (sampling.top_p < 1) {
    const double wanted = sampling.top_p * std::accumulate(weight.begin(), weight.end(), 0.0);
    std::ranges::stable_sort(order, std::greater{}, [&](std::int32_t token) {
      return weight[static_cast<std::size_t>(token)];
    });
    double sum = 0;
    std::size_t kept = 0;
    while (kept < order.size() && (kept == 0 || sum < wanted))
      sum += weight[static_cast<std::size_t>(order[kept++])];
    order.resize(kept);
  }
  double sum = 0;
  for (const std::int32_t token : order) sum += weight[static_cast<std::size_t>(token)];
  double left = u * sum;
  for (const std::int32_t token : order) {
    left -= weight[static_cast<std::size_t>(token)];
    if (left < 0) return token;
  }
  // Rounding: u * sum was all of it. The last that has any weight.
  for (auto token = order.rbegin(); token != order.rend(); ++token)
    if (weight[static_cast<std::size_t>(*token)] > 0) return *token;
  return order.front();
}

std::vector<Continuation> continue_texts(Model& model,
                                         std::span<const std::vector<std::int32_t>> prompts,
                                         const DecodingLimits& limits, const Sampling& sampling,
                                         const OnToken& on_token, std::int64_t first_text) {
  require(limits.max_tokens > 0 && limits.max_length > 0, "{} tokens of a text of {}",
          limits.max_tokens, limits.max_length);
  std::size_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) throw DataError("prompt {} has no tokens, expected at least one", i);
    if (static_cast<std::int64_t>(prompts[i].size()) >= limits.max_length)
      throw DataError("prompt {} has {} tokens, the model has {} positions: there is no room", i,
                      prompts[i].size(), limits.max_length);
    longest = std::max(longest, prompts[i].size());
  }
  std::vector<Continuation> texts(prompts.size());
  if (prompts.empty()) return texts;
  const std::int64_t length =
      std::min(limits.max_length, static_cast<std::int64_t>(longest) + limits.max_tokens);
  const std::unique_ptr<Generation> generation =
      model.start(static_cast<std::int64_t>(prompts.size()), length);
  std::vector<std::vector<std::int32_t>> next(prompts.begin(), prompts.end());
  for (bool goes_on = true; goes_on;) {
    const Tensor logits = generation->extend(next);
    require(logits.device.kind == Device::Kind::cpu, "logits on {}", to_string(logits.device));
    goes_on = false;
    for (std::size_t i = 0; i < next.size(); ++i) {
      if (next[i].empty()) continue;
      next[i].clear();
      Continuation& text = texts[i];
      const auto at = static_cast<std::int64_t>(i);
      const std::int64_t place = generation->length(at);
      const double u = uniform(hash64(hash64(sampling.seed, kDecodingStream, 0),
                                      static_cast<std::uint64_t>(first_text + at),
                                      static_cast<std::uint64_t>(place)));
      const std::int32_t token = choose_token(
          {logits.f32() + at * logits.stride[0], static_cast<std::size_t>(logits.extent[1])},
          sampling, u);
      if (std::ranges::find(limits.stop_tokens, token) != limits.stop_tokens.end()) {
        text.ended = Ended::stop_token;
        continue;
      }
      text.tokens.push_back(token);
      if (on_token) on_token(i, token);
      if (static_cast<std::int64_t>(text.tokens.size()) >= limits.max_tokens) {
        text.ended = Ended::max_tokens;
      } else if (place + 1 >= length) {
        text.ended = Ended::max_length;
      } else {
        next[i].push_back(token);
        goes_on = true;
      }
    }
  }
  return texts;
}

}  // namespace ballot

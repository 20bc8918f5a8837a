#include "runtime/data/token_data.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace ballot {

TokenData::TokenData(std::string name, std::vector<std::uint32_t> words)
    : name_(std::move(name)),
      words_(std::make_shared<const std::vector<std::uint32_t>>(std::move(words))),
      tokens_(std::span<const std::uint32_t>(*words_)) {
  look_through(true);
}

TokenData::TokenData(std::string name, std::shared_ptr<const MappedFile> file, TokenView tokens,
                     std::vector<std::int64_t> starts)
    : name_(std::move(name)), file_(std::move(file)), tokens_(tokens), starts_(std::move(starts)) {
  look_through(starts_.empty());
}

void TokenData::look_through(bool find_starts) {
  predictable_ = trained_ = 0;
  least_ = std::numeric_limits<std::int32_t>::max();
  most_ = -1;
  if (find_starts) starts_.clear();
  std::size_t next = 0;  // document
  for (std::int64_t i = 0; i < tokens_.size(); ++i) {
    const std::int32_t token = tokens_.token(i);
    least_ = std::min(least_, token);
    most_ = std::max(most_, token);
    if (find_starts && (i == 0 || tokens_.begins_document(i))) starts_.push_back(i);
    if (next < starts_.size() && starts_[next] == i) {
      while (next < starts_.size() && starts_[next] == i) ++next;  // some may be empty
      continue;
    }
    ++predictable_;
    trained_ += tokens_.trained(i);
  }
  if (tokens_.size() == 0) least_ = 0;
}

Digest TokenData::digest() const {
  DigestStream stream;
  std::array<std::uint32_t, 4096> words;
  std::size_t next = 0;
  for (std::int64_t begin = 0; begin < tokens_.size();) {
    const std::int64_t count =
        std::min<std::int64_t>(static_cast<std::int64_t>(words.size()), tokens_.size() - begin);
    for (std::int64_t i = 0; i < count; ++i) {
      bool begins = false;
      for (; next < starts_.size() && starts_[next] == begin + i; ++next) begins = true;
      words[static_cast<std::size_t>(i)] = static_cast<std::uint32_t>(tokens_.token(begin + i)) |
                                           (begins ? kBeginsDocument : 0) |
                                           (tokens_.trained(begin + i) ? 0 : kNotTrained);
    }
    stream.add(std::as_bytes(std::span(words).first(static_cast<std::size_t>(count))));
    begin += count;
  }
  return stream.digest();
}

TokenData TokenData::part(double first, double last) const {
  if (first == 0 && last == 1) return *this;
  const bool of_tokens = documents() <= 1;
  const std::int64_t all = of_tokens ? tokens_.size() : documents();
  const auto place = [all](double share) {
    return std::min(all, static_cast<std::int64_t>(std::floor(share * static_cast<double>(all))));
  };
  TokenData result = *this;
  std::int64_t begin = place(first), end = place(last);
  if (of_tokens) {
    if (begin < end) result.starts_ = {0};
  } else {
    result.starts_.assign(starts_.begin() + begin, starts_.begin() + end);
    end = end < all ? document_begin(end) : tokens_.size();
    begin = begin < all ? document_begin(begin) : tokens_.size();
    for (std::int64_t& start : result.starts_) start -= begin;
  }
  result.tokens_ = tokens_.part(begin, end);
  result.look_through(false);
  return result;
}

void TokenData::train_on_all() {
  tokens_.train_on_all();
  trained_ = predictable_;
}

Windows resolve_windows(const DocumentRules& rules, const TokenData& data) {
  if (rules.windows != Windows::automatic) return rules.windows;
  return data.masked() ? Windows::packed : Windows::stream;
}

const char* to_string(Windows windows) {
  return windows == Windows::automatic ? "auto"
         : windows == Windows::stream  ? "stream"
         : windows == Windows::packed  ? "packed"
                                       : "single";
}
const char* to_string(TrainOn train_on) {
  return train_on == TrainOn::automatic ? "auto" : train_on == TrainOn::all ? "all" : "completion";
}
const char* to_string(LongDocuments policy) {
  return policy == LongDocuments::cut ? "cut" : "refuse";
}

}  // namespace ballot

// Tokens somewhere in memory, in one of the forms in which files hold them; owns nothing.
//
// A word is Ballot's own form, of token files and of rows that were read: 30 bits of token, then
// whether a document begins with it, then whether it is not trained on (a prompt's). docs/data.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "models/model.h"  // kNoTarget

namespace ballot {

inline constexpr std::uint32_t kTokenBits = (std::uint32_t{1} << 30) - 1;
inline constexpr std::uint32_t kBeginsDocument = std::uint32_t{1} << 30;
inline constexpr std::uint32_t kNotTrained = std::uint32_t{1} << 31;

class TokenView {
 public:
  enum class Form { u16, i32, word };

  TokenView() = default;
  TokenView(std::span<const std::int32_t> tokens)  // NOLINT: implicit on purpose
      : TokenView(Form::i32, std::as_bytes(tokens)) {}
  TokenView(const std::vector<std::int32_t>& tokens)  // NOLINT: and this
      : TokenView(std::span<const std::int32_t>(tokens)) {}
  explicit TokenView(std::span<const std::uint32_t> words)
      : TokenView(Form::word, std::as_bytes(words)) {}
  // Whole tokens in the machine's byte order, anywhere.
  TokenView(Form form, std::span<const std::byte> bytes)
      : form_(form),
        data_(bytes.data()),
        size_(static_cast<std::int64_t>(bytes.size() / size_of(form))) {}

  std::int64_t size() const { return size_; }
  Form form() const { return form_; }
  static std::size_t size_of(Form form) { return form == Form::u16 ? 2 : 4; }

  std::int32_t token(std::int64_t i) const {
    return form_ == Form::word ? static_cast<std::int32_t>(word(i) & kTokenBits)
                               : static_cast<std::int32_t>(word(i));
  }
  bool trained(std::int64_t i) const {
    return form_ != Form::word || all_trained_ || (word(i) & kNotTrained) == 0;
  }
  bool begins_document(std::int64_t i) const {
    return form_ == Form::word && (word(i) & kBeginsDocument) != 0;
  }
  // Of Form::word: what the file says is not trained on is trained on all the same.
  void train_on_all() { all_trained_ = true; }

  void copy_inputs(std::int64_t begin, std::int64_t count, std::int32_t* inputs) const {
    for (std::int64_t i = 0; i < count; ++i) inputs[i] = token(begin + i);
  }
  void copy_targets(std::int64_t begin, std::int64_t count, std::int32_t* targets) const {
    for (std::int64_t i = 0; i < count; ++i)
      targets[i] = trained(begin + i) ? token(begin + i) : kNoTarget;
  }

  TokenView part(std::int64_t begin, std::int64_t end) const {
    TokenView view = *this;
    view.data_ += static_cast<std::size_t>(begin) * size_of(form_);
    view.size_ = end - begin;
    return view;
  }

 private:
  std::uint32_t word(std::int64_t i) const {
    if (form_ == Form::u16) {
      std::uint16_t value;
      std::memcpy(&value, data_ + 2 * i, sizeof value);
      return value;
    }
    std::uint32_t value;
    std::memcpy(&value, data_ + 4 * i, sizeof value);
    return value;
  }

  Form form_ = Form::i32;
  bool all_trained_ = false;
  const std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace ballot

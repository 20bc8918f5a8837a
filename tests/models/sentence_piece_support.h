// A tokenizer.model of SentencePiece, written field by field.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <string>

namespace ballot {

// One message of protobuf.
class WireMessage {
 public:
  WireMessage& number(int field, std::uint64_t value) {
    varint(static_cast<std::uint64_t>(field) << 3);
    varint(value);
    return *this;
  }
  WireMessage& bytes(int field, const std::string& value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 2);
    varint(value.size());
    text_ += value;
    return *this;
  }
  WireMessage& real(int field, float value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 5);
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

struct SmallModel {
  std::uint64_t model_type = 2;
  bool byte_fallback = true, dummy_prefix = true, remove_extra_spaces = false;
  std::string charsmap = "";
  int user_defined = -1;  // an id among the pieces that is one
};

// <unk>, <s>, </s>, 256 bytes, then (from 259) _, a, b, ab, _a, _ab, where _ is U+2581.
inline std::string sentence_piece_model(const SmallModel& model = {}) {
  WireMessage file;
  int id = 0;
  const auto piece = [&](const std::string& text, float score, std::uint64_t type) {
    if (id++ == model.user_defined) type = 4;
    file.bytes(1, WireMessage().bytes(1, text).real(2, score).number(3, type).text());
  };
  piece("<unk>", 0, 2);
  piece("<s>", 0, 3);
  piece("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) piece(fmt::format("<0x{:02X}>", byte), 0, 6);
  float score = -10;
  for (const char* const text : {"\u2581", "a", "b"}) piece(text, score--, 1);
  piece("ab", -1, 1);
  piece("\u2581a", -2, 1);
  piece("\u2581ab", -3, 1);
  file.bytes(2, WireMessage()
                    .number(3, model.model_type)
                    .number(35, model.byte_fallback)
                    .number(41, 1)
                    .number(42, 2)
                    .text());
  file.bytes(3, WireMessage()
                    .bytes(1, model.charsmap.empty() ? "identity" : "nmt_nfkc")
                    .bytes(2, model.charsmap)
                    .number(3, model.dummy_prefix)
                    .number(4, model.remove_extra_spaces)
                    .text());
  return file.text();
}

}  // namespace ballot

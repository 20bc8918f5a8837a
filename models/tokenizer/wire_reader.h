// Fields of a protobuf message, one by one, from bytes that are not trusted.
//
// Our own reader: a library that brings its own protobuf does not live beside gRPC's in one
// process. Every length is checked against what is left; CorruptFile names file and byte. Groups,
// which nobody writes, are refused.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "core/error.h"

namespace ballot {

class WireReader {
 public:
  // `offset`: of `bytes` in the file, for messages.
  WireReader(std::string_view bytes, std::string path, std::size_t offset = 0)
      : bytes_(bytes), path_(std::move(path)), offset_(offset) {}

  // The next field; false at the end. Then one of the values below holds it.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const std::uint64_t tag = varint();
    field_ = tag >> 3;
    if (field_ == 0 || field_ > 0x1fffffff) fail("field number", field_);
    kind_ = static_cast<int>(tag & 7);
    switch (kind_) {
      case 0:
        number_ = varint();
        break;
      case 1:
        take_fixed(8);
        break;
      case 2: {
        const std::uint64_t length = varint();
        if (length > bytes_.size() - at_) fail("length", length);
        value_at_ = at_;
        value_ = bytes_.substr(at_, static_cast<std::size_t>(length));
        at_ += static_cast<std::size_t>(length);
        break;
      }
      case 5:
        take_fixed(4);
        break;
      default:
        fail("wire type", static_cast<std::uint64_t>(kind_));
    }
    return true;
  }

  std::uint64_t field() const { return field_; }

  // CorruptFile where the field is of another kind.
  std::uint64_t number() const {
    expect(0, "a number");
    return number_;
  }
  bool flag() const { return number() != 0; }
  // An enum or int32: negative ones are sent as 64 bits.
  std::int64_t integer() const { return static_cast<std::int64_t>(number()); }
  std::string_view bytes() const {
    expect(2, "bytes");
    return value_;
  }
  float real() const {
    expect(5, "a float");
    float value;
    std::memcpy(&value, value_.data(), sizeof value);
    return value;
  }
  WireReader message() const {
    expect(2, "a message");
    return {value_, path_, offset_ + value_at_};
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size())
        throw CorruptFile("{} ends inside a number at byte {}", path_, offset_ + at_);
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    throw CorruptFile("{} has a number of more than ten bytes at byte {}", path_, offset_ + at_);
  }
  void take_fixed(std::size_t size) {
    if (size > bytes_.size() - at_) fail("length", size);
    value_ = bytes_.substr(at_, size);
    at_ += size;
  }
  void expect(int kind, const char* what) const {
    if (kind_ != kind)
      throw CorruptFile("{}: field {} before byte {} has wire type {}, expected {}", path_, field_,
                        offset_ + at_, kind_, what);
  }
  [[noreturn]] void fail(const char* what, std::uint64_t value) const {
    throw CorruptFile("{}: {} {} at byte {} is none of a protobuf message with {} bytes left",
                      path_, what, value, offset_ + at_, bytes_.size() - at_);
  }

  std::string_view bytes_, value_;
  std::string path_;
  std::size_t offset_, at_ = 0, value_at_ = 0;
  std::uint64_t field_ = 0, number_ = 0;
  int kind_ = -1;
};

}  // namespace ballot

#include "models/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// A file with this header and `data` zero bytes after it.
std::string file_of(const std::string& header, std::size_t data = 0) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data, '\0');
}

SafetensorsReader read(const std::string& file) {
  return SafetensorsReader(as_bytes(file), "x.safetensors");
}

auto is_corrupt(const std::string& what) {
  return ThrowsMessage<CorruptFile>(AllOf(HasSubstr("x.safetensors"), HasSubstr(what)));
}
void expect_corrupt(const std::string& file, const std::string& what) {
  EXPECT_THAT([&] { read(file); }, is_corrupt(what));
}
void expect_header_corrupt(const std::string& header, const std::string& what,
                           std::size_t data = 4) {
  SCOPED_TRACE(header.substr(0, 200));
  expect_corrupt(file_of(header, data), what);
}

const std::string kSmall =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})";

TEST(SafetensorsReader, ReadsTypesShapesBytesAndMetadata) {
  std::string file = file_of(kSmall, 22);
  file[file.size() - 6] = 7;  // first byte of b
  const SafetensorsReader reader = read(file);
  ASSERT_EQ(reader.tensors().size(), 2u);
  const StoredTensor& a = reader.get("a");
  EXPECT_EQ(a.type, StoredType::f32);
  EXPECT_EQ(a.shape, (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(a.count(), 4);
  EXPECT_EQ(a.bytes.size(), 16u);
  const StoredTensor& b = reader.get("b");
  EXPECT_EQ(b.type, StoredType::bf16);
  EXPECT_EQ(b.bytes.size(), 6u);
  EXPECT_EQ(b.bytes[0], std::byte{7});
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  EXPECT_EQ(reader.find("c"), nullptr);
  EXPECT_THAT([&] { reader.get("c"); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("x.safetensors"), HasSubstr("c"))));
}

TEST(SafetensorsReader, TensorsComeInFileOrderWhateverTheHeaderSays) {
  const SafetensorsReader reader = read(file_of(
      R"({"z":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
      3));
  EXPECT_EQ(reader.tensors()[0].name, "y");
  EXPECT_EQ(reader.tensors()[1].name, "z");
}

TEST(SafetensorsReader, EveryTruncationIsCorrupt) {
  const std::string file = file_of(kSmall, 22);
  for (std::size_t length = 0; length < file.size(); ++length) {
    SCOPED_TRACE(length);
    expect_corrupt(file.substr(0, length), "");
  }
  EXPECT_NO_THROW(read(file));
}

TEST(SafetensorsReader, TrailingBytesAreCorrupt) {
  expect_corrupt(file_of(kSmall, 23), "its tensors end at");
}

// The cases that follow carry the names of the reference reader's tests (safetensors, tensor.rs).
TEST(SafetensorsReader, JsonAttack) {
  std::string header = "{";
  for (int i = 0; i < 10; ++i)
    header += fmt::format(R"({}"weight_{}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})",
                          i ? "," : "", i);
  expect_header_corrupt(header + "}", "no holes, no overlap", 16);
}

TEST(SafetensorsReader, MetadataIncompleteBuffer) {
  const std::string header = R"({"test":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}})";
  expect_corrupt(file_of(header, 12), "needs");
  expect_corrupt(file_of(header, 20), "its tensors end at");
  EXPECT_NO_THROW(read(file_of(header, 16)));
}

TEST(SafetensorsReader, HeaderTooLarge) {
  std::string file = file_of("{}");
  const std::uint64_t length = 100'000'001;
  std::memcpy(file.data(), &length, 8);
  expect_corrupt(file, "expected at most 100000000");
}

TEST(SafetensorsReader, HeaderLengthBomb) {
  for (const std::uint64_t length :
       {~std::uint64_t{0}, ~std::uint64_t{0} - 7, std::uint64_t{1} << 63}) {
    std::string file = file_of("{}");
    std::memcpy(file.data(), &length, 8);
    expect_corrupt(file, "expected at most 100000000");
  }
}

TEST(SafetensorsReader, HeaderTooSmall) {
  expect_corrupt("", "at least 8");
  expect_corrupt("1234567", "at least 8");
}

TEST(SafetensorsReader, InvalidHeaderLength) {
  std::string file(8, '\0');
  file[0] = 60;
  expect_corrupt(file, "has 8 bytes, its header needs 68");
}

TEST(SafetensorsReader, NonUtf8) {
  expect_header_corrupt("\xff", "not UTF-8");
  expect_header_corrupt("{\"\xc0\x80\":1}", "not UTF-8");          // overlong
  expect_header_corrupt("{\"\xed\xa0\x80\":1}", "not UTF-8");      // surrogate
  expect_header_corrupt("{\"\xf4\x90\x80\x80\":1}", "not UTF-8");  // above U+10FFFF
  expect_header_corrupt("{\"\xe2\x82", "not UTF-8");               // cut
}

TEST(SafetensorsReader, NotJson) {
  expect_header_corrupt("{", "not JSON");
  expect_header_corrupt("{} {}", "not JSON");
  expect_header_corrupt("{\"a\":}", "not JSON");
  expect_header_corrupt(std::string("{}\0{}", 5), "is zero");
}

TEST(SafetensorsReader, MustStartWithABrace) {
  expect_header_corrupt(" {}", "starts with");
  expect_header_corrupt("[]", "starts with");
  expect_header_corrupt("", "starts with");
  expect_header_corrupt("\xef\xbb\xbf{}", "starts with");  // a byte order mark
}

TEST(SafetensorsReader, ZeroSizedTensor) {
  const SafetensorsReader reader = read(file_of(
      R"({"a":{"dtype":"F32","shape":[2,0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
      R"("c":{"dtype":"F32","shape":[0],"data_offsets":[1,1]}})",
      1));
  EXPECT_EQ(reader.get("a").count(), 0);
  EXPECT_EQ(reader.get("b").count(), 1) << "a scalar has no extents";
  EXPECT_TRUE(reader.get("c").bytes.empty());
}

TEST(SafetensorsReader, NoTensorsAtAllIsAFile) {
  EXPECT_TRUE(read(file_of("{}")).tensors().empty());
  expect_header_corrupt("{}", "its tensors end at");
}

TEST(SafetensorsReader, InvalidInfo) {
  expect_header_corrupt(R"({"t":{"dtype":"F32","shape":[2,2],"data_offsets":[0,4]}})", "needs 16");
  expect_header_corrupt(R"({"t":{"dtype":"F32","shape":[],"data_offsets":[4,0]}})",
                        "no holes, no overlap");
}

TEST(SafetensorsReader, HolesAndOverlapsAreCorrupt) {
  const auto two = [](int b0, int e0, int b1, int e1) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       e0 - b0, b0, e0, e1 - b1, b1, e1);
  };
  EXPECT_NO_THROW(read(file_of(two(0, 2, 2, 4), 4)));
  expect_header_corrupt(two(0, 1, 2, 4), "no holes");
  expect_header_corrupt(two(1, 2, 2, 4), "no holes");
  expect_header_corrupt(two(0, 3, 2, 4), "no overlap");
  expect_header_corrupt(two(0, 4, 0, 4), "no overlap");
}

TEST(SafetensorsReader, ValidationOverflow) {
  const auto shape = [](const std::string& extents) {
    return R"({"t":{"dtype":"F32","shape":[)" + extents + R"(],"data_offsets":[0,4]}})";
  };
  expect_header_corrupt(shape("2,9223372036854775807,2"), "overflows");
  expect_header_corrupt(shape("4294967296,4294967296"), "overflows");
  expect_header_corrupt(shape("4294967296,4294967296,0"), "overflows");
  expect_header_corrupt(shape("4611686018427387905"), "overflows");  // times 4 = 4 modulo 2^64
  expect_header_corrupt(shape("9223372036854775808"), "2^63");
  expect_header_corrupt(shape("18446744073709551616"), "whole numbers");  // a float to the parser
  expect_header_corrupt(
      R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}})", "needs 1");
}

TEST(SafetensorsReader, WhitespacePadded) {
  EXPECT_EQ(read(file_of(kSmall + std::string(100, ' '), 22)).tensors().size(), 2u);
}

TEST(SafetensorsReader, DuplicateKeysAreCorrupt) {
  const std::string a = R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  expect_header_corrupt("{" + a + "," + a + "}", "\"a\" stands twice");
  expect_header_corrupt(R"({"__metadata__":{},"__metadata__":{}})", "stands twice");
  expect_header_corrupt(R"({"__metadata__":{"k":"1","k":"2"}})", "stands twice in __metadata__");
  expect_header_corrupt(R"({"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                        "dtype twice");
}

TEST(SafetensorsReader, MetadataHoldsOnlyStrings) {
  EXPECT_EQ(read(file_of(R"({"__metadata__":{"k":""}})")).metadata().at("k"), "");
  for (const char* value : {"1", "null", "true", "{}", "[]", "1.5"})
    expect_header_corrupt(fmt::format(R"({{"__metadata__":{{"k":{}}}}})", value),
                          "expected a string");
  expect_header_corrupt(R"({"__metadata__":"k"})", "expected an object");
}

TEST(SafetensorsReader, WrongKindsAreCorrupt) {
  expect_header_corrupt(R"({"a":1})", "expected an object");
  expect_header_corrupt(R"({"a":{"dtype":1,"shape":[],"data_offsets":[0,4]}})",
                        "expected a string");
  expect_header_corrupt(R"({"a":{"dtype":"F8_E4M3","shape":[],"data_offsets":[0,4]}})",
                        "expected one of F64");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":4,"data_offsets":[0,4]}})", "whole numbers");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
                        "whole numbers");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})",
                        "whole numbers");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})",
                        "whole numbers");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0]}})", "expected 2");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4,4]}})",
                        "more than two");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,"4"]}})",
                        "two whole numbers");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[]}})", "lacks data_offsets");
  expect_header_corrupt(R"({"a":{}})", "lacks dtype");
  expect_header_corrupt(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":1}})",
                        "has a key \"more\"");
}

TEST(SafetensorsReader, JsonBombIsCorruptAndCheap) {
  expect_header_corrupt("{\"a\":" + std::string(5'000'000, '['), "expected an object");
  std::string nested = "{";
  for (int i = 0; i < 500'000; ++i) nested += "\"a\":{";
  expect_header_corrupt(nested, "has a key");
  std::string shape = "{\"a\":{\"shape\":[1";
  for (int i = 0; i < 1'000'000; ++i) shape += ",1";
  expect_header_corrupt(shape, "more than 32 dimensions");
}

TEST(SafetensorsReader, TooManyTensorsAreCorrupt) {
  std::string header = "{";
  for (int i = 0; i <= 100'000; ++i)
    header +=
        fmt::format(R"({}"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", i ? "," : "", i);
  expect_header_corrupt(header + "}", "more than 100000 tensors");
}

TEST(SafetensorsReader, AMessageShowsAHostileNameCutAndEscaped) {
  const std::string name = "\\u0007" + std::string(10'000, 'x');
  try {
    read(file_of("{\"" + name + "\":1}"));
    FAIL();
  } catch (const CorruptFile& error) {
    EXPECT_LT(std::strlen(error.what()), 300u);
    EXPECT_THAT(error.what(), HasSubstr("\\x07"));
  }
}

TEST(SafetensorsReader, AMissingFileIsAFileError) {
  EXPECT_THROW(SafetensorsReader("/nowhere/model.safetensors"), FileError);
}

TEST(SafetensorsReader, AMovedReaderKeepsItsMapping) {
  const TemporaryFolder folder;
  const std::string data = "abcd";
  const std::vector<TensorToStore> tensors = {{"t", StoredType::u8, {4}, as_bytes(data)}};
  write_safetensors(folder.file("x"), tensors, {});
  SafetensorsReader first(folder.file("x"));
  const SafetensorsReader second(std::move(first));
  EXPECT_EQ(second.get("t").bytes[3], std::byte{'d'});
}

RC_GTEST_PROP(Safetensors, WhatIsWrittenIsRead, ()) {
  const auto count = *rc::gen::inRange(0, 6);
  std::vector<std::string> data;
  std::vector<TensorToStore> tensors;
  const StoredType types[] = {
      StoredType::f64, StoredType::f32, StoredType::f16, StoredType::bf16, StoredType::i64,
      StoredType::i32, StoredType::i16, StoredType::i8,  StoredType::u8,   StoredType::boolean};
  for (int i = 0; i < count; ++i) {
    const StoredType type = types[*rc::gen::inRange(0, 10)];
    const auto shape = *rc::gen::container<std::vector<std::int64_t>>(
        *rc::gen::inRange(0, 4), rc::gen::inRange<std::int64_t>(0, 5));
    std::size_t size = size_bytes(type);
    for (const std::int64_t extent : shape) size *= static_cast<std::size_t>(extent);
    data.push_back(*rc::gen::container<std::string>(size, rc::gen::arbitrary<char>()));
    tensors.push_back({fmt::format("t\"{}\u00e9", i), type, shape, {}});
  }
  for (int i = 0; i < count; ++i) tensors[i].bytes = as_bytes(data[i]);
  const std::map<std::string, std::string> metadata = {{"k", "v\n\""}};

  const TemporaryFolder folder;
  write_safetensors(folder.file("x"), tensors, metadata);
  const SafetensorsReader reader(folder.file("x"));
  RC_ASSERT(reader.metadata() == metadata);
  RC_ASSERT(reader.tensors().size() == tensors.size());
  for (const TensorToStore& tensor : tensors) {
    const StoredTensor& stored = reader.get(tensor.name);
    RC_ASSERT(stored.type == tensor.type);
    RC_ASSERT(stored.shape == tensor.shape);
    RC_ASSERT(std::equal(stored.bytes.begin(), stored.bytes.end(), tensor.bytes.begin(),
                         tensor.bytes.end()));
  }
}

TEST(SafetensorsWriter, DataStartsOnEightBytes) {
  const TemporaryFolder folder;
  for (int length = 1; length < 10; ++length) {
    const std::string data = "abcd";
    const std::vector<TensorToStore> tensors = {
        {std::string(length, 'n'), StoredType::u8, {4}, as_bytes(data)}};
    write_safetensors(folder.file("x"), tensors, {});
    EXPECT_EQ((read_file(folder.file("x")).size() - 4) % 8, 0u);
  }
}

TEST(SafetensorsWriter, WrongSizesAndRepeatedNamesAreOurMistake) {
  const TemporaryFolder folder;
  const std::string data = "abcd";
  const std::vector<TensorToStore> small = {{"t", StoredType::f32, {2}, as_bytes(data)}};
  EXPECT_THROW(write_safetensors(folder.file("x"), small, {}), LogicError);
  const std::vector<TensorToStore> twice(2, {"t", StoredType::u8, {4}, as_bytes(data)});
  EXPECT_THROW(write_safetensors(folder.file("x"), twice, {}), LogicError);
  const std::vector<TensorLayout> layout = {{"t", StoredType::u8, {4}}};
  SafetensorsWriter writer(folder.file("x"), layout, {});
  writer.write(as_bytes("abc"));
  EXPECT_THROW(writer.finish(), LogicError);
}

}  // namespace
}  // namespace ballot

// Digests name bytes whatever parts they come in, and have one spelling.
#include "core/digest.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace ballot {
namespace {

TEST(Digest, IsXxh3Of128Bits) {  // the empty input's, from the algorithm's own test vectors
  EXPECT_EQ(to_string(digest_of(std::string_view())), "99aa06d3014798d86001c324468d497f");
}

RC_GTEST_PROP(Digest, DoesNotDependOnHowBytesAreCut, (const std::string& a, const std::string& b)) {
  DigestStream stream;
  stream.add(std::as_bytes(std::span(a)));
  stream.add(std::as_bytes(std::span(b)));
  RC_ASSERT(stream.digest() == digest_of(a + b));
}

TEST(Digest, AStreamGoesOnAfterItsDigestWasAsked) {
  const std::string text(1000, 'x');
  DigestStream stream;
  for (int i = 0; i < 5; ++i) {
    stream.add(std::as_bytes(std::span(text)));
    EXPECT_EQ(stream.digest(), digest_of(std::string(1000 * (i + 1), 'x')));
  }
}

TEST(Digest, ANumberIsItsEightBytesFromTheLowest) {
  DigestStream stream;
  stream.add(std::uint64_t{0x0807060504030201});
  EXPECT_EQ(stream.digest(), digest_of(std::string_view("\1\2\3\4\5\6\7\10")));
  DigestStream pair, numbers;
  pair.add(Digest{1, 2});
  numbers.add(std::uint64_t{1});
  numbers.add(std::uint64_t{2});
  EXPECT_EQ(pair.digest(), numbers.digest());
}

RC_GTEST_PROP(Digest, IsReadBackFromItsText, (std::uint64_t high, std::uint64_t low)) {
  const Digest digest{high, low};
  RC_ASSERT(parse_digest(to_string(digest)) == digest);
}

TEST(Digest, OtherTextIsNone) {
  const std::string good = to_string(Digest{1, 2});
  const std::string rest = good.substr(1);
  std::vector<std::string> texts = {"", rest, good + "0", "0x" + good.substr(2)};
  for (const char* first : {"x", "+", "-", " "}) texts.push_back(first + rest);
  for (const std::string& bad : texts) EXPECT_FALSE(parse_digest(bad)) << bad;
  EXPECT_EQ(parse_digest("00000000000000010000000000000002"), (Digest{1, 2}));
}

TEST(Digest, AnyOneBitChangesIt) {
  std::string text(300, '\0');
  std::set<Digest> seen{digest_of(text)};
  for (std::size_t bit = 0; bit < text.size() * 8; ++bit) {
    text[bit / 8] ^= static_cast<char>(1 << bit % 8);
    seen.insert(digest_of(text));
    text[bit / 8] ^= static_cast<char>(1 << bit % 8);
  }
  EXPECT_EQ(seen.size(), 300u * 8 + 1);
}

}  // namespace
}  // namespace ballot

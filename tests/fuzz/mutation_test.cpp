// The libFuzzer targets' entry functions under a deterministic loop of mutations, so that every
// build exercises them.
#include <gtest/gtest.h>

#include <random>

#include "core/hash.h"
#include "tests/fuzz/entries.h"

namespace ballot::fuzz {
namespace {

constexpr int kMutations = 4000;  // of each seed; a larger input gets fewer

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string mutate(std::string text, std::mt19937_64& random) {
  static const std::string tokens[] = {"{",
                                       "}",
                                       "[",
                                       "]",
                                       ",",
                                       ":",
                                       "\"",
                                       "null",
                                       "true",
                                       "-1",
                                       "0",
                                       "1e999",
                                       "18446744073709551615",
                                       "9223372036854775807",
                                       "\\ud800",
                                       "\xff",
                                       "\n",
                                       "1.5",
                                       "\"\"",
                                       std::string(1, '\0'),
                                       "[[[[[[[[",
                                       "{\"a\":"};
  const int rounds = 1 + static_cast<int>(random() % 4);
  for (int round = 0; round < rounds; ++round) {
    const std::size_t at = text.empty() ? 0 : random() % text.size();
    const std::size_t length = std::min<std::size_t>(1 + random() % 16, text.size() - at);
    switch (random() % 6) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << random() % 8));
        break;
      case 1:
        if (!text.empty()) text[at] = static_cast<char>(random());
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, tokens[random() % std::size(tokens)]);
        break;
      case 4:
        text.insert(random() % (text.size() + 1), text.substr(at, length));
        break;
      case 5:
        if (random() % 4 == 0) text.resize(at);
        break;
    }
  }
  return text;
}

class Mutation : public testing::TestWithParam<const Entry*> {};

TEST_P(Mutation, SeedsAreAccepted) {
  for (const std::string& seed : GetParam()->seeds)
    EXPECT_TRUE(GetParam()->run(as_bytes(seed))) << seed;
}

TEST_P(Mutation, MutatedInputsThrowNothingButWorldErrors) {
  const Entry& entry = *GetParam();
  int refused = 0;
  for (std::size_t i = 0; i < entry.seeds.size(); ++i) {
    const std::string& seed = entry.seeds[i];
    const int count = std::max(200, static_cast<int>(kMutations * 256 / (256 + seed.size())));
    for (int k = 0; k < count; ++k) {
      std::mt19937_64 random(hash64(1, i, static_cast<std::uint64_t>(k)));
      const std::string input = mutate(seed, random);
      try {
        if (!entry.run(as_bytes(input))) ++refused;
      } catch (const std::exception& error) {
        FAIL() << entry.name << " seed " << i << " mutation " << k << ": " << error.what();
      }
    }
  }
  EXPECT_GT(refused, 100) << "the mutations reach the checks";
}

TEST_P(Mutation, EveryTruncationThrowsNothingButWorldErrors) {
  const Entry& entry = *GetParam();
  for (const std::string& seed : entry.seeds) {
    const std::size_t stride = 1 + seed.size() / 1000;
    for (std::size_t length = 0; length < seed.size(); length += stride)
      EXPECT_NO_THROW(entry.run(as_bytes(seed.substr(0, length))))
          << entry.name << " cut at " << length;
  }
}

std::vector<const Entry*> pointers() {
  std::vector<const Entry*> all;
  for (const Entry& entry : entries()) all.push_back(&entry);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Untrusted, Mutation, testing::ValuesIn(pointers()),
                         [](const auto& instance) { return instance.param->name; });

}  // namespace
}  // namespace ballot::fuzz

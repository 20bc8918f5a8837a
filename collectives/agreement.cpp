#include "collectives/agreement.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "core/error.h"

namespace ballot {
namespace {

// Never changes, so that any two versions understand each other as far as this.
constexpr std::uint64_t kMagic = 0x3165657267614c42ull;  // "BLagree1"
constexpr std::size_t kLongest = 1 << 20;

struct Head {
  std::uint64_t magic = kMagic;
  std::uint64_t bytes = 0;
};

std::vector<Fact> read_facts(const std::string& text) {
  std::vector<Fact> facts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    const std::size_t space = std::min(line.find('\t'), line.size());
    facts.push_back({line.substr(0, space), line.substr(std::min(space + 1, line.size()))});
    begin = end + 1;
  }
  return facts;
}

template <class T>
std::vector<Bytes> writable(std::vector<T>& values) {
  std::vector<Bytes> spans;
  for (T& value : values) spans.push_back(std::as_writable_bytes(std::span(&value, 1)));
  return spans;
}

}  // namespace

void require_agreement(Transport& transport, const std::vector<Fact>& facts, Deadline deadline) {
  std::string text;
  for (const Fact& fact : facts) text += fact.name + "\t" + fact.value + "\n";
  require(text.size() <= kLongest, "{} bytes of facts", text.size());
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  const std::size_t me = static_cast<std::size_t>(transport.rank());

  Head mine;
  mine.bytes = text.size();
  std::vector<Head> heads(ranks);
  transport.start_gather(Purpose::control, std::as_bytes(std::span(&mine, 1)), writable(heads))
      ->wait(deadline);
  std::vector<std::string> texts(ranks);
  std::vector<Bytes> from(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    if (r == me) continue;
    if (heads[r].magic != kMagic || heads[r].bytes > kLongest)
      throw TransportError("rank {} does not speak Ballot's protocol: {:#018x}, {} bytes", r,
                           heads[r].magic, heads[r].bytes);
    texts[r].resize(heads[r].bytes);
    from[r] = std::as_writable_bytes(std::span(texts[r]));
  }
  transport.start_gather(Purpose::control, std::as_bytes(std::span(text)), from)->wait(deadline);
  texts[me] = text;
  // Everybody compares with rank 0, so that all say the same.
  const std::vector<Fact> first = read_facts(texts[0]);
  for (std::size_t r = 1; r < ranks; ++r) {
    const std::vector<Fact> theirs = read_facts(texts[r]);
    for (std::size_t i = 0; i < std::max(first.size(), theirs.size()); ++i) {
      const Fact none{"nothing", "nothing"};
      const Fact& a = i < first.size() ? first[i] : none;
      const Fact& b = i < theirs.size() ? theirs[i] : none;
      if (a.name == b.name && a.value == b.value) continue;
      if (a.name == b.name)
        throw ConfigError("{}: {} on rank 0, {} on rank {}", a.name, a.value, b.value, r);
      throw ConfigError("rank 0 states {}, rank {} states {} instead: other versions of Ballot",
                        a.name, r, b.name);
    }
  }
}

}  // namespace ballot

#include "collectives/tally.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <mutex>

#include "collectives/ballot.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

// Work goes by groups of 512 elements: eight words, one AVX-512 register, never two segments, at
// most eight blocks.
constexpr int kGroupWords = kBallotAlignment / 64;
constexpr int kMaxDigits = 11;  // counts up to 1024
constexpr int kMaxVoters = 1024;
constexpr std::int64_t kGrain = 64;  // groups that are worth a thread

struct alignas(64) Group {
  std::array<std::uint64_t, kGroupWords> word;
};

// What one group's count comes to, word by word.
struct GroupCount {
  Group digit[kMaxDigits];      // how many negatives, in binary, one word a digit
  Group threshold[kMaxDigits];  // all ones or zeros: half the voters of the word, rounded down, in
                                // binary
  Group more, equal;            // count against threshold
  Group unanimous;
};

int digits_for(int voters) {
  return std::bit_width(static_cast<unsigned>(voters));
}

// Adds three words of the same weight: `sum` keeps the weight, what is returned has twice of it.
inline std::uint64_t add3(std::uint64_t& sum, std::uint64_t a, std::uint64_t b) {
  const std::uint64_t carry = (sum & a) | ((sum ^ a) & b);
  sum ^= a ^ b;
  return carry;
}

// Counts the negatives of every element. `voters[v]` is the group's eight words of voter v; `votes`
// (null = all do) has the group's mask of voter v. Carries wait until a second of their weight
// comes, so each word costs about one add3.
BALLOT_VECTORIZED void count_negatives(const std::uint64_t* const* voters,
                                       const Group* __restrict votes, int count, int digits,
                                       GroupCount* __restrict out) {
  Group waiting[kMaxDigits];
  bool occupied[kMaxDigits] = {};
  Group any{}, all;
  for (int w = 0; w < kGroupWords; ++w) all.word[w] = ~std::uint64_t{0};
  for (int k = 0; k < digits; ++k) out->digit[k] = Group{};
  for (int v = 0; v < count; ++v) {
    const std::uint64_t* __restrict x = voters[v];
    Group carry;
    if (votes == nullptr) {
      for (int w = 0; w < kGroupWords; ++w) {
        carry.word[w] = x[w];
        any.word[w] |= x[w];
        all.word[w] &= x[w];
      }
    } else {
      for (int w = 0; w < kGroupWords; ++w) {
        carry.word[w] = x[w] & votes[v].word[w];
        any.word[w] |= carry.word[w];
        all.word[w] &= x[w] | ~votes[v].word[w];
      }
    }
    int k = 0;
    for (; k < digits && occupied[k]; ++k) {
      for (int w = 0; w < kGroupWords; ++w)
        carry.word[w] = add3(out->digit[k].word[w], waiting[k].word[w], carry.word[w]);
      occupied[k] = false;
    }
    if (k < digits) {  // beyond the last digit nothing can carry
      waiting[k] = carry;
      occupied[k] = true;
    }
  }
  for (int k = 0; k < digits; ++k) {
    if (!occupied[k]) continue;
    Group carry = waiting[k];
    for (int j = k; j < digits; ++j)
      for (int w = 0; w < kGroupWords; ++w) {
        const std::uint64_t sum = out->digit[j].word[w];
        out->digit[j].word[w] = sum ^ carry.word[w];
        carry.word[w] &= sum;
      }
  }
  for (int w = 0; w < kGroupWords; ++w) out->unanimous.word[w] = all.word[w] | ~any.word[w];
}

// Compares every count with its word's threshold, from the highest digit down.
BALLOT_VECTORIZED void compare(int digits, GroupCount* __restrict count) {
  Group more{}, equal;
  for (int w = 0; w < kGroupWords; ++w) equal.word[w] = ~std::uint64_t{0};
  for (int k = digits - 1; k >= 0; --k)
    for (int w = 0; w < kGroupWords; ++w) {
      const std::uint64_t digit = count->digit[k].word[w], threshold = count->threshold[k].word[w];
      more.word[w] |= equal.word[w] & digit & ~threshold;
      equal.word[w] &= ~(digit ^ threshold);
    }
  count->more = more;
  count->equal = equal;
}

// Bits of the elements of word `w` whose count equals `value` / is above it.
struct Comparison {
  std::uint64_t equal = ~std::uint64_t{0};
  std::uint64_t more = 0;
};
Comparison compare_word(const GroupCount& count, int digits, int w, unsigned value) {
  Comparison result;
  for (int k = digits - 1; k >= 0; --k) {
    const std::uint64_t digit = count.digit[k].word[w];
    const std::uint64_t threshold = (value >> k) & 1u ? ~std::uint64_t{0} : 0;
    result.more |= result.equal & digit & ~threshold;
    result.equal &= ~(digit ^ threshold);
  }
  return result;
}

// Abstention bits of `count` <= 8 blocks from `first` on.
std::uint64_t abstentions_of(const std::uint64_t* words, std::int64_t first, std::int64_t count) {
  const int shift = static_cast<int>(first % 64);
  std::uint64_t bits = words[first / 64] >> shift;
  if (shift + count > 64) bits |= words[first / 64 + 1] << (64 - shift);
  return bits & low_bits(count);
}

struct Sums {
  std::int64_t elements = 0, ties = 0, unanimous = 0, held_blocks = 0;
  std::array<std::int64_t, kMaxVoters> agreed, compared;
};

// Tallies a run of groups on one thread.
class GroupTally {
 public:
  GroupTally(const BallotLayout& layout, const BallotChunk& chunk,
             std::span<const BallotPart> ballots, const TallyOptions& options,
             const VerdictPart& verdict)
      : layout_(layout),
        chunk_(chunk),
        ballots_(ballots),
        options_(options),
        verdict_(verdict),
        voters_(static_cast<int>(ballots.size())),
        digits_(digits_for(voters_)) {
    std::fill_n(sums_.agreed.begin(), voters_, 0);
    std::fill_n(sums_.compared.begin(), voters_, 0);
  }

  void run(std::int64_t begin, std::int64_t end) {
    segment_ = layout_.segment_of(chunk_.begin + begin * kBallotAlignment);
    for (std::int64_t group = begin; group < end; ++group) tally_group(group);
  }
  const Sums& sums() const { return sums_; }

 private:
  void tally_group(std::int64_t group) {
    const std::int64_t element = chunk_.begin + group * kBallotAlignment;
    const auto segments = layout_.segments();
    while (segment_ + 1 < segments.size() && segments[segment_ + 1].offset <= element) ++segment_;
    const BallotSegment& s = segments[segment_];
    const std::int64_t inside = element - s.offset;
    words_ = static_cast<int>(std::min<std::int64_t>(kGroupWords, (s.extent() - inside) / 64));
    block_words_ = static_cast<int>(s.block / 64);
    const int blocks = words_ / block_words_;
    const std::int64_t first_block = s.first_block + inside / s.block - chunk_.first_block;
    const std::int64_t first_word = group * kGroupWords;
    const bool masked = find_voters(first_word, first_block, blocks);
    for (int k = 0; k < digits_; ++k)
      for (int w = 0; w < kGroupWords; ++w) {
        const unsigned half = static_cast<unsigned>(voting_[static_cast<std::size_t>(w)]) / 2;
        count_.threshold[k].word[static_cast<std::size_t>(w)] =
            (half >> k) & 1u ? ~std::uint64_t{0} : 0;
      }
    count_negatives(bits_.data(), masked ? votes_.data() : nullptr, voters_, digits_, &count_);
    compare(digits_, &count_);
    for (int b = 0; b < blocks; ++b)
      if (voting_[static_cast<std::size_t>(b * block_words_)] == 0) hold_block(first_block + b);
    for (int w = 0; w < kGroupWords; ++w) {
      const std::int64_t column = (inside + w * 64) % s.row_stride;
      const std::uint64_t real =
          w < words_ ? low_bits(std::min<std::int64_t>(64, s.cols - column)) : 0;
      elect_word(first_word + w, w, real, (s.arena_offset + inside) / 64 + w, masked);
    }
  }

  // Finds the words of each voter and how many vote in each word; true if anybody abstains
  // somewhere in the group.
  bool find_voters(std::int64_t first_word, std::int64_t first_block, int blocks) {
    bool masked = false;
    for (int v = 0; v < voters_; ++v) {
      const std::size_t i = static_cast<std::size_t>(v);
      bits_[i] = ballots_[i].bits + first_word;
      silent_[i] =
          static_cast<std::uint8_t>(abstentions_of(ballots_[i].abstentions, first_block, blocks));
      masked |= silent_[i] != 0;
    }
    voting_.fill(voters_);
    if (!masked) return false;
    for (int v = 0; v < voters_; ++v)
      for (int w = 0; w < kGroupWords; ++w) {
        const std::size_t i = static_cast<std::size_t>(v), j = static_cast<std::size_t>(w);
        const bool silent = w < words_ && ((silent_[i] >> (w / block_words_)) & 1u) != 0;
        votes_[i].word[j] = silent ? 0 : ~std::uint64_t{0};
        voting_[j] -= silent;
      }
    return true;
  }

  void hold_block(std::int64_t block) {
    ++sums_.held_blocks;
    const std::atomic_ref<std::uint64_t> word(
        verdict_.held_blocks[block / 64]);  // shared with other threads' groups
    word.fetch_or(std::uint64_t{1} << (block % 64), std::memory_order_relaxed);
  }

  void elect_word(std::int64_t word, int w, std::uint64_t real, std::int64_t arena_word,
                  bool masked) {
    const std::size_t j = static_cast<std::size_t>(w);
    const int voting = voting_[j];
    if (voting == 0) real = 0;  // held: nothing is decided
    const std::uint64_t ties = voting % 2 == 0 ? count_.equal.word[j] & real : 0;
    std::uint64_t negative = count_.more.word[j] & real;
    if (ties != 0 && options_.ties == Ties::coin)
      negative |= tie_coins(options_.seed, options_.step, arena_word) & ties;
    verdict_.bits[word] = negative;
    if (verdict_.held_elements != nullptr)
      verdict_.held_elements[word] = options_.ties == Ties::hold ? ties : 0;
    if (real == 0) return;
    sums_.elements += std::popcount(real);
    sums_.ties += std::popcount(ties);
    sums_.unanimous += std::popcount(count_.unanimous.word[j] & real);
    if ((chunk_.begin / 64 + word) % kAgreementSample == 0) compare_voters(w, real, masked);
  }

  // Leave-one-out: with c negatives of V, a negative voter sees c-1 of the others negative and V-c
  // positive, a positive one c negative and V-c-1 positive.
  void compare_voters(int w, std::uint64_t real, bool masked) {
    const std::size_t j = static_cast<std::size_t>(w);
    const unsigned voting = static_cast<unsigned>(voting_[j]);
    std::uint64_t agree_negative, agree_positive, even_negative = 0, even_positive = 0;
    if (voting % 2 == 0) {
      agree_negative = count_.more.word[j];                            // 2c > V + 1
      agree_positive = ~(count_.more.word[j] | count_.equal.word[j]);  // 2c < V - 1
    } else {
      const Comparison high = compare_word(count_, digits_, w, (voting + 1) / 2);
      agree_negative = high.more;
      even_negative = high.equal;
      even_positive = count_.equal.word[j];  // threshold = (V - 1) / 2
      agree_positive = ~(count_.more.word[j] | count_.equal.word[j]);
    }
    for (int v = 0; v < voters_; ++v) {
      const std::size_t i = static_cast<std::size_t>(v);
      if (masked && votes_[i].word[j] == 0) continue;
      const std::uint64_t negative = bits_[i][w];
      sums_.agreed[i] +=
          std::popcount(real & ((negative & agree_negative) | (~negative & agree_positive)));
      sums_.compared[i] +=
          std::popcount(real & ~((negative & even_negative) | (~negative & even_positive)));
    }
  }

  const BallotLayout& layout_;
  const BallotChunk& chunk_;
  std::span<const BallotPart> ballots_;
  const TallyOptions& options_;
  const VerdictPart& verdict_;
  int voters_, digits_;
  std::size_t segment_ = 0;
  int words_ = 0;  // of the group that belong to the segment
  int block_words_ = 0;
  GroupCount count_;
  std::array<int, kGroupWords> voting_;  // voters of each word
  std::array<const std::uint64_t*, kMaxVoters> bits_;
  std::array<std::uint8_t, kMaxVoters> silent_;
  std::array<Group, kMaxVoters> votes_;
  Sums sums_;
};

}  // namespace

void tally(const BallotLayout& layout, const BallotChunk& chunk,
           std::span<const BallotPart> ballots, const TallyOptions& options,
           const VerdictPart& verdict, VoteStatistics& statistics) {
  require(!ballots.empty() && ballots.size() <= kMaxVoters, "{} voters, expected 1 to {}",
          ballots.size(), kMaxVoters);
  require(
      options.ties == Ties::coin || verdict.held_elements != nullptr || chunk.begin == chunk.end,
      "ties = hold needs held elements");
  require(chunk.begin % kBallotAlignment == 0 && chunk.end % kBallotAlignment == 0 &&
              chunk.begin >= 0 && chunk.begin <= chunk.end && chunk.end <= layout.extent(),
          "chunk [{}, {}) of {} elements", chunk.begin, chunk.end, layout.extent());
  const std::int64_t blocks = chunk.last_block - chunk.first_block;
  statistics.elements = statistics.ties = statistics.unanimous = statistics.held_blocks = 0;
  statistics.blocks = blocks;
  statistics.agreed.assign(ballots.size(), 0);
  statistics.compared.assign(ballots.size(), 0);
  if (blocks > 0)
    std::memset(verdict.held_blocks, 0, static_cast<std::size_t>((blocks + 63) / 64 * 8));
  std::mutex mutex;
  parallel_for((chunk.end - chunk.begin) / kBallotAlignment, kGrain,
               [&](std::int64_t begin, std::int64_t end) {
                 GroupTally part(layout, chunk, ballots, options,
                                 verdict);  // about 100 KiB of stack
                 part.run(begin, end);
                 const Sums& sums = part.sums();
                 const std::lock_guard lock(mutex);
                 statistics.elements += sums.elements;
                 statistics.ties += sums.ties;
                 statistics.unanimous += sums.unanimous;
                 statistics.held_blocks += sums.held_blocks;
                 for (std::size_t v = 0; v < ballots.size(); ++v) {
                   statistics.agreed[v] += sums.agreed[v];
                   statistics.compared[v] += sums.compared[v];
                 }
               });
}

}  // namespace ballot

// What `ballot bench` stands on: the shapes of named models, a check that can fail, a link that
// names who is silent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "launcher/bench_ballots.h"
#include "launcher/bench_shapes.h"
#include "launcher/bench_vote.h"
#include "launcher/rank_numbers.h"
#include "models/published.h"

namespace ballot {
namespace {

using testing::HasSubstr;

template <class Exception, class Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Exception& e) {
    return e.what();
  }
  return "no exception of this kind";
}

TEST(BenchShapes, NamedModelsHaveTheirPublishedNumberOfParameters) {
  const std::map<std::string, std::int64_t> published = {{"llama-3.2-1b", 1'235'814'400},
                                                         {"llama-3.2-3b", 3'212'749'824},
                                                         {"llama-3.1-8b", 8'030'261'248},
                                                         {"llama-2-7b", 6'738'415'616},
                                                         {"tinyllama-1.1b", 1'100'048'384},
                                                         {"smollm2-135m", 134'515'008},
                                                         {"gpt2", 124'439'808}};
  EXPECT_EQ(published_models().size(), published.size());
  for (const std::string& name : published_models())
    EXPECT_EQ(model_shapes(name).all_elements, published.at(name)) << name;
  EXPECT_THAT(message_of<ConfigError>([] { model_shapes("llama-9"); }),
              HasSubstr("--model llama-9: expected llama-3.2-1b"));
}

TEST(BenchShapes, FlatOnesHoldExactlyWhatWasAskedFor) {
  for (const std::int64_t count : {1, 63, 4096, 4097, 1'000'003, 40'000'000}) {
    const BenchShapes shapes = flat_shapes(count);
    EXPECT_EQ(shapes.voted_elements, count);
    EXPECT_EQ(ballot_layout(shapes).count(), count);
  }
}

TEST(BenchShapes, CountsAreReadWithTheirSuffix) {
  EXPECT_EQ(parse_count("64M"), 64'000'000);
  EXPECT_EQ(parse_count("3Ki"), 3072);
  EXPECT_EQ(parse_count("17"), 17);
  for (const char* wrong :
       {"", "0", "-1", "64m", "1.5M", "M", "99999999999999999999", "4398046512G"})
    EXPECT_THAT(message_of<ConfigError>([&] { parse_count(wrong); }), HasSubstr("64M")) << wrong;
}

TEST(RankNumbers, QuantilesAreValuesThatWereThere) {
  EXPECT_EQ(quantile({}, 0.5), 0);
  EXPECT_EQ(quantile({3}, 0.99), 3);
  EXPECT_EQ(quantile({4, 1, 3, 2}, 0), 1);
  EXPECT_EQ(quantile({4, 1, 3, 2}, 0.5), 2);
  EXPECT_EQ(quantile({4, 1, 3, 2}, 0.99), 4);
}

// A benchmark's verification is worth what it notices.
TEST(BenchBallots, EveryKindOfWrongBitIsNoticed) {
  const BallotLayout layout = ballot_layout(flat_shapes(2'500'000));
  constexpr int kVoters = 4;
  for (const Ties ties : {Ties::coin, Ties::hold})
    run_loopback(kVoters, [&](Transport& transport) {
      const Deadline deadline = Deadline::in(std::chrono::seconds(60));
      BenchBallots ballots(layout, 5);
      Ballot ballot(layout);
      ballots.cast(transport.rank(), 3, ballot);
      const VoteOptions options{.seed = 5, .ties = ties};
      const auto vote = make_vote(ballot, transport, options, deadline);
      vote->elect(3, deadline);
      if (transport.rank() != 0) return;
      Verdict verdict;
      verdict.bits = BitVector(layout.extent());
      verdict.held_blocks = BitVector(layout.blocks());
      verdict.held_elements = BitVector(vote->verdict().held_elements.bit_count());
      const auto copy = [](const BitVector& from, const BitVector& to) {
        std::ranges::copy(from.span(), to.span().begin());
      };
      copy(vote->verdict().bits, verdict.bits);
      copy(vote->verdict().held_blocks, verdict.held_blocks);
      copy(vote->verdict().held_elements, verdict.held_elements);
      const auto check = [&] { return ballots.check(verdict, kVoters, options, 3, 0, 1); };
      const std::uint64_t digest = BenchBallots::digest(verdict);
      EXPECT_EQ(check().wrong, 0);
      EXPECT_EQ(check().elements, layout.count());
      // The first, one in the middle, the last.
      for (const std::int64_t i : {std::int64_t{0}, std::int64_t{1'700'001}, layout.count() - 1}) {
        verdict.bits.set(i, !verdict.bits.get(i));
        EXPECT_EQ(check().wrong, 1) << i;
        EXPECT_LE(check().first_wrong, i);
        EXPECT_NE(BenchBallots::digest(verdict), digest);
        verdict.bits.set(i, !verdict.bits.get(i));
      }
      verdict.held_blocks.set(layout.blocks() - 1, !verdict.held_blocks.get(layout.blocks() - 1));
      EXPECT_EQ(check().wrong, 1);
      verdict.held_blocks.set(layout.blocks() - 1, !verdict.held_blocks.get(layout.blocks() - 1));
      if (ties == Ties::hold) {
        verdict.held_elements.set(77, !verdict.held_elements.get(77));
        EXPECT_EQ(check().wrong, 1);
      }
    });
}

TEST(BenchVote, TextbookBytes) {
  EXPECT_DOUBLE_EQ(textbook_bytes(Schedule::sharded, Ties::coin, 64'000'000, 4, 1), 12e6);
  EXPECT_DOUBLE_EQ(textbook_bytes(Schedule::sharded, Ties::hold, 64'000'000, 4, 1), 18e6);
  EXPECT_DOUBLE_EQ(textbook_bytes(Schedule::gathered, Ties::coin, 64'000'000, 4, 1), 24e6);
  EXPECT_DOUBLE_EQ(textbook_bytes(Schedule::sharded, Ties::coin, 64'000'000, 1, 1), 0);
}

TEST(LinkProbe, IsTheSameReportOnEveryRank) {
  run_loopback(3, [](Transport& transport) {
    LinkOptions options;
    options.runs = 1;
    options.ramp_seconds = 0.1;
    options.run_seconds = 0.3;
    options.pings = 5;
    const LinkReport report = measure_link(transport, options);
    EXPECT_EQ(report.pairs.size(), 6u);
    EXPECT_EQ(report.interfaces, std::vector<std::string>(3, "lo"));
    EXPECT_GT(report.rate(), 0);
    EXPECT_GT(report.round_trip(), 0);
    const double rate = report.rate();
    for (const auto& numbers :
         gather_numbers(transport, std::span(&rate, 1), Deadline::in(std::chrono::seconds(30))))
      EXPECT_EQ(numbers[0], rate);
  });
}

TEST(LinkProbe, OneWorkerHasNoLink) {
  run_loopback(1, [](Transport& transport) {
    EXPECT_EQ(measure_link(transport).rate(), 0);
    EXPECT_TRUE(measure_link(transport).pairs.empty());
  });
}

TEST(LinkProbe, NamesTheRankThatDoesNotCome) {
  run_loopback(3, [](Transport& transport) {
    if (transport.rank() == 1) {  // there, but not measuring
      std::this_thread::sleep_for(std::chrono::seconds(5));
      return;
    }
    LinkOptions options;
    options.patience = std::chrono::seconds(2);
    EXPECT_THAT(message_of<Timeout>([&] { measure_link(transport, options); }),
                HasSubstr("waited for rank 1"));
  });
}

}  // namespace
}  // namespace ballot

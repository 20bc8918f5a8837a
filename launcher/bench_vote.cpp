#include "launcher/bench_vote.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/parallel.h"
#include "launcher/bench_ballots.h"
#include "launcher/interface_counters.h"
#include "launcher/rank_numbers.h"

namespace ballot {
namespace {

constexpr std::uint64_t kSeed = 7;
constexpr std::int64_t kMostMeanElements = std::int64_t{128} << 20;

Duration in_seconds(double value) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

// Empty, or why this schedule cannot be run here.
std::string why_not(Schedule schedule, const VoteBench& bench, Transport& transport) {
  if (bench.members > 1 && schedule != Schedule::sharded)
    return "members cast one ballot together in the sharded schedule only";
  if (schedule == Schedule::lanes && transport.reducer() == nullptr)
    return "transport " + transport.name() + " sums nothing";
  if (schedule == Schedule::hierarchical &&
      (bench.node_size < 2 || transport.size() % bench.node_size != 0))
    return fmt::format("--node-size {}: expected a divisor of {} workers above 1", bench.node_size,
                       transport.size());
  return "";
}

class Bench {
 public:
  Bench(Transport& transport, const VoteBench& bench, const LinkReport& link)
      : transport_(transport),
        bench_(bench),
        link_(link),
        layout_(ballot_layout(bench.shapes)),
        ballots_(layout_, kSeed),
        ballot_(layout_) {
    const std::string& name = link.interfaces[static_cast<std::size_t>(transport.rank())];
    places_ = gather_texts(transport, network_place() + " " + name, deadline(0));
    interface_name_ = name;
  }

  VoteResult vote(Schedule schedule) {
    VoteResult result;
    result.schedule = schedule;
    result.elements = layout_.count();
    result.textbook =
        textbook_bytes(schedule, bench_.ties, layout_.count(), transport_.size(), bench_.members);
    const std::string left_out = why_not(schedule, bench_, transport_);
    if (!left_out.empty()) {
      if (!bench_.all_schedules)
        throw ConfigError("--schedule {}: {}", to_string(schedule), left_out);
      result.left_out = left_out;
      return result;
    }
    const VoteOptions options{
        .seed = kSeed,
        .ties = bench_.ties,
        .schedule = schedule,
        .members = bench_.members,
        .node_size = schedule == Schedule::hierarchical ? bench_.node_size : 1,
        .piece_elements = bench_.piece_elements};
    const int voter = transport_.rank() / bench_.members;
    const auto vote = make_vote(ballot_, transport_, options, deadline(0));
    const auto vote_deadline = [&] { return deadline(static_cast<double>(vote->cost().total())); };
    result.voters = vote->voters();
    result.pieces = vote->pieces();

    // Verified first. Zero coins are of the step that a ballot is cast in, so the ballot is cast
    // again for the steps that are timed.
    ballots_.cast(voter, 0, ballot_);
    vote->elect(0, vote_deadline());
    verify(*vote, options, 0, result);

    double pack = ballots_.cast(voter, 1, ballot_);
    for (int repeat = 1; repeat < std::min(bench_.repeats, 3); ++repeat)
      pack = std::min(pack, ballots_.cast(voter, 1, ballot_));
    std::vector<double> seconds, tally;
    transport_.barrier(deadline(0));
    const Traffic before = vote->traffic();
    const InterfaceCounters kernel_before = read_interface(interface_name_);
    for (int repeat = 0; repeat < bench_.repeats; ++repeat) {
      transport_.barrier(deadline(0));
      Stopwatch watch;
      vote->elect(repeat + 1, vote_deadline());
      seconds.push_back(watch.elapsed());
      tally.push_back(vote->work_seconds());
    }
    transport_.barrier(deadline(0));
    const InterfaceCounters kernel_after = read_interface(interface_name_);
    const Traffic traffic = vote->traffic() - before;
    require_one_verdict(*vote, schedule);
    double apply = ballots_.apply(vote->verdict());
    for (int repeat = 1; repeat < std::min(bench_.repeats, 3); ++repeat)
      apply = std::min(apply, ballots_.apply(vote->verdict()));

    const std::size_t purpose = static_cast<std::size_t>(Purpose::vote);
    const double repeats = bench_.repeats;
    const bool known = kernel_before.known && kernel_after.known;
    std::vector<double> mine = {
        static_cast<double>(traffic.bytes_sent[purpose]) / repeats,
        static_cast<double>(traffic.bytes_received[purpose]) / repeats,
        static_cast<double>(vote->cost().ballots),
        static_cast<double>(vote->cost().abstentions),
        static_cast<double>(vote->cost().framing),
        quantile(tally, 0.5),
        pack,
        apply,
        known ? static_cast<double>(kernel_after.sent - kernel_before.sent) / repeats : -1};
    const std::size_t first_time = mine.size();
    mine.insert(mine.end(), seconds.begin(), seconds.end());
    const auto all = gather_numbers(transport_, mine, deadline(0));
    result.seconds.assign(seconds.size(), 0);
    for (const auto& numbers : all) {
      const double formula = numbers[2] + numbers[3] + numbers[4];
      if (formula > static_cast<double>(result.cost.total()))
        result.cost = {static_cast<std::int64_t>(numbers[2]), static_cast<std::int64_t>(numbers[3]),
                       static_cast<std::int64_t>(numbers[4])};
      result.sent.push_back(numbers[0]);
      result.received.push_back(numbers[1]);
      result.formula.push_back(formula);
      result.tally = std::max(result.tally, numbers[5]);
      result.pack = std::max(result.pack, numbers[6]);
      result.apply = std::max(result.apply, numbers[7]);
      for (std::size_t i = 0; i < seconds.size(); ++i)
        result.seconds[i] = std::max(result.seconds[i], numbers[first_time + i]);
    }
    // The kernel's count against ours, for the ranks of rank 0's interface.
    for (std::size_t rank = 0; rank < all.size(); ++rank)
      if (places_[rank] == places_[0]) result.kernel_counted += result.sent[rank];
    result.kernel_sent = all[0][8];
    return result;
  }

  MeanResult mean(MeanKind kind, DType wire, std::int64_t elements) {
    const double bytes = 2 * static_cast<double>(elements) * static_cast<double>(size_bytes(wire));
    return bench_mean(transport_, kind, wire,
                      {.elements = elements,
                       .repeats = bench_.compare_repeats,
                       .patience = bench_.patience + in_seconds(10 * seconds_for(bytes))},
                      interface_name_);
  }

 private:
  double seconds_for(double bytes) const { return link_.rate() > 0 ? bytes / link_.rate() : 0; }
  Deadline deadline(double bytes) const {
    return Deadline::in(bench_.patience + in_seconds(10 * seconds_for(bytes)));
  }

  void require_one_verdict(const Vote& vote, Schedule schedule) {
    const std::uint64_t digest = BenchBallots::digest(vote.verdict());
    const double halves[] = {static_cast<double>(digest >> 32),
                             static_cast<double>(digest & 0xffffffffu)};  // exact in a double
    const auto all = gather_numbers(transport_, halves, deadline(0));
    for (std::size_t rank = 1; rank < all.size(); ++rank)
      if (all[rank] != all[0])
        throw ReplicasDiffer("--schedule {}: rank {}'s verdict differs from rank 0's",
                             to_string(schedule), rank);
  }

  void verify(const Vote& vote, const VoteOptions& options, std::int64_t step, VoteResult& result) {
    require_one_verdict(vote, options.schedule);
    const BenchBallots::Check check = ballots_.check(vote.verdict(), vote.voters(), options, step,
                                                     transport_.rank(), transport_.size());
    const double mine[] = {static_cast<double>(check.elements), static_cast<double>(check.wrong),
                           static_cast<double>(check.first_wrong)};
    // A rank that checks more slowly than others is waited for as for a vote.
    const auto all = gather_numbers(transport_, mine, deadline(0));
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank][1] > 0)
        throw ReplicasDiffer(
            "--schedule {}: the verdict differs from the scalar tally in {:.0f} tiles that rank {} "
            "checked, the first at element {:.0f}",
            to_string(options.schedule), all[rank][1], rank, all[rank][2]);
      result.checked += static_cast<std::int64_t>(all[rank][0]);
    }
  }

  Transport& transport_;
  const VoteBench& bench_;
  const LinkReport& link_;
  BallotLayout layout_;
  BenchBallots ballots_;
  Ballot ballot_;
  std::string interface_name_;
  std::vector<std::string> places_;  // by rank: machine and interface
};

}  // namespace

double textbook_bytes(Schedule schedule, Ties ties, std::int64_t elements, int ranks, int members) {
  const double bits = static_cast<double>(elements) / 8, w = ranks;
  if (schedule == Schedule::sharded && members == 1)
    return (w - 1) / w * bits * (ties == Ties::hold ? 3 : 2);
  if (schedule == Schedule::gathered) return (w - 1) * bits;
  return 0;
}

VoteBenchReport bench_vote(Transport& transport, const VoteBench& bench) {
  if (bench.members < 1 || transport.size() % bench.members != 0)
    throw ConfigError("--members {}: expected a divisor of {} workers", bench.members,
                      transport.size());
  VoteBenchReport report;
  report.threads = thread_count();
  LinkOptions link;
  link.pairs = false;  // the pattern of a vote is what bounds it; all pairs are `bench link`'s
  report.link = measure_link(transport, link);
  {
    Bench run(transport, bench, report.link);
    for (const Schedule schedule : bench.schedules) report.votes.push_back(run.vote(schedule));
    if (bench.compare == Compare::none) return report;
    const std::int64_t all = bench.shapes.voted_elements;
    report.mean_elements =
        std::min(all, bench.compare_elements > 0 ? bench.compare_elements : kMostMeanElements);
    for (const DType wire : {DType::f32, DType::bf16}) {
      if (wire == DType::bf16 && bench.compare != Compare::all) continue;
      for (const MeanKind kind : {MeanKind::ours, MeanKind::ring, MeanKind::library})
        report.means.push_back(run.mean(kind, wire, report.mean_elements));
    }
  }
  return report;
}

}  // namespace ballot

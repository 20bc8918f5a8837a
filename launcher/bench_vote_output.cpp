#include "launcher/bench_vote_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/device.h"
#include "launcher/bench_link_output.h"
#include "launcher/rank_numbers.h"

namespace ballot {
namespace {

// What both ways of writing say of one vote or one all-reduce.
struct Line {
  std::string what;                     // "vote" or "all-reduce"
  std::string name;                     // "sharded", "fp32 ring"
  double min = 0, median = 0, p99 = 0;  // seconds for all of P
  double scale = 1;                     // what was timed, times this, is all of P
  double wire_size = 0;                 // bytes of one worker's input as it travels: P/8, 2P, 4P
  double effective_size = 0;            // 4P
  double sent = 0, received = 0, formula = 0;  // by the busiest worker, for all of P
  double bound = 0;                            // seconds
  double kernel_ratio = 0;                     // the interface's count : ours; 0: not known
};

double of(const std::vector<double>& values) {
  return values.empty() ? 0 : *std::ranges::max_element(values);
}

Line line_of(const VoteResult& vote, const VoteBenchReport& report) {
  Line line;
  line.what = "vote";
  line.name = to_string(vote.schedule);
  line.min = quantile(vote.seconds, 0);
  line.median = quantile(vote.seconds, 0.5);
  line.p99 = quantile(vote.seconds, 0.99);
  line.wire_size = static_cast<double>(vote.elements) / 8;
  line.effective_size = static_cast<double>(vote.elements) * 4;
  line.sent = of(vote.sent);
  line.received = of(vote.received);
  line.formula = of(vote.formula);
  line.bound = report.bound(std::max(line.sent, line.received));
  if (vote.kernel_sent >= 0 && vote.kernel_counted > 0 && report.link.interfaces[0] != "lo")
    line.kernel_ratio = vote.kernel_sent / vote.kernel_counted;
  return line;
}

Line line_of(const MeanResult& mean, const VoteBenchReport& report, std::int64_t elements) {
  Line line;
  line.what = "all-reduce";
  line.name = fmt::format("{} {}", mean.wire == DType::f32 ? "fp32" : "bf16", to_string(mean.kind));
  line.scale = static_cast<double>(elements) / static_cast<double>(mean.elements);
  line.min = quantile(mean.seconds, 0) * line.scale;
  line.median = quantile(mean.seconds, 0.5) * line.scale;
  line.p99 = quantile(mean.seconds, 0.99) * line.scale;
  line.wire_size = static_cast<double>(elements) * static_cast<double>(size_bytes(mean.wire));
  line.effective_size = static_cast<double>(elements) * 4;
  line.sent = mean.bytes_sent * line.scale;
  line.received = mean.bytes_received * line.scale;
  line.formula = mean.formula * line.scale;
  line.bound = report.bound(std::max(line.sent, line.received));
  if (mean.kernel_sent > 0 && report.link.interfaces[0] != "lo")
    line.kernel_ratio = mean.kernel_sent * line.scale / line.sent;
  return line;
}

// nccl-tests' two bandwidths. The bus bandwidth of what really travels is bytes sent / time: for an
// all-reduce and for the sharded vote that is algorithm bandwidth x 2 (W-1)/W.
double factor(int ranks) {
  return 2.0 * (ranks - 1) / ranks;
}
double per_second(double bytes, double seconds) {
  return seconds > 0 ? bytes / seconds : 0;
}

const MeanResult* fastest_fp32(const VoteBenchReport& report) {
  const MeanResult* fastest = nullptr;
  for (const MeanResult& mean : report.means)
    if (mean.wire == DType::f32 && mean.available &&
        (fastest == nullptr || quantile(mean.seconds, 0.5) < quantile(fastest->seconds, 0.5)))
      fastest = &mean;
  return fastest;
}

void print_line(const Line& line, int ranks, std::int64_t checked) {
  fmt::print(
      "{:<24} {:>11} {:>9.3f} {:>9.3f} {:>9.3f} {:>8.4f} {:>8.4f} {:>9.3f} {:>9.3f} {:>11.4f} "
      "{:>11.4f} {:>9} {:>7} {:>7}\n",
      line.what + " " + line.name, checked, 1e3 * line.min, 1e3 * line.median, 1e3 * line.p99,
      per_second(line.wire_size, line.median) / 1e9, per_second(line.sent, line.median) / 1e9,
      per_second(line.effective_size, line.median) / 1e9,
      per_second(line.effective_size * factor(ranks), line.median) / 1e9, line.sent / 1e6,
      line.formula / 1e6, line.bound > 0 ? fmt::format("{:.3f}", 1e3 * line.bound) : "-",
      line.bound > 0 ? fmt::format("{:.2f}", line.median / line.bound) : "-",
      line.kernel_ratio > 0 ? fmt::format("{:.4f}", line.kernel_ratio) : "-");
}

nlohmann::ordered_json json_of(const Line& line, int ranks) {
  nlohmann::ordered_json json = {
      {"bench", "vote"},
      {"what", line.what},
      {"name", line.name},
      {"min_seconds", line.min},
      {"median_seconds", line.median},
      {"p99_seconds", line.p99},
      {"wire_algorithm_bytes_per_second", per_second(line.wire_size, line.median)},
      {"wire_bus_bytes_per_second", per_second(line.sent, line.median)},
      {"effective_algorithm_bytes_per_second", per_second(line.effective_size, line.median)},
      {"effective_bus_bytes_per_second",
       per_second(line.effective_size * factor(ranks), line.median)},
      {"sent_bytes", line.sent},
      {"received_bytes", line.received},
      {"formula_bytes", line.formula}};
  if (line.bound > 0) {
    json["bound_seconds"] = line.bound;
    json["time_over_bound"] = line.median / line.bound;
    json["share_of_bound"] = line.bound / line.median;
  }
  if (line.kernel_ratio > 0) json["kernel_bytes_over_counted"] = line.kernel_ratio;
  return json;
}

}  // namespace

void print_vote_table(const Transport& transport, const VoteBench& bench,
                      const VoteBenchReport& report) {
  const int ranks = transport.size();
  fmt::print(
      "# ballot bench vote: {}, P = {} voted of {}, W = {} workers{} over {}, ties = {}, {} "
      "thread{} a "
      "worker, {}\n",
      bench.shapes.name, bench.shapes.voted_elements, bench.shapes.all_elements, ranks,
      bench.members > 1 ? fmt::format(" ({} members a voter)", bench.members) : "",
      transport.name(), bench.ties == Ties::coin ? "coin" : "hold", report.threads,
      report.threads == 1 ? "" : "s", processor_features());
  if (ranks > 1)
    fmt::print(
        "# link: the slowest worker sends {} Mbit/s while all send; round trip {:.0f} us "
        "(raw TCP, this run)\n",
        rate_text(report.link.rate()), 1e6 * report.link.round_trip());
  fmt::print(
      "# times are the slowest worker's; wire = what really travels, effective = as if 4P bytes "
      "had been "
      "reduced\n");
  fmt::print(
      "#                                        time (ms)             wire (GB/s)    effective "
      "(GB/s)       "
      "sent (MB)         bound    time/  kernel/\n");
  fmt::print(
      "# what                   verified       min    median       p99     algo      bus      algo "
      "      bus     "
      "counted     formula      (ms)   bound counted\n");
  for (const VoteResult& vote : report.votes) {
    if (!vote.left_out.empty()) {
      fmt::print("# vote {}: left out: {}\n", to_string(vote.schedule), vote.left_out);
      continue;
    }
    print_line(line_of(vote, report), ranks, vote.checked);
  }
  for (const MeanResult& mean : report.means)
    if (mean.available)
      print_line(line_of(mean, report, bench.shapes.voted_elements), ranks, mean.checked);
    else
      fmt::print("# all-reduce {} {}: transport {} has none\n", to_string(mean.wire),
                 to_string(mean.kind), transport.name());
  if (report.mean_elements > 0 && report.mean_elements < bench.shapes.voted_elements)
    fmt::print(
        "# all-reduces: SAMPLED, {} elements were reduced; times and bytes are scaled to P\n",
        report.mean_elements);
  for (const MeanResult& mean : report.means)
    if (mean.available && mean.checked < mean.elements)
      fmt::print("# all-reduce {} {}: verified on every {}th element on every worker\n",
                 to_string(mean.wire), to_string(mean.kind),
                 (mean.elements + mean.checked - 1) / mean.checked);
  for (const VoteResult& vote : report.votes) {
    if (!vote.left_out.empty()) continue;
    if (vote.checked < vote.elements)
      fmt::print(
          "# vote {}: verified on a random sample of {} of {} elements, the first and the last "
          "among "
          "them\n",
          to_string(vote.schedule), vote.checked, vote.elements);
    fmt::print(
        "# vote {}: {} pieces; tally {:.3f} ms of the time; apart from it: pack {:.3f} ms ({:.2f} "
        "GB/s read), apply {:.3f} ms\n",
        to_string(vote.schedule), vote.pieces, 1e3 * vote.tally, 1e3 * vote.pack,
        per_second(4.0 * static_cast<double>(vote.elements), vote.pack) / 1e9, 1e3 * vote.apply);
    fmt::print("#   bytes: ballots and verdicts {}, abstentions {}, framing {}{}\n",
               vote.cost.ballots, vote.cost.abstentions, vote.cost.framing,
               vote.textbook > 0 ? fmt::format("; the textbook's {:.0f}", vote.textbook) : "");
  }
  if (const MeanResult* fastest = fastest_fp32(report))
    for (const VoteResult& vote : report.votes)
      if (vote.left_out.empty()) {
        const double fp32 = line_of(*fastest, report, bench.shapes.voted_elements).median;
        fmt::print("vote {} is {:.2f} times as fast as the fastest fp32 all-reduce ({})\n",
                   to_string(vote.schedule), fp32 / quantile(vote.seconds, 0.5),
                   to_string(fastest->kind));
      }
}

void print_vote_lines(const Transport& transport, const VoteBench& bench,
                      const VoteBenchReport& report) {
  const int ranks = transport.size();
  print_link_lines(transport, report.link);
  const MeanResult* fastest = fastest_fp32(report);
  const auto with_run = [&](nlohmann::ordered_json json) {
    json["shapes"] = bench.shapes.name;
    json["elements"] = bench.shapes.voted_elements;
    json["workers"] = ranks;
    json["transport"] = transport.name();
    json["threads"] = report.threads;
    json["link_bytes_per_second"] = report.link.rate();
    fmt::print("{}\n", json.dump());
  };
  for (const VoteResult& vote : report.votes) {
    if (!vote.left_out.empty()) {
      with_run({{"bench", "vote"},
                {"what", "left_out"},
                {"name", to_string(vote.schedule)},
                {"reason", vote.left_out}});
      continue;
    }
    nlohmann::ordered_json json = json_of(line_of(vote, report), ranks);
    json["voters"] = vote.voters;
    json["members"] = bench.members;
    json["node_size"] = bench.node_size;
    json["ties"] = bench.ties == Ties::coin ? "coin" : "hold";
    json["pieces"] = vote.pieces;
    json["verified_elements"] = vote.checked;
    json["tally_seconds"] = vote.tally;
    json["pack_seconds"] = vote.pack;
    json["apply_seconds"] = vote.apply;
    json["sent_bytes_by_rank"] = vote.sent;
    json["received_bytes_by_rank"] = vote.received;
    json["formula_bytes_by_rank"] = vote.formula;
    json["formula_ballots_bytes"] = vote.cost.ballots;
    json["formula_abstentions_bytes"] = vote.cost.abstentions;
    json["formula_framing_bytes"] = vote.cost.framing;
    if (vote.textbook > 0) json["textbook_bytes"] = vote.textbook;
    json["repeats"] = vote.seconds.size();
    if (fastest != nullptr)
      json["times_as_fast_as_fp32"] =
          line_of(*fastest, report, bench.shapes.voted_elements).median /
          quantile(vote.seconds, 0.5);
    with_run(json);
  }
  for (const MeanResult& mean : report.means) {
    if (!mean.available) continue;
    nlohmann::ordered_json json =
        json_of(line_of(mean, report, bench.shapes.voted_elements), ranks);
    json["verified_elements"] = mean.checked;
    json["timed_elements"] = mean.elements;
    json["bytes_counted"] = mean.counted;
    json["repeats"] = mean.seconds.size();
    with_run(json);
  }
}

}  // namespace ballot

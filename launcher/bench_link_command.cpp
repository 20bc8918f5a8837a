// `ballot bench link`.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/bench_commands.h"
#include "launcher/bench_link_output.h"
#include "launcher/link_probe.h"
#include "launcher/worker_transport.h"

namespace ballot {
namespace {

struct LinkFlags {
  TransportChoice transport;
  LinkOptions options;
  double patience_seconds = 20;
  bool no_pairs = false;
  bool json = false;
};

void print_table(const Transport& transport, const LinkReport& report) {
  fmt::print("# ballot bench link: {} workers over {}; TCP payload, medians\n", transport.size(),
             transport.name());
  if (transport.size() == 1) {
    fmt::print("one worker: nothing travels\n");
    return;
  }
  fmt::print("#            one way   both ways    round trip us\n");
  fmt::print("# from   to   Mbit/s      Mbit/s   median      p99\n");
  for (const LinkPair& pair : report.pairs)
    fmt::print("{:>6} {:>4} {:>8} {:>11} {:>8.1f} {:>8.1f}\n", pair.from, pair.to,
               rate_text(pair.one_way), rate_text(pair.both_ways), 1e6 * pair.round_trip_median,
               1e6 * pair.round_trip_p99);
  fmt::print("# all at once: every worker sends to all others\n");
  fmt::print("# worker  interface  egress Mbit/s  ingress Mbit/s\n");
  for (int rank = 0; rank < transport.size(); ++rank) {
    const std::size_t r = static_cast<std::size_t>(rank);
    fmt::print("{:>8} {:>10} {:>14} {:>15}\n", rank, report.interfaces[r],
               rate_text(report.egress[r]), rate_text(report.ingress[r]));
  }
  fmt::print("# the link's rate (the slowest egress): {} Mbit/s\n", rate_text(report.rate()));
}

int run_link(const LinkFlags& flags) {
  return run_on_transport(flags.transport, [&](Transport& transport) {
    LinkOptions options = flags.options;
    options.pairs = !flags.no_pairs;
    options.patience =
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(flags.patience_seconds));
    const LinkReport report = measure_link(transport, options);
    if (transport.rank() != 0) return 0;
    if (flags.json)
      print_link_lines(transport, report);
    else
      print_table(transport, report);
    return 0;
  });
}

}  // namespace

std::string rate_text(double bytes_per_second) {
  return bytes_per_second > 0 ? fmt::format("{:.1f}", bytes_per_second * 8 / 1e6) : "-";
}

void print_link_lines(const Transport& transport, const LinkReport& report) {
  for (const LinkPair& pair : report.pairs) {
    const nlohmann::ordered_json line = {{"bench", "link"},
                                         {"what", "pair"},
                                         {"from", pair.from},
                                         {"to", pair.to},
                                         {"one_way_bytes_per_second", pair.one_way},
                                         {"both_ways_bytes_per_second", pair.both_ways},
                                         {"round_trip_median_seconds", pair.round_trip_median},
                                         {"round_trip_p99_seconds", pair.round_trip_p99}};
    fmt::print("{}\n", line.dump());
  }
  const nlohmann::ordered_json line = {{"bench", "link"},
                                       {"what", "all_at_once"},
                                       {"workers", transport.size()},
                                       {"transport", transport.name()},
                                       {"egress_bytes_per_second", report.egress},
                                       {"ingress_bytes_per_second", report.ingress},
                                       {"interfaces", report.interfaces},
                                       {"rate_bytes_per_second", report.rate()},
                                       {"round_trip_seconds", report.round_trip()}};
  fmt::print("{}\n", line.dump());
}

void add_bench_link(CLI::App& bench, Action& action) {
  auto flags = std::make_shared<LinkFlags>();
  CLI::App* link = bench.add_subcommand(
      "link", "the rate and latency of TCP between the workers: all pairs, both ways, all at once");
  add_transport_flags(*link, flags->transport);
  add_workers_flag(*link, flags->transport);
  link->add_option("--runs", flags->options.runs, "windows, of which the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  link->add_option("--run-seconds", flags->options.run_seconds, "length of a window")
      ->check(CLI::Range(0.01, 60.0))
      ->capture_default_str();
  link->add_option("--ramp-seconds", flags->options.ramp_seconds, "before a window")
      ->check(CLI::Range(0.0, 60.0))
      ->capture_default_str();
  link->add_option("--pings", flags->options.pings, "round trips of one byte")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  link->add_option("--patience", flags->patience_seconds,
                   "seconds without a byte from a peer, then it is given up")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  link->add_flag("--no-pairs", flags->no_pairs, "latency and all at once only");
  link->add_flag("--json", flags->json, "one JSON object per line");
  link->callback([&action, flags] { action = [flags] { return run_link(*flags); }; });
}

}  // namespace ballot

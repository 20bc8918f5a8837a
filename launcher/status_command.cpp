// `ballot status ADDRESS|RUN` and `ballot expel ADDRESS WORKER`: what an operator asks of a
// coordinator, or of a run's record.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "launcher/commands.h"
#include "launcher/coordinator_flags.h"
#include "launcher/environment.h"
#include "launcher/run_status.h"
#include "launcher/status_text.h"
#include "launcher/units.h"
#include "launcher/watch_screen.h"
#include "runtime/coordinator/coordinator_client.h"

namespace ballot {
namespace {

constexpr std::chrono::duration<double> kShortestWatch{0.1};

struct OperatorFlags {
  std::string address, reason = "by an operator", timeout = "5s";
  std::int32_t worker = 0;
  bool json = false;
  std::string watch;  // every so often; empty: once
  CoordinatorAccess access;
};

CoordinatorAccess access_of(const OperatorFlags& flags) {
  CoordinatorAccess access = flags.access;
  access.secret = process_environment("BALLOT_TOKEN").value_or("");
  return access;
}

Duration patience_of(const OperatorFlags& flags) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(parse_duration("--timeout", flags.timeout)));
}

struct Answer {
  std::string address;
  ServiceStatus status;
};

// Of the first of the addresses that leads; else of the first that answers.
Answer ask_in_turn(const OperatorFlags& flags) {
  std::vector<Answer> answers;
  std::string silent;
  for (std::size_t at = 0; at <= flags.address.size();) {
    const std::size_t end = std::min(flags.address.find(',', at), flags.address.size());
    const std::string address = flags.address.substr(at, end - at);
    at = end + 1;
    try {
      answers.push_back({address, fetch_status(address, access_of(flags), patience_of(flags))});
      if (answers.back().status.coordinator.leading) return std::move(answers.back());
    } catch (const Timeout& error) {
      silent += (silent.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (answers.empty()) throw Timeout("{}", silent);
  return std::move(answers.front());
}

template <class Status>
int show(const OperatorFlags& flags, const Status& status) {
  if (flags.json) {
    fmt::print("{}\n",
               status_json(status).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return 0;
  }
  for (const std::string& line : status_lines(status))
    fmt::print("{}\n", fit_line(line, line.size()));  // nothing that a terminal obeys
  return 0;
}

template <class Status>
WatchFrame frame_of(const Status& status, bool ended) {
  return {status_lines(status), status_summary(status), ended};
}

int show_status(const OperatorFlags& flags) {
  const bool folder = std::filesystem::is_directory(flags.address);
  const auto interval = std::chrono::duration<double>(
      flags.watch.empty() ? 0 : parse_duration("--watch", flags.watch));
  if (flags.watch.empty())
    return folder ? show(flags, read_run_status(flags.address))
                  : show(flags, ask_in_turn(flags).status);
  if (flags.json)
    throw ConfigError("--json with --watch: expected one of them (ask for --json again and again)");
  if (interval.count() < kShortestWatch.count())
    throw ConfigError("--watch {}: expected {} s or more", flags.watch, kShortestWatch.count());
  if (folder)
    return watch(interval, [&flags] {
      const RunStatus status = read_run_status(flags.address);
      return frame_of(status, status.ended);
    });
  return watch(interval, [&flags] {
    const ServiceStatus status = ask_in_turn(flags).status;
    return frame_of(status, has_ended(status));
  });
}

int expel(const OperatorFlags& flags) {
  const CoordinatorAccess access = access_of(flags);
  const auto [address, status] = ask_in_turn(flags);
  expel_worker(address, status.run, access, flags.worker, flags.reason, patience_of(flags));
  fmt::print("worker {} is not in the next term of run {}, nor in any until it is started anew\n",
             flags.worker, status.run);
  return 0;
}

void add_operator_flags(CLI::App& command, OperatorFlags& flags, const std::string& also = "",
                        const std::string& type = "HOST:PORT[,HOST:PORT...]") {
  command
      .add_option(
          "address", flags.address,
          "where the coordinator listens; of several that stand by, the one that leads" + also)
      ->required()
      ->type_name(type);
  command.add_option("--timeout", flags.timeout, "for an answer")
      ->type_name("TIME")
      ->capture_default_str();
  add_access_flags(command, flags.access);
  command.add_option("--tls-name", flags.access.tls.name,
                     "whom the coordinator's certificate is for (default: its address)");
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
  auto flags = std::make_shared<OperatorFlags>();
  CLI::App* status = app.add_subcommand(
      "status",
      "what a coordinator knows: workers, term, steps, rates, and what it waits for. Where it asks "
      "for a secret, that is BALLOT_TOKEN in the environment. Of a run folder: how its record says "
      "that it stands, for a job without a coordinator");
  add_operator_flags(*status, *flags, "; or a run folder", "HOST:PORT[,HOST:PORT...]|RUN");
  status
      ->add_option("--watch", flags->watch,
                   "show it again and again, every so often: in place on a terminal, until q or "
                   "Ctrl-C; else a line each, until the run has ended")
      ->expected(0, 1)
      ->type_name("SECONDS");
  status->add_flag("--json", flags->json, "one JSON object with all of it");
  status->callback([&action, flags, status] {
    if (status->count("--watch") > 0 && flags->watch.empty()) flags->watch = "2s";
    if (flags->watch.find_first_not_of("0123456789.") == std::string::npos && !flags->watch.empty())
      flags->watch += "s";
    action = [flags] { return show_status(*flags); };
  });

  CLI::App* expulsion = app.add_subcommand(
      "expel",
      "send a worker away: its process ends (exit code 5), and is let in again when it is started "
      "anew");
  add_operator_flags(*expulsion, *flags);
  expulsion->add_option("worker", flags->worker, "its number")
      ->required()
      ->check(CLI::Range(0, 4095));
  expulsion->add_option("--reason", flags->reason, "shown in logs and in the status")
      ->capture_default_str();
  expulsion->callback([&action, flags] { action = [flags] { return expel(*flags); }; });
}

}  // namespace ballot

// `ballot coordinator RUN-FOLDER --listen ADDRESS`: leads the terms of a run whose workers come and
// go.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "launcher/commands.h"
#include "launcher/coordinator_flags.h"
#include "launcher/environment.h"
#include "launcher/units.h"
#include "runtime/coordinator/coordinator_server.h"
#include "runtime/coordinator/etcd_row_store.h"
#include "runtime/watching/coordinator_watch.h"

namespace ballot {
namespace {

struct CoordinatorFlags {
  std::string folder, listen = "127.0.0.1:29500", run, store, prometheus;
  CoordinatorAccess access;
  MembershipOptions membership;
  std::string heartbeat_timeout = "10s", seal_timeout = "10s", planned_timeout = "600s",
              cold_wait = "120s", suspicion_window = "600s", lease = "5s";
};

Duration read_duration(const std::string& flag, const std::string& text) {
  const double value = parse_duration(flag, text);
  if (value < 0.01 || value > 1e6)
    throw ConfigError("{} {}: expected 10ms to 1000000s", flag, text);
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

// SIGTERM and SIGINT, as something to wait for: threads started after this do not get them.
class StopSignals {
 public:
  StopSignals() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGINT);
    sigprocmask(SIG_BLOCK, &signals_, &before_);
  }
  StopSignals(const StopSignals&) = delete;
  ~StopSignals() { release(); }
  // A second one then ends the process at once.
  void release() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  // The signal, or 0 where none came for so long.
  int wait(std::chrono::milliseconds patience) const {
    const timespec time{0, std::chrono::nanoseconds(patience).count()};
    const int signal = sigtimedwait(&signals_, nullptr, &time);
    return signal > 0 ? signal : 0;
  }

 private:
  sigset_t signals_{}, before_{};
};

// As others are told of it: "10.0.0.1:29500 (process 4711 on node3)".
std::string own_name(const CoordinatorFlags& flags) {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  return fmt::format("{} (process {} on {})", flags.listen, getpid(), host);
}

std::shared_ptr<EtcdLeadership> stand_for_leadership(const CoordinatorFlags& flags,
                                                     const std::string& run) {
  EtcdLeadershipOptions options;
  options.cluster = parse_etcd_address(flags.store);
  options.tls = flags.access.tls;
  options.run = run;
  options.name = own_name(flags);
  options.lease = read_duration("--lease", flags.lease);
  // Another member of etcd can be asked before the lease ends.
  options.call =
      std::clamp<Duration>(options.lease / 3, std::chrono::milliseconds(500), options.call);
  return std::make_shared<EtcdLeadership>(options);
}

// A cluster that is about to choose its leader, or is started together with this, is waited for a
// little.
std::unique_ptr<RowStore> open_reachable(std::shared_ptr<EtcdLeadership> leadership) {
  constexpr auto kPatience = std::chrono::seconds(5);
  std::unique_ptr<RowStore> store = open_etcd_store(std::move(leadership));
  for (const Deadline deadline = Deadline::in(kPatience);;) {
    try {
      store->load();
      return store;
    } catch (const TransportError&) {
      if (deadline.passed()) throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

// Several coordinators of one run may see one folder.
std::string target_name(const CoordinatorFlags& flags) {
  if (flags.store.empty()) return "coordinator";
  std::string name = "coordinator-" + flags.listen;
  std::ranges::replace_if(
      name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.'; },
      '-');
  return name;
}

int coordinate(const CoordinatorFlags& flags) {
  set_log_name("coordinator");
  CoordinatorServerOptions options;
  options.listen = flags.listen;
  options.access = flags.access;
  options.access.secret = process_environment("BALLOT_TOKEN").value_or("");
  MembershipOptions& membership = options.desk.coordinator.membership = flags.membership;
  membership.start_workers = std::max(membership.start_workers, membership.min_workers);
  membership.heartbeat_timeout = read_duration("--heartbeat-timeout", flags.heartbeat_timeout);
  membership.seal_timeout = read_duration("--seal-timeout", flags.seal_timeout);
  membership.planned_timeout = read_duration("--planned-timeout", flags.planned_timeout);
  membership.cold_wait = read_duration("--cold-wait", flags.cold_wait);
  membership.suspicion_window = read_duration("--suspicion-window", flags.suspicion_window);
  options.desk.beat =
      std::clamp<Duration>(membership.heartbeat_timeout / 20, std::chrono::milliseconds(5),
                           std::chrono::milliseconds(200));

  std::filesystem::create_directories(flags.folder);
  const std::filesystem::path folder = std::filesystem::canonical(flags.folder);
  options.desk.coordinator.run = flags.run.empty() ? folder.filename().string() : flags.run;
  StopSignals signals;
  const std::string& run = options.desk.coordinator.run;
  std::unique_ptr<RowStore> store;
  if (flags.store.empty()) {
    store = open_sqlite_store((folder / "coordinator.db").string(), run);
  } else {
    const auto leadership = stand_for_leadership(flags, run);
    options.desk.leadership = leadership;  // given up once the server has ended
    store = open_reachable(leadership);
  }
  CoordinatorServer server(options, std::move(store));
  std::optional<CoordinatorWatch> watch;  // goes before the server
  if (!flags.prometheus.empty())
    watch.emplace(
        flags.prometheus, [&server](auto reply) { server.status(std::move(reply)); },
        folder.string(), target_name(flags), run);
  int signal = 0;
  while (signal == 0 && !server.wait(Deadline::in(Duration(0))))
    signal = signals.wait(std::chrono::milliseconds(200));
  signals.release();
  log_info("asked to end by signal {}", signal);
  server.stop(
      fmt::format("the coordinator was asked to end by signal {}; the run goes on without "
                  "it until the next change of term",
                  signal));
  return 0;
}

}  // namespace

void add_coordinator(CLI::App& app, Action& action) {
  auto flags = std::make_shared<CoordinatorFlags>();
  CLI::App* command = app.add_subcommand(
      "coordinator",
      "lead the terms of a run whose workers come and go. Its state is RUN-FOLDER/coordinator.db; "
      "it may be killed and started again at any time, steps do not wait for it. The secret that "
      "workers have to show is BALLOT_TOKEN in the environment");
  command->add_option("folder", flags->folder, "the run's folder; made if there is none")
      ->required()
      ->type_name("RUN-FOLDER");
  command->add_option("--listen", flags->listen, "where workers and `ballot status` reach it")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command
      ->add_option("--store", flags->store,
                   "etcd://HOST:PORT[,HOST:PORT...]: keep the state there instead, so that several "
                   "coordinators of one run stand by for each other; etcds:// with the TLS of "
                   "--tls-ca, --tls-certificate and --tls-key")
      ->type_name("ETCD");
  command
      ->add_option("--lease", flags->lease,
                   "with --store: another coordinator leads after so long without a sign of life")
      ->type_name("TIME")
      ->capture_default_str();
  command
      ->add_option("--prometheus", flags->prometheus,
                   "answer Prometheus there, over plain HTTP, such as 127.0.0.1:0; port 0: any "
                   "(default: nowhere)")
      ->type_name("HOST:PORT");
  command->add_option("--run", flags->run,
                      "name of the run, the same for its workers (default: that of the folder)");
  add_access_flags(*command, flags->access);
  command->add_flag("--insecure", flags->access.insecure,
                    "listen beyond loopback addresses with neither TLS nor BALLOT_TOKEN");
  MembershipOptions& membership = flags->membership;
  const auto add_count = [&](const char* name, auto& value, int least, int most, const char* help) {
    command->add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
  };
  add_count("--min-workers", membership.min_workers, 1, 4096,
            "a term has at least so many; with fewer the run waits");
  add_count("--start-workers", membership.start_workers, 1, 4096,
            "the first term waits for so many (at least --min-workers)");
  add_count("--quorum", membership.quorum, 0, 4096,
            "ballots that close a poll at its deadline; 0: all");
  add_count("--max-lag", membership.max_lag, 1, 1000000,
            "a worker so many steps behind in applying is sent away");
  const auto add_time = [&](const char* name, std::string& value, const char* help) {
    command->add_option(name, value, help)->type_name("TIME")->capture_default_str();
  };
  add_time("--heartbeat-timeout", flags->heartbeat_timeout,
           "a worker without a pulse for so long is silent, and its term ends");
  add_time("--seal-timeout", flags->seal_timeout,
           "who has not sealed so long after the order is not in the next term");
  add_time("--planned-timeout", flags->planned_timeout,
           "a change at a coming step that is not reached becomes one at once");
  add_time("--cold-wait", flags->cold_wait,
           "when too few of a term are left: how long the others may take to come back");
  add_time("--suspicion-window", flags->suspicion_window,
           "when workers suspect each other twice within it, one has to go");
  command->add_flag("--recover", membership.recover,
                    "go on from a row that is older than the workers' terms (a lost or restored "
                    "coordinator.db)");
  command->add_flag("--without-commit", membership.without_commit,
                    "begin from the best history there is although nobody has the committed step: "
                    "loses committed steps");
  command->callback([&action, flags] { action = [flags] { return coordinate(*flags); }; });
}

}  // namespace ballot

#include "launcher/cluster/host_job.h"

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "launcher/mpirun.h"

namespace ballot {
namespace {

class HostJobMaker {
 public:
  HostJobMaker(const HostJob& job, std::shared_ptr<Placement> placement, const Preflight& seen)
      : job_(job), placement_(std::move(placement)) {
    threads_ = threads_of_workers(*placement_, seen);
    if (job.threads > 0) threads_.assign(threads_.size(), job.threads);
    for (const NetworkInterface& interface : seen.network.of_host) {
      addresses_.push_back(interface.address);
      nccl_interfaces_.push_back(job.nccl_interfaces.empty() ? nccl_interface(interface)
                                                             : job.nccl_interfaces);
    }
    meeting_ = placement_->host_of(0);
    port_ = seen.rows[meeting_].facts->free_port;
  }

  StartCommand coordinator() const {
    std::vector<std::string> words = {job_.starter.program,
                                      "coordinator",
                                      job_.run_folder,
                                      "--listen",
                                      meeting_address(),
                                      "--start-workers",
                                      std::to_string(placement_->voters()),
                                      "--min-workers",
                                      std::to_string(job_.min_voters)};
    if (!job_.prometheus.empty()) words.insert(words.end(), {"--prometheus", job_.prometheus});
    add_access(words);
    return start(meeting_, std::move(words), 1, 0);
  }

  StartCommand worker(int number, bool host_lost) const {
    if (host_lost) {
      const std::size_t before = placement_->host_of(number);
      if (const std::size_t now = placement_->move(number); now != before)
        log_warning("worker {} moves from {} to {}", number, placement_->hosts()[before].name,
                    placement_->hosts()[now].name);
    }
    return job_.elastic ? elastic_worker(number) : fixed_worker(number);
  }

 private:
  std::string meeting_address() const { return fmt::format("{}:{}", addresses_[meeting_], port_); }

  void add_access(std::vector<std::string>& words) const {
    const auto add = [&words](const char* flag, const std::string& value) {
      if (!value.empty()) words.insert(words.end(), {flag, value});
    };
    add("--tls-ca", job_.tls.ca);
    add("--tls-certificate", job_.tls.certificate);
    add("--tls-key", job_.tls.key);
    add("--tls-name", job_.tls.name);
    if (job_.insecure) words.push_back("--insecure");
  }
  void add_settings(std::vector<std::string>& words) const {
    for (const std::string& setting : job_.settings) words.insert(words.end(), {"--set", setting});
  }

  StartCommand elastic_worker(int number) const {
    const std::size_t host = placement_->host_of(number);
    std::vector<std::string> words;
    // A voter's members meet over MPI on their host; mpirun ends with any of them.
    if (placement_->members() > 1) {
      words = {"mpirun"};  // of that host, wherever it is there
      for (std::string& flag : mpirun_flags(placement_->members(), threads_[host]))
        words.push_back(std::move(flag));
      // In a Slurm step mpirun would start its ranks by srun, on any of the job's nodes.
      if (job_.starter.method == StartMethod::srun)
        words.insert(words.begin() + 1, {"--mca", "plm", "isolated", "--mca", "ras", "^slurm"});
    }
    words.insert(words.end(),
                 {job_.starter.program, "train", job_.run_file, "--coordinator", meeting_address(),
                  "--worker", std::to_string(number), "--listen", addresses_[host] + ":0"});
    if (!job_.coordinator_run.empty()) words.insert(words.end(), {"--run", job_.coordinator_run});
    add_access(words);
    add_settings(words);
    return start(host, std::move(words), threads_[host], placement_->slot_of(number));
  }

  StartCommand fixed_worker(int rank) const {
    const std::size_t host = placement_->host_of(rank);
    std::vector<std::string> words = {job_.starter.program, "train", job_.run_file, "--transport",
                                      job_.nccl ? "nccl" : "grpc"};
    if (!job_.resume.empty()) words.push_back("--resume=" + job_.resume);
    // One worker has no links but those of its GPU.
    if (!job_.nccl || placement_->voters() > 1) add_access(words);
    add_settings(words);
    std::vector<std::pair<std::string, std::string>> place = {
        {"RANK", std::to_string(rank)},
        {"WORLD_SIZE", std::to_string(placement_->voters())},
        {"LOCAL_WORLD_SIZE", std::to_string(placement_->workers_of(host))},
        {"MASTER_ADDR", addresses_[meeting_]},
        {"MASTER_PORT", std::to_string(port_)}};
    if (job_.nccl && !nccl_interfaces_[host].empty())
      place.emplace_back("NCCL_SOCKET_IFNAME", nccl_interfaces_[host]);
    return start(host, std::move(words), threads_[host], placement_->slot_of(rank),
                 std::move(place));
  }

  StartCommand start(std::size_t host, std::vector<std::string> words, int threads, int slot,
                     std::vector<std::pair<std::string, std::string>> more = {}) const {
    AgentOrder order;
    order.command = std::move(words);
    order.folder = job_.folder;
    order.silence_seconds = kAgentSilenceSeconds;
    order.environment = std::move(more);
    order.environment.emplace_back("OMP_NUM_THREADS", std::to_string(threads));
    order.environment.emplace_back("OMP_WAIT_POLICY", "passive");
    // Which GPU is its own; mpirun tells members theirs.
    if (placement_->members() == 1)
      order.environment.emplace_back("LOCAL_RANK", std::to_string(slot));
    order.environment.emplace_back("BALLOT_LAUNCHER", "1");
    order.environment.emplace_back("BALLOT_TOKEN", job_.token);
    if (placement_->members() > 1) order.leave_signal = SIGUSR1;
    return make_start(job_.starter, placement_->hosts()[host].name, order);
  }

  const HostJob job_;
  const std::shared_ptr<Placement> placement_;
  std::vector<std::string> addresses_, nccl_interfaces_;  // by host
  std::vector<int> threads_;
  std::size_t meeting_ = 0;  // the host where workers meet: of the coordinator, or of worker 0
  int port_ = 0;
};

}  // namespace

std::vector<int> threads_of_workers(const Placement& placement, const Preflight& seen) {
  std::vector<int> threads;
  for (const PreflightRow& row : seen.rows) {
    int sharing = 0;
    for (std::size_t other = 0; other < seen.rows.size(); ++other)
      if (seen.rows[other].facts->computer() == row.facts->computer())
        sharing += placement.workers_of(other);
    threads.push_back(std::max(1, row.facts->cores / std::max(1, sharing)));
  }
  return threads;
}

SupervisedJob make_host_job(const HostJob& job, std::shared_ptr<Placement> placement,
                            const Preflight& seen) {
  require(placement->members() == 1 || job.elastic, "a fixed job places its {} members one by one",
          placement->members());
  const auto maker = std::make_shared<HostJobMaker>(job, placement, seen);
  SupervisedJob supervised;
  if (job.elastic)
    supervised.coordinator = {"coordinator", [maker](bool) { return maker->coordinator(); }};
  for (int number = 0; number < placement->voters(); ++number)
    supervised.workers.push_back({fmt::format("worker {}", number), [maker, number](bool lost) {
                                    return maker->worker(number, lost);
                                  }});
  supervised.log_folder = job.run_folder + "/logs";
  supervised.restarts = job.elastic ? job.restarts : 0;
  if (placement->members() > 1)
    supervised.leave_signal = SIGUSR1;  // mpirun passes it on, and ends its workers on others
  return supervised;
}

}  // namespace ballot

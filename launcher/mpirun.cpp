#include "launcher/mpirun.h"

#include "core/error.h"
#include "launcher/child_process.h"  // find_program

namespace ballot {

std::vector<std::string> mpirun_words(int workers, int threads_per_worker) {
  return mpirun_words(workers, threads_per_worker, {});
}

std::vector<std::string> mpirun_words(int workers, int threads_per_worker, const MpiHosts& hosts) {
  const std::optional<std::string> mpirun = find_program("mpirun");
  if (!mpirun)
    throw Unavailable("mpirun is not in PATH: several workers need the package openmpi-bin");
  std::vector<std::string> words = mpirun_flags(workers, threads_per_worker, hosts);
  words.insert(words.begin(), *mpirun);
  return words;
}

std::vector<std::string> mpirun_flags(int workers, int threads_per_worker, const MpiHosts& hosts) {
  // Root's consent says nothing to anybody else.
  std::vector<std::string> words{"--allow-run-as-root"};
  const std::string threads = fmt::format("OMP_NUM_THREADS={}", threads_per_worker);
  for (const char* word :
       {"--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--mca",
        "btl_base_warn_component_unused", "0", "-x", threads.c_str(), "-x",
        "OMP_WAIT_POLICY=passive", "-x", "BALLOT_LAUNCHER=1"})
    words.push_back(word);
  if (!hosts.hosts.empty()) {
    const auto add = [&words](std::initializer_list<std::string> more) {
      words.insert(words.end(), more);
    };
    // Whatever a site's own files say, all of it goes by one network, and a host by its name.
    add({"--host", hosts.hosts, "--map-by", "slot", "--wdir", hosts.folder});
    add({"--mca", "btl_tcp_if_include", hosts.network, "--mca", "oob_tcp_if_include",
         hosts.network});
    add({"--mca", "plm", "rsh", "--mca", "plm_rsh_agent", hosts.ssh});
    add({"--mca", "orte_keep_fqdn_hostnames", "1"});
    if (!hosts.nccl_interfaces.empty()) add({"-x", "NCCL_SOCKET_IFNAME=" + hosts.nccl_interfaces});
  }
  words.push_back("-n");
  words.push_back(fmt::format("{}", workers));
  return words;
}

}  // namespace ballot

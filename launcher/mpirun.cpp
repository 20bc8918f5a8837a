#include "launcher/mpirun.h"

#include <unistd.h>

#include "core/error.h"
#include "launcher/child_process.h"  // find_program

namespace ballot {

std::vector<std::string> mpirun_words(int workers, int threads_per_worker) {
  const std::optional<std::string> mpirun = find_program("mpirun");
  if (!mpirun)
    throw Unavailable("mpirun is not in PATH: several workers need the package openmpi-bin");
  std::vector<std::string> words{*mpirun};
  if (::geteuid() == 0) words.push_back("--allow-run-as-root");
  const std::string threads = fmt::format("OMP_NUM_THREADS={}", threads_per_worker);
  for (const char* word :
       {"--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--mca",
        "btl_base_warn_component_unused", "0", "-x", threads.c_str(), "-x",
        "OMP_WAIT_POLICY=passive", "-x", "BALLOT_LAUNCHER=1", "-n"})
    words.push_back(word);
  words.push_back(fmt::format("{}", workers));
  return words;
}

}  // namespace ballot

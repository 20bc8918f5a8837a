// Who this worker is, as whoever started it says: RANK/WORLD_SIZE, OMPI_COMM_WORLD_*, SLURM_*.
//
// Two sources that contradict each other are a ConfigError that prints both.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace ballot {

struct WorkerPlace {
  int rank = 0;
  int size = 1;
  int local_size = 1;      // workers on this machine, for the default number of threads
  bool under_mpi = false;  // mpirun started it: the transport is MPI
};

using Lookup = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> process_environment(const char* name);

WorkerPlace find_place(const Lookup& environment = process_environment);

// Which of the workers on its machine this is, where somebody says so: for the choice of its GPU.
std::optional<int> find_local_rank(const Lookup& environment = process_environment);

// The cores that this process may use, divided by the workers on its machine; at least 1. Where
// each worker is bound to cores of its own (mpirun --map-by, srun --cpus-per-task), say so by
// OMP_NUM_THREADS or train.threads.
int default_threads(int workers_here);
// OMP_NUM_THREADS, which the launcher sets for its workers.
std::optional<int> asked_threads(const Lookup& environment = process_environment);

}  // namespace ballot

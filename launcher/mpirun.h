// How mpirun is called here: workers of one machine, not bound to cores, patient while they wait.
#pragma once

#include <string>
#include <vector>

namespace ballot {

// mpirun's path and its flags; each worker's command follows. Unavailable where it is not
// installed.
std::vector<std::string> mpirun_words(int workers, int threads_per_worker);

}  // namespace ballot

#include "launcher/environment.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <vector>

#include "core/error.h"

namespace ballot {
namespace {

struct Source {
  const char* rank;
  const char* size;
  const char* local_size;  // may be null
};

// In the order in which they are believed.
constexpr Source kSources[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"SLURM_PROCID", "SLURM_NTASKS", nullptr},
};

std::optional<int> read_number(const Lookup& environment, const char* name) {
  if (name == nullptr) return std::nullopt;
  const std::optional<std::string> text = environment(name);
  if (!text) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size() || value < 0)
    throw ConfigError("{} = \"{}\" in the environment: expected a number of 0 or more", name,
                      *text);
  return value;
}

}  // namespace

std::optional<std::string> process_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

WorkerPlace find_place(const Lookup& environment) {
  WorkerPlace place;
  const Source* believed = nullptr;
  for (const Source& source : kSources) {
    const std::optional<int> rank = read_number(environment, source.rank),
                             size = read_number(environment, source.size);
    if (!rank && !size) continue;
    // sbatch sets SLURM_NTASKS in the batch script itself, where there is no task yet.
    if (source.rank == kSources[2].rank && (!rank || believed != nullptr)) continue;
    if (!rank || !size)
      throw ConfigError("{} is set and {} is not: expected both or neither",
                        rank ? source.rank : source.size, rank ? source.size : source.rank);
    if (*size < 1 || *rank >= *size)
      throw ConfigError("{} = {} with {} = {}: expected a rank below the size", source.rank, *rank,
                        source.size, *size);
    if (believed != nullptr && (*rank != place.rank || *size != place.size))
      throw ConfigError(
          "the environment contradicts itself: {} = {} of {} = {}, but {} = {} of {} = {}",
          believed->rank, place.rank, believed->size, place.size, source.rank, *rank, source.size,
          *size);
    if (believed == nullptr) {
      believed = &source;
      place.rank = *rank;
      place.size = *size;
      place.local_size = place.size;
    }
    if (const auto local = read_number(environment, source.local_size))
      place.local_size = std::max(1, *local);
    if (&source == &kSources[1]) place.under_mpi = true;
  }
  return place;
}

std::optional<int> find_local_rank(const Lookup& environment) {
  for (const char* name : {"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"})
    if (const auto rank = read_number(environment, name)) return rank;
  return std::nullopt;
}

std::optional<int> asked_threads(const Lookup& environment) {
  const std::optional<int> asked = read_number(environment, "OMP_NUM_THREADS");
  if (asked && *asked < 1) throw ConfigError("OMP_NUM_THREADS = {}: expected at least 1", *asked);
  return asked;
}

int default_threads(int workers_here) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  const int count = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
  return std::max(1, count / std::max(1, workers_here));
}

}  // namespace ballot

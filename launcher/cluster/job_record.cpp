#include "launcher/cluster/job_record.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "launcher/cluster/slurm.h"
#include "launcher/environment.h"
#include "launcher/kubernetes/recorded_job.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::uint64_t kMostBytes = 1 << 20;

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

// Field 22 of /proc/ID/stat; 0: there is no such process, or it has ended.
std::uint64_t start_of(pid_t id) {
  std::ifstream file(fmt::format("/proc/{}/stat", id));
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');  // the name may hold spaces
  if (name_end == std::string::npos) return 0;
  std::istringstream rest(line.substr(name_end + 1));
  std::string field;
  for (int number = 3; number <= 22 && rest >> field; ++number)
    if (number == 3 && field == "Z") return 0;
  return rest ? std::strtoull(field.c_str(), nullptr, 10) : 0;
}

fs::path list_folder() {
  if (const auto given = process_environment("BALLOT_JOBS")) return *given;
  if (const auto state = process_environment("XDG_STATE_HOME"))
    return fs::path(*state) / "ballot" / "jobs";
  if (const auto home = process_environment("HOME"))
    return fs::path(*home) / ".local" / "state" / "ballot" / "jobs";
  throw ConfigError(
      "there is no list of jobs: neither BALLOT_JOBS nor XDG_STATE_HOME nor HOME is "
      "set in the environment");
}

bool is_name(const std::string& name) {
  return !name.empty() && name.size() <= 63 && name[0] != '.' && name[0] != '-' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_' || c == '.';
         });
}

template <class Value>
Value take(const Json& json, const char* name, const std::string& path) {
  const auto found = json.find(name);
  const auto fits = [&] {
    if (found == json.end()) return false;
    if constexpr (std::is_same_v<Value, bool>)
      return found->is_boolean();
    else if constexpr (std::is_same_v<Value, std::string>)
      return found->is_string();
    else if constexpr (std::is_floating_point_v<Value>)
      return found->is_number();
    else
      return found->is_number_unsigned() &&
             found->template get<std::uint64_t>() <=
                 static_cast<std::uint64_t>(std::numeric_limits<Value>::max());
  };
  if (!fits())
    throw DataError("{}: \"{}\" is {}, which no record of a job has", path, name,
                    found == json.end() ? "absent" : found->dump().substr(0, 60));
  return found->template get<Value>();
}

}  // namespace

std::string name_of_run(const std::string& run_folder) {
  std::string name = fs::weakly_canonical(run_folder).filename().string().substr(0, 63);
  for (char& c : name)
    if (!is_name(std::string("a") + c)) c = '-';
  return is_name(name) ? name : "run";
}

void write_job(const JobRecord& job) {
  Json json{{"name", job.name},
            {"on", job.on},
            {"run_folder", job.run_folder},
            {"id", job.id},
            {"workers", job.workers},
            {"elastic", job.elastic},
            {"started", job.started},
            {"host", job.host},
            {"launcher", job.launcher},
            {"launcher_start", job.launcher_start}};
  if (job.exit_code) json.update(Json{{"exit_code", *job.exit_code}, {"ended", job.ended}});
  fs::create_directories(job.run_folder);
  replace_file_atomically(job.run_folder + "/job.json",
                          json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

JobRecord decode_job(std::string_view bytes, const std::string& path) {
  const Json json = Json::parse(bytes, nullptr, false);
  if (!json.is_object()) throw DataError("{}: expected one JSON object", path);
  JobRecord job;
  job.name = take<std::string>(json, "name", path);
  job.on = take<std::string>(json, "on", path);
  job.run_folder = take<std::string>(json, "run_folder", path);
  job.id = take<std::string>(json, "id", path);
  job.workers = take<int>(json, "workers", path);
  job.elastic = take<bool>(json, "elastic", path);
  job.started = take<double>(json, "started", path);
  job.host = take<std::string>(json, "host", path);
  job.launcher = take<pid_t>(json, "launcher", path);
  job.launcher_start = take<std::uint64_t>(json, "launcher_start", path);
  if (json.contains("exit_code")) {
    job.exit_code = take<int>(json, "exit_code", path);
    job.ended = take<double>(json, "ended", path);
  }
  if (!is_name(job.name))
    throw DataError("{}: \"{}\" is no name of a job", path, job.name.substr(0, 60));
  // It becomes an argument of scancel.
  if (job.on == "slurm" && job.id.find_first_not_of("0123456789") != std::string::npos)
    throw DataError("{}: \"{}\" is no number of a Slurm job", path, job.id.substr(0, 60));
  return job;
}

std::optional<JobRecord> read_job(const std::string& run_folder) {
  const std::string path = run_folder + "/job.json";
  if (!fs::exists(path)) return std::nullopt;
  return decode_job(read_file(path, kMostBytes), path);
}

void take_over(JobRecord& job) {
  job.host = host_name();
  job.launcher = ::getpid();
  job.launcher_start = start_of(job.launcher);
  job.exit_code.reset();
  if (job.started == 0) job.started = now();
  write_job(job);
}

void end_job(JobRecord& job, int exit_code) {
  job.exit_code = exit_code;
  job.ended = now();
  write_job(job);
}

void list_job(const JobRecord& job) {
  if (!is_name(job.name))
    throw ConfigError("--name {}: expected at most 63 letters, digits, '-', '_' and '.'", job.name);
  const fs::path folder = list_folder(), file = folder / (job.name + ".json");
  if (fs::exists(file)) {
    const Json json = Json::parse(read_file(file.string(), kMostBytes), nullptr, false);
    const std::string other = json.is_object() ? json.value("run_folder", "") : "";
    if (!other.empty() && other != job.run_folder)
      if (const auto record = read_job(other)) {
        const JobState state = state_of(*record);
        if (state.kind == JobState::Kind::running || state.kind == JobState::Kind::queued)
          throw ConfigError(
              "--name {}: another job of this name, in {}, is {}; name this one "
              "otherwise with --name",
              job.name, other, state.text);
      }
  }
  fs::create_directories(folder);
  replace_file_atomically(file.string(), Json{{"run_folder", job.run_folder}}.dump() + "\n");
}

std::vector<JobRecord> listed_jobs(std::vector<std::string>& problems) {
  std::vector<JobRecord> jobs;
  const fs::path folder = list_folder();
  if (!fs::exists(folder)) return jobs;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    try {
      const Json json = Json::parse(read_file(file.string(), kMostBytes), nullptr, false);
      if (!json.is_object() || !json.contains("run_folder") || !json["run_folder"].is_string())
        throw DataError("{}: names no run folder", file.string());
      const auto run = json["run_folder"].get<std::string>();
      if (auto job = read_job(run))
        jobs.push_back(std::move(*job));
      else
        problems.push_back(
            fmt::format("{}: there is no {}/job.json any more", file.stem().string(), run));
    } catch (const Error& failure) {
      problems.push_back(failure.what());
    }
  }
  return jobs;
}

JobRecord find_job(const std::string& name_or_folder) {
  if (fs::is_directory(name_or_folder)) {
    if (auto job = read_job(name_or_folder)) return *job;
    throw ConfigError("{}: no job was launched there (it has no job.json)", name_or_folder);
  }
  std::vector<std::string> problems;
  std::string names;
  for (const JobRecord& job : listed_jobs(problems)) {
    if (job.name == name_or_folder) return job;
    names += (names.empty() ? "" : ", ") + job.name;
  }
  throw ConfigError("{}: there is no such job and no such run folder; {}", name_or_folder,
                    names.empty() ? "the list of jobs is empty" : "expected one of " + names);
}

const char* to_string(JobState::Kind kind) {
  switch (kind) {
    case JobState::Kind::queued:
      return "queued";
    case JobState::Kind::running:
      return "running";
    case JobState::Kind::ended:
      return "ended";
    case JobState::Kind::lost:
      return "lost";
    case JobState::Kind::unknown:
      break;
  }
  return "unknown";
}

// As the cluster has it.
static JobState kubernetes_state(const JobRecord& job) {
  using Kind = JobState::Kind;
  const RecordedKubernetesJob recorded = parse_kubernetes_id(job.id);
  const KubernetesState state = Kubectl(recorded.options).state(recorded.name, recorded.controller);
  if (state.phase == KubernetesState::Phase::absent)
    return {Kind::lost, fmt::format("lost: the cluster no longer has job {}", recorded.name)};
  if (state.over()) {
    const int code = exit_code_of(state);
    return {Kind::ended, code == 0 ? "done" : fmt::format("ended with {}", code)};
  }
  return {state.phase == KubernetesState::Phase::running ? Kind::running : Kind::queued,
          describe(state)};
}

bool launcher_runs_here(const JobRecord& job) {
  return job.launcher > 0 && job.host == host_name() &&
         start_of(job.launcher) == job.launcher_start;
}

JobState state_of(const JobRecord& job) {
  using Kind = JobState::Kind;
  if (job.exit_code)
    return {Kind::ended,
            *job.exit_code == 0 ? "done" : fmt::format("ended with {}", *job.exit_code)};
  if (job.on == "slurm" && !job.id.empty()) {
    SlurmState state;
    try {
      state = slurm_state(job.id);
    } catch (const TransportError& away) {
      return {Kind::unknown, fmt::format("not known now: {}", away.what())};
    }
    if (state.known)
      return {state.pending ? Kind::queued : Kind::running,
              fmt::format("{} (Slurm job {}{}{})", state.pending ? "queued" : "running", job.id,
                          state.reason.empty() ? "" : ", ", state.reason)};
    return {Kind::lost,
            fmt::format("lost: Slurm no longer has job {}, and it wrote no end", job.id)};
  }
  if (job.on == "kubernetes") return kubernetes_state(job);
  if (job.launcher == 0) return {Kind::unknown, "unknown"};
  if (job.host != host_name())
    return {Kind::unknown, fmt::format("not known here: its launcher is process {} on {}",
                                       job.launcher, job.host)};
  if (start_of(job.launcher) == job.launcher_start)
    return {Kind::running, fmt::format("running (process {})", job.launcher)};
  return {Kind::lost, "lost: its launcher was killed"};
}

}  // namespace ballot

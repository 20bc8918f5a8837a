#include "launcher/cluster/slurm.h"

#include <algorithm>

#include "core/error.h"
#include "launcher/child_process.h"  // find_program
#include "launcher/program_call.h"
#include "launcher/shell_words.h"

namespace ballot {
namespace {

// What one of Slurm's programs prints. Unavailable where it is not there; ConfigError with what it
// said, or TransportError where only Slurm's controller was away, where it ends with anything but
// 0.
std::string output_of(const std::string& program, const std::vector<std::string>& arguments) {
  const auto path = find_program(program);
  if (!path)
    throw Unavailable("{} is not in PATH: install Slurm's client programs (Debian: slurm-client)",
                      program);
  ProgramCall call;
  call.command = {*path};
  call.command.insert(call.command.end(), arguments.begin(), arguments.end());
  call.limit = std::chrono::seconds(60);
  call.waiting_for = "Slurm's controller";
  ProgramResult result = call_program(call);
  if (result.exit_code == 0) return std::move(result.output);
  std::string& said = result.errors;
  while (!said.empty() && said.back() == '\n') said.pop_back();
  for (const char* away : {"Unable to contact", "Socket timed out", "Connection refused"})
    if (said.find(away) != std::string::npos)
      throw TransportError("{} ended with {}: {}", program, result.exit_code, said);
  throw ConfigError("{} ended with {}: {}", program, result.exit_code,
                    said.empty() ? "it said nothing" : said);
}

void add_option(std::string& script, const std::string& option) {
  if (option.find_first_of("\n\r") != std::string::npos)
    throw ConfigError("an option of sbatch with a line feed: \"{}\"", option.substr(0, 60));
  script += fmt::format("#SBATCH {}\n", option);
}

}  // namespace

std::string render_batch_script(const SlurmJob& job) {
  std::string script = "#!/bin/bash\n";
  const auto add = [&](const std::string& option) { add_option(script, option); };
  add(fmt::format("--job-name={}", job.name));
  add(fmt::format("--nodes={}", job.nodes));
  add(fmt::format("--ntasks-per-node={}", job.workers_per_node));
  if (job.cpus_per_worker > 0) add(fmt::format("--cpus-per-task={}", job.cpus_per_worker));
  if (job.gpus_per_node > 0) add(fmt::format("--gres=gpu:{}", job.gpus_per_node));
  if (!job.time.empty()) add(fmt::format("--time={}", job.time));
  if (!job.partition.empty()) add(fmt::format("--partition={}", job.partition));
  if (!job.account.empty()) add(fmt::format("--account={}", job.account));
  std::string log;  // a pattern, in which % begins a code
  for (const char c : job.log) log += c == '%' ? std::string("%%") : std::string(1, c);
  add(log.find(' ') == std::string::npos ? fmt::format("--output={}", log)
                                         : fmt::format("--output=\"{}\"", log));
  add("--open-mode=append");
  add(fmt::format("--signal=B:USR1@{}", job.drain_seconds));
  add("--no-kill");  // a node that fails takes its workers along and nobody else
  if (job.retry == SlurmJob::Retry::array && job.retries > 0) {
    add(fmt::format("--array=0-{}%1", job.retries));
    add("--no-requeue");
  } else {
    add(job.retries > 0 ? "--requeue" : "--no-requeue");
  }
  for (const std::string& option : job.options) add(option);
  script += fmt::format("\ncd {} || exit 2\n", shell_word(job.folder));
  // The launcher takes the script's place, so that Slurm's signals are its own.
  script += fmt::format("exec {}\n", shell_line(job.command));
  return script;
}

std::string submit_batch_script(const std::string& path) {
  std::string id = output_of("sbatch", {"--parsable", path});
  id = id.substr(0, id.find_first_of(";\n"));  // "12;cluster"
  if (id.empty() || id.find_first_not_of("0123456789") != std::string::npos)
    throw ConfigError("sbatch --parsable answered \"{}\"; expected a job's number",
                      id.substr(0, 100));
  return id;
}

SlurmState slurm_state(const std::string& id) {
  std::string text;
  try {
    text = output_of("squeue", {"--noheader", "--jobs=" + id, "--states=all", "--format=%T|%R"});
  } catch (const ConfigError& failure) {
    // What Slurm has forgotten it calls invalid.
    if (std::string_view(failure.what()).find("Invalid job id") != std::string_view::npos)
      return {};
    throw;
  }
  SlurmState state;
  for (std::size_t at = 0; at < text.size();) {  // one line for each task of an array
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const std::size_t bar = line.find('|');
    const std::string name = line.substr(0, bar);
    const bool pending =
        name == "PENDING" || name == "REQUEUED" || name == "REQUEUE_HOLD" || name == "SUSPENDED";
    const bool running = name == "RUNNING" || name == "CONFIGURING" || name == "COMPLETING" ||
                         name == "STAGE_OUT" || name == "SIGNALING" || name == "RESIZING";
    if (!pending && !running) continue;
    if (state.known && !state.pending) continue;
    state.known = true;
    state.pending = pending;
    state.reason = bar == std::string::npos ? "" : line.substr(bar + 1);
  }
  return state;
}

void cancel_slurm_job(const std::string& id, bool now) {
  if (now || slurm_state(id).pending) {
    output_of("scancel", {id});
    return;
  }
  output_of("scancel", {"--state=PENDING", id});  // an array's later tasks
  output_of("scancel", {"--batch", "--signal=TERM", id});
}

void requeue_slurm_job(const std::string& id) {
  output_of("scontrol", {"requeue", id});
}

}  // namespace ballot

// `ballot launch RUN.toml --workers N [--on ...]`: a job, checked before anything of it starts.
#include <CLI/CLI.hpp>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/kubernetes/recorded_job.h"
#include "launcher/launch_flags.h"
#include "launcher/launch_job.h"

namespace ballot {
namespace {

// Flags that only some ways of starting a job have.
void refuse_foreign_flags(const LaunchFlags& flags) {
  const auto refuse = [&](bool given, const char* flag, std::initializer_list<const char*> kinds) {
    if (!given) return;
    std::string known;
    for (const char* kind : kinds) {
      if (flags.on == kind) return;
      known += (known.empty() ? "" : " or ") + std::string(kind);
    }
    throw ConfigError("{}: is for --on {}; this job is --on {}", flag, known, flags.on);
  };
  refuse(!flags.hosts.empty(), "--hosts", {"ssh", "mpirun"});
  refuse(!flags.interface.empty(), "--interface", {"ssh", "mpirun", "slurm"});
  refuse(!flags.program.empty(), "--program", {"ssh", "mpirun", "slurm"});
  refuse(flags.ssh != "ssh", "--ssh", {"ssh", "mpirun"});
  refuse(flags.inside, "--inside", {"slurm"});
  const SlurmJob& slurm = flags.slurm;
  refuse(slurm.nodes > 0, "--nodes", {"slurm"});
  refuse(!slurm.time.empty(), "--time", {"slurm"});
  refuse(!slurm.partition.empty(), "--partition", {"slurm"});
  refuse(!slurm.account.empty(), "--account", {"slurm"});
  refuse(!slurm.options.empty(), "--sbatch", {"slurm"});
  refuse(flags.retries > 0, "--retries", {"slurm"});
  refuse(slurm.retry != SlurmJob::Retry::requeue, "--retry", {"slurm"});
  refuse(flags.kubernetes != KubernetesFlags{}, "--kube-... and --operator", {"kubernetes"});
  refuse(!flags.resume.empty(), "--resume", {"local", "ssh", "mpirun", "slurm"});
  if (flags.on == "kubernetes" &&
      (flags.transport.name != "auto" || flags.transport.tls.given() || flags.transport.insecure))
    throw ConfigError(
        "--transport, --tls-..., --insecure: a job on Kubernetes brings its own links; expected "
        "--kube-tls-secret, or nothing");
  if ((flags.on == "ssh" || flags.on == "mpirun") && flags.hosts.empty())
    throw ConfigError(
        "--on {}: expected --hosts, a file (HOST slots=N a line) or a list "
        "(HOST:N,...)",
        flags.on);
  if (flags.min_workers && *flags.min_workers > flags.workers)
    throw ConfigError("--min-workers {}: expected at most {}, the workers", *flags.min_workers,
                      flags.workers);
  if (flags.inside && flags.dry_run)
    throw ConfigError("--dry-run: inside an allocation there is nothing to submit");
}

}  // namespace

Machines machines_of(const LaunchFlags& flags) {
  if (flags.on == "kubernetes") return Machines::others;
  return flags.on == "local" ? Machines::this_one : Machines::same_files;
}

namespace {

int launch_here(const RunConfig& config, const LaunchFlags& flags) {
  if (flags.dry_run && flags.on == "local")
    throw ConfigError(
        "--dry-run: a job on this machine submits nothing; expected --on slurm, kubernetes, ssh "
        "or mpirun");
  LaunchedJob job(config, flags);
  return flags.elastic && flags.on == "local" ? launch_elastic(config, flags, job)
                                              : launch_local(config, flags, job);
}

// Files, device and processor of the run are the cluster's.
int launch_in_pods(const LaunchFlags& flags) {
  KubernetesFlags kubernetes = flags.kubernetes;
  kubernetes.name = flags.name;
  JobRecord record;
  // The run's folder is the cluster's; the record lies here, where logs would be collected.
  const auto submitted = [&](const KubernetesJob& job) {
    record.on = flags.on;
    record.name = job.name;
    record.id = to_id({job.controller, kubectl_options(kubernetes), job.name});
    record.workers = job.voters;
    record.elastic = job.controller == KubernetesOperator::none;
    record.started = static_cast<double>(std::time(nullptr));
    record.run_folder =
        std::filesystem::absolute(kubernetes_log_folder(job.name, kubernetes)).lexically_normal();
    list_job(record);
    write_job(record);
  };
  const int code = launch_on_kubernetes(
      read_run_config(flags.run_file, flags.settings, machines_of(flags)), flags.run_file,
      flags.settings, flags.workers, flags.min_workers.value_or(0), flags.restarts, flags.dry_run,
      flags.attach, kubernetes, submitted);
  if (flags.attach && !record.name.empty()) end_job(record, code);
  return code;
}

int launch(const LaunchFlags& flags) {
  refuse_foreign_flags(flags);
  if (flags.on == "kubernetes") return launch_in_pods(flags);
  const RunConfig config = read_run_config(flags.run_file, flags.settings, machines_of(flags));
  set_thread_count(1);  // a launcher takes signals, which a second thread would get in its stead
  if (flags.on == "local" || flags.on == "mpirun") return launch_here(config, flags);
  if (flags.on == "slurm" && !flags.inside) return launch_on_slurm(config, flags);
  return launch_on_hosts(config, flags);
}

}  // namespace

void add_launch(CLI::App& app, Action& action) {
  auto flags = std::make_shared<LaunchFlags>();
  CLI::App* command =
      app.add_subcommand("launch", "start a job of several workers, here or on other machines");
  command->add_option("run", flags->run_file, "the run file (TOML)")->required();
  command->add_option("--workers", flags->workers, "number of workers")
      ->required()
      ->check(CLI::Range(1, 1024));
  command->add_option("--set", flags->settings, "key=value, over the run file")
      ->type_name("KEY=VALUE");
  add_transport_flags(*command, flags->transport, true);
  add_resume_flag(*command, flags->resume);
  command
      ->add_option(
          "--max-restarts", flags->restarts,
          "start the job again from its newest state, so many times at most, when a worker "
          "is lost or a retry can help; with --elastic: the worker alone")
      ->check(CLI::Range(0, 1000000));
  command->add_flag(
      "--elastic", flags->elastic,
      "with a coordinator: a worker that dies ends nobody's step, and is started again where it "
      "was (--max-restarts); a run that was begun goes on");
  command
      ->add_option(
          "--min-workers", flags->min_workers,
          "with --max-restarts: a job that has lost a worker is started again without one in its "
          "place, as long as so many are left (all, unless given); with --elastic: with fewer "
          "voters the run waits for the others (1, unless given)")
      ->check(CLI::Range(1, 1024));
  command
      ->add_option(
          "--on", flags->on,
          "where: this machine; hosts that ssh reaches; hosts by mpirun; a batch job; pods")
      ->check(CLI::IsMember({"local", "ssh", "mpirun", "slurm", "kubernetes"}))
      ->capture_default_str();
  command
      ->add_option("--hosts", flags->hosts,
                   "ssh, mpirun: a file of hosts (HOST slots=N a line) or a list; hosts beyond the "
                   "workers stand by for those that are lost")
      ->type_name("FILE|HOST:N,...");
  command
      ->add_option("--interface", flags->interface,
                   "by which the hosts reach each other: an interface's name or a network; chosen "
                   "and said why, where not given")
      ->type_name("NAME|NET/BITS");
  command->add_option("--program", flags->program, "ballot on the hosts (default: as here)")
      ->type_name("PATH");
  command->add_option("--ssh", flags->ssh, "ssh and its options, as one text")
      ->type_name("COMMAND")
      ->capture_default_str();
  command->add_option("--name", flags->name, "of the job (default: that of output.folder)");
  CLI::Option* detach = command->add_flag(
      "--detach", flags->detach, "go on in the background, as slurm does unless told otherwise");
  command->add_flag("--attach", flags->attach, "stay with the job until it ends")->excludes(detach);
  command->add_flag("--dry-run", flags->dry_run, "print what would be submitted, and end");
  command->add_flag("--inside", flags->inside,
                    "slurm: no new job, but in the allocation that this process is in");
  command
      ->add_option("--retries", flags->retries,
                   "slurm: put the job back into the queue, so many times at most, when its time "
                   "is over or a retry can help")
      ->check(CLI::Range(0, 1000));
  SlurmJob& slurm = flags->slurm;
  slurm.nodes = 0;
  command->add_option("--nodes", slurm.nodes, "slurm: machines (default: one for each worker)")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--retry", slurm.retry,
                   "slurm: how a job is tried again: requeue, or array where the site forbids that")
      ->transform(CLI::CheckedTransformer(std::map<std::string, SlurmJob::Retry>{
          {"requeue", SlurmJob::Retry::requeue}, {"array", SlurmJob::Retry::array}}))
      ->default_str("requeue");
  command->add_option("--time", slurm.time, "slurm: the longest it may take, as sbatch takes it");
  command->add_option("--partition", slurm.partition, "slurm: where");
  command->add_option("--account", slurm.account, "slurm: for whom");
  command
      ->add_option("--sbatch", slurm.options,
                   "slurm: a further option of sbatch, e.g. --sbatch=--exclusive")
      ->type_name("OPTION");
  add_kubernetes_flags(*command, flags->kubernetes);
  command->callback([&action, flags] { action = [flags] { return launch(*flags); }; });
}

}  // namespace ballot

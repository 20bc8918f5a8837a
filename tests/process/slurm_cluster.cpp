#include "tests/process/slurm_cluster.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>

#include "tests/support/free_port.h"

namespace ballot {
namespace {

// What is cancelled has KillWait seconds: longer than any checkpoint here takes.
constexpr const char* kConfiguration = R"(ClusterName=ballot
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/controller
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=20
JobRequeue=1
SlurmctldTimeout=30
SlurmdTimeout=10
)";

std::string read_all(std::FILE* stream) {
  std::string text;
  std::array<char, 4096> bytes;
  while (const std::size_t count = std::fread(bytes.data(), 1, bytes.size(), stream))
    text.append(bytes.data(), count);
  return text;
}

}  // namespace

SlurmCluster::SlurmCluster(int nodes, int gpus) {
  const std::string folder = folder_.path();
  ::chmod(folder.c_str(), 0755);  // munge looks at who may write its socket's folder
  {
    std::ofstream key(folder_.file("munge.key"), std::ios::binary);
    std::random_device random;
    for (int i = 0; i < 256; ++i) {
      const unsigned word = random();
      key.write(reinterpret_cast<const char*>(&word), sizeof word);
    }
  }
  ::chmod(folder_.file("munge.key").c_str(), 0400);
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  std::string configuration = fmt::format(fmt::runtime(kConfiguration), fmt::arg("folder", folder),
                                          fmt::arg("port", test::free_port()));
  if (gpus > 0) {
    configuration += "GresTypes=gpu\n";
    // Slurm wants a file for each, and does not look into it: it counts what it gives.
    for (int gpu = 0; gpu < gpus; ++gpu) std::ofstream(folder_.file(fmt::format("gpu{}", gpu)));
    std::ofstream(folder_.file("gres.conf"))
        << fmt::format("AutoDetect=off\nNodeName=node[0-{}] Name=gpu File={}/gpu[0-{}]\n",
                       nodes - 1, folder, gpus - 1);
  }
  for (int node = 0; node < nodes; ++node)
    configuration += fmt::format(
        "NodeName=node{} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs={} RealMemory=1000{}\n",
        node, host, test::free_port(), gpus > 0 ? 2 * gpus : 2,
        gpus > 0 ? fmt::format(" Gres=gpu:{}", gpus) : "");
  configuration += "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n";
  std::ofstream(folder_.file("slurm.conf")) << configuration;
  std::filesystem::create_directory(folder_.file("controller"));

  // Their folders in /usr/sbin are not in everybody's PATH.
  munge_ = std::make_unique<test::ServerProcess>(
      std::vector<std::string>{
          "/usr/sbin/munged", "--foreground", "--force", "--key-file=" + folder_.file("munge.key"),
          "--socket=" + folder_.file("munge.socket"), "--pid-file=" + folder_.file("munge.pid"),
          "--log-file=" + folder_.file("munge.log"), "--seed-file=" + folder_.file("munge.seed")},
      folder_.file("munged.out"));
  munge_->wait_until([&] { return std::filesystem::exists(folder_.file("munge.socket")); });
  const std::string conf = "SLURM_CONF=" + folder_.file("slurm.conf");
  controller_ = std::make_unique<test::ServerProcess>(
      std::vector<std::string>{"/usr/sbin/slurmctld", "-D", "-f", folder_.file("slurm.conf")},
      folder_.file("slurmctld.out"), std::vector<std::string>{conf});
  for (int node = 0; node < nodes; ++node)
    nodes_.push_back(std::make_unique<test::ServerProcess>(
        std::vector<std::string>{"/usr/sbin/slurmd", "-D", "-f", folder_.file("slurm.conf"), "-N",
                                 fmt::format("node{}", node)},
        folder_.file(fmt::format("node{}.out", node)), std::vector<std::string>{conf}));
  for (const auto& node : nodes_)
    node->wait_until([&] {
      try {
        const std::string idle = run("sinfo --noheader --states=idle --format=%D");
        return !idle.empty() && std::stoi(idle) == nodes;
      } catch (const std::exception&) {  // the controller is not there yet
        return false;
      }
    });
}

std::string SlurmCluster::run(const std::string& command) const {
  const std::string whole =
      fmt::format("SLURM_CONF='{}' {} 2>&1", folder_.file("slurm.conf"), command);
  std::FILE* stream = ::popen(whole.c_str(), "r");
  if (stream == nullptr) throw std::runtime_error("cannot run " + command);
  const std::string output = read_all(stream);
  if (::pclose(stream) != 0) throw std::runtime_error(command + ": " + output);
  return output;
}

void SlurmCluster::kill_node(int node) {
  // What it runs has sessions of its own, and is found by its environment.
  nodes_[static_cast<std::size_t>(node)]->end(SIGKILL);
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "environ", std::ios::binary);
    std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    all.insert(0, 1, '\0');
    if (all.find(std::string(1, '\0') + fmt::format("SLURMD_NODENAME=node{}", node) + '\0') !=
            std::string::npos &&
        all.find("SLURM_CONF=" + folder_.file("slurm.conf")) != std::string::npos)
      ::kill(static_cast<pid_t>(std::stol(name)), SIGKILL);
  }
}

}  // namespace ballot

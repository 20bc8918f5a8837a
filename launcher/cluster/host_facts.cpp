#include "launcher/cluster/host_facts.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "collectives/cuda_nccl.h"
#include "core/clock.h"
#include "core/cuda/cuda_core.h"
#include "core/device.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/version.h"
#include "launcher/environment.h"  // default_threads
#include "launcher/free_port.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("MemAvailable:")) return std::atoll(line.c_str() + 13) * 1024;
  return 0;
}

// Two processes of one boot and one network namespace share loopback.
std::string machine_name() {
  struct stat space {};
  const bool known = ::stat("/proc/self/ns/net", &space) == 0;
  return first_line("/proc/sys/kernel/random/boot_id") + "/" +
         std::to_string(known ? space.st_ino : 0);
}

// The nearest folder that there is, of one that may not be there yet.
fs::path existing(fs::path folder) {
  std::error_code ignored;
  folder = fs::absolute(folder, ignored).lexically_normal();
  while (!fs::exists(folder, ignored) && folder.has_relative_path()) folder = folder.parent_path();
  return folder;
}

void look_at_disk(HostFacts& facts, const std::string& run_folder) {
  struct statvfs disk {};
  if (::statvfs(existing(run_folder).c_str(), &disk) == 0)
    facts.disk_bytes = static_cast<std::int64_t>(disk.f_bavail * disk.f_frsize);
  // Written to, rather than asked: root may write where the file system may not.
  facts.folder_problem = Witness(run_folder).problem();
}

bool appears(const std::string& file, Deadline deadline) {
  std::error_code ignored;
  while (!fs::exists(file, ignored)) {
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return true;
}

void look_at_gpus(HostFacts& facts) {
  try {
    const int count = cuda_core().device_count();
    for (int index = 0; index < count; ++index) {
      const Device device = cuda_core().find_device(index);
      const auto free = static_cast<std::int64_t>(cuda_core().free_bytes(device));
      facts.gpu_memory_bytes = index == 0 ? free : std::min(facts.gpu_memory_bytes, free);
      facts.gpus.push_back(cuda_core().describe(device));
    }
  } catch (const Error& failure) {
    facts.gpu_problem = failure.what();
  }
  if (facts.gpus.empty()) return;
  try {
    facts.nccl = cuda_nccl().version();
  } catch (const Error& failure) {
    facts.nccl_problem = failure.what();
  }
}

const Json& field(const Json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) throw DataError("facts of a host without \"{}\"", name);
  return *found;
}
std::string text_of(const Json& object, const char* name) {
  const Json& value = field(object, name);
  if (!value.is_string())
    throw DataError("facts of a host: \"{}\" is {}, expected a text", name, value.type_name());
  return value.get<std::string>();
}
bool choice_of(const Json& object, const char* name) {
  const Json& value = field(object, name);
  if (!value.is_boolean())
    throw DataError("facts of a host: \"{}\" is {}, expected true or false", name,
                    value.type_name());
  return value.get<bool>();
}
std::int64_t whole_of(const Json& object, const char* name, std::int64_t least) {
  const Json& value = field(object, name);
  const bool fits = value.is_number_unsigned()
                        ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)
                        : value.is_number_integer();
  if (!fits || value.get<std::int64_t>() < least)
    throw DataError("facts of a host: \"{}\" is {}, expected a whole number of {} or more", name,
                    value.dump().substr(0, 60), least);
  return value.get<std::int64_t>();
}

}  // namespace

std::vector<NetworkInterface> find_interfaces() {
  std::vector<NetworkInterface> all;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return all;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_netmask == nullptr ||
        entry->ifa_addr->sa_family != AF_INET || (entry->ifa_flags & IFF_UP) == 0)
      continue;
    char text[INET_ADDRSTRLEN] = "";
    const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    const auto* mask = reinterpret_cast<const sockaddr_in*>(entry->ifa_netmask);
    ::inet_ntop(AF_INET, &address->sin_addr, text, sizeof text);
    NetworkInterface interface {
      entry->ifa_name, text, std::popcount(mask->sin_addr.s_addr),
          (entry->ifa_flags & IFF_LOOPBACK) != 0
    };
    const std::string speed = first_line("/sys/class/net/" + interface.name + "/speed");
    if (!speed.empty() && std::isdigit(static_cast<unsigned char>(speed[0])))
      interface.megabits = std::atoll(speed.c_str());
    all.push_back(std::move(interface));
  }
  ::freeifaddrs(list);
  return all;
}

std::string digest_of_folder(const std::string& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file() && !entry.path().filename().string().starts_with('.'))
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  DigestStream digest;
  for (const fs::path& file : files) {
    digest.add(digest_of(file.filename().string()));
    const MappedFile mapped(file.string());
    digest.add(mapped.bytes().size());
    digest.add(mapped.bytes());
  }
  return to_string(digest.digest());
}

Witness::Witness(const std::string& run_folder) {
  const fs::path folder = existing(run_folder);
  std::string name = (folder / ".ballot-probe-XXXXXX").string();
  const int file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) {
    problem_ = fmt::format("{}: {}", folder.string(), std::strerror(errno));
    return;
  }
  ::close(file);
  path_ = name;
}

Witness::~Witness() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

std::string HostFacts::computer() const {
  return machine.substr(0, machine.find('/'));
}

HostFacts gather_host_facts(const HostQuestions& questions) {
  HostFacts facts;
  facts.version = version();
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  facts.name = name;
  facts.machine = machine_name();
  facts.cores = default_threads(1);
  facts.bf16 = has_bf16();
  facts.memory_bytes = available_memory();
  look_at_disk(facts, questions.run_folder);
  if (!questions.witness.empty())
    facts.sees_witness = appears(questions.witness, Deadline::in(questions.witness_patience));
  facts.interfaces = find_interfaces();
  if (questions.gpus) look_at_gpus(facts);
  facts.free_port = find_free_port();
  if (!questions.model_folder.empty())
    facts.model_digest = digest_of_folder(questions.model_folder);
  facts.time =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return facts;
}

std::string encode_facts(const HostFacts& facts) {
  Json interfaces = Json::array();
  for (const NetworkInterface& interface : facts.interfaces)
    interfaces.push_back({{"name", interface.name},
                          {"address", interface.address},
                          {"prefix", interface.prefix},
                          {"loopback", interface.loopback},
                          {"megabits", interface.megabits}});
  const Json json{{"version", facts.version},
                  {"name", facts.name},
                  {"machine", facts.machine},
                  {"time", facts.time},
                  {"cores", facts.cores},
                  {"bf16", facts.bf16},
                  {"memory_bytes", facts.memory_bytes},
                  {"disk_bytes", facts.disk_bytes},
                  {"folder_problem", facts.folder_problem},
                  {"sees_witness", facts.sees_witness},
                  {"model_digest", facts.model_digest},
                  {"interfaces", interfaces},
                  {"gpus", facts.gpus},
                  {"gpu_memory_bytes", facts.gpu_memory_bytes},
                  {"gpu_problem", facts.gpu_problem},
                  {"nccl", facts.nccl},
                  {"nccl_problem", facts.nccl_problem},
                  {"free_port", facts.free_port}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HostFacts decode_facts(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) throw DataError("facts of a host: expected one JSON object");
  HostFacts facts;
  facts.version = text_of(json, "version");
  facts.name = text_of(json, "name");
  facts.machine = text_of(json, "machine");
  const Json& time = field(json, "time");
  if (!time.is_number() || !std::isfinite(time.get<double>()))
    throw DataError("facts of a host: \"time\" is {}, expected seconds", time.dump().substr(0, 60));
  facts.time = time.get<double>();
  facts.cores = static_cast<int>(std::min<std::int64_t>(whole_of(json, "cores", 1), 1 << 20));
  facts.memory_bytes = whole_of(json, "memory_bytes", 0);
  facts.disk_bytes = whole_of(json, "disk_bytes", 0);
  facts.folder_problem = text_of(json, "folder_problem");
  facts.bf16 = choice_of(json, "bf16");
  facts.sees_witness = choice_of(json, "sees_witness");
  facts.model_digest = text_of(json, "model_digest");
  const Json& interfaces = field(json, "interfaces");
  if (!interfaces.is_array()) throw DataError("facts of a host: \"interfaces\" is no list");
  for (const Json& entry : interfaces) {
    if (!entry.is_object()) throw DataError("facts of a host: an interface is no object");
    const Json& loopback = field(entry, "loopback");
    in_addr ignored{};
    NetworkInterface interface {
      text_of(entry, "name"), text_of(entry, "address"),
          static_cast<int>(whole_of(entry, "prefix", 0)),
          loopback.is_boolean() && loopback.get<bool>(), whole_of(entry, "megabits", -1)
    };
    if (::inet_pton(AF_INET, interface.address.c_str(), &ignored) != 1 || interface.prefix > 32)
      throw DataError("facts of a host: interface {} has the address \"{}/{}\"; expected IPv4",
                      interface.name.substr(0, 60), interface.address.substr(0, 60),
                      interface.prefix);
    facts.interfaces.push_back(std::move(interface));
  }
  const Json& gpus = field(json, "gpus");
  if (!gpus.is_array()) throw DataError("facts of a host: \"gpus\" is no list");
  for (const Json& gpu : gpus)
    if (gpu.is_string())
      facts.gpus.push_back(gpu.get<std::string>());
    else
      throw DataError("facts of a host: a GPU is no text");
  facts.gpu_memory_bytes = whole_of(json, "gpu_memory_bytes", 0);
  facts.gpu_problem = text_of(json, "gpu_problem");
  facts.nccl = text_of(json, "nccl");
  facts.nccl_problem = text_of(json, "nccl_problem");
  facts.free_port = static_cast<int>(std::min<std::int64_t>(whole_of(json, "free_port", 1), 65535));
  return facts;
}

}  // namespace ballot

// Programs by the mangled name of their kernel.
#include "ptx/execute.h"

#include <fmt/format.h>

#include <fstream>
#include <list>
#include <map>
#include <mutex>
#include <sstream>

#include "ptx/machine.h"  // Program, Machine
#include "simt/fault.h"   // KernelFault

namespace ballot::ptx {
namespace {

struct Loaded {
  Module module;
  ModuleMemory memory;
  std::map<std::string, Program> programs;
};

struct Programs {
  std::mutex mutex;
  std::list<Loaded> modules;  // programs point into them
  std::map<std::string, const Program*> by_name;
};
Programs& programs() {
  static Programs programs;
  return programs;
}

}  // namespace

void load(const std::vector<std::string>& paths) {
  Programs& all = programs();
  const std::lock_guard lock(all.mutex);
  for (const std::string& path : paths) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    if (!file) throw PtxError(path + ": cannot be read");
    Loaded& loaded = all.modules.emplace_back();
    loaded.module = parse_module(text.str(), path);
    for (const auto& [name, entry] : loaded.module.entries) {
      const Program& program =
          loaded.programs.emplace(name, make_program(loaded.module, entry, loaded.memory))
              .first->second;
      const auto [known, is_new] = all.by_name.emplace(name, &program);
      if (!is_new)
        throw PtxError(fmt::format("{} is in {} and in {}: g++ would take one for both", name,
                                   known->second->module->path, path));
    }
  }
}

void execute_ptx(const simt::Launch& launch) {
  const std::string name = simt::mangled_name(launch.kernel);
  const Program* program = nullptr;
  {
    Programs& all = programs();
    const std::lock_guard lock(all.mutex);
    const auto found = all.by_name.find(name);
    if (found == all.by_name.end())
      throw simt::KernelFault(simt::describe(launch) + ": no PTX has this kernel");
    program = found->second;
  }
  Machine(*program, launch).run();
}

}  // namespace ballot::ptx

// libnccl.so.2, opened when a run first asks for it.
#include <dlfcn.h>

#include "collectives/nccl_functions.h"
#include "core/error.h"

namespace ballot {
namespace {

constexpr const char* kLibrary = "libnccl.so.2";

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr)
    throw Unavailable("{} has no {}: expected NCCL 2.18 or newer", kLibrary, name);
}

NcclFunctions load() {
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Unavailable("NCCL is not there: {}", ::dlerror());
  NcclFunctions found;
  find(library, "ncclGetVersion", found.get_version);
  find(library, "ncclGetErrorString", found.get_error_string);
  find(library, "ncclGetLastError", found.get_last_error);
  find(library, "ncclGetUniqueId", found.get_unique_id);
  find(library, "ncclCommInitRankConfig", found.init_rank_config);
  find(library, "ncclCommGetAsyncError", found.get_async_error);
  find(library, "ncclCommAbort", found.abort);
  find(library, "ncclGroupStart", found.group_start);
  find(library, "ncclGroupEnd", found.group_end);
  find(library, "ncclSend", found.send);
  find(library, "ncclRecv", found.recv);
  find(library, "ncclAllReduce", found.all_reduce);
  return found;
}

}  // namespace

const NcclFunctions& nccl_functions() {
  static const NcclFunctions functions = load();
  return functions;
}

}  // namespace ballot

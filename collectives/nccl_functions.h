// The functions of NCCL that the backend uses, found in libnccl.so.2 when a run first asks for
// them: the plugin does not link NCCL, so that a machine without it can still train on its GPU.
//
// Inside the plugin only. Tests link another definition of nccl_functions(), over stand-ins.
#pragma once

#include <nccl.h>

namespace ballot {

struct NcclFunctions {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init_rank_config;
  decltype(&ncclCommGetAsyncError) get_async_error;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclAllReduce) all_reduce;
};

// Loaded once, never closed. Unavailable, saying what the loader said, where it is not there.
const NcclFunctions& nccl_functions();

}  // namespace ballot

// The plugin's table of NCCL's functions, filled with the stand-in's.
#include "collectives/nccl_functions.h"

namespace ballot {

const NcclFunctions& nccl_functions() {
  static constexpr NcclFunctions kTable = {
      .get_version = ncclGetVersion,
      .get_error_string = ncclGetErrorString,
      .get_last_error = ncclGetLastError,
      .get_unique_id = ncclGetUniqueId,
      .init_rank_config = ncclCommInitRankConfig,
      .get_async_error = ncclCommGetAsyncError,
      .abort = ncclCommAbort,
      .group_start = ncclGroupStart,
      .group_end = ncclGroupEnd,
      .send = ncclSend,
      .recv = ncclRecv,
      .all_reduce = ncclAllReduce,
  };
  return kTable;
}

}  // namespace ballot

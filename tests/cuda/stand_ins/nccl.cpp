// The functions of NCCL that the backend uses, between ranks that are threads of one process or
// processes of one machine: linked in NCCL's place by tests, compiled against its real header.
//
// What the documentation demands is demanded here: one stream per communicator in a group, devices
// that agree, memory of the communicator's device, matching messages, the order of states. What it
// leaves open is decided unkindly: no send is done before the receive that matches it runs; a call
// that may be in progress often is, and then its work is in no stream until the program has polled
// ncclCommGetAsyncError to ncclSuccess. A rank that is lost shows there as ncclRemoteError, or with
// $BALLOT_STAND_IN_NCCL_LOSS=silent nowhere. What is not known here is refused or a link error: add
// it with its rules.
#include <fmt/format.h>
#include <nccl.h>
#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "stand_ins/call.h"
#include "stand_ins/device_memory.h"
#include "stand_ins/nccl_communicator.h"

struct ncclComm {
  std::shared_ptr<ballot::stand_in::Communicator> communicator;
  const char* ended = nullptr;  // how
  std::string last_error;
};

namespace ballot::stand_in {
namespace {

// All that ever were, so that no handle comes twice.
std::vector<std::unique_ptr<ncclComm>>& handles() {
  static auto* instance = new std::vector<std::unique_ptr<ncclComm>>;
  return *instance;
}

int resets = 0;

const bool joined = [] {
  at_reset([] {
    ++resets;
    for (const auto& handle : handles()) {
      if (handle->ended != nullptr) continue;
      handle->ended = "ended by cudaDeviceReset";
      handle->communicator->drop();
      handle->communicator.reset();
    }
  });
  return true;
}();

ncclResult_t code_of(cudaError_t found) {
  switch (found) {
    case cudaErrorInvalidValue:
      return ncclInvalidArgument;
    case cudaErrorNotPermitted:
    case cudaErrorInvalidResourceHandle:
      return ncclInvalidUsage;
    default:
      return ncclUnhandledCudaError;
  }
}

// NCCL's codes in place of the runtime's; the text is kept beside it.
template <class Body>
ncclResult_t call_nccl(const char* name, const Body& body) {
  ncclResult_t result = ncclSuccess;
  const cudaError_t code = call(name, [&] {
    result = body();
    return cudaSuccess;
  });
  return code == cudaSuccess ? result : code_of(code);
}

ncclComm_t find_handle(ncclComm_t comm) {
  for (const auto& handle : handles())
    if (handle.get() == comm) return comm;
  return nullptr;
}

Communicator& require_communicator(ncclComm_t comm, const char* who) {
  if (find_handle(comm) == nullptr)
    refuse(cudaErrorInvalidValue, "{} with {}, which is no communicator", who,
           static_cast<const void*>(comm));
  if (comm->ended != nullptr)
    refuse(cudaErrorNotPermitted, "{} with a communicator that was {}", who, comm->ended);
  return *comm->communicator;
}

void end(ncclComm_t comm, const char* how) {
  comm->ended = how;
  comm->last_error = comm->communicator->loss();
  comm->communicator.reset();
}

// ---- groups

struct Grouped {
  ncclComm_t comm;
  Call call;
};

struct Group {
  int depth = 0;
  int reset = 0;  // the count of those before it began
  ncclResult_t failed = ncclSuccess;
  std::vector<Grouped> calls;
};

Group& group() {
  thread_local Group instance;
  if (instance.reset != resets) instance = {0, resets, ncclSuccess, {}};
  return instance;
}

void require_no_group(const char* who) {
  if (group().depth > 0) refuse(cudaErrorNotPermitted, "{} within a group", who);
}

bool overlap(const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes) {
  const auto *x = static_cast<const std::byte*>(a), *y = static_cast<const std::byte*>(b);
  return a_bytes > 0 && b_bytes > 0 && x < y + b_bytes && y < x + a_bytes;
}

// What one call receives must not be what it or another one sends or receives.
void check_overlaps(const std::vector<Grouped>& calls) {
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const Call& writer = calls[i].call;
    if (writer.to == nullptr) continue;
    for (std::size_t j = 0; j < calls.size(); ++j) {
      const Call& other = calls[j].call;
      const bool in_place = i == j && writer.from == writer.to;
      const bool reads = other.from != nullptr && !in_place &&
                         overlap(writer.to, writer.bytes(), other.from, other.bytes());
      const bool writes = i < j && other.to != nullptr &&
                          overlap(writer.to, writer.bytes(), other.to, other.bytes());
      if (reads || writes)
        refuse(cudaErrorInvalidValue, "{} bytes that NCCL receives at {} overlap {} that it {}",
               writer.bytes(), describe(writer.to), other.bytes(), reads ? "sends" : "receives");
    }
  }
}

// What the calls on one communicator have become.
std::vector<std::shared_ptr<Operation>> operations_of(Communicator& on,
                                                      const std::vector<Call>& calls) {
  const auto is_all_reduce = [](const Call& call) { return call.kind == Call::Kind::all_reduce; };
  const auto all_reduces = std::count_if(calls.begin(), calls.end(), is_all_reduce);
  if (all_reduces != 0 && all_reduces != static_cast<std::ptrdiff_t>(calls.size()))
    refuse(cudaErrorNotPermitted,
           "a group of all-reduces and of sends or receives: add it with its rules");
  for (const Call& call : calls)
    if (call.stream != calls.front().stream)
      refuse(cudaErrorNotPermitted, "a group of {} on streams {} and {}", on.name(),
             calls.front().stream->number, call.stream->number);
  std::vector<std::shared_ptr<Operation>> made;
  if (all_reduces == 0) made.push_back(make_group(calls, on.rank(), on.size()));
  for (const Call& call : calls)
    if (is_all_reduce(call))
      made.push_back(make_all_reduce(call, on.next_collective(), on.rank(), on.size()));
  for (const auto& operation : made) operation->stream = calls.front().stream;
  return made;
}

ncclResult_t submit(std::vector<Grouped> calls) {
  check_overlaps(calls);
  ncclResult_t result = ncclSuccess;
  while (!calls.empty()) {
    const ncclComm_t comm = calls.front().comm;
    std::vector<Call> of_one;
    for (const Grouped& grouped : calls)
      if (grouped.comm == comm) of_one.push_back(grouped.call);
    std::erase_if(calls, [&](const Grouped& grouped) { return grouped.comm == comm; });
    Communicator& on = require_communicator(comm, "ncclGroupEnd");
    on.require_ready("ncclGroupEnd");
    if (on.issue(operations_of(on, of_one)) == ncclInProgress) result = ncclInProgress;
  }
  return result;
}

ncclResult_t add(ncclComm_t comm, const Call& call, const char* who) {
  Communicator& on = require_communicator(comm, who);
  if (!on.loss().empty()) {
    if (group().depth > 0) group().failed = ncclRemoteError;
    return ncclRemoteError;
  }
  on.require_ready(who);
  if (call.peer < 0 || call.peer >= on.size())
    refuse(cudaErrorInvalidValue, "{} of {}: its peer is rank {}", who, on.name(), call.peer);
  require_stream(call.stream, who);
  if (call.stream->device != on.device() || on.device() != device_of_thread())
    refuse(
        cudaErrorInvalidResourceHandle,
        "{} with a communicator of device {} on a stream of device {} while device {} is current",
        who, on.device(), call.stream->device, device_of_thread());
  call.require_memory(on.device());
  if (group().depth == 0) return submit({{comm, call}});
  group().calls.push_back({comm, call});
  return ncclSuccess;
}

void check(const ncclConfig_t& config) {
  const ncclConfig_t initial = NCCL_CONFIG_INITIALIZER;
  if (config.size != initial.size || config.magic != initial.magic ||
      config.version != initial.version)
    refuse(cudaErrorInvalidValue, "a config that does not begin as NCCL_CONFIG_INITIALIZER");
  if (config.blocking != 0 && config.blocking != 1 && config.blocking != initial.blocking)
    refuse(cudaErrorInvalidValue, "a config with blocking = {}", config.blocking);
}

// A program that asks again and again lets others run.
void give_way(ncclResult_t state) {
  if (state == ncclInProgress) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

}  // namespace
}  // namespace ballot::stand_in

using namespace ballot::stand_in;

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

// ---- communicators

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  return call_nccl("ncclGetUniqueId", [&] {
    return getrandom(id->internal, sizeof id->internal, 0) == sizeof id->internal ? ncclSuccess
                                                                                  : ncclSystemError;
  });
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  return call_nccl("ncclCommInitRankConfig", [&] {
    require_no_group("ncclCommInitRankConfig");
    if (config != nullptr) check(*config);
    if (size < 1 || rank < 0 || rank >= size)
      refuse(cudaErrorInvalidValue, "rank {} of {}", rank, size);
    const bool blocking = config == nullptr || config->blocking != 0;
    auto made = std::make_unique<ncclComm>();
    made->communicator =
        std::make_shared<Communicator>(id, rank, size, device_of_thread(), blocking);
    *comm = made.get();
    handles().push_back(std::move(made));
    if (!blocking) return ncclInProgress;
    const std::shared_ptr<Communicator> waiting = (*comm)->communicator;
    return waiting->wait_for_all();
  });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = ncclSuccess;
  const ncclResult_t result = call_nccl("ncclCommGetAsyncError", [&] {
    const std::shared_ptr<Communicator> asked =
        require_communicator(comm, "ncclCommGetAsyncError").shared_from_this();
    *state = asked->ask();
    return ncclSuccess;
  });
  if (result != ncclSuccess) *state = result;
  give_way(*state);
  return result;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return call_nccl("ncclCommFinalize", [&] {
    require_no_group("ncclCommFinalize");
    Communicator& on = require_communicator(comm, "ncclCommFinalize");
    if (!on.loss().empty()) return ncclRemoteError;
    on.require_ready("ncclCommFinalize");
    return on.finalize();
  });
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  return call_nccl("ncclCommDestroy", [&] {
    require_no_group("ncclCommDestroy");
    require_communicator(comm, "ncclCommDestroy").destroy();
    if (comm->ended == nullptr) end(comm, "destroyed");
    return ncclSuccess;
  });
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const auto abort = [&] {
    require_communicator(comm, "ncclCommAbort").abort();
    end(comm, "aborted");
    return ncclSuccess;
  };
  const ncclResult_t result = call_nccl("ncclCommAbort", abort);
  // Also after a failure: other processes are to hear of it.
  const std::lock_guard lock(device_lock());
  if (result != ncclSuccess && find_handle(comm) != nullptr && comm->ended == nullptr) abort();
  return result;
}

// ---- communication

ncclResult_t ncclGroupStart() {
  return call_nccl("ncclGroupStart", [] {
    ++group().depth;
    return ncclSuccess;
  });
}

ncclResult_t ncclGroupEnd() {
  return call_nccl("ncclGroupEnd", [] {
    Group& open = group();
    if (open.depth == 0) refuse(cudaErrorNotPermitted, "no ncclGroupStart is before it");
    if (--open.depth > 0) return ncclSuccess;
    const std::vector<Grouped> calls = std::move(open.calls);
    open.calls.clear();
    const ncclResult_t failed = std::exchange(open.failed, ncclSuccess);
    return failed != ncclSuccess ? failed : submit(calls);
  });
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return call_nccl("ncclSend", [&] {
    return add(comm, {Call::Kind::send, from, nullptr, count, type, peer, stream}, "ncclSend");
  });
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call_nccl("ncclRecv", [&] {
    return add(comm, {Call::Kind::receive, nullptr, to, count, type, peer, stream}, "ncclRecv");
  });
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return call_nccl("ncclAllReduce", [&] {
    if (operation != ncclSum)
      refuse(cudaErrorInvalidValue, "an all-reduce by operation {}: add it with its rules",
             static_cast<int>(operation));
    return add(comm, {Call::Kind::all_reduce, from, to, count, type, 0, stream}, "ncclAllReduce");
  });
}

// ---- errors

const char* ncclGetLastError(ncclComm_t comm) {
  const std::lock_guard lock(device_lock());
  if (failure() != cudaSuccess) return failure_text().c_str();
  if (find_handle(comm) == nullptr) return "";
  if (comm->communicator != nullptr) comm->last_error = comm->communicator->loss();
  return comm->last_error.c_str();
}

const char* ncclGetErrorString(ncclResult_t result) {
  const std::lock_guard lock(device_lock());
  if (result != ncclSuccess && failure() != cudaSuccess) return failure_text().c_str();
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "an error that the stand-in does not name";
  }
}

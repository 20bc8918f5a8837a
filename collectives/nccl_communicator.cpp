// NCCL's communicators in the plugin.
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "collectives/cuda_nccl.h"
#include "collectives/nccl_functions.h"
#include "core/cuda/cuda_stream.h"
#include "core/error.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;

constexpr int kOldest = 21800;

std::string describe(ncclResult_t code, ncclComm_t communicator) {
  const NcclFunctions& nccl = nccl_functions();
  const char* last = nccl.get_last_error(communicator);
  const std::string more = last == nullptr || *last == '\0' ? "" : fmt::format(", {}", last);
  return fmt::format("{} ({}){}", nccl.get_error_string(code), static_cast<int>(code), more);
}

[[noreturn]] void throw_nccl_failure(ncclResult_t code, ncclComm_t communicator,
                                     const std::string& asked,
                                     std::source_location where = std::source_location::current()) {
  const std::string message =
      fmt::format("NCCL cannot {}: {}", asked, describe(code, communicator));
  if (code == ncclRemoteError) throw PeerLost("{}", message);
  if (code == ncclInvalidArgument || code == ncclInvalidUsage) throw_logic_error(where, message);
  throw TransportError("{}", message);  // of the system, of a GPU, of NCCL itself
}

class PluginCommunicator final : public NcclCommunicator {
 public:
  PluginCommunicator(const NcclId& id, int rank, int size, Device device, Deadline deadline,
                     const std::function<void()>& meanwhile)
      : nccl_(nccl_functions()), rank_(rank), size_(size) {
    use_device(device);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // so that every wait is ours, with a deadline
    ncclUniqueId unique;
    static_assert(sizeof unique == sizeof id);
    std::memcpy(&unique, id.data(), sizeof unique);
    try {
      settle(nccl_.init_rank_config(&communicator_, size, unique, rank, &config), deadline,
             fmt::format("join {} ranks", size), meanwhile);
    } catch (...) {
      abort();
      throw;
    }
    joining_ = false;
  }

  // Without a farewell: who ends it knows that everything given to it has come to everybody.
  ~PluginCommunicator() override { abort(); }

  void exchange(std::span<const DeviceMessage> to, std::span<const DeviceMessage> from,
                Stream& stream, Deadline deadline) override {
    require_alive();
    for (const auto messages : {to, from})
      for (const DeviceMessage& m : messages)
        require(m.rank >= 0 && m.rank < size_, "a message of rank {}, expected one below {}",
                m.rank, size_);
    const cudaStream_t handle = stream_of(stream);
    ask(nccl_.group_start(), "begin a group");
    try {
      for (const DeviceMessage& m : from)
        if (m.bytes > 0)
          ask(nccl_.recv(m.memory, m.bytes, ncclUint8, m.rank, communicator_, handle),
              fmt::format("receive {} bytes from rank {}", m.bytes, m.rank));
      for (const DeviceMessage& m : to)
        if (m.bytes > 0)
          ask(nccl_.send(m.memory, m.bytes, ncclUint8, m.rank, communicator_, handle),
              fmt::format("send {} bytes to rank {}", m.bytes, m.rank));
    } catch (...) {
      (void)nccl_.group_end();  // or what follows on this thread, an abort too, would be part of it
      throw;
    }
    // The group is in the stream only once NCCL says so: no event may be recorded before.
    settle(nccl_.group_end(), deadline,
           fmt::format("start a group of {} messages", to.size() + from.size()), {});
  }

  void sum(std::uint32_t* values, std::int64_t count, Stream& stream, Deadline deadline) override {
    require_alive();
    settle(nccl_.all_reduce(values, values, static_cast<std::size_t>(count), ncclUint32, ncclSum,
                            communicator_, stream_of(stream)),
           deadline, fmt::format("start a sum of {} values", count), {});
  }

  void check() override {
    require_alive();
    ncclResult_t state = ncclSuccess;
    ask(nccl_.get_async_error(communicator_, &state), "ask for its state");
    if (state != ncclSuccess && state != ncclInProgress) fail(state, "go on");
  }

  void abort() noexcept override {
    if (communicator_ != nullptr) (void)nccl_.abort(communicator_);
    communicator_ = nullptr;
  }

 private:
  void require_alive() const {
    if (communicator_ == nullptr) throw TransportError("NCCL was aborted on rank {}", rank_);
  }

  // In a group nothing has been done yet; a communicator that does not block may say "in progress".
  void ask(ncclResult_t code, const std::string& asked) {
    if (code != ncclSuccess && code != ncclInProgress) fail(code, asked);
  }
  [[noreturn]] void fail(ncclResult_t code, const std::string& asked) {
    if (joining_ && code == ncclInvalidUsage)  // such as two ranks with one GPU
      throw ConfigError("NCCL cannot {}: {}; expected a GPU for each rank", asked,
                        describe(code, communicator_));
    throw_nccl_failure(code, communicator_, asked);
  }

  void settle(ncclResult_t code, Deadline deadline, const std::string& asked,
              const std::function<void()>& meanwhile) {
    while (code == ncclInProgress) {
      if (deadline.passed())
        throw Timeout("rank {}: NCCL did not {} in time; one of the other {} ranks has not come",
                      rank_, asked, size_ - 1);
      if (meanwhile) meanwhile();
      std::this_thread::sleep_for(50us);
      const ncclResult_t asked_for = nccl_.get_async_error(communicator_, &code);
      if (asked_for != ncclSuccess) code = asked_for;
    }
    if (code != ncclSuccess) fail(code, asked);
  }

  const NcclFunctions& nccl_;
  const int rank_, size_;
  bool joining_ = true;
  ncclComm_t communicator_ = nullptr;
};

class PluginNccl final : public CudaNccl {
 public:
  std::string version() override {
    int code = 0;
    if (const ncclResult_t got = nccl_functions().get_version(&code); got != ncclSuccess)
      throw_nccl_failure(got, nullptr, "tell its version");
    if (code < kOldest)
      throw Unavailable("NCCL's version code is {}, expected {} (2.18) or later", code, kOldest);
    return fmt::format("NCCL {}.{}.{}", code / 10000, code / 100 % 100, code % 100);
  }
  NcclId make_id() override {
    ncclUniqueId unique;
    if (const ncclResult_t got = nccl_functions().get_unique_id(&unique); got != ncclSuccess)
      throw_nccl_failure(got, nullptr, "make an id");
    NcclId id;
    std::memcpy(id.data(), &unique, sizeof unique);
    return id;
  }
  std::unique_ptr<NcclCommunicator> join(const NcclId& id, int rank, int size, Device device,
                                         Deadline deadline,
                                         const std::function<void()>& meanwhile) override {
    // It would make calls wait inside NCCL, where no deadline of ours reaches.
    if (const char* blocking = std::getenv("NCCL_COMM_BLOCKING"); blocking && *blocking != '0')
      throw ConfigError("NCCL_COMM_BLOCKING = {}: expected 0, or that it is not set", blocking);
    return std::make_unique<PluginCommunicator>(id, rank, size, device, deadline, meanwhile);
  }
};

}  // namespace

CudaNccl& cuda_nccl() {
  static auto* nccl = new PluginNccl;  // never destroyed, as the plugin is never closed
  return *nccl;
}

}  // namespace ballot

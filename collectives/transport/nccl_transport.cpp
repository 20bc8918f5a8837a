#include "collectives/transport/nccl_transport.h"

#include <cstring>
#include <functional>
#include <thread>

#include "collectives/agreement.h"
#include "collectives/cuda_nccl.h"
#include "collectives/peer_reports.h"
#include "collectives/transport/device_link.h"
#include "core/buffer.h"
#include "core/error.h"
#include "core/event.h"

namespace ballot {
namespace {

class NcclTransport final : public Transport, private DeviceLink {
 public:
  NcclTransport(Transport& control, std::unique_ptr<NcclCommunicator> communicator, Device device,
                Duration call_deadline)
      : control_(control),
        communicator_(std::move(communicator)),
        device_(device),
        call_deadline_(call_deadline) {}

  std::string name() const override { return "nccl"; }
  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  void idle(Duration at_most) override { control_.idle(at_most); }
  Traffic traffic() const override { return control_.traffic() + sent_; }
  DeviceLink* device_link() override { return this; }

  std::unique_ptr<Transport> split(int, Deadline) override {
    throw ConfigError(
        "transport nccl does not carry voters of several members: expected vote.members = 1");
  }

 private:
  std::uint64_t take_number(bool once) override { return take_number_of(control_, once); }
  std::unique_ptr<Transfer> make_transfer(std::uint64_t number, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    return make_transfer_of(control_, number, purpose, to, from);
  }

  // DeviceLink's.
  Device device() const override { return device_; }
  void exchange(Purpose purpose, std::span<const DeviceMessage> to,
                std::span<const DeviceMessage> from, Stream& stream) override {
    communicator_->exchange(to, from, stream, Deadline::in(call_deadline_));
    const auto i = static_cast<std::size_t>(purpose);
    for (const DeviceMessage& m : to) {
      sent_.bytes_sent[i] += m.bytes;
      sent_.messages_sent[i] += m.bytes > 0;
    }
    for (const DeviceMessage& m : from) sent_.bytes_received[i] += m.bytes;
  }
  void sum(Purpose purpose, std::uint32_t* values, std::int64_t count, Stream& stream) override {
    communicator_->sum(values, count, stream, Deadline::in(call_deadline_));
    const auto i = static_cast<std::size_t>(purpose);
    const auto others = static_cast<std::uint64_t>(size() - 1);
    const std::uint64_t bytes = 2 * others * static_cast<std::uint64_t>(count) *
                                sizeof(std::uint32_t) / static_cast<std::uint64_t>(size());
    sent_.bytes_sent[i] += bytes;
    sent_.bytes_received[i] += bytes;
    sent_.messages_sent[i] += 2 * others;
  }
  void check() override { communicator_->check(); }
  void abort() noexcept override { communicator_->abort(); }

  Transport& control_;
  std::unique_ptr<NcclCommunicator> communicator_;
  const Device device_;
  const Duration call_deadline_;
  Traffic sent_;  // from GPU to GPU
};

NcclId agree_on_id(Transport& control, CudaNccl& nccl, Deadline deadline) {
  NcclId id{};
  if (control.rank() == 0) id = nccl.make_id();
  const NcclId mine = id;
  std::vector<NcclId> all(static_cast<std::size_t>(control.size()));
  std::vector<Bytes> from;
  for (NcclId& one : all) from.push_back(std::as_writable_bytes(std::span(one)));
  control.start_gather(Purpose::control, std::as_bytes(std::span(mine)), from)->wait(deadline);
  return control.rank() == 0 ? id : all.front();
}

// All ranks join, or each learns which of them could not and why: NCCL would let the others wait.
class Joining {
 public:
  explicit Joining(Transport& control)
      : control_(control), reports_(control, Purpose::control, kReportBytes) {}

  void run(Deadline deadline,
           const std::function<void(const std::function<void()>& meanwhile)>& join) {
    reports_.expect();
    std::memset(reports_.message(control_.rank()).data(), 0, kReportBytes);
    try {
      join([this] { look_at_reports(); });
    } catch (const std::exception& failure) {
      tell(failure.what());
      throw;
    }
    reports_.send();
    while (!reports_.done()) {
      if (deadline.passed())
        if (Transfer* missing = reports_.missing()) missing->wait(Deadline::in(Duration::zero()));
      control_.idle(std::chrono::milliseconds(1));
    }
    for (int rank = 0; rank < control_.size(); ++rank) require_joined(rank);
  }

 private:
  static constexpr std::size_t kReportBytes = 512;

  void look_at_reports() {
    for (int rank = 0; rank < control_.size(); ++rank)
      if (rank != control_.rank() && reports_.has_come(rank)) require_joined(rank);
  }
  void require_joined(int rank) const {
    const auto* text = reinterpret_cast<const char*>(reports_.message(rank).data());
    const std::string why(text, ::strnlen(text, kReportBytes));
    if (!why.empty()) throw TransportError("rank {} could not join NCCL: {}", rank, why);
  }
  void tell(const std::string& why) noexcept {
    try {
      std::memcpy(reports_.message(control_.rank()).data(), why.data(),
                  std::min(why.size(), kReportBytes - 1));
      reports_.send();
      // So that it leaves; who does not take it in time learns less.
      const Deadline soon = Deadline::in(std::chrono::seconds(2));
      while (!reports_.done() && !soon.passed()) control_.idle(std::chrono::milliseconds(1));
    } catch (...) {  // the failure itself is on its way up
    }
  }

  Transport& control_;
  PeerReports reports_;
};

// NCCL connects two ranks at their first message, which waits for both: now, and not in a step.
void connect_all(NcclCommunicator& communicator, Transport& control, Device device,
                 Deadline deadline, const std::function<void()>& meanwhile) {
  constexpr std::size_t kBytes = 256;
  const auto ranks = static_cast<std::size_t>(control.size());
  const Buffer memory(2 * ranks * kBytes, device);
  Stream stream(device);
  std::vector<DeviceMessage> to, from;
  for (std::size_t r = 0; r < ranks; ++r) {
    const int rank = static_cast<int>(r);
    if (rank == control.rank()) continue;
    to.push_back({rank, memory.data() + r * kBytes, kBytes});
    from.push_back({rank, memory.data() + (ranks + r) * kBytes, kBytes});
  }
  if (to.empty()) return;
  try {
    communicator.exchange(to, from, stream, deadline);
    Event met(device);
    met.record(stream);
    while (!met.done()) {
      communicator.check();
      meanwhile();
      if (deadline.passed())
        throw Timeout("rank {}: the other {} ranks have not all sent their first bytes over NCCL",
                      control.rank(), to.size());
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  } catch (...) {
    communicator.abort();  // or the stream would never end
    throw;
  }
}

}  // namespace

std::unique_ptr<Transport> make_nccl_transport(Transport& control, Device device, Deadline deadline,
                                               Duration call_deadline) {
  if (device.kind != Device::Kind::cuda)
    throw ConfigError("transport nccl on device {}: expected a GPU", to_string(device));
  CudaNccl& nccl = cuda_nccl();
  require_agreement(control, {{"NCCL", nccl.version()}}, deadline);
  const NcclId id = agree_on_id(control, nccl, deadline);
  Joining joining(control);
  std::unique_ptr<NcclCommunicator> communicator;
  joining.run(deadline, [&](const std::function<void()>& meanwhile) {
    communicator = nccl.join(id, control.rank(), control.size(), device, deadline, meanwhile);
    connect_all(*communicator, control, device, deadline, meanwhile);
  });
  return std::make_unique<NcclTransport>(control, std::move(communicator), device, call_deadline);
}

}  // namespace ballot

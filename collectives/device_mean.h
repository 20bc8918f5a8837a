// The mean of collectives/mean.h between GPUs, to the same bits: slices go to their owners over a
// DeviceLink, are added where they arrive and come back as another exchange.
//
// A piece is handed over as a whole when it starts; nobody on the host waits in between. Which
// segments count is said by the host and travels with the elements, so that every rank knows all
// contributors without a message from the owner. At a step's end ranks report to each other, over
// the transport, a digest of the contributors that they know; the reports are expected from the
// step's beginning, so that a rank that the transport knows to be lost is named. Messages on the
// link have no checksums of ours: elements damaged on their way are found, where replicas then
// differ, by the digests of parameters.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "collectives/averaging.h"
#include "collectives/transport/device_link.h"
#include "core/tensor.h"  // DType

namespace ballot {

class DeviceMean final : public Averaging {
 public:
  // As Mean's. All use of a link has one order on all ranks: pieces leave only when `may_start` is
  // true (not asked if empty), which must become true on every rank of itself.
  DeviceMean(std::vector<std::int64_t> segments, DType wire, Transport& transport, DeviceLink& link,
             std::function<bool()> may_start = {}, std::int64_t piece_elements = 0);
  ~DeviceMean() override;

  // On the link's device, f32. A contribution must have come here, whatever stream brought it, when
  // its segment is released; when advance() returns true, the mean has.
  float* values() const;
  std::int64_t count() const;  // elements of all segments

  std::span<std::uint8_t> contributes() override;
  std::span<const std::int32_t> contributors() const override;
  bool all_started() const;  // every piece of this step has been given to the link

  std::size_t segments() const override;
  void begin(std::int64_t step) override;
  void release(std::size_t segment) override;
  bool advance() override;
  bool moved() const override;
  bool under_way() const override;
  double work_seconds() const override;
  void limit_in_flight(std::size_t pieces) override;
  [[noreturn]] void give_up() override;
  Transport& transport() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ballot

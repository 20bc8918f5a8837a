// A transport that passes everything on to another and damages what it is told to.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "collectives/transport/transport.h"

namespace ballot {

// Flips one bit of one received message. Counts collectives from 0 in the order they are started.
struct ReceivedFault {
  int collective = 0;
  int from_rank = 0;
  std::size_t byte = 0;  // taken modulo the message's size
};

class FaultTransport final : public Transport {
 public:
  FaultTransport(Transport& base, ReceivedFault fault) : base_(base), fault_(fault) {}

  std::string name() const override { return "fault over " + base_.name(); }
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  std::unique_ptr<Transfer> start_exchange(Purpose purpose, std::span<const ConstBytes> to,
                                           std::span<const Bytes> from) override {
    return wrap(base_.start_exchange(purpose, to, from), from);
  }
  std::unique_ptr<Transfer> start_gather(Purpose purpose, ConstBytes mine,
                                         std::span<const Bytes> from) override {
    return wrap(base_.start_gather(purpose, mine, from), from);
  }
  void barrier(Deadline deadline) override { base_.barrier(deadline); }
  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    return base_.split(color, deadline);
  }
  Traffic traffic() const override { return base_.traffic(); }

 private:
  class DamagingTransfer final : public Transfer {
   public:
    DamagingTransfer(std::unique_ptr<Transfer> base, Bytes target, std::size_t byte)
        : base_(std::move(base)), target_(target), byte_(byte) {}
    void wait(Deadline deadline) override {
      base_->wait(deadline);
      if (!target_.empty()) target_[byte_ % target_.size()] ^= std::byte{0x10};
    }
    const std::vector<bool>& arrived() override { return base_->arrived(); }

   private:
    std::unique_ptr<Transfer> base_;
    Bytes target_;
    std::size_t byte_;
  };

  std::unique_ptr<Transfer> wrap(std::unique_ptr<Transfer> transfer, std::span<const Bytes> from) {
    if (collectives_++ != fault_.collective) return transfer;
    return std::make_unique<DamagingTransfer>(
        std::move(transfer), from[static_cast<std::size_t>(fault_.from_rank)], fault_.byte);
  }

  Transport& base_;
  ReceivedFault fault_;
  int collectives_ = 0;
};

}  // namespace ballot

// A transport that passes everything on to another and damages what it is told to.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "collectives/transport/transport.h"

namespace ballot {

// Flips one bit of one message, each time it is received.
struct ReceivedFault {
  std::uint64_t kept_transfer = 0;  // of those opened for good, counted from 0
  int from_rank = 0;
  std::size_t byte = 0;  // taken modulo the message's size
};

class FaultTransport final : public Transport {
 public:
  FaultTransport(Transport& base, ReceivedFault fault) : base_(base), fault_(fault) {}

  std::string name() const override { return "fault over " + base_.name(); }
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  void idle(Duration at_most) override { base_.idle(at_most); }
  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    return base_.split(color, deadline);
  }
  Traffic traffic() const override { return base_.traffic(); }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t number, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    if (number >= kOnce) return std::make_unique<OnceTransfer>(base_, purpose, to, from);
    auto transfer = base_.open_exchange(purpose, to, from);
    if (number != fault_.kept_transfer) return transfer;
    return std::make_unique<DamagingTransfer>(
        std::move(transfer), from[static_cast<std::size_t>(fault_.from_rank)], fault_.byte);
  }

 private:
  // For one time: the base's own start is what numbers it there.
  class OnceTransfer final : public Transfer {
   public:
    OnceTransfer(Transport& base, Purpose purpose, std::span<const SendParts> to,
                 std::span<const ReceiveParts> from)
        : base_(base),
          purpose_(purpose),
          to_(to.begin(), to.end()),
          from_(from.begin(), from.end()) {}
    void start() override { transfer_ = base_.start_exchange(purpose_, to_, from_); }
    bool done() override { return transfer_->done(); }
    void wait(Deadline deadline) override { transfer_->wait(deadline); }
    const std::vector<bool>& arrived() override { return transfer_->arrived(); }

   private:
    Transport& base_;
    Purpose purpose_;
    std::vector<SendParts> to_;
    std::vector<ReceiveParts> from_;
    std::unique_ptr<Transfer> transfer_;
  };

  class DamagingTransfer final : public Transfer {
   public:
    DamagingTransfer(std::unique_ptr<Transfer> base, ReceiveParts target, std::size_t byte)
        : base_(std::move(base)), target_(std::move(target)), byte_(byte) {}
    void start() override {
      base_->start();
      damaged_ = false;
    }
    bool done() override {
      const bool done = base_->done();
      if (done) damage();
      return done;
    }
    void wait(Deadline deadline) override {
      base_->wait(deadline);
      damage();
    }
    const std::vector<bool>& arrived() override { return base_->arrived(); }

   private:
    void damage() {
      const std::size_t size = size_bytes(target_);
      if (std::exchange(damaged_, true) || size == 0) return;
      std::size_t byte = byte_ % size;
      for (const Bytes part : target_) {
        if (byte < part.size()) {
          part[byte] ^= std::byte{0x10};
          return;
        }
        byte -= part.size();
      }
    }
    std::unique_ptr<Transfer> base_;
    ReceiveParts target_;
    std::size_t byte_;
    bool damaged_ = true;
  };

  Transport& base_;
  ReceivedFault fault_;
};

}  // namespace ballot

// A transport over another that keeps no order of arrival: by a seed's chance a transfer starts
// late, and is said to be done late, so that pieces and messages overtake one another.
//
// What arrives is what the other transport brings. Sums start when they are told to, since a
// library may need them in one order everywhere; they too are done late.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "collectives/transport/reducer.h"
#include "collectives/transport/transport.h"

namespace ballot {

class UnpunctualTransport final : public Transport {
 public:
  UnpunctualTransport(Transport& base, std::uint64_t seed)
      : base_(base), random_(seed), reducer_(*this) {}
  UnpunctualTransport(std::unique_ptr<Transport> base, std::uint64_t seed)
      : owned_(std::move(base)), base_(*owned_), random_(seed), reducer_(*this) {}

  std::string name() const override { return "unpunctual " + base_.name(); }
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  void idle(Duration at_most) override {
    base_.idle(std::min<Duration>(at_most, std::chrono::microseconds(20)));
  }
  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    return std::make_unique<UnpunctualTransport>(base_.split(color, deadline), random_());
  }
  Traffic traffic() const override { return base_.traffic(); }
  DeviceLink* device_link() override { return base_.device_link(); }
  Reducer* reducer() override { return base_.reducer() == nullptr ? nullptr : &reducer_; }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    // Opened for good even for one time: all ranks do so in the same order.
    return std::make_unique<LateTransfer>(base_.open_exchange(purpose, to, from), *this, 4);
  }

 private:
  class LateTransfer final : public Transfer {
   public:
    LateTransfer(std::unique_ptr<Transfer> base, UnpunctualTransport& transport, unsigned latest)
        : base_(std::move(base)), transport_(transport), latest_(latest) {}
    void start() override {
      before_ = static_cast<unsigned>(transport_.random_() % latest_);
      after_ = static_cast<unsigned>(transport_.random_() % 4);
      started_ = over_ = false;
      start_if_due();
    }
    bool done() override {
      if (over_) return true;
      start_if_due();
      if (!started_ || !base_->done()) return false;
      if (after_ == 0) return over_ = true;
      --after_;
      return false;
    }
    void wait(Deadline deadline) override {
      while (!done()) {
        if (started_ && deadline.passed()) base_->wait(deadline);
        transport_.idle(std::chrono::microseconds(20));
      }
    }
    const std::vector<bool>& arrived() override {
      start_if_due();
      return base_->arrived();
    }

   private:
    void start_if_due() {
      if (started_ || before_-- > 0) return;
      base_->start();
      started_ = true;
    }
    std::unique_ptr<Transfer> base_;
    UnpunctualTransport& transport_;
    unsigned latest_, before_ = 0, after_ = 0;
    bool started_ = true, over_ = true;
  };

  class LateReducer final : public Reducer {
   public:
    explicit LateReducer(UnpunctualTransport& transport) : transport_(transport) {}
    std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<std::uint32_t> values) override {
      return late(base().open_sum(purpose, values));
    }
    std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<float> values) override {
      return late(base().open_sum(purpose, values));
    }
    std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<bfloat16> values) override {
      return late(base().open_sum(purpose, values));
    }

   private:
    Reducer& base() { return *transport_.base_.reducer(); }
    std::unique_ptr<Transfer> late(std::unique_ptr<Transfer> sum) {
      return std::make_unique<LateTransfer>(std::move(sum), transport_, 1);
    }
    UnpunctualTransport& transport_;
  };

  std::unique_ptr<Transport> owned_;
  Transport& base_;
  std::mt19937_64 random_;
  LateReducer reducer_;
};

}  // namespace ballot

// A Reducer over a Transport's own exchanges, for transports without a network that sums: each rank
// sums a slice in the order of ranks and copies it to all.
//
// It is what loopback offers, so that everything above a Reducer runs in tests. Bytes are the
// transport's own count: 2 (W-1)/W x the bytes of the values.
#pragma once

#include "collectives/transport/reducer.h"

namespace ballot {

class ExchangeReducer final : public Reducer {
 public:
  explicit ExchangeReducer(Transport& transport) : transport_(transport) {}
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<std::uint32_t> values) override;
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<float> values) override;
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<bfloat16> values) override;

 private:
  Transport& transport_;
};

}  // namespace ballot

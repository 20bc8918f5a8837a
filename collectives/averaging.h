// What means have in common wherever their elements lie (mean.h: the host, device_mean.h: a GPU).
#pragma once

#include <cstdint>
#include <span>

#include "collectives/collective.h"

namespace ballot {

class Averaging : public Collective {
 public:
  // One per segment, to be said before it is released: 1 = count mine, 0 = leave mine out. begin()
  // sets all to 1.
  virtual std::span<std::uint8_t> contributes() = 0;
  // One per segment, after the last advance(): how many were added. 0: the mean is 0.
  virtual std::span<const std::int32_t> contributors() const = 0;
};

}  // namespace ballot

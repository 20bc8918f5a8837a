// `ballot selftest`: what a user runs first on a machine with a GPU. Every pass between a batch and
// the parameters against the CPU's, then how fast the device is.
//
// What Ballot's bits rest on (scan, momentum, ballots, verdicts, AdamW) must be equal bit for bit;
// matrix products and what is made of them within a bound that is printed. Inputs are pseudo-random
// with zeros, negative zeros and denormals among them.
#pragma once

#include <string>
#include <vector>

#include "core/device.h"  // Device

namespace ballot {

struct SelftestCheck {
  std::string name;
  bool passed = false;
  std::string detail;  // what was compared and how far it was off, or what was thrown
};

// `amount` per second, against the bound if there is one (0: none).
struct SelftestRate {
  std::string name;
  double rate = 0;
  std::string unit;
  double bound = 0;
  std::string bound_name;
};

struct Selftest {
  std::vector<SelftestCheck> checks;
  std::vector<SelftestRate> rates;
  bool passed() const;
};

std::vector<SelftestCheck> selftest_checks(Device device);
// Between all GPUs of this machine, a thread for each.
SelftestCheck selftest_nccl();
// Takes a few GB of the device's memory. `elements` of a matrix that the passes stream through.
std::vector<SelftestRate> selftest_rates(Device device, std::int64_t elements);

}  // namespace ballot

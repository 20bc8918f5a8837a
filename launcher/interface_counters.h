// What the kernel says an interface has sent and received, beside our own counts.
#pragma once

#include <cstdint>
#include <string>

namespace ballot {

struct InterfaceCounters {
  std::uint64_t sent = 0, received = 0;  // bytes with the headers of Ethernet, IP and TCP
  bool known = false;                    // the kernel has such an interface
};
InterfaceCounters read_interface(const std::string& name);

// Equal for two processes exactly when they see the same interfaces: the machine's boot and the
// network namespace.
std::string network_place();

}  // namespace ballot

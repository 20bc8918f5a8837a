// Gathers one fixed-size value from every worker, in the order of ranks.
#pragma once

#include <span>
#include <type_traits>
#include <vector>

#include "collectives/transport/transport.h"

namespace ballot {

template <class T>
void gather_values(const T& mine, std::span<T> all, Transport& transport, Deadline deadline) {
  static_assert(std::is_trivially_copyable_v<T>);
  all[transport.rank()] = mine;
  std::vector<Bytes> from;
  for (T& one : all) from.push_back(std::as_writable_bytes(std::span(&one, 1)));
  transport.start_gather(Purpose::control, std::as_bytes(std::span(&mine, 1)), from)
      ->wait(deadline);
}

template <class T>
std::vector<T> gather_values(const T& mine, Transport& transport, Deadline deadline) {
  std::vector<T> all(transport.size());
  gather_values(mine, std::span<T>(all), transport, deadline);
  return all;
}

}  // namespace ballot

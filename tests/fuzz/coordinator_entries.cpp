// What a coordinator, its clients and its store read: bytes become values within their limits, and
// what is accepted says the same when written again.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/service_status.h"
#include "tests/fuzz/entries.h"
#include "tests/runtime/coordinator_messages.h"

namespace ballot::fuzz {
namespace {

template <class Decode>
bool run(std::span<const std::byte> bytes, const Decode& decode) {
  try {
    const std::string once = encode(decode(bytes));
    require(encode(decode(std::as_bytes(std::span(once)))) == once,
            "a message changes when rewritten");
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

Join check(Join join) {
  require(join.worker >= -1 && join.worker < kMostWorkers, "worker {}", join.worker);
  return join;
}
Pulse check(Pulse pulse) {
  require(pulse.identity.worker >= 0 && pulse.identity.worker < kMostWorkers &&
              pulse.suspects.size() <= kMostSuspects && pulse.stage.size() <= kMostTextBytes,
          "worker {}", pulse.identity.worker);
  if (const auto& recorded = pulse.recorded)
    require(std::isfinite(recorded->loss.value_or(0)) && recorded->tokens_per_second >= 0 &&
                std::isfinite(recorded->tokens_per_second) && recorded->bytes_sent >= 0 &&
                recorded->ties.value_or(0) >= 0 && recorded->ties.value_or(0) <= 1,
            "the figures of step {}", recorded->step);
  for (const CheckpointFact& checkpoint : pulse.checkpoints) {
    require(checkpoint.share >= 0 && checkpoint.share < checkpoint.shares, "share {} of {}",
            checkpoint.share, checkpoint.shares);
    for (const std::string& file : checkpoint.files)
      require(!file.empty() && file.front() != '/' && file.find("/../") == std::string::npos &&
                  !file.starts_with("../"),
              "file {}", file);
  }
  return pulse;
}
Order check(Order order) {
  if (order.record)
    require(std::ranges::is_sorted(order.record->workers), "workers are not in order");
  return order;
}

bool run_join(std::span<const std::byte> bytes) {
  return run(bytes, [](ConstBytes b) { return check(decode_join(b)); });
}
bool run_pulse(std::span<const std::byte> bytes) {
  return run(bytes, [](ConstBytes b) { return check(decode_pulse(b)); });
}
bool run_order(std::span<const std::byte> bytes) {
  return run(bytes, [](ConstBytes b) { return check(decode_order(b)); });
}
bool run_row(std::span<const std::byte> bytes) {
  return run(bytes, [](ConstBytes b) { return decode_row(b); });
}
bool run_status(std::span<const std::byte> bytes) {
  return run(bytes, [](ConstBytes b) { return decode_status(b); });
}
bool run_expel(std::span<const std::byte> bytes) {
  return run(bytes, [](ConstBytes b) { return decode_expel(b); });
}

}  // namespace

std::vector<Entry> with_coordinator_entries(std::vector<Entry> entries) {
  entries.push_back({"coordinator_join", run_join, {encode(test::full_join())}});
  entries.push_back({"coordinator_pulse", run_pulse, {encode(test::full_pulse())}});
  entries.push_back({"coordinator_order", run_order, {encode(test::full_order())}});
  entries.push_back({"coordinator_row", run_row, {encode(test::full_row())}});
  entries.push_back({"coordinator_status", run_status, {encode(test::full_status())}});
  entries.push_back({"coordinator_expel", run_expel, {encode(Expulsion{3, "a reason"})}});
  return entries;
}

}  // namespace ballot::fuzz

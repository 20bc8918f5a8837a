// The coordinator's messages as bytes (proto/coordinator.proto), and the limits of what they may
// say.
//
// decode_...() takes bytes that nobody has looked at: whatever they are, the outcome is a value
// within the limits or a TransportError that names the field, its value and what was expected.
// encode() is its inverse; what it is given is our own and within the limits (LogicError), but for
// free text (a reason, a stage), which is cut and made printable, and for a pulse's shares of
// checkpoints, of which the oldest stay away where they take half of a message. Everything is a
// pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/protocol/messages.h"

namespace ballot {

inline constexpr std::int32_t kMostWorkers = 4096;  // numbers are below it
inline constexpr std::size_t kMostRunBytes = 200;   // the name of a run
inline constexpr std::size_t kMostVersionBytes = 100;
inline constexpr std::size_t kMostAddressBytes = 300;
inline constexpr std::size_t kMostTextBytes = 300;  // a reason, a stage
inline constexpr std::size_t kMostSuspects = 256;   // of one worker
inline constexpr std::size_t kMostFiles = 1024;     // of one worker's part of a checkpoint
inline constexpr std::size_t kMostFileNameBytes = 500;
inline constexpr std::size_t kMostCheckpoints = 16;
inline constexpr std::size_t kMostParameters = 32;  // digests of them, in one pulse

// What a worker may send in one message, and what the coordinator may answer. gRPC's own limit is
// above them (kMostGrpcBytes), so that most of what is too large is refused by name.
inline constexpr std::size_t kMostRequestBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMostAnswerBytes = std::size_t{8} << 20;
inline constexpr std::size_t kMostGrpcBytes = std::size_t{10} << 20;
inline constexpr std::size_t kMostRowBytes = std::size_t{64} << 20;

// An operator's wish (CoordinatorCore::expel).
struct Expulsion {
  std::int32_t worker = 0;
  std::string reason;
};

using ConstBytes = std::span<const std::byte>;

std::string encode(const Join& join);
std::string encode(const Identity& answer);  // to a Join
std::string encode(const Pulse& pulse);
std::string encode(const Order& order);
std::string encode(const Expulsion& expulsion);
std::string encode(const Row& row);  // without its revision, which is the store's

Join decode_join(ConstBytes bytes);
Identity decode_join_answer(ConstBytes bytes);
Pulse decode_pulse(ConstBytes bytes);
Order decode_order(ConstBytes bytes);
Expulsion decode_expel(ConstBytes bytes);
Row decode_row(ConstBytes bytes);

// Of text from elsewhere that is shown or logged: at most `most` bytes, printable ASCII.
std::string printable(std::string_view text, std::size_t most = kMostTextBytes);

}  // namespace ballot
